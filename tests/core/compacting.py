"""A replica that is compacted in virtual time, object by object, by their facts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from walrep.core.chain import Chain
from walrep.core.compaction import CompactionPlan, CompactionPolicy, PackPlan, plan_compaction
from walrep.core.names import PackName, segment_key
from walrep.core.stored import Fact, PackFact, SegmentFact, Stored, newest_of_writers
from walrep.core.units import Seq, TimelineId, Txid

__all__ = [
    "BEGIN",
    "DAY",
    "MIB",
    "MINUTE",
    "POLICY",
    "QUARTER",
    "RPO",
    "Place",
    "at",
    "keys",
    "run_until",
    "spans",
    "with_days",
]

MINUTE = 60_000
QUARTER = 15 * MINUTE
DAY = 96 * QUARTER
BEGIN = 20_000 * DAY
POLICY = CompactionPolicy()
MIB = 1 << 20
RPO = 10_000

PAGE_SIZE = 4096


class Place:
    """A replica and its one writer, in virtual time, from midnight of some day; it does what plans say."""

    def __init__(self, policy: CompactionPolicy = POLICY) -> None:
        self.policy = policy
        self.now_ms = BEGIN
        self.timeline = TimelineId("00001-a1b2c3d4")
        self.objects: dict[str, Fact] = {}
        self.seq = self.txid = 0
        self.pending_ms: int | None = None
        self.other_count = 2
        """The replica object and the base."""
        self.ends: dict[TimelineId, int] = {}
        self.built: list[PackPlan] = []
        self.count_max = 0

    def open_timeline(self, nonce: str = "a1b2c3d4") -> None:
        """Put the segment that opens the next timeline; with another nonce, of another writer."""
        self.ends[self.timeline] = self.txid
        number = int(self.timeline[:5]) + (self.seq > 0)
        self.timeline, self.txid = TimelineId(f"{number:05d}-{nonce}"), 0
        self._put_segment(0, 100, pinned=True)

    def commit(self, transactions: int = 10, *, size_bytes: int = 3000, seen_ms: int | None = None) -> None:
        """Put a segment, the first transaction of which was seen then (None: now)."""
        self._put_segment(transactions, size_bytes, seen_ms=seen_ms)

    def stored(self) -> Stored:
        """Return what is there."""
        facts = self.objects.values()
        return Stored(
            segments=[each for each in facts if isinstance(each, SegmentFact)],
            packs=[each for each in facts if isinstance(each, PackFact)],
            pending_ms=self.pending_ms,
        )

    def plan(self) -> CompactionPlan:
        """Plan now."""
        return plan_compaction(self.stored(), now_ms=self.now_ms, policy=self.policy)

    def steps(self, plan: CompactionPlan) -> list[Callable[[], None]]:
        """Return what the plan says, step by step."""
        steps: list[Callable[[], None]] = []
        steps += [lambda each=each: self.build(each) for each in plan.builds]  # type: ignore[misc]
        steps += [lambda each=each: self.verify(each) for each in plan.unverified]  # type: ignore[misc]
        steps += [lambda each=each: self.delete(each.key) for each in plan.deletions]  # type: ignore[misc]
        return steps

    def settle(self) -> None:
        """Do what plans say until there is nothing more to do now."""
        for _round in range(20):
            steps = self.steps(self.plan())
            if not steps:
                return
            for step in steps:
                step()
            self.check_all_there()
        raise AssertionError("planning does not come to an end")

    def build(self, plan: PackPlan) -> None:
        """Put a pack, after the checks that a builder makes."""
        first, last = plan.sources[0], plan.sources[-1]
        for before, after in zip(plan.sources, plan.sources[1:], strict=False):
            assert (before.txid_after, before.last_seq + 1) == (after.txid_before, after.first_seq)
            assert before.timeline == after.timeline
        assert not any(isinstance(each, SegmentFact) and each.pinned for each in plan.sources)
        assert all(each.key in self.objects for each in plan.sources)
        assert len(plan.sources) > 1
        assert plan.size_bytes <= self.policy.pack_bytes_max
        name = PackName(
            timeline=first.timeline,
            first_txid=Txid(first.txid_before + 1),
            last_txid=last.txid_after,
            first_seen_ms=first.first_seen_ms,
            last_seen_ms=last.name.last_seen_ms if isinstance(last, PackFact) else last.first_seen_ms,
            first_seq=first.first_seq,
            last_seq=last.last_seq,
        )
        pack = PackFact(
            name=name,
            size_bytes=plan.size_bytes,
            page_size=PAGE_SIZE,
            checksum_before=first.checksum_before,
            checksum_after=last.checksum_after,
            stored_ms=self.now_ms,
            verified=False,
        )
        self.objects[pack.key] = pack
        self.built.append(plan)
        self._count()

    def verify(self, pack: PackFact) -> None:
        """Note that it was read back."""
        self.objects[pack.key] = msgspec.structs.replace(pack, verified=True)

    def delete(self, key: str) -> None:
        """Delete what is neither pinned nor the newest segment."""
        assert key not in newest_of_writers(self.stored())
        assert not _is_pinned(self.objects.pop(key))

    def check_all_there(self) -> None:
        """Every transaction of every timeline is in one run."""
        for timeline, end in {**self.ends, self.timeline: self.txid}.items():
            facts = [each for each in self.objects.values() if each.timeline == timeline and not _is_pinned(each)]
            runs = Chain(facts, lambda before, after: before.last_seq + 1 == after.first_seq).runs
            assert [(run[0].txid_before, run[-1].txid_after) for run in runs] == ([(0, end)] if end else [])

    def count(self) -> int:
        """How many objects the replica has."""
        return len(self.objects) + self.other_count

    def _put_segment(
        self, transactions: int, size_bytes: int, *, pinned: bool = False, seen_ms: int | None = None
    ) -> None:
        self.seq += 1
        seen_ms = self.now_ms if seen_ms is None else seen_ms
        segment = SegmentFact(
            key=segment_key(self.seq),
            timeline=self.timeline,
            seq=Seq(self.seq),
            size_bytes=size_bytes,
            page_size=PAGE_SIZE,
            txid_before=Txid(self.txid),
            txid_after=Txid(self.txid + transactions),
            checksum_before=checksum_at(self.txid),
            checksum_after=checksum_at(self.txid + transactions),
            first_seen_ms=seen_ms,
            seen_ms=(seen_ms, seen_ms),
            is_opening=pinned,
        )
        self.txid += transactions
        self.objects[segment.key] = segment
        self._count()

    def _count(self) -> None:
        self.count_max = max(self.count_max, self.count())


def checksum_at(txid: int) -> int:
    """Return a number that tells the state after a transaction from others."""
    return txid * 0x9E37_79B9_7F4A_7C15 % (1 << 64)


def _is_pinned(fact: Fact) -> bool:
    return isinstance(fact, SegmentFact) and fact.pinned


def keys(place: Place, prefix: str = "") -> list[str]:
    return sorted(key for key in place.objects if key.startswith(prefix))


def spans(place: Place) -> list[tuple[str, int, int]]:
    """What is live: s or p, and the transactions around it."""
    order = sorted(place.objects.values(), key=lambda each: (each.timeline, each.first_seq, -each.last_seq))
    return [("p" if isinstance(each, PackFact) else "s", each.txid_before, each.txid_after) for each in order]


def at(place: Place, *moments: int) -> None:
    """Write a segment at each of these times after the place's midnight."""
    midnight = place.now_ms // DAY * DAY
    for moment in moments:
        place.now_ms = midnight + moment
        place.commit()


def run_until(place: Place, end_ms: int, *, every_ms: int = RPO, size_bytes: int = 3000) -> Iterator[int]:
    """Write a segment every so often, do what plans say when it is due, and yield the count of objects each time."""
    due_ms: int | None = None
    while place.now_ms < end_ms:
        place.commit(size_bytes=size_bytes)
        place.now_ms += every_ms
        # As the engine does: a window that begins to hold something tells when it is over.
        if due_ms is None or place.now_ms >= due_ms:
            place.settle()
            due_ms = place.plan().next_ms
        yield place.count()


def with_days(place: Place, days: int) -> None:
    """Put one pack for each of so many days before."""
    place.open_timeline()
    begin_ms = place.now_ms - days * DAY
    for day in range(days):
        for half in range(2):
            place.commit(86_400, size_bytes=10 * MIB, seen_ms=begin_ms + day * DAY + half)
    place.settle()
    place.now_ms += POLICY.grace_ms
    place.settle()
    place.now_ms -= POLICY.grace_ms
    place.count_max = 0
