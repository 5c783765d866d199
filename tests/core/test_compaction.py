"""What becomes a pack, and when what it replaces may go."""

from __future__ import annotations

import msgspec
import pytest

from tests.core.compacting import DAY, MIB, MINUTE, POLICY, QUARTER, Place, at, keys, spans
from walrep.core.compaction import CompactionPlan, PackPlan, plan_compaction
from walrep.core.names import parse_pack_key, parse_segment_key, segment_key
from walrep.core.stored import Leftover, PackFact, Stored, stored_from
from walrep.core.units import Seq, TimelineId
from walrep.testing.history import HistoryBuilder, history_of

# -- what becomes a pack -----------------------------------------------------------------------------------------------


def test_a_quarter_of_an_hour_becomes_a_pack_when_it_is_over() -> None:
    place = Place()
    place.open_timeline()
    at(place, 0, 5 * MINUTE, QUARTER - 1, QUARTER + 1, QUARTER + MINUTE)
    place.now_ms = 20_000 * DAY + QUARTER + POLICY.settle_ms - 1
    assert place.plan().builds == ()
    assert place.plan().next_ms == place.now_ms + 1
    place.now_ms += 1
    (build,) = place.plan().builds
    assert [each.first_seq for each in build.sources] == [2, 3, 4]
    assert "3 objects from 2024-10-04T00:00:00.000Z to 2024-10-04T00:15:00.000Z" in build.reason
    place.settle()
    place.now_ms += POLICY.grace_ms
    place.settle()
    assert spans(place) == [("s", 0, 0), ("p", 0, 30), ("s", 30, 40), ("s", 40, 50)]


def test_a_day_becomes_one_pack_of_packs_and_segments_when_it_is_over() -> None:
    place = Place()
    place.open_timeline()
    for quarter in range(3):
        at(place, quarter * QUARTER, quarter * QUARTER + 1)
        place.now_ms += QUARTER + MINUTE
        place.settle()
    at(place, DAY - 3, DAY - 2)
    place.now_ms += POLICY.settle_ms + 10
    place.settle()
    (day,) = place.built[3:]
    assert [isinstance(each, PackFact) for each in day.sources] == [True, True, True, False, False]
    place.now_ms += POLICY.grace_ms
    place.settle()
    assert spans(place) == [("s", 0, 0), ("p", 0, 80), ("s", 70, 80)]
    assert place.plan() == CompactionPlan(builds=(), unverified=(), deletions=(), next_ms=None)


def test_what_is_pending_keeps_its_window_open_however_late() -> None:
    """During an outage of the store the newest transactions of a window are not durable yet."""
    place = Place()
    place.open_timeline()
    at(place, 0, MINUTE)
    place.pending_ms = place.now_ms + 5
    place.now_ms += DAY
    assert place.plan().builds == ()
    assert place.plan().next_ms is None
    place.commit(seen_ms=place.pending_ms)
    place.pending_ms = place.now_ms
    (build,) = place.plan().builds
    assert len(build.sources) == 3


def test_one_object_alone_is_left_as_it_is() -> None:
    place = Place()
    place.open_timeline()
    for day in range(3):
        place.now_ms = (20_000 + day) * DAY + 7
        place.commit()
    place.now_ms += 2 * DAY
    assert place.plan() == CompactionPlan(builds=(), unverified=(), deletions=(), next_ms=None)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([100, 100, 100], [2]),
        ([100, 100, 60, 60, 60, 60, 60], [2, 4]),
        ([130, 10, 10], [2]),
        ([10, 10, 130, 10, 10], [2, 2]),
        ([10, 300, 10], []),
        ([127] * 5, [2, 2]),
        ([64] * 4, [4]),
        ([128, 128], []),
    ],
)
def test_a_pack_is_closed_at_its_limit(sizes: list[int], expected: list[int]) -> None:
    place = Place()
    place.open_timeline()
    for size in sizes:
        place.commit(size_bytes=size * MIB)
    place.now_ms += DAY + QUARTER
    assert [len(each.sources) for each in place.plan().builds] == expected
    place.settle()
    assert [len(each.sources) for each in place.built] == expected


