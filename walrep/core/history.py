"""What a replica holds, from its listing and what its objects say of themselves: timelines, and what is restorable.

Segments and packs make a chain (`walrep.core.chain`). Two links between which something is missing end one **run** and
begin the next. A snapshot **covers** its own position and the run that goes on from there: it stands where a segment
ends, which in a pack is where a chunk begins. What no snapshot covers is not restorable. Everything that is not as it
should be is a `Problem`, a value: it neither hides the rest nor goes unmentioned.

The opening segment of a timeline holds no transaction. It is written before the base is copied, so that its checksum
says nothing about the first transaction: a restore compares the base's instead.

What a damaged pack held, as its key tells, counts as the timeline's: `latest` is not older data because of it.

What retention deleted is no problem. Its records tell the numbers of segments, exactly: a number that is missing and
that they do not tell is reported by itself, so that they excuse no more than what follows from a missing number.

This module must not know how objects are read, nor choose among timelines (`walrep.core.restore` does).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf

import msgspec

from walrep.core.census import Census, Parts, Problem, ProblemKind, Snapshot, take_census
from walrep.core.chain import Chain
from walrep.core.coverage import Coverage, TxidRange, cover, find_ranges
from walrep.core.links import Damage, Link, Pack, Segment, SegmentEnds, Spare, defect_between
from walrep.core.names import FullName, PinName
from walrep.core.objects import PackFooter
from walrep.core.prunings import Gone, PruneRecord, join_records, merge_ranges
from walrep.core.rivals import Lineage, describe_rivalry, find_lineages, rivals_of
from walrep.core.units import Position, Seq, SeqRange, TimelineId, Txid, timeline_number

__all__ = [
    "Coverage",
    "Damage",
    "History",
    "Link",
    "Pack",
    "Problem",
    "ProblemKind",
    "Segment",
    "SegmentEnds",
    "Snapshot",
    "Spare",
    "Timeline",
    "TxidRange",
    "build_history",
]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """One timeline. `begin_seq` is None when its opening segment is not there.

    `tip_txid` is the last transaction that there was, as everything stored tells, the timelines that left it included;
    it may be neither restorable nor there. `tail_missing`: something followed the last thing that is there, deleted or
    lost, and nothing tells how far it went. `segments` and `packs` are those that were read, `chain` those that count,
    and `spares` what others replace.
    """

    id: TimelineId
    number: int
    reason: str
    parent: Position | None
    begin_seq: Seq | None
    begin_ms: int
    looked_ms: int | None
    tip_txid: Txid
    tail_missing: bool
    segments: tuple[Segment, ...]
    packs: tuple[Pack, ...]
    chain: tuple[Link, ...]
    spares: tuple[Spare, ...]
    snapshots: tuple[Snapshot, ...]
    coverages: tuple[Coverage, ...]
    ranges: tuple[TxidRange, ...]

    @property
    def readable_txid(self) -> Txid:
        """The last transaction that is known to be there, restorable or not."""
        ends = [each.txid_after for each in self.chain] + [each.name.txid for each in self.snapshots]
        return max(ends, default=Txid(0))

    @property
    def unread(self) -> tuple[Spare, ...]:
        """Segments that were not read, because a pack replaces them."""
        read = {each.key for each in (*self.segments, *self.packs)}
        return tuple(each for each in self.spares if each.key not in read)

    @property
    def misfits(self) -> frozenset[str]:
        """The keys of what is neither used nor replaced: it contradicts what others hold of the same transactions."""
        told = {each.key for each in self.chain} | {each.key for each in self.spares}
        return frozenset(each.key for each in (*self.segments, *self.packs)) - told


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Everything stored for one database, timelines in the order of their ids; `unreadable`: damaged segments.

    Pins are in the order of their names. Lineages are in the order in which they began. `leaving` are the keys of what
    is there and is about to be deleted.
    """

    replica: str
    timelines: tuple[Timeline, ...]
    pins: tuple[PinName, ...]
    problems: tuple[Problem, ...]
    unreadable: tuple[Seq, ...]
    lineages: tuple[Lineage, ...]
    leaving: frozenset[str]
    object_count: int
    object_bytes: int


