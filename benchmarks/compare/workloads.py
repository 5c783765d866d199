"""What apps do in the comparison, and for how long they are watched."""

from __future__ import annotations

import msgspec

from benchmarks.compare.shapes import Load


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Some apps on one host. `rates`: transactions a second of each; one database and one process for each.

    `together`: all strategies at once, each with its own copy of everything, because the apps leave the machine idle;
    such runs tell nothing of latencies. Otherwise strategies take turns, `rounds` times.
    """

    name: str
    what: str
    shape: str
    rates: tuple[float, ...]
    rows: int = 3000
    quick_s: float = 8.0
    full_s: float = 10.0
    rounds: int = 2
    together: bool = False
    vacuum_every: int = 0
    only: tuple[str, ...] = ()
    """Strategies that it is about; empty: all."""
    lead_s: float = 0.0
    """How long it is left alone before anything counts."""
    closed: bool = False
    """No app has the databases open."""

    def load(self, index: int, seed: int) -> Load:
        """Return what one of the apps does."""
        return Load(shape=self.shape, rows=self.rows, seed=seed + 100 * index, vacuum_every=self.vacuum_every)

    def seconds(self, *, quick: bool) -> float:
        """Return how long it is watched."""
        return self.quick_s if quick else self.full_s


ALL = (
    Workload(
        name="idle", what="one database, open, not written", shape="oltp", rates=(0.0,), full_s=30.0, together=True
    ),
    Workload(
        name="minute", what="one transaction a minute, 27 MB", shape="oltp", rates=(1 / 60,), quick_s=40, full_s=125.0,
        together=True,
    ),
    Workload(
        name="steady", what="10 transactions a second, 27 MB", shape="oltp", rates=(10.0,), rows=60_000, quick_s=20.0,
        full_s=130.0, together=True,
    ),
    Workload(
        name="busy", what="OLTP, 100 transactions a second, 27 MB", shape="oltp", rates=(100.0,), rows=60_000,
        full_s=40.0,
    ),
    Workload(name="queue", what="job queue, 50 transactions a second", shape="queue", rates=(50.0,)),
    Workload(name="bulk", what="bulk load, 5 times a second 500 rows", shape="bulk", rates=(5.0,)),
    Workload(name="blobs", what="random blobs of 2,000 bytes, 50 a second", shape="blobs", rates=(50.0,)),
    Workload(
        name="vacuum", what="10 transactions a second, and a VACUUM in the middle", shape="oltp", rates=(10.0,),
        rows=20_000, vacuum_every=50,
    ),
    Workload(
        name="apps", what="20 small apps on one host, each a transaction every 5 s", shape="oltp", rates=(0.2,) * 20,
        rows=900, full_s=30.0, rounds=1,
    ),
    Workload(
        name="three", what="three databases: idle, one transaction a minute, 10 a second", shape="oltp",
        rates=(0.0, 1 / 60, 10.0), rows=20_000, quick_s=15.0, full_s=75.0, together=True,
        only=("walrep-10s", "litestream"),
    ),
    Workload(
        name="thousand",
        what="1,000 idle databases that no app has open",
        shape="oltp",
        rates=(0.0,) * 1000,
        rows=30,
        full_s=30.0,
        rounds=1,
        only=("walrep-10s", "litestream"),
        lead_s=15.0,
        closed=True,
    ),
)  # fmt: skip

WORKLOADS: dict[str, Workload] = {each.name: each for each in ALL}
