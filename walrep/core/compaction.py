"""Which segments become packs, which packs become larger ones, and what is not needed any more. Pure; see `packing`.

Time is cut into windows, of 15 minutes and of one day, UTC. What began in a window belongs to it, whatever came later.
When a window is over and everything of it is durable, what is next to each other in it becomes one pack: of a day that
is over everything there is, packs and segments, of the current day the quarters of an hour. A pack that would exceed
256 MiB is closed and another one begun; what has half of that is closed for good. One object alone is left as it is.

    INV-22  Only objects of one timeline that continue one another are packed together. What opens a timeline, and with
            it every fence (INV-19), is neither packed nor deleted.
    INV-23  An object is deleted only when a pack that holds all of it is proved, is part of the chain that a restore
            takes, and is older than the grace in which a restore under way finds a way around it. Proved: written
            here, read back and compared with its sources before it was stored, and of the same size in the store
            afterwards; or read back from the store.

A plan is made of what is there, not of what was planned: whatever was done of one, or done twice, the next one goes on
from there. Each build leaves fewer objects in a window, so planning comes to an end. A pack that turned out to be
damaged is left out of what is there, and is built again, under the same key, while its sources are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from walrep.core.chain import Chain
from walrep.core.links import defect_between
from walrep.core.stored import Fact, Leftover, PackFact, Stored, newest_of_writers
from walrep.core.target import format_time
from walrep.core.units import TimelineId

__all__ = [
    "CompactionPlan",
    "CompactionPolicy",
    "Deletion",
    "PackPlan",
    "plan_compaction",
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


class PackPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pack to build from these, in order."""

    sources: tuple[Fact, ...]
    reason: str

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
    kept = newest_of_writers(stored)
    for facts, leftovers in _by_timeline(stored):
        # INV-23: of the same objects a restore makes the same chain.
        chain = Chain(facts, _continues)
        windows = _Windows(policy, now_ms, stored.pending_ms)
        for run in chain.runs:
            builds += windows.plan(run)
        moments += windows.moments
        replaced = list(_replaced(chain, leftovers, kept))
        for pack in {pack.key: pack for _key, pack in replaced}.values():
            if not pack.verified:
                unverified.append(pack)
            elif pack.stored_ms + policy.grace_ms > now_ms:
                moments.append(pack.stored_ms + policy.grace_ms)
        for key, pack in replaced:
            if pack.verified and pack.stored_ms + policy.grace_ms <= now_ms:
                deletions.append(_deletion(key, pack))
    return CompactionPlan(
        builds=tuple(builds),
        unverified=tuple(unverified),
        deletions=tuple(deletions),
        next_ms=min(moments, default=None),
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
    for leftover in stored.leftovers:
        leftovers[leftover.timeline][leftover.key] = leftover
    for timeline in sorted(facts.keys() | leftovers.keys()):
        known = facts[timeline]
        yield list(known.values()), [each for key, each in leftovers[timeline].items() if key not in known]


def _continues(before: Fact, after: Fact) -> bool:
    return after.first_seq == before.last_seq + 1 and not defect_between(before, after)


def _replaced(
    chain: Chain[Fact], leftovers: Sequence[Leftover], kept: frozenset[str]
) -> Iterator[tuple[str, PackFact]]:
    """Yield the keys of what is not needed beside a pack of the chain, each with that pack."""
    for fact, holder in chain.replaced:
        if isinstance(holder, PackFact) and fact.key not in kept:
            yield fact.key, holder
    packs = sorted(
        (each for run in chain.runs for each in run if isinstance(each, PackFact)), key=lambda each: each.first_seq
    )
    starts = [each.first_seq for each in packs]
    for leftover in (each for each in leftovers if each.key not in kept):
        place = bisect_right(starts, leftover.seq) - 1
        if place >= 0 and leftover.seq <= packs[place].last_seq:
            yield leftover.key, packs[place]


def _deletion(key: str, pack: PackFact) -> Deletion:
    return Deletion(key=key, replaced_by=pack.key, reason=f"a pack holds it since {format_time(pack.stored_ms)}")
