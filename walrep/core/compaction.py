"""Which segments become packs, which packs become larger ones, and what is not needed any more. Pure; see `packing`.

Time is cut into windows, of 15 minutes and of one day, UTC. What began in a window belongs to it, whatever came later.
When a window is over and everything of it is durable, what is next to each other in it becomes one pack: of a day that
is over everything there is, packs and segments, of the current day the quarters of an hour. A pack that would exceed
256 MiB is closed and another one begun; what has half of that is closed for good. One object alone is left as it is.

    INV-22  Only objects of one timeline that continue one another are packed together. What opens a timeline, and with
            it every fence, is neither packed nor deleted.
    INV-23  An object is deleted only when a pack that holds all of it is proved, is part of the chain that a restore
            takes, and is older than the grace in which a restore under way finds a way around it. Proved: written
            here, read back and compared with its sources before it was stored, and of the same size in the store
            afterwards; or read back from the store.

A plan is made of what is there, not of what was planned: whatever was done of one, or done twice, the next one goes on
from there. Each build leaves fewer objects in a window, so planning comes to an end. A pack that turned out to be
damaged is left out of what is there, and is built again, under the same key, while its sources are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from walrep.core.chain import Chain, contains
from walrep.core.history import History, Pack
from walrep.core.names import PackName, pack_key, parse_segment_name
from walrep.core.objects import SegmentFooter, SegmentHeader
from walrep.core.target import format_time
from walrep.core.units import Position, Seq, TimelineId, Txid

__all__ = [
    "CompactionPlan",
    "CompactionPolicy",
    "Deletion",
    "Leftover",
    "PackFact",
    "PackPlan",
    "SegmentFact",
    "Stored",
    "plan_compaction",
    "segment_fact",
    "stored_from",
]

QUARTER_MS = 15 * 60 * 1000
DAY_MS = 24 * 60 * 60 * 1000


class CompactionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """`settle_ms` is how long a window has to be over, `grace_ms` how old a pack before what it replaces is deleted.

    The longest span comes last.
    """

    spans_ms: tuple[int, ...] = (QUARTER_MS, DAY_MS)
    pack_bytes_max: int = 256 << 20
    settle_ms: int = 30_000
    grace_ms: int = 10 * 60 * 1000


class SegmentFact(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a durable segment. `left`, of one that opens a timeline: the position of its parent.

    `seen_ms`: the earliest and the latest at which one of its transactions was seen, or when it opened the timeline.
    """

    key: str
    timeline: TimelineId
    seq: Seq
    size_bytes: int
    txid_before: Txid
    txid_after: Txid
    first_seen_ms: int
    seen_ms: tuple[int, int] = (0, 0)
    is_opening: bool = False
    is_fence: bool = False
    left: Position | None = None

    @property
    def pinned(self) -> bool:
        """Whether it is packed with none: INV-22."""
        return self.is_opening or self.is_fence

    @property
    def first_seq(self) -> Seq:
        """Its number."""
        return self.seq

    @property
    def last_seq(self) -> Seq:
        """Its number."""
        return self.seq