def build_history(
    sizes: Mapping[str, int],
    segments: Mapping[str, SegmentEnds | Damage],
    replica: str,
    packs: Mapping[str, PackFooter | Damage] | None = None,
    pruned: Sequence[PruneRecord | Damage] = (),
) -> History:
    """Put a listing (keys and sizes), the ends of its segments and the footers of its packs together.

    `replica` is the identity that the replica object tells; empty when it is not known: then the first link's.
    `pruned` are the records of what retention deleted, oldest first: that is no damage.
    """
    gone = Gone(join_records([each for each in pruned if isinstance(each, PruneRecord)]))
    census = take_census(sizes, segments, packs or {}, replica, gone.ranges)
    problems = census.problems
    for damage in (each for each in pruned if isinstance(each, Damage)):
        problems.append(Problem(kind="damaged-record", message=f"what was pruned is not known: {damage.message}"))
    found = sorted(census.timelines.items())
    newest = _find_newest(census.timelines)
    snapshots = [each for _, parts in found for each in parts.snapshots]
    full: dict[FullName, list[Snapshot]] = defaultdict(list)
    for each in snapshots:
        if each.name.full is None:
            full[each.name.as_full].append(each)
    timelines = tuple(_timeline(identity, parts, full, gone, newest, problems) for identity, parts in found)
    problems += [problem for each in timelines for problem in _check_parent(each, timelines, gone)]
    timelines = tuple(_with_what_left(timeline, timelines, _held(census)) for timeline in timelines)
    lineages = find_lineages(
        (segment.header for _, parts in found for segment in parts.segments),
        (name for _, parts in found for name in parts.pack_names),
    )
    for lineage in lineages:
        message = "; ".join(describe_rivalry(rival, lineage) for rival in rivals_of(lineages, lineage))
        if message:
            problems.append(Problem(kind="rival-writers", message=message, timeline=lineage.timelines[0]))
    problems += _check_pins(census.pins, timelines)
    return History(
        replica=census.replica,
        timelines=timelines,
        pins=tuple(sorted(census.pins, key=lambda each: (each.name, each.position))),
        problems=tuple(problems),
        unreadable=tuple(census.unreadable),
        lineages=lineages,
        leaving=frozenset(key for each in timelines for key in _leaving(each, gone)),
        object_count=len(sizes),
        object_bytes=sum(sizes.values()),
    )


def _held(census: Census) -> tuple[SeqRange, ...]:
    """Return the numbers of segments that are there, by themselves or in packs."""
    names = [name for parts in census.timelines.values() for name in parts.pack_names]
    numbers = [(name.first_seq, name.last_seq) for name in names]
    numbers += [(each.seq, each.seq) for parts in census.timelines.values() for each in parts.segments]
    return merge_ranges([*numbers, *((seq, seq) for seq in census.unreadable)])


class _Newest(msgspec.Struct, frozen=True):
    """The number of the newest timeline, and of the segments that stay also where no restore needs them. INV-24."""

    number: int
    seqs: frozenset[Seq]


def _find_newest(timelines: Mapping[TimelineId, Parts]) -> _Newest:
    last: dict[TimelineId, Seq] = {}
    for identity, parts in timelines.items():
        links: list[Link] = [*parts.segments, *parts.packs]
        last[identity] = max((link.last_seq for link in links), default=Seq(0))
    number = max(map(timeline_number, last), default=0)
    own = [seq for identity, seq in last.items() if timeline_number(identity) == number]
    return _Newest(number, frozenset([*own, max(last.values(), default=Seq(0))]))


def _timeline(
    identity: TimelineId,
    parts: Parts,
    full: Mapping[FullName, Sequence[Snapshot]],
    gone: Gone,
    newest: _Newest,
    problems: list[Problem],
) -> Timeline:
    start = next((segment for segment in parts.segments if segment.header.start is not None), None)
    if start is None:
        message = "the segment that opens the timeline is missing"
        problems.append(Problem(kind="missing-start", message=message, timeline=identity))
    if not parts.snapshots and not _is_expired(start, parts, gone, newest):
        message = "the timeline has no complete snapshot: nothing of it is restorable yet"
        problems.append(Problem(kind="missing-base", message=message, timeline=identity))
    links: list[Link] = [*parts.segments, *parts.packs]
    chosen = Chain(links, lambda before, after: not defect_between(before, after))
    _report_breaks(chosen, identity, gone, problems)
    chain = tuple(link for run in chosen.runs for link in run)
    coverages = cover(parts.snapshots, full, chosen.runs, gone, problems)
    _report_uncovered(chosen.runs, coverages, gone, newest, problems)
    opening = start.header.start if start else None
    ends = [link.footer.txid_after for link in chain] + [name.last_txid for name in parts.pack_names]
    return Timeline(
        id=identity,
        number=timeline_number(identity),
        reason=opening.reason if opening else "unknown",
        parent=opening.parent if opening else None,
        begin_seq=start.seq if start else None,
        begin_ms=_begin_ms(parts, start, chain),
        looked_ms=opening.looked_ms if opening else None,
        tip_txid=max(ends + [snapshot.name.txid for snapshot in parts.snapshots]),
        tail_missing=False,
        segments=tuple(parts.segments),
        packs=tuple(parts.packs),
        chain=chain,
        spares=(
            *parts.spares,
            *(Spare(key=each.key, size_bytes=each.size_bytes, replaced_by=by.key) for each, by in chosen.replaced),
        ),
        snapshots=tuple(parts.snapshots),
        coverages=coverages,
        ranges=find_ranges(coverages),
    )


