"""What of a timeline is restorable: each snapshot covers its own position and the run of links that goes on from there.

A differential snapshot covers nothing without the full one under it, which may be of an earlier timeline. What no
snapshot covers is not restorable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from walrep.core.census import Problem, Snapshot
from walrep.core.links import Link, Pack
from walrep.core.names import FullName
from walrep.core.prunings import Gone
from walrep.core.snapshots import full_under
from walrep.core.units import Txid

__all__ = ["Coverage", "TxidRange", "cover", "find_ranges"]


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot and the links on top of it, without those that hold no transaction; it may lie inside the first.

    `under` is the full snapshot under a differential one.
    """

    snapshot: Snapshot
    links: tuple[Link, ...]
    under: Snapshot | None = None

    @property
    def first_txid(self) -> Txid:
        """The position of the snapshot."""
        return self.snapshot.name.txid

    @property
    def last_txid(self) -> Txid:
        """The last transaction that can be reached from the snapshot."""
        return self.links[-1].footer.txid_after if self.links else self.snapshot.name.txid


class TxidRange(msgspec.Struct, frozen=True, kw_only=True):
    """A maximal range of positions that are restorable, each of them; when its ends had been seen."""

    first_txid: Txid
    last_txid: Txid
    first_seen_ms: int
    last_seen_ms: int


def cover(
    snapshots: Sequence[Snapshot],
    full: Mapping[FullName, Sequence[Snapshot]],
    runs: list[list[Link]],
    gone: Gone,
    problems: list[Problem],
) -> tuple[Coverage, ...]:
    """Return what each snapshot covers; what is not as it should be goes to `problems`.

    `full` are the full snapshots of all timelines.
    """
    return tuple(
        msgspec.structs.replace(_coverage(snapshot, runs, gone, problems), under=under)
        for snapshot, under in _usable_snapshots(snapshots, full, problems)
    )


def find_ranges(coverages: Sequence[Coverage]) -> tuple[TxidRange, ...]:
    """Return the maximal ranges of positions that are covered."""
    ranges: list[TxidRange] = []
    for coverage in sorted(coverages, key=lambda each: (each.first_txid, each.last_txid)):
        seen_ms = coverage.snapshot.name.seen_ms
        last_seen_ms = coverage.links[-1].footer.last_seen_ms if coverage.links else seen_ms
        if ranges and coverage.first_txid <= ranges[-1].last_txid:
            if coverage.last_txid > ranges[-1].last_txid:
                ranges[-1] = msgspec.structs.replace(
                    ranges[-1], last_txid=coverage.last_txid, last_seen_ms=last_seen_ms
                )
            continue
        ranges.append(
            TxidRange(
                first_txid=coverage.first_txid,
                last_txid=coverage.last_txid,
                first_seen_ms=seen_ms,
                last_seen_ms=last_seen_ms,
            )
        )
    return tuple(ranges)


def _usable_snapshots(
    snapshots: Sequence[Snapshot], full: Mapping[FullName, Sequence[Snapshot]], problems: list[Problem]
) -> Iterator[tuple[Snapshot, Snapshot | None]]:
    """Yield each snapshot that a restore can use, and the full one under it."""
    for each in snapshots:
        if each.name.full is None:
            yield each, None
        elif (under := full_under(each.name.seq, full.get(each.name.full, ()))) is not None:
            yield each, under
        else:
            message = f"the full snapshot under {each.key} is missing"
            problems.append(Problem(kind="orphan-snapshot", message=message, timeline=each.name.timeline))


def _coverage(snapshot: Snapshot, runs: list[list[Link]], gone: Gone, problems: list[Problem]) -> Coverage:
    txid = snapshot.name.txid
    for run in runs:
        index = next((index for index, link in enumerate(run) if link.last_seq > snapshot.name.seq), None)
        if index is None:
            continue
        first = run[index]
        # Whether a chunk begins there is for who has read the pack's index.
        inside = isinstance(first, Pack) and first.header.txid_before < txid < first.footer.txid_after
        if inside or first.header.txid_before == txid:
            on_top = tuple(link for link in run[index:] if link.transaction_count)
            return Coverage(snapshot=snapshot, links=on_top)
        if not gone.between(snapshot.name.seq, first.first_seq):
            message = f"{first.key} does not begin where {snapshot.key} ends"
            problems.append(Problem(kind="misplaced-snapshot", message=message, timeline=snapshot.name.timeline))
        break
    return Coverage(snapshot=snapshot, links=())
