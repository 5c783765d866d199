"""What a replica holds, from its listing and what its segments say of themselves: timelines, and what is restorable.

A segment continues another one of its timeline when transaction number and database checksum both do. Two of them
between which something is missing end one **run** and begin the next. A snapshot **covers** its own position and the
run that begins on top of it; what no snapshot covers is not restorable. Everything that is not as it should be is a
`Problem`, a value: it neither hides the rest nor goes unmentioned.

The opening segment of a timeline holds no transaction. It is written before the base is copied, so that its checksum
says nothing about the first transaction: a restore compares the base's instead.

This module must not know how objects are read, nor choose among timelines (`walrep.core.restore` does).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from walrep.core.names import PROBE_PREFIX, REPLICA_KEY, SnapshotName, parse_segment_key, parse_snapshot_key
from walrep.core.objects import SegmentFooter, SegmentHeader
from walrep.core.rivals import Lineage, describe_rivalry, find_lineages, rivals_of
from walrep.core.units import Position, Seq, TimelineId, Txid, timeline_number

__all__ = [
    "Coverage",
    "Damage",
    "History",
    "Problem",
    "ProblemKind",
    "Segment",
    "SegmentEnds",
    "Snapshot",
    "Timeline",
    "TxidRange",
    "build_history",
]

ProblemKind = Literal[
    "unknown-key",
    "damaged-segment",
    "foreign-segment",
    "missing-segment",
    "broken-chain",
    "missing-start",
    "missing-base",
    "misplaced-snapshot",
    "parent-mismatch",
    "rival-writers",
]


class SegmentEnds(msgspec.Struct, frozen=True):
    """The header and the footer of a segment."""

    header: SegmentHeader
    footer: SegmentFooter


class Damage(msgspec.Struct, frozen=True):
    """Why a segment's header or footer cannot be read."""

    message: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be; `timeline` is empty when it concerns none."""

    kind: ProblemKind
    message: str
    timeline: str = ""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One segment object."""

    key: str
    seq: Seq
    size_bytes: int
    header: SegmentHeader
    footer: SegmentFooter

    @property
    def transaction_count(self) -> int:
        """How many transactions it holds."""
        return self.footer.txid_after - self.header.txid_before


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot object, as its key tells."""

    key: str
    size_bytes: int
    name: SnapshotName


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot and the segments on top of it, without those that hold no transaction."""

    snapshot: Snapshot
    segments: tuple[Segment, ...]

    @property
    def first_txid(self) -> Txid:
        """The position of the snapshot."""
        return self.snapshot.name.txid

    @property
    def last_txid(self) -> Txid:
        """The last transaction that can be reached from the snapshot."""
        return self.segments[-1].footer.txid_after if self.segments else self.snapshot.name.txid