class PackFact(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a pack; `verified` as INV-23 has it, by this process: it does not outlive it."""

    name: PackName
    size_bytes: int
    stored_ms: int
    verified: bool
    key: str = ""
    """Follows from the name."""

    def __post_init__(self) -> None:
        # Asked for often, and not cheap to make.
        msgspec.structs.force_setattr(self, "key", pack_key(self.name))

    @property
    def timeline(self) -> TimelineId:
        """Its timeline."""
        return self.name.timeline

    @property
    def txid_before(self) -> Txid:
        """The transaction that it continues."""
        return Txid(self.name.first_txid - 1)

    @property
    def txid_after(self) -> Txid:
        """Its last transaction."""
        return self.name.last_txid

    @property
    def first_seq(self) -> Seq:
        """The number of its first segment."""
        return self.name.first_seq

    @property
    def last_seq(self) -> Seq:
        """The number of its last segment."""
        return self.name.last_seq

    @property
    def first_seen_ms(self) -> int:
        """When its first transaction was seen."""
        return self.name.first_seen_ms


Fact = SegmentFact | PackFact


class Leftover(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of which only the key is known, since a pack with its number is there."""

    key: str
    timeline: TimelineId
    seq: Seq

    @property
    def last_seq(self) -> Seq:
        """Its number."""
        return self.seq


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica holds of transactions, durable. An object that is named twice counts once.

    `pending_ms`: when the oldest commit that is not durable was seen. `kept` are keys of what may be packed and must
    not be deleted yet: the newest segment of a writer, which its next start looks for.
    """

    segments: Sequence[SegmentFact]
    packs: Sequence[PackFact] = ()
    leftovers: Sequence[Leftover] = ()
    pending_ms: int | None = None
    kept: frozenset[str] = frozenset()


class PackPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pack to build from these, in order."""

    sources: tuple[Fact, ...]
    reason: str

    @property
    def timeline(self) -> TimelineId:
        """Its timeline."""
        return self.sources[0].timeline

    @property
    def size_bytes(self) -> int:
        """How large its sources are together."""
        return sum(each.size_bytes for each in self.sources)


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is not needed any more."""

    key: str
    replaced_by: str
    reason: str


class CompactionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done: build, read back, delete, in any order.

    `unverified` are packs beside which something waits for being deleted. At `next_ms` there is more to do by the
    passage of time alone; None: not before something else happens.
    """

    builds: tuple[PackPlan, ...]
    unverified: tuple[PackFact, ...]
    deletions: tuple[Deletion, ...]
    next_ms: int | None


def plan_compaction(stored: Stored, *, now_ms: int, policy: CompactionPolicy) -> CompactionPlan:
    """Decide what to pack, what to verify and what to delete."""
    builds: list[PackPlan] = []
    deletions: list[Deletion] = []
    unverified: list[PackFact] = []
    moments: list[int] = []
    for facts, leftovers in _by_timeline(stored):
        windows = _Windows(policy, now_ms, stored.pending_ms)
        for run in Chain(facts, _continues).runs:
            builds += windows.plan(run)
        moments += windows.moments
        disposable = [each for each in facts if each.key not in stored.kept]
        for pack in _replacing(disposable, leftovers):
            if not pack.verified:
                unverified.append(pack)
            elif pack.stored_ms + policy.grace_ms > now_ms:
                moments.append(pack.stored_ms + policy.grace_ms)
        deletions += _deletions((facts, disposable), leftovers, now_ms - policy.grace_ms)
    return CompactionPlan(
        builds=tuple(builds),
        unverified=tuple(unverified),
        deletions=tuple(deletions),
        next_ms=min(moments, default=None),
    )


def segment_fact(key: str, size_bytes: int, header: SegmentHeader, footer: SegmentFooter) -> SegmentFact:
    """Return what of a segment matters here, from its header and its footer."""
    start = header.start
    return SegmentFact(
        key=key,
        timeline=header.timeline,
        seq=header.seq,
        size_bytes=size_bytes,
        txid_before=header.txid_before,
        txid_after=footer.txid_after,
        first_seen_ms=footer.first_seen_ms,
        seen_ms=(header.created_ms,) * 2 if start else (footer.earliest_seen_ms, footer.latest_seen_ms),
        is_opening=start is not None,
        is_fence=header.fence,
        left=start.parent if start else None,
    )


def stored_from(history: History, *, verified: frozenset[str] = frozenset(), pending_ms: int | None = None) -> Stored:
    """Return what a replica holds, from its history; `verified` are the keys of packs that were read back.

    How old a pack is, is told by the clock of who made it.
    """
    segments = [segment for timeline in history.timelines for segment in timeline.segments]
    read = {segment.key for segment in segments}
    spares = [(timeline.id, spare.key) for timeline in history.timelines for spare in timeline.spares]
    unread = [(timeline, key, parse_segment_name(key)) for timeline, key in spares if key not in read]
    return Stored(
        segments=[segment_fact(each.key, each.size_bytes, each.header, each.footer) for each in segments],
        packs=[_pack_fact(pack, verified) for timeline in history.timelines for pack in timeline.packs],
        leftovers=[Leftover(key=key, timeline=timeline, seq=name.seq) for timeline, key, name in unread if name],
        pending_ms=pending_ms,
    )


class _Windows:
    """Plans packs, window by window; `moments` are when windows that hold something to pack will be over."""

    def __init__(self, policy: CompactionPolicy, now_ms: int, pending_ms: int | None) -> None:
        self.moments: list[int] = []
        self._policy = policy
        self._now_ms = now_ms
        self._pending_ms = pending_ms

    def plan(self, run: Sequence[Fact]) -> list[PackPlan]:
        """Return what to build of objects that continue one another."""
        return list(self._plan(run, len(self._policy.spans_ms) - 1))

    def _plan(self, facts: Sequence[Fact], level: int) -> Iterator[PackPlan]:
        span_ms = self._policy.spans_ms[level]
        for window, group in groupby(facts, key=lambda each: each.first_seen_ms // span_ms):
            found, end_ms = list(group), (window + 1) * span_ms
            over_ms = end_ms + self._policy.settle_ms
            if over_ms <= self._now_ms and (self._pending_ms is None or self._pending_ms >= end_ms):
                yield from self._build(found, f"from {format_time(window * span_ms)} to {format_time(end_ms)}")
                continue
            if over_ms > self._now_ms and any(self._batches(found)):
                self.moments.append(over_ms)
            if level:
                yield from self._plan(found, level - 1)

    def _build(self, facts: Sequence[Fact], window: str) -> Iterator[PackPlan]:
        for batch in self._batches(facts):
            yield PackPlan(sources=tuple(batch), reason=f"{len(batch)} objects {window} make one")

    def _batches(self, facts: Sequence[Fact]) -> Iterator[list[Fact]]:
        """Yield what goes into one pack, two objects at least; what is half full already stays as it is."""
        bytes_max = self._policy.pack_bytes_max
        batch: list[Fact] = []
        batch_bytes = 0
        for fact in facts:
            closed = 2 * fact.size_bytes >= bytes_max
            if closed or batch_bytes + fact.size_bytes > bytes_max:
                if len(batch) > 1:
                    yield batch
                batch, batch_bytes = [], 0
            if not closed:
                batch.append(fact)
                batch_bytes += fact.size_bytes
        if len(batch) > 1:
            yield batch


def _by_timeline(stored: Stored) -> Iterator[tuple[list[Fact], list[Leftover]]]:
    facts: defaultdict[TimelineId, dict[str, Fact]] = defaultdict(dict)
    leftovers: defaultdict[TimelineId, dict[str, Leftover]] = defaultdict(dict)
    for segment in (each for each in stored.segments if not each.pinned):
        facts[segment.timeline][segment.key] = segment
    for pack in stored.packs:
        facts[pack.timeline][pack.key] = pack
    for leftover in (each for each in stored.leftovers if each.key not in stored.kept):
        leftovers[leftover.timeline][leftover.key] = leftover
    for timeline in sorted(facts.keys() | leftovers.keys()):
        known = facts[timeline]
        yield list(known.values()), [each for key, each in leftovers[timeline].items() if key not in known]


def _continues(before: Fact, after: Fact) -> bool:
    return after.first_seq == before.last_seq + 1


def _replacing(facts: Sequence[Fact], leftovers: Sequence[Leftover]) -> Iterator[PackFact]:
    """Yield the packs that hold something that is still there beside them."""
    ordered = sorted(facts, key=lambda each: each.first_seq)
    starts = [each.first_seq for each in ordered]
    seqs = sorted(each.seq for each in leftovers)
    for pack in (each for each in facts if isinstance(each, PackFact)):
        inside = ordered[bisect_left(starts, pack.first_seq) : bisect_right(starts, pack.last_seq)]
        first = bisect_left(seqs, pack.first_seq)
        named = first < len(seqs) and seqs[first] <= pack.last_seq
        if named or any(each.key != pack.key and contains(pack, each) for each in inside):
            yield pack


def _deletions(
    facts: tuple[Sequence[Fact], Sequence[Fact]], leftovers: Sequence[Leftover], stored_by_ms: int
) -> Iterator[Deletion]:
    """Yield what packs replace that can be relied on: verified, and stored by then. INV-23.

    `facts` are all, and those that may be deleted.
    """
    everything, disposable = facts
    trusted = [
        each
        for each in everything
        if isinstance(each, SegmentFact) or (each.verified and each.stored_ms <= stored_by_ms)
    ]
    chain = Chain(trusted, _continues)
    for fact in disposable:
        holder = chain.holder_of(fact)
        if isinstance(holder, PackFact) and holder.key != fact.key:
            yield _deletion(fact.key, holder)
    packs = [each for run in chain.runs for each in run if isinstance(each, PackFact)]
    for leftover in leftovers:
        for pack in packs:
            if pack.first_seq <= leftover.seq <= pack.last_seq:
                yield _deletion(leftover.key, pack)


def _deletion(key: str, pack: PackFact) -> Deletion:
    return Deletion(key=key, replaced_by=pack.key, reason=f"a pack holds it since {format_time(pack.stored_ms)}")


def _pack_fact(pack: Pack, verified: frozenset[str]) -> PackFact:
    return PackFact(
        name=pack.name,
        size_bytes=pack.size_bytes,
        stored_ms=pack.header.created_ms,
        verified=pack.key in verified,
    )