def test_timelines_are_not_mixed_and_what_opens_one_stays() -> None:
    place = Place()
    place.open_timeline()
    at(place, 0, 1)
    place.open_timeline()
    at(place, 2, 3)
    place.now_ms += DAY
    place.settle()
    place.now_ms += POLICY.grace_ms
    place.settle()
    assert spans(place) == [("s", 0, 0), ("p", 0, 20), ("s", 0, 0), ("p", 0, 20), ("s", 10, 20)]


def test_a_hole_is_not_packed_over() -> None:
    place = Place()
    place.open_timeline()
    at(place, 0, 1, 2, 3, 4)
    del place.objects[segment_key(4)]
    place.now_ms += DAY
    plan = place.plan()
    assert [[each.first_seq for each in build.sources] for build in plan.builds] == [[2, 3], [5, 6]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"checksum_before": 1}, [[2, 3], [4, 5, 6, 7]]),
        ({"checksum_after": 1}, [[2, 3, 4], [5, 6, 7]]),
        ({"page_size": 512}, [[2, 3], [5, 6, 7]]),
        ({"txid_before": 21}, [[2, 3], [4, 5, 6, 7]]),
    ],
)
def test_what_has_the_right_numbers_only_is_not_packed_with_the_others(
    change: dict[str, int], expected: list[list[int]]
) -> None:
    place = Place()
    place.open_timeline()
    at(place, 0, 1, 2, 3, 4, 5)
    place.objects[segment_key(4)] = msgspec.structs.replace(place.objects[segment_key(4)], **change)
    place.now_ms += DAY
    assert [[each.first_seq for each in build.sources] for build in place.plan().builds] == expected


def test_a_late_segment_joins_the_pack_of_its_day() -> None:
    place = Place()
    place.open_timeline()
    at(place, 0, 1)
    place.now_ms += DAY
    place.settle()
    place.commit(seen_ms=20_000 * DAY + 2)
    place.settle()
    assert [len(each.sources) for each in place.built] == [2, 2]
    place.now_ms += POLICY.grace_ms
    place.settle()
    assert spans(place) == [("s", 0, 0), ("p", 0, 30), ("s", 20, 30)]


def test_a_clock_that_steps_back_only_splits_windows() -> None:
    place = Place()
    place.open_timeline()
    at(place, 2 * QUARTER, 2 * QUARTER + 1, 0, 1, 2 * QUARTER + 2, 2 * QUARTER + 3)
    place.now_ms += QUARTER + MINUTE
    place.settle()
    assert [len(each.sources) for each in place.built] == [2, 2, 2]
    place.now_ms += DAY
    place.settle()
    assert [len(each.sources) for each in place.built] == [2, 2, 2, 3]


# -- what is deleted ---------------------------------------------------------------------------------------------------


def with_pack() -> Place:
    place = Place()
    place.open_timeline()
    at(place, 0, 1, 2)
    place.now_ms += QUARTER + MINUTE
    place.build(place.plan().builds[0])
    return place


def test_only_what_a_verified_pack_held_for_the_grace_is_deleted() -> None:
    place = with_pack()
    (pack,) = place.plan().unverified
    place.now_ms += 2 * POLICY.grace_ms
    assert place.plan().deletions == ()
    place.now_ms -= 2 * POLICY.grace_ms
    place.verify(pack)
    assert place.plan().unverified == ()
    assert place.plan().next_ms == place.now_ms + POLICY.grace_ms
    place.now_ms += POLICY.grace_ms - 1
    assert place.plan().deletions == ()
    place.now_ms += 1
    plan = place.plan()
    assert [each.key for each in plan.deletions] == [segment_key(seq) for seq in (2, 3)]
    assert {each.replaced_by for each in plan.deletions} == {pack.key}
    assert "holds it since" in plan.deletions[0].reason


