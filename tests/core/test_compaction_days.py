"""Compaction over days, timely and interrupted anywhere: nothing is lost, and objects stay few."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from tests.core.compacting import DAY, MIB, MINUTE, POLICY, QUARTER, RPO, Place, run_until, with_days
from walrep.core.chain import contains
from walrep.core.compaction import CompactionPlan, CompactionPolicy
from walrep.core.stored import Fact, PackFact, SegmentFact, newest_of_writers

SMALL = CompactionPolicy(
    spans_ms=(QUARTER, 4 * QUARTER), pack_bytes_max=40_000, settle_ms=MINUTE // 2, grace_ms=10 * MINUTE
)
"""An hour for a day, so that a few hundred segments are many days; packs are closed at some ten segments."""


def ripe(place: Place, plan: CompactionPlan) -> bool:
    """Whether time alone has brought something to do."""
    return bool(place.steps(plan)) or (plan.next_ms is not None and plan.next_ms <= place.now_ms)


def test_written_all_day_a_replica_of_thirty_days_has_few_objects_at_every_moment() -> None:
    """Two more days on top of thirty: one transaction a second, a segment each 10 s."""
    place = Place()
    with_days(place, 30)
    midnight = place.now_ms
    # The replica object, the base, the segment that opened the timeline, the newest one, and thirty packs.
    assert place.count() == 34
    counts = list(run_until(place, midnight + 2 * DAY))
    assert max(counts) <= place.count_max <= 320
    # When what the day's pack replaces is gone, ten minutes and a half after midnight, today's segments included.
    after_ms = POLICY.settle_ms + POLICY.grace_ms + RPO
    assert list(run_until(place, place.now_ms + after_ms))[-1] <= 100
    assert place.count() - len([each for each in place.objects if each.startswith("segments/")]) == 32 + 2
    place.check_all_there()
    # Nothing more is written: the last quarter, the last day, and then there is nothing to do, for ever.
    for _wait in range(10):
        due_ms = place.plan().next_ms
        if due_ms is None:
            break
        place.now_ms = max(place.now_ms, due_ms)
        place.settle()
    assert place.plan() == CompactionPlan(builds=(), unverified=(), deletions=(), next_ms=None)
    assert place.count() == 34 + 3
    place.check_all_there()


@pytest.mark.parametrize("size_bytes", [3000, 2 * MIB, 40 * MIB])
def test_however_large_segments_are_packs_stay_below_their_limit_and_few(size_bytes: int) -> None:
    place = Place()
    place.open_timeline()
    list(run_until(place, place.now_ms + DAY // 4, size_bytes=size_bytes))
    place.now_ms += DAY
    place.settle()
    place.now_ms += POLICY.grace_ms
    place.settle()
    total = sum(each.size_bytes for each in place.objects.values())
    packs = [each for each in place.objects.values() if isinstance(each, PackFact)]
    assert all(each.size_bytes <= POLICY.pack_bytes_max for each in packs)
    # Each but the last is at least half full.
    assert len(packs) <= 2 * total // POLICY.pack_bytes_max + 1
    segments = [each for each in place.objects.values() if isinstance(each, SegmentFact) and not each.pinned]
    assert [each.key for each in segments] == [*newest_of_writers(place.stored())]
    # What was sent again: each byte at most once for each tier.
    assert sum(each.size_bytes for each in place.built) <= 2 * total


@st.composite
def actions(draw: st.DrawFn) -> list[tuple[str, int]]:
    kinds = st.sampled_from(["write", "write", "write", "wait", "compact", "compact", "restart", "outage", "timeline"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 60)), min_size=1, max_size=40))


def act(place: Place, kind: str, amount: int) -> None:
    if kind == "write":
        for number in range(amount % 30):
            place.commit(1 + number % 3, size_bytes=500 + 7919 * number % 9000)
            place.now_ms += MINUTE if amount % 2 else RPO
    elif kind == "wait":
        place.now_ms += amount * 3 * MINUTE
    elif kind == "compact":
        # Killed after so many steps.
        for step in place.steps(place.plan())[:amount]:
            step()
            place.check_all_there()
    elif kind == "restart":
        for key, fact in place.objects.items():
            if isinstance(fact, PackFact):
                place.objects[key] = msgspec.structs.replace(fact, verified=False)
    elif kind == "outage":
        place.pending_ms = None if place.pending_ms else place.now_ms
    else:
        place.open_timeline()


@given(actions())
@settings(max_examples=150, deadline=None)
def test_whatever_is_interrupted_nothing_is_lost_and_planning_again_comes_to_the_same_end(
    script: list[tuple[str, int]],
) -> None:
    place = Place(SMALL)
    place.open_timeline()
    for kind, amount in script:
        act(place, kind, amount)
        place.check_all_there()
    place.pending_ms = None
    for _round in range(3):
        place.settle()
        place.now_ms += 4 * QUARTER + SMALL.grace_ms
    plan = place.plan()
    assert plan == CompactionPlan(builds=(), unverified=(), deletions=(), next_ms=None)
    place.check_all_there()
    live = list(place.objects.values())
    for fact in live:
        if not stays(place, fact):
            assert not any(
                other is not fact and other.timeline == fact.timeline and contains(other, fact) for other in live
            )
    pinned = [each for each in live if _pinned(each)]
    assert len(pinned) == 1 + sum(kind == "timeline" for kind, _amount in script)


def _pinned(fact: Fact) -> bool:
    return isinstance(fact, SegmentFact) and fact.pinned


def stays(place: Place, fact: Fact) -> bool:
    """Whether it is not deleted, whatever pack holds it."""
    return _pinned(fact) or fact.key in newest_of_writers(place.stored())


@given(actions())
@settings(max_examples=60, deadline=None)
def test_while_nothing_is_interrupted_objects_overlap_only_within_the_grace(script: list[tuple[str, int]]) -> None:
    place = Place(SMALL)
    place.open_timeline()
    for kind, amount in script:
        act(place, "compact" if kind == "restart" else kind, amount)
        place.settle()
        for fact in (each for each in place.objects.values() if not stays(place, each)):
            holders = [
                each
                for each in place.objects.values()
                if each.key != fact.key and each.timeline == fact.timeline and contains(each, fact)
            ]
            # Of a pack within a larger one the larger one counts.
            largest = max(holders, key=lambda each: each.txid_after - each.txid_before, default=None)
            assert not isinstance(largest, PackFact) or largest.stored_ms + SMALL.grace_ms > place.now_ms
        plan = place.plan()
        assert plan.next_ms is None or plan.next_ms > place.now_ms
        assert not ripe(place, plan)


@given(actions())
@settings(max_examples=60, deadline=None)
def test_a_plan_tells_when_there_is_more_to_do(script: list[tuple[str, int]]) -> None:
    """Until then nothing happens by the passage of time, so that nobody has to look."""
    place = Place(SMALL)
    place.open_timeline()
    for kind, amount in script:
        act(place, kind, amount)
    place.settle()
    next_ms = place.plan().next_ms
    later = place.now_ms + 3 * DAY if next_ms is None else next_ms - 1
    for moment in (place.now_ms, (place.now_ms + later) // 2, later):
        place.now_ms = moment
        assert not place.steps(place.plan())
