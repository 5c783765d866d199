"""Which transaction a target means, and what restoring it takes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from walrep.core.names import segment_key
from walrep.core.records import Known
from walrep.core.restore import RestorePlan, plan_restore
from walrep.core.slices import PART_BYTES, split_parts
from walrep.core.target import AtBookmark, AtTime, AtTxid, Latest, Target
from walrep.core.units import Checksum, Position, TimelineId, Txid
from walrep.errors import RestoreError, TargetAmbiguous, TargetNotFound, UsageError
from walrep.testing.history import HistoryBuilder, history_of, known_of

PAGE = 512
NOW_MS = 1_000_000


def page(value: int) -> bytes:
    return bytes([value % 256]) * PAGE


def plan(
    builder: HistoryBuilder,
    target: Target,
    *,
    timeline: str | None = None,
    nearest_before: bool = False,
    now_ms: int = NOW_MS,
) -> RestorePlan:
    """Plan to the end, answering what the plan asks for from the builder's objects."""
    history = history_of(builder.objects)
    known = Known()
    for _round in range(4):
        step = plan_restore(history, known, target, timeline=timeline, nearest_before=nearest_before, now_ms=now_ms)
        if isinstance(step, RestorePlan):
            return step
        known = known_of(builder.objects, step, known)
    raise AssertionError("the plan asks again for what it knows")


def build(*segments: list[tuple[int, int]], begin_ms: int = 10_000) -> HistoryBuilder:
    """A timeline begun at `begin_ms` whose segments have transactions (seen, looked)."""
    builder = HistoryBuilder(PAGE)
    builder.begin({1: page(1), 2: page(2)}, begin_ms)
    add(builder, *segments)
    return builder


def add(builder: HistoryBuilder, *segments: list[tuple[int, int]]) -> None:
    for segment in segments:
        for seen_ms, looked_ms in segment:
            builder.commit([(1, page(builder.txid))], 2, seen_ms, looked_ms=looked_ms)
        builder.seal()


def steady(*seen: int) -> list[tuple[int, int]]:
    return [(each, each - 20) for each in seen]


def plain() -> HistoryBuilder:
    return build(steady(11_000, 12_000, 13_000), steady(14_000), steady(15_000, 16_000))


@pytest.mark.parametrize(
    ("ms", "txid"),
    [
        (10_000, 0),
        (10_999, 0),
        (11_000, 1),
        (12_999, 2),
        (13_000, 3),
        (13_980, 3),
        (13_999, 3),
        (14_000, 4),
        (15_500, 5),
        (16_000, 6),
        (500_000, 6),
    ],
)
def test_a_time_means_the_last_transaction_seen_by_then(ms: int, txid: int) -> None:
    found = plan(plain(), AtTime(ms))
    assert found.position.txid == txid
    assert found.seen_ms == (10_000 + 1000 * txid)


@pytest.mark.parametrize("txid", range(7))
def test_every_transaction_is_planned_with_its_position_and_segments(txid: int) -> None:
    builder = plain()
    found = plan(builder, AtTxid(Txid(txid)))
    assert found.position == builder.positions[builder.timeline, txid]
    assert [each.link.last_seq for each in found.slices] == [2, 3, 4][: (txid > 0) + (txid > 3) + (txid > 4)]
    assert (found.page_size, found.page_count, found.peak_bytes) == (PAGE, 2, 2 * PAGE)
    assert (found.requests, found.download_bytes) == (1, found.snapshot.size_bytes)


def test_the_newest_snapshot_before_the_target_is_taken() -> None:
    builder = build(steady(11_000, 12_000))
    builder.snapshot(12_500)
    add(builder, steady(13_000), steady(14_000))
    assert plan(builder, AtTxid(Txid(1))).snapshot.name.txid == 0
    at_snapshot = plan(builder, AtTxid(Txid(2)))
    assert (at_snapshot.snapshot.name.txid, at_snapshot.slices) == (2, ())
    assert at_snapshot.position == builder.positions[builder.timeline, 2]
    assert at_snapshot.seen_ms == 12_000
    assert [each.link.last_seq for each in plan(builder, Latest()).slices] == [3, 4]


def test_a_snapshot_without_any_segment_tells_its_own_position() -> None:
    builder = build()
    del builder.objects[segment_key(1)]
    found = plan(builder, Latest())
    assert found.position == builder.positions[builder.timeline, 0]
    assert (found.page_size, found.page_count) == (PAGE, 2)