def test_what_a_pack_replaces_is_deleted_by_its_key_alone() -> None:
    """After a start the ends of segments that a pack replaces are not read."""
    place = with_pack()
    place.verify(place.plan().unverified[0])
    place.now_ms += POLICY.grace_ms
    expected = place.plan().deletions
    (pack,) = (each for each in place.objects.values() if isinstance(each, PackFact))
    left = [Leftover(key=segment_key(seq), timeline=place.timeline, seq=Seq(seq)) for seq in (2, 3, 4)]
    stored = Stored(segments=(), packs=(pack,), leftovers=left)
    assert plan_compaction(stored, now_ms=place.now_ms, policy=POLICY).deletions == expected
    fresh = msgspec.structs.replace(pack, verified=False)
    plan = plan_compaction(Stored(segments=(), packs=(fresh,), leftovers=left), now_ms=place.now_ms, policy=POLICY)
    assert (plan.unverified, plan.deletions) == ((fresh,), ())
    beyond = [Leftover(key=segment_key(seq), timeline=place.timeline, seq=Seq(seq)) for seq in (1, 5)]
    other = [Leftover(key=segment_key(3), timeline=TimelineId("00001-ffffffff"), seq=Seq(3))]
    plan = plan_compaction(
        Stored(segments=(), packs=(pack,), leftovers=beyond + other), now_ms=place.now_ms, policy=POLICY
    )
    assert plan.deletions == ()


def test_the_newest_segment_is_packed_and_stays_until_there_is_a_newer_one() -> None:
    """A start looks for it. Not packing it would make every day's pack anew when the next segment comes."""
    place = with_pack()
    (pack,) = place.plan().unverified
    place.verify(pack)
    place.now_ms += DAY + POLICY.grace_ms
    plan = place.plan()
    assert [each.key for each in plan.deletions] == [segment_key(2), segment_key(3)]
    assert (plan.builds, plan.next_ms) == ((), None)
    for deletion in plan.deletions:
        place.delete(deletion.key)
    # A start that does not know the pack is not made to read it back for the sake of what stays anyway.
    pack = msgspec.structs.replace(pack, verified=False)
    left = Leftover(key=segment_key(4), timeline=place.timeline, seq=Seq(4))
    stored = Stored(segments=(), packs=(pack,), leftovers=(left,))
    plan = plan_compaction(stored, now_ms=place.now_ms, policy=POLICY)
    assert plan == CompactionPlan(builds=(), unverified=(), deletions=(), next_ms=None)
    # And then there is a newer one, of the same writer in another timeline.
    place.verify(pack)
    place.open_timeline()
    assert [each.key for each in place.plan().deletions] == [segment_key(4)]


@pytest.mark.parametrize("by_key", [False, True])
def test_the_newest_segment_of_a_writer_that_was_shut_out_stays_too(by_key: bool) -> None:  # noqa: FBT001
    """It looks for it at its next start, and is to be told who took over rather than that the store lost something."""
    place = with_pack()
    place.verify(place.plan().unverified[0])
    place.now_ms += POLICY.grace_ms
    place.open_timeline(nonce="ffffffff")
    place.commit()
    place.commit()
    stored = place.stored()
    if by_key:
        left = [
            Leftover(key=segment_key(seq), timeline=TimelineId("00001-a1b2c3d4"), seq=Seq(seq)) for seq in (2, 3, 4)
        ]
        segments = [each for each in stored.segments if each.seq not in {2, 3, 4}]
        stored = msgspec.structs.replace(stored, segments=segments, leftovers=left)
    plan = plan_compaction(stored, now_ms=place.now_ms, policy=POLICY)
    assert [each.key for each in plan.deletions] == [segment_key(2), segment_key(3)]


def test_what_is_named_twice_counts_once() -> None:
    place = with_pack()
    place.verify(place.plan().unverified[0])
    place.now_ms += POLICY.grace_ms
    twice = place.stored()
    left = [Leftover(key=each.key, timeline=each.timeline, seq=each.seq) for each in twice.segments if not each.pinned]
    twice = msgspec.structs.replace(twice, segments=[*twice.segments] * 2, packs=[*twice.packs] * 2, leftovers=left * 2)
    assert plan_compaction(twice, now_ms=place.now_ms, policy=POLICY) == place.plan()


def test_a_pack_that_is_not_part_of_the_chain_replaces_nothing() -> None:
    """Two packs that overlap: what only one of them holds must not go because the other one is there."""
    place = Place()
    place.open_timeline()
    at(place, *range(6))
    sources = [place.objects[segment_key(seq)] for seq in range(2, 8)]
    for first, last in ((0, 4), (2, 6)):
        place.build(PackPlan(sources=tuple(sources[first:last]), reason=""))
    for pack in place.plan().unverified:
        place.verify(pack)
    place.now_ms += POLICY.grace_ms
    assert [parse_segment_key(each.key) for each in place.plan().deletions] == [2, 3, 4, 5]
    place.now_ms += DAY
    place.settle()
    place.now_ms += POLICY.grace_ms
    place.settle()
    assert spans(place) == [("s", 0, 0), ("p", 0, 60), ("s", 50, 60)]


