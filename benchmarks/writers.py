"""What walrep costs the app: latency of a paced writer, throughput of one that never pauses.

Runs with and without walrep take turns on copies of one database. A latency is that of a whole transaction, so that a
write lock held by anyone shows in it. Flat out on two cores, app and walrep compete for them: with three writers and
walrep's two busy threads there is more work than there are cores, and what the writers lose is CPU time.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.children import replicator, writer
from benchmarks.report import Row, median_row
from benchmarks.settings import Settings

PACED_RATE = 1000.0
FRAME_BYTES = 4096 + 24


class Case(msgspec.Struct, frozen=True):
    """A load; `rate` is that of all writers together, 0 for flat out."""

    name: str
    writers: int
    rate: float


class Measured(msgspec.Struct, frozen=True):
    """One run. `held_ms` and `locks` are of walrep's write lock."""

    throughput: float
    p50_us: float
    p99_us: float
    max_us: float
    held_ms: float = 0.0
    locks: int = 0
    walrep: dict[str, Any] = {}


CASES = (
    Case("paced, 1 writer", 1, PACED_RATE),
    Case("paced, 3 writers", 3, PACED_RATE),
    Case("flat out, 1 writer", 1, 0),
    Case("flat out, 3 writers", 3, 0),
)


def run(settings: Settings) -> list[Row]:
    """Measure every case with and without walrep, in turns."""
    template = settings.directory / "template.db"
    with writer(template, seed=settings.seed) as app:
        app.ask("setup")
    rounds, seconds = (2, 4.0) if settings.quick else (3, 12.0)
    rows: list[Row] = []
    for case in CASES:
        without, with_walrep = [], []
        for _ in range(rounds):
            without.append(_measure(settings, template, case, seconds, with_walrep=False))
            with_walrep.append(_measure(settings, template, case, seconds, with_walrep=True))
        rows += _rows(case, without, with_walrep)
    return rows


def _measure(settings: Settings, template: Path, case: Case, seconds: float, *, with_walrep: bool) -> Measured:
    folder = settings.directory / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    database = folder / "app.db"
    shutil.copy(template, database)
    with ExitStack() as stack:
        apps = [stack.enter_context(writer(database, seed=settings.seed + n)) for n in range(case.writers)]
        for app in apps:
            app.ask("step", count=1)
        walrep = stack.enter_context(replicator([database], folder / "replica")) if with_walrep else None
        paths = [folder / f"latencies-{n}" for n in range(case.writers)]
        for app, path in zip(apps, paths, strict=True):
            app.send("run", seconds=seconds, rate=case.rate / case.writers, latencies=str(path))
        answers = [app.answer() for app in apps]
        report: dict[str, Any] = {}
        if walrep is not None:
            report = walrep.ask("report")
            final = walrep.ask("stop")
            committed = sum(answer["commits"] for answer in answers)
            if final["transactions"] != committed:
                raise RuntimeError(f"{committed} commits, but walrep numbered {final['transactions']}")
    taken = np.concatenate([np.fromfile(path) for path in paths])
    throughput = sum(answer["commits"] / answer["seconds"] for answer in answers)
    p50, p99 = np.percentile(taken, (50, 99))
    counts: dict[str, Any] = report["captures"][0] if report else {"write_lock_longest_s": 0.0, "write_locks": 0}
    return Measured(
        throughput=throughput,
        p50_us=float(p50),
        p99_us=float(p99),
        max_us=float(taken.max()),
        held_ms=counts["write_lock_longest_s"] * 1e3,
        locks=counts["write_locks"],
        walrep=report,
    )


def _rows(case: Case, without: list[Measured], with_walrep: list[Measured]) -> list[Row]:
    pairs = list(zip(without, with_walrep, strict=True))
    paced = bool(case.rate)

    def row(what: str, values: list[float], **rest: Any) -> Row:  # noqa: ANN401 - fields of Row
        return median_row(Row(benchmark="writers", what=f"{case.name}: {what}", value=0.0, **rest), values)

    rows = [
        row(
            "throughput ratio",
            [b.throughput / a.throughput for a, b in pairs],
            at_least=None if paced else 0.9,
            note=_plain("tx/s", [m.throughput for m in without], [m.throughput for m in with_walrep]),
        )
    ]
    for name, field in (("p50", "p50_us"), ("p99", "p99_us"), ("max", "max_us")):
        before, after = ([getattr(m, field) for m in side] for side in (without, with_walrep))
        rows.append(
            row(
                f"{name} latency ratio",
                [b / a for a, b in zip(before, after, strict=True)],
                at_most=1.1 if paced and name == "p99" else None,
                note=_plain("µs", before, after),
            )
        )
    rows.append(
        row(
            "longest write lock",
            [m.held_ms for m in with_walrep],
            unit="ms",
            at_most=2.0 if paced else 60.0,
            note=f"taken {sum(m.locks for m in with_walrep)} times in {len(with_walrep)} runs",
        )
    )
    log_mb = [m.walrep["captures"][0]["wal_frames_max"] * FRAME_BYTES / 1e6 for m in with_walrep]
    rows.append(row("longest log", log_mb, unit="MB"))
    rows.append(row("walrep's longest sweep", [m.walrep["sweep_longest_s"] * 1e3 for m in with_walrep], unit="ms"))
    return rows


def _plain(unit: str, without: list[float], with_walrep: list[float]) -> str:
    return f"{np.median(without):,.0f} -> {np.median(with_walrep):,.0f} {unit}"