def test_the_record_of_a_segment_is_asked_for_only_when_the_target_is_inside_it() -> None:
    history = history_of(plain().objects)

    def asks(target: Target) -> list[int]:
        step = plan_restore(history, Known(), target, timeline=None, nearest_before=False, now_ms=NOW_MS)
        return [] if isinstance(step, RestorePlan) else [each.seq for each in step.segments]

    assert asks(AtTxid(Txid(2))) == [2]
    assert asks(AtTime(12_500)) == [2]
    for target in (AtTxid(Txid(3)), AtTxid(Txid(0)), AtTime(13_500), AtTime(14_000), AtTime(99_000), Latest()):
        assert asks(target) == []


def test_before_the_first_transaction_is_an_error_with_the_range() -> None:
    with pytest.raises(TargetNotFound) as caught:
        plan(plain(), AtTime(9_999))
    assert "1970-01-01T00:00:10.000Z to 1970-01-01T00:00:16.000Z" in caught.value.hint


def test_the_future_is_an_error() -> None:
    with pytest.raises(TargetNotFound, match="future"):
        plan(plain(), AtTime(NOW_MS + 1))
    assert plan(plain(), AtTime(NOW_MS)).position.txid == 6


def test_after_the_last_transaction_a_notice_says_what_is_not_known() -> None:
    found = plan(plain(), AtTime(20_000))
    assert len(found.notices) == 1
    assert "seen 4s before the target" in found.notices[0]
    assert "cannot tell" in found.notices[0]
    assert plan(plain(), AtTime(16_000)).notices == ()