def test_only_the_pack_that_a_restore_takes_lets_anything_be_deleted() -> None:
    """Within a larger pack that is not proved yet one that is proved justifies nothing: nobody reads it."""
    place = Place()
    place.open_timeline()
    at(place, *range(6))
    sources = [place.objects[segment_key(seq)] for seq in range(2, 8)]
    place.build(PackPlan(sources=tuple(sources[:4]), reason=""))
    (small,) = place.plan().unverified
    place.verify(small)
    place.build(PackPlan(sources=tuple(sources), reason=""))
    place.now_ms += POLICY.grace_ms
    (large,) = place.plan().unverified
    assert place.plan().deletions == ()
    place.verify(large)
    assert {each.replaced_by for each in place.plan().deletions} == {large.key}
    assert {each.key for each in place.plan().deletions} == {small.key, *(segment_key(seq) for seq in range(2, 7))}


def other_history() -> HistoryBuilder:
    """Six segments of one transaction each, from another base."""
    return six_segments(HistoryBuilder(512), base=b"\x07")


def six_segments(builder: HistoryBuilder, base: bytes = b"\x00") -> HistoryBuilder:
    builder.begin({1: base * 512, 2: base * 512}, 1000)
    for txid in range(6):
        builder.commit([(1, bytes([txid]) * 512)], 2, 2000 + txid)
        builder.seal()
    return builder


def test_a_pack_of_another_history_with_the_right_numbers_lets_nothing_be_deleted() -> None:
    """It is right in itself, and would prove; but no restore takes it, and what it seems to hold is nowhere else."""
    builder, other = six_segments(HistoryBuilder(512)), other_history()
    key = other.pack(other.packable()[1:4])
    builder.objects[key] = other.objects[key]
    history = history_of(builder.objects)
    assert [each.kind for each in history.problems] == ["unused-object"]
    stored = stored_from(history, verified=frozenset((key,)))
    assert (stored.packs, len(stored.segments)) == ([], 7)
    plan = plan_compaction(stored, now_ms=DAY + QUARTER, policy=POLICY)
    assert (plan.unverified, plan.deletions) == ((), ())
    (build,) = plan.builds
    assert [each.key for each in build.sources] == builder.packable()


def test_a_pack_that_was_found_damaged_is_built_again() -> None:
    place = with_pack()
    (pack,) = keys(place, "packs/")
    del place.objects[pack]
    place.settle()
    assert keys(place, "packs/") == [pack]


def test_a_history_tells_what_is_stored() -> None:
    builder = HistoryBuilder(512)
    builder.begin({1: bytes(512)}, 1000)
    for txid in range(6):
        builder.commit([(1, bytes([txid]) * 512)], 1, 2000 + txid)
        builder.seal()
    key = builder.pack(builder.packable()[:3], keep=True)
    stored = stored_from(history_of(builder.objects, skip_replaced=True), verified=frozenset((key,)), pending_ms=9)
    assert [(each.seq, each.txid_before, each.txid_after, each.pinned) for each in stored.segments] == [
        (1, 0, 0, True),
        (5, 3, 4, False),
        (6, 4, 5, False),
        (7, 5, 6, False),
    ]
    assert stored.segments[1].first_seen_ms == 2003
    assert [(each.key, each.verified, each.name) for each in stored.packs] == [(key, True, parse_pack_key(key))]
    assert [(each.key, each.seq) for each in stored.leftovers] == [(segment_key(seq), seq) for seq in (2, 3, 4)]
    assert stored.pending_ms == 9
    plan = plan_compaction(stored, now_ms=DAY + QUARTER, policy=POLICY)
    assert [each.key for each in plan.deletions] == [segment_key(seq) for seq in (2, 3, 4)]
    assert plan.builds == ()
    unblocked = msgspec.structs.replace(stored, pending_ms=None)
    (build,) = plan_compaction(unblocked, now_ms=DAY + QUARTER, policy=POLICY).builds
    assert [each.key for each in build.sources] == [key, *(segment_key(seq) for seq in (5, 6, 7))]