class TxidRange(msgspec.Struct, frozen=True, kw_only=True):
    """A maximal range of positions that are restorable, each of them; when its ends had been seen."""

    first_txid: Txid
    last_txid: Txid
    first_seen_ms: int
    last_seen_ms: int


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """One timeline. `begin_seq` is None when its opening segment is not there; `tip_txid` may not be restorable."""

    id: TimelineId
    number: int
    reason: str
    parent: Position | None
    begin_seq: Seq | None
    begin_ms: int
    looked_ms: int | None
    tip_txid: Txid
    segments: tuple[Segment, ...]
    snapshots: tuple[Snapshot, ...]
    coverages: tuple[Coverage, ...]
    ranges: tuple[TxidRange, ...]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Everything stored for one database, timelines in the order of their ids; `unreadable`: damaged segments.

    Lineages are in the order in which they began.
    """

    replica: str
    timelines: tuple[Timeline, ...]
    problems: tuple[Problem, ...]
    unreadable: tuple[Seq, ...]
    lineages: tuple[Lineage, ...]
    object_count: int
    object_bytes: int


def build_history(sizes: Mapping[str, int], segments: Mapping[str, SegmentEnds | Damage], replica: str) -> History:
    """Put a listing (keys and sizes) and the ends of its segments together.

    `replica` is the identity that the replica object tells; empty when it is not known: then the first segment's.
    """
    problems: list[Problem] = []
    by_timeline: defaultdict[TimelineId, list[Segment]] = defaultdict(list)
    snapshots: defaultdict[TimelineId, list[Snapshot]] = defaultdict(list)
    seqs: list[Seq] = []
    unreadable: list[Seq] = []
    for key in sorted(sizes):
        seq = parse_segment_key(key)
        name = parse_snapshot_key(key)
        if seq is not None:
            seqs.append(seq)
            segment = _admit(key, seq, sizes[key], (segments.get(key), replica), problems)
            if segment is None:
                unreadable.append(seq)
            else:
                by_timeline[segment.header.timeline].append(segment)
                replica = replica or segment.header.replica
        elif name is not None:
            snapshots[name.timeline].append(Snapshot(key=key, size_bytes=sizes[key], name=name))
        elif key != REPLICA_KEY and not key.startswith(PROBE_PREFIX):
            problems.append(Problem(kind="unknown-key", message=f"{key} is not an object of a replica"))
    problems += _missing_seqs(seqs)
    timelines = tuple(
        _timeline(identity, by_timeline[identity], snapshots[identity], problems)
        for identity in sorted(by_timeline.keys() | snapshots.keys())
    )
    problems += [problem for timeline in timelines for problem in _check_parent(timeline, timelines)]
    lineages = find_lineages(segment.header for segments in by_timeline.values() for segment in segments)
    for lineage in lineages:
        message = "; ".join(describe_rivalry(rival, lineage) for rival in rivals_of(lineages, lineage))
        if message:
            problems.append(Problem(kind="rival-writers", message=message, timeline=lineage.timelines[0]))
    return History(
        replica=replica,
        timelines=timelines,
        problems=tuple(problems),
        unreadable=tuple(unreadable),
        lineages=lineages,
        object_count=len(sizes),
        object_bytes=sum(sizes.values()),
    )


def _admit(
    key: str, seq: Seq, size_bytes: int, known: tuple[SegmentEnds | Damage | None, str], problems: list[Problem]
) -> Segment | None:
    """Return the segment unless it is unreadable or does not belong here."""
    ends, replica = known
    if not isinstance(ends, SegmentEnds):
        message = ends.message if ends else "its header and footer were not read"
        problems.append(Problem(kind="damaged-segment", message=f"{key}: {message}"))
        return None
    header, footer = ends.header, ends.footer
    if header.seq != seq:
        message = f"{key} says of itself that it is segment {header.seq}"
        problems.append(Problem(kind="damaged-segment", message=message, timeline=header.timeline))
        return None
    if footer.txid_after < header.txid_before or (header.start and footer.txid_after != header.txid_before):
        message = f"{key}: its header and its footer contradict each other"
        problems.append(Problem(kind="damaged-segment", message=message, timeline=header.timeline))
        return None
    if replica and header.replica != replica:
        message = f"{key} belongs to replica {header.replica}"
        problems.append(Problem(kind="foreign-segment", message=message, timeline=header.timeline))
        return None
    return Segment(key=key, seq=seq, size_bytes=size_bytes, header=header, footer=footer)


def _missing_seqs(seqs: Sequence[int]) -> list[Problem]:
    return [
        Problem(
            kind="missing-segment",
            message=f"segment {before + 1} is missing"
            if after == before + 2
            else f"segments {before + 1} to {after - 1} are missing",
        )
        for before, after in pairwise(seqs)
        if after > before + 1
    ]


def _timeline(
    identity: TimelineId, segments: list[Segment], snapshots: list[Snapshot], problems: list[Problem]
) -> Timeline:
    start = next((segment for segment in segments if segment.header.start is not None), None)
    if start is None:
        message = "the segment that opens the timeline is missing"
        problems.append(Problem(kind="missing-start", message=message, timeline=identity))
    if not snapshots:
        message = "the timeline has no complete snapshot: nothing of it is restorable yet"
        problems.append(Problem(kind="missing-base", message=message, timeline=identity))
    runs = _runs(segments, problems)
    coverages = tuple(_coverage(snapshot, runs, problems) for snapshot in snapshots)
    base = next((snapshot for snapshot in snapshots if snapshot.name.txid == 0), None)
    if base is not None:
        begin_ms = base.name.seen_ms
    elif start is not None:
        begin_ms = start.header.created_ms
    else:
        begin_ms = segments[0].footer.first_seen_ms if segments else snapshots[0].name.seen_ms
    opening = start.header.start if start else None
    return Timeline(
        id=identity,
        number=timeline_number(identity),
        reason=opening.reason if opening else "unknown",
        parent=opening.parent if opening else None,
        begin_seq=start.seq if start else None,
        begin_ms=begin_ms,
        looked_ms=opening.looked_ms if opening else None,
        tip_txid=max(
            [segment.footer.txid_after for segment in segments] + [snapshot.name.txid for snapshot in snapshots],
        ),
        segments=tuple(segments),
        snapshots=tuple(snapshots),
        coverages=coverages,
        ranges=_ranges(coverages),
    )


def _runs(segments: Sequence[Segment], problems: list[Problem]) -> list[list[Segment]]:
    runs: list[list[Segment]] = []
    for segment in segments:
        defect = _defect(runs[-1][-1], segment) if runs else ""
        if defect:
            message = f"{segment.key} does not continue {runs[-1][-1].key}: {defect}"
            problems.append(Problem(kind="broken-chain", message=message, timeline=segment.header.timeline))
        if not runs or defect:
            runs.append([])
        runs[-1].append(segment)
    return runs


def _defect(before: Segment, after: Segment) -> str:
    """Return why `after` does not continue `before`; empty if it does."""
    if after.header.txid_before != before.footer.txid_after:
        return f"it begins after transaction {after.header.txid_before}, expected {before.footer.txid_after}"
    if after.header.page_size != before.header.page_size:
        return "it has another page size"
    if before.header.start is None and after.header.checksum_before != before.footer.checksum_after:
        return "the database checksum is another one"
    return ""


def _coverage(snapshot: Snapshot, runs: list[list[Segment]], problems: list[Problem]) -> Coverage:
    for run in runs:
        index = next((index for index, segment in enumerate(run) if segment.seq > snapshot.name.seq), None)
        if index is None:
            continue
        if run[index].header.txid_before == snapshot.name.txid:
            on_top = tuple(segment for segment in run[index:] if segment.transaction_count)
            return Coverage(snapshot=snapshot, segments=on_top)
        message = f"{run[index].key} does not begin where {snapshot.key} ends"
        problems.append(Problem(kind="misplaced-snapshot", message=message, timeline=snapshot.name.timeline))
        break
    return Coverage(snapshot=snapshot, segments=())


def _ranges(coverages: Sequence[Coverage]) -> tuple[TxidRange, ...]:
    ranges: list[TxidRange] = []
    for coverage in sorted(coverages, key=lambda each: (each.first_txid, each.last_txid)):
        seen_ms = coverage.snapshot.name.seen_ms
        last_seen_ms = coverage.segments[-1].footer.last_seen_ms if coverage.segments else seen_ms
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


def _check_parent(timeline: Timeline, timelines: Sequence[Timeline]) -> list[Problem]:
    left = timeline.parent
    if left is None:
        return []
    parent = next((other for other in timelines if other.id == left.timeline), None)
    if parent is None:
        message = f"its parent, timeline {left.timeline}, is not here"
    elif parent.tip_txid < left.txid:
        message = f"it left timeline {parent.id} at transaction {left.txid}, which now ends at {parent.tip_txid}"
    else:
        recorded = {
            segment.footer.checksum_after for segment in parent.segments if segment.footer.txid_after == left.txid
        }
        if not recorded or left.checksum in recorded or left.txid == 0:
            return []
        message = f"it left timeline {parent.id} at transaction {left.txid}, which there has another checksum"
    return [Problem(kind="parent-mismatch", message=message, timeline=timeline.id)]