@pytest.mark.parametrize(
    ("ms", "outcome"),
    [
        (11_000, 1),
        (12_000, 1),  # walrep looked at 12,000 and saw nothing new
        (12_001, None),
        (14_000, None),
        (15_499, None),
        (15_500, 2),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_time_at_which_walrep_did_not_look_is_ambiguous(ms: int, outcome: int | None, together: bool) -> None:  # noqa: FBT001
    first, second = (11_000, 10_990), (15_500, 12_000)
    builder = build([first, second]) if together else build([first], [second])
    if outcome is not None:
        assert plan(builder, AtTime(ms)).position.txid == outcome
        return
    with pytest.raises(TargetAmbiguous) as caught:
        plan(builder, AtTime(ms))
    assert "transaction 1 " in caught.value.detail
    assert "transaction 2 " in caught.value.detail
    assert "00:00:11.000Z" in caught.value.detail
    assert "00:00:15.500Z" in caught.value.detail
    assert "--nearest-before" in caught.value.hint
    accepted = plan(builder, AtTime(ms), nearest_before=True)
    assert accepted.position.txid == 1
    assert accepted.notices != ()


@pytest.mark.parametrize(("gap_ms", "is_ambiguous"), [(1999, False), (2000, False), (2001, True)])
def test_up_to_two_seconds_without_a_look_are_accepted(gap_ms: int, is_ambiguous: bool) -> None:  # noqa: FBT001
    builder = build([(11_000, 10_990)], [(20_000, 20_000 - gap_ms)])
    if is_ambiguous:
        with pytest.raises(TargetAmbiguous):
            plan(builder, AtTime(19_999))
    else:
        assert plan(builder, AtTime(19_999)).position.txid == 1


def test_a_look_that_was_too_long_ago_to_be_recorded_is_not_believed() -> None:
    months_ms = 1 << 33
    builder = build([(11_000, 10_990)], [(months_ms, 11_500), (months_ms + 100, months_ms + 50)])
    with pytest.raises(TargetAmbiguous):
        plan(builder, AtTime(months_ms // 2), now_ms=1 << 40)


@pytest.mark.parametrize("together", [True, False])
def test_a_time_that_came_twice_is_ambiguous(together: bool) -> None:  # noqa: FBT001
    seen = steady(11_000, 12_000, 20_000), steady(14_000, 15_000, 21_000)
    builder = build(seen[0] + seen[1]) if together else build(*seen)
    for ms, first, last in ((14_500, 2, 4), (19_990, 2, 5)):
        with pytest.raises(TargetAmbiguous) as caught:
            plan(builder, AtTime(ms))
        assert f"transaction {first} " in caught.value.detail
        assert f"transaction {last} " in caught.value.detail
        assert plan(builder, AtTime(ms), nearest_before=True).position.txid == first
    assert plan(builder, AtTime(13_000), nearest_before=True).position.txid == 2
    assert plan(builder, AtTime(11_500)).position.txid == 1
    assert plan(builder, AtTime(20_980)).position.txid == 5
    assert plan(builder, AtTime(21_000)).position.txid == 6


def two_timelines(*, gap_ms: int = 1000) -> tuple[HistoryBuilder, TimelineId, TimelineId]:
    builder = plain()
    first = builder.timeline
    second = builder.begin({1: page(7)}, 16_000 + gap_ms, parent=builder.positions[first, 4])
    add(builder, steady(20_000, 21_000))
    return builder, first, second


def test_a_time_means_the_timeline_that_was_current_then() -> None:
    builder, first, second = two_timelines()
    for ms, timeline, txid in (
        (15_500, first, 5),
        (16_999, first, 6),
        (17_000, second, 0),
        (20_500, second, 1),
        (50_000, second, 2),
    ):
        found = plan(builder, AtTime(ms)).position
        assert (found.timeline, found.txid) == (timeline, txid)


def test_with_a_timeline_named_a_time_means_that_one() -> None:
    builder, first, second = two_timelines()
    found = plan(builder, AtTime(20_500), timeline="1")
    assert (found.position.timeline, found.position.txid) == (first, 6)
    assert found.notices != ()
    with pytest.raises(TargetNotFound):
        plan(builder, AtTime(16_500), timeline=second)


def test_between_two_timelines_a_long_gap_is_ambiguous() -> None:
    builder, first, _second = two_timelines(gap_ms=2500)
    with pytest.raises(TargetAmbiguous):
        plan(builder, AtTime(17_000))
    accepted = plan(builder, AtTime(17_000), nearest_before=True).position
    assert (accepted.timeline, accepted.txid) == (first, 6)


def test_latest_and_a_transaction_mean_the_newest_timeline_and_another_one_is_named() -> None:
    builder, first, second = two_timelines()
    assert plan(builder, Latest()).position == builder.positions[second, 2]
    assert plan(builder, AtTxid(Txid(1))).position == builder.positions[second, 1]
    for text in (first, "1", "00001"):
        assert plan(builder, Latest(), timeline=text).position == builder.positions[first, 6]
        assert plan(builder, AtTxid(Txid(5)), timeline=text).position == builder.positions[first, 5]
    with pytest.raises(TargetNotFound) as caught:
        plan(builder, AtTxid(Txid(5)))
    assert f"--timeline {first}" in caught.value.hint
    with pytest.raises(TargetNotFound, match="no such timeline"):
        plan(builder, Latest(), timeline="3")


def test_latest_is_never_older_data_because_the_newest_timeline_has_no_snapshot_yet() -> None:
    builder = plain()
    first = builder.timeline
    builder.begin({1: page(7)}, 17_000, parent=builder.positions[first, 6], base=False)
    add(builder, steady(20_000))
    with pytest.raises(TargetNotFound) as caught:
        plan(builder, Latest())
    assert "first snapshot is not complete" in caught.value.message
    assert "transaction 6 " in caught.value.hint
    assert f"--timeline {first}" in caught.value.hint
    assert plan(builder, Latest(), timeline=first).position.txid == 6
    with pytest.raises(TargetNotFound):
        plan(builder, AtTime(20_500))
    assert plan(builder, AtTime(16_500)).position == builder.positions[first, 6]


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_latest_is_never_older_data_because_a_segment_in_the_middle_is_gone(damage: str) -> None:
    builder = plain()
    if damage == "missing":
        del builder.objects[segment_key(3)]
    else:
        builder.objects[segment_key(3)] = builder.objects[segment_key(3)][:-1]
    with pytest.raises(TargetNotFound) as caught:
        plan(builder, Latest())
    assert "--txid 3" in caught.value.hint
    with pytest.raises(TargetNotFound):
        plan(builder, AtTxid(Txid(4)))
    # What is gone may have been seen in the same millisecond as transaction 3.
    for ms in (13_000, 13_500, 14_000, 15_500, 99_000):
        with pytest.raises(TargetNotFound):
            plan(builder, AtTime(ms))
    assert plan(builder, AtTime(12_999)).position.txid == 2
    assert plan(builder, AtTxid(Txid(3))).position.txid == 3


def test_latest_is_never_older_data_because_the_last_segment_is_damaged() -> None:
    builder = plain()
    builder.objects[segment_key(4)] = builder.objects[segment_key(4)][:-1]
    with pytest.raises(TargetNotFound) as caught:
        plan(builder, Latest())
    assert segment_key(4) in caught.value.detail
    with pytest.raises(TargetNotFound):
        plan(builder, AtTime(15_000))
    assert plan(builder, AtTime(15_000), nearest_before=True).position.txid == 4
    assert plan(builder, AtTxid(Txid(4))).position.txid == 4


def test_two_timelines_of_one_number_have_to_be_told_apart() -> None:
    builder = plain()
    first = builder.timeline
    other = HistoryBuilder(PAGE, nonce="ffffffff00000000")
    other.seq = 4
    second = other.begin({1: page(9)}, 15_500)
    add(other, steady(15_700))
    builder.objects |= {key: data for key, data in other.objects.items() if key != "replica"}
    for target in (Latest(), AtTxid(Txid(1)), AtTime(15_800)):
        with pytest.raises(TargetAmbiguous) as caught:
            plan(builder, target)
        assert f"{first} and {second}" in caught.value.detail
        assert "--timeline" in caught.value.hint
        with pytest.raises(TargetAmbiguous):
            plan(builder, target, timeline="1")
    assert plan(builder, Latest(), timeline=second).position.timeline == second
    assert plan(builder, Latest(), timeline=first).position.timeline == first


def test_a_bookmark_is_met_exactly_or_not_at_all() -> None:
    builder, first, _second = two_timelines()
    for txid in (0, 2, 3, 6):
        position = builder.positions[first, txid]
        assert plan(builder, AtBookmark(position)).position == position
    good = builder.positions[first, 2]
    with pytest.raises(TargetNotFound, match="contradicts"):
        plan(builder, AtBookmark(Position(first, Txid(2), Checksum(good.checksum ^ 1))))
    with pytest.raises(TargetNotFound):
        plan(builder, AtBookmark(Position(first, Txid(7), Checksum(1))))
    with pytest.raises(TargetNotFound, match="no such timeline"):
        plan(builder, AtBookmark(Position(TimelineId("00009-00000000"), Txid(1), Checksum(1))))
    with pytest.raises(UsageError):
        plan(builder, AtBookmark(good), timeline="2")
    assert plan(builder, AtBookmark(good), timeline="1").position == good


def test_an_empty_replica_is_said_to_be_empty() -> None:
    with pytest.raises(TargetNotFound, match="empty"):
        plan(HistoryBuilder(PAGE), Latest())


def test_latest_tells_how_old_it_is() -> None:
    (notice,) = plan(plain(), Latest(), now_ms=16_000 + 7_200_000).notices
    assert "seen 2h ago" in notice


@given(st.integers(0, 5 * PART_BYTES))
def test_parts_cover_an_object_once(size_bytes: int) -> None:
    parts = split_parts(size_bytes)
    assert sum(length for _start, length in parts) == size_bytes
    assert all(start + length == later for (start, length), (later, _length) in pairwise(parts))
    assert all(0 < length <= PART_BYTES for _start, length in parts)


SEGMENTS = st.lists(
    st.lists(st.tuples(st.integers(10_001, 60_000), st.integers(0, 4000)), min_size=1, max_size=4), max_size=5
)


@given(SEGMENTS, st.integers(5_000, 70_000))
def test_a_time_is_decided_as_if_every_record_were_known(segments: list[list[tuple[int, int]]], ms: int) -> None:
    """Reading only the records around the target changes nothing, however the clock stepped between segments."""
    ordered = [sorted(segment) for segment in segments]
    builder = build(*[[(seen, seen - gap) for seen, gap in segment] for segment in ordered])
    moments = [(10_000, 10_000), *((seen, seen - gap) for segment in ordered for seen, gap in segment)]
    cut = next((index for index, (seen, _looked) in enumerate(moments) if seen > ms), len(moments))
    expected: int | type[RestoreError] = cut - 1
    if cut == 0:
        expected = TargetNotFound
    elif any(seen <= ms for seen, _looked in moments[cut:]) or (
        cut < len(moments) and moments[cut][1] < ms and moments[cut][0] - moments[cut][1] > 2000
    ):
        expected = TargetAmbiguous
    if isinstance(expected, int):
        assert plan(builder, AtTime(ms)).position == builder.positions[builder.timeline, expected]
    else:
        with pytest.raises(expected):
            plan(builder, AtTime(ms))