def _is_expired(start: Segment | None, parts: Parts, gone: Gone, newest: _Newest) -> bool:
    """Return whether retention left nothing of a timeline but its opening, and what is leaving or no restore needs."""
    numbers = [(each.seq, each.seq) for each in parts.segments if each is not start]
    numbers += [(name.first_seq, name.last_seq) for name in parts.pack_names]
    return (
        start is not None
        and timeline_number(start.header.timeline) < newest.number
        and gone.expired_ms is not None
        and start.header.created_ms <= gone.expired_ms
        and all(gone.holds(first, last) or last in newest.seqs for first, last in numbers)
    )


def _with_what_left(timeline: Timeline, timelines: Sequence[Timeline], held: Sequence[SeqRange]) -> Timeline:
    """Return a timeline that reaches as far as others that left it tell: its own tail may be gone."""
    left = [each.parent.txid for each in timelines if each.parent and each.parent.timeline == timeline.id]
    numbers = [each.last_seq for each in timeline.chain] + [each.name.seq for each in timeline.snapshots]
    last = max(numbers, default=Seq(0))
    # One sequence goes through all timelines: the number behind the last is the next one's, or was this one's.
    ends_here = not held or last == held[-1][1] or any(begin <= last + 1 <= end for begin, end in held)
    return msgspec.structs.replace(timeline, tip_txid=max([timeline.tip_txid, *left]), tail_missing=not ends_here)


def _leaving(timeline: Timeline, gone: Gone) -> Iterator[str]:
    yield from (each.key for each in timeline.snapshots if each.key in gone.snapshots)
    yield from (each.key for each in timeline.chain if gone.holds(each.first_seq, each.last_seq))


def _begin_ms(parts: Parts, start: Segment | None, chain: Sequence[Link]) -> int:
    base = next((snapshot for snapshot in parts.snapshots if snapshot.name.txid == 0), None)
    if base is not None:
        return base.name.seen_ms
    if start is not None:
        return start.header.created_ms
    if chain:
        return chain[0].footer.first_seen_ms
    return parts.snapshots[0].name.seen_ms if parts.snapshots else parts.pack_names[0].first_seen_ms


def _report_breaks(chosen: Chain[Link], timeline: TimelineId, gone: Gone, problems: list[Problem]) -> None:
    for before, after in pairwise(chosen.runs):
        if gone.between(before[-1].last_seq, after[0].first_seq):
            continue
        message = f"{after[0].key} does not continue {before[-1].key}: {defect_between(before[-1], after[0])}"
        problems.append(Problem(kind="broken-chain", message=message, timeline=timeline))
    for link in chosen.misfits:
        message = (
            f"{link.key} is not used: it does not fit to others that hold its transactions, and no one replaces it"
        )
        problems.append(Problem(kind="unused-object", message=message, timeline=timeline))


def _report_uncovered(
    runs: Sequence[Sequence[Link]],
    coverages: Sequence[Coverage],
    gone: Gone,
    newest: _Newest,
    problems: list[Problem],
) -> None:
    """Report transactions that rest on no snapshot, where no missing number tells why."""
    covered = {link.key for each in coverages for link in each.links}
    ends = [None, *(run[-1].last_seq for run in runs)]
    for end, run in zip(ends, runs, strict=False):
        loose = [link for link in run if link.transaction_count and link.key not in covered]
        loose = [each for each in loose if not gone.holds(each.first_seq, each.last_seq)]
        loose = [each for each in loose if each.last_seq not in newest.seqs]
        if coverages and loose and (end is None or gone.between(end, run[0].first_seq)):
            message = f"{loose[0].key} rests on no snapshot that is here"
            problems.append(Problem(kind="missing-base", message=message, timeline=loose[0].header.timeline))


def _check_pins(pins: Sequence[PinName], timelines: Sequence[Timeline]) -> Iterator[Problem]:
    ranges = {each.id: each.ranges for each in timelines}
    for name, position in ((pin.name, pin.position) for pin in pins):
        if not any(each.first_txid <= position.txid <= each.last_txid for each in ranges.get(position.timeline, ())):
            message = f"{position}, kept as {name}, is not restorable"
            yield Problem(kind="lost-pin", message=message, timeline=position.timeline)


def _check_parent(timeline: Timeline, timelines: Sequence[Timeline], gone: Gone) -> list[Problem]:
    left = timeline.parent
    if left is None:
        return []
    may_be_gone = gone.between(0, timeline.begin_seq or inf)
    parent = next((other for other in timelines if other.id == left.timeline), None)
    if (parent is None or parent.tip_txid < left.txid) and may_be_gone:
        return []
    if parent is None:
        message = f"its parent, timeline {left.timeline}, is not here"
    elif parent.tip_txid < left.txid:
        message = f"it left timeline {parent.id} at transaction {left.txid}, which now ends at {parent.tip_txid}"
    else:
        links: tuple[Link, ...] = (*parent.segments, *parent.packs)
        recorded = {link.footer.checksum_after for link in links if link.footer.txid_after == left.txid}
        if not recorded or left.checksum in recorded or left.txid == 0:
            return []
        message = f"it left timeline {parent.id} at transaction {left.txid}, which there has another checksum"
    return [Problem(kind="parent-mismatch", message=message, timeline=timeline.id)]
