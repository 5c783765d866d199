"""What is gone is told by others that are there: a restore to a time is never older data because of it."""

from __future__ import annotations

import pytest

from tests.core.test_restore_plan import add, page, plain, plan, steady
from walrep.core.names import segment_key
from walrep.core.target import AtTime, AtTxid, Latest
from walrep.core.units import Txid
from walrep.errors import TargetNotFound
from walrep.testing.history import HistoryBuilder, history_of


def left(*, looked_ms: int = 16_980) -> HistoryBuilder:
    """A timeline of 6 transactions, seen from 11 s to 16 s, and one that left it at 17 s."""
    builder = plain()
    builder.begin({1: page(7)}, 17_000, parent=builder.positions[builder.timeline, 6], looked_ms=looked_ms)
    add(builder, steady(20_000, 21_000))
    return builder


@pytest.mark.parametrize("nearest_before", [False, True])
def test_a_time_behind_a_tail_that_is_gone_is_not_older_data(nearest_before: bool) -> None:  # noqa: FBT001
    """Segment 4, transactions 5 and 6 of the timeline before, is not in the store any more."""
    builder = left()
    first = history_of(builder.objects).timelines[0].id
    del builder.objects[segment_key(4)]
    # What is gone may have been seen in the same millisecond as transaction 4.
    for ms in (14_000, 14_500, 15_500, 16_500, 16_999):
        for timeline in (None, "1"):
            with pytest.raises(TargetNotFound, match="transaction of timeline 00001-a1b2c3d4, 6,") as caught:
                plan(builder, AtTime(ms), timeline=timeline, nearest_before=nearest_before)
            assert "which now ends at 4" in caught.value.detail
            assert f"--timeline {first} --txid 4" in caught.value.hint
    with pytest.raises(TargetNotFound):
        plan(builder, Latest(), timeline="1")
    assert plan(builder, AtTime(13_999), nearest_before=nearest_before).position.txid == 3
    assert plan(builder, AtTime(17_000), nearest_before=nearest_before).position.timeline == builder.timeline
    assert plan(builder, AtTxid(Txid(4)), timeline="1").position.txid == 4


def test_the_end_that_others_tell_is_that_of_the_last_one_that_left() -> None:
    builder = left()
    first = history_of(builder.objects).timelines[0].id
    builder.begin({1: page(8)}, 30_000, parent=builder.positions[first, 2])
    del builder.objects[segment_key(4)]
    history = history_of(builder.objects)
    assert (history.timelines[0].tip_txid, history.timelines[0].readable_txid) == (6, 4)
    assert [(each.kind, each.timeline[:5]) for each in history.problems] == [
        ("missing-segment", ""),
        ("parent-mismatch", "00002"),
    ]


@pytest.mark.parametrize("nearest_before", [False, True])
def test_a_time_of_a_timeline_of_which_nothing_is_left_is_not_older_data(nearest_before: bool) -> None:  # noqa: FBT001
    builder = left()
    second = builder.timeline
    builder.begin({1: page(8)}, 30_000, parent=builder.positions[second, 2], looked_ms=29_990)
    add(builder, steady(31_000))
    for key in list(builder.objects):
        if second in key or key in {segment_key(5), segment_key(6)}:
            del builder.objects[key]
    assert [each.number for each in history_of(builder.objects).timelines] == [1, 3]
    for ms in (16_000, 17_500, 20_500, 29_995):
        with pytest.raises(TargetNotFound, match="is not here") as caught:
            plan(builder, AtTime(ms), nearest_before=nearest_before)
        assert "--timeline 00001-a1b2c3d4" in caught.value.hint
    assert plan(builder, AtTime(15_999)).position.txid == 5
    assert plan(builder, AtTime(30_500)).position.timeline == builder.timeline
    # Whoever names the timeline may not know that segment 5 was its own, or not; whoever names the transaction may.
    with pytest.raises(TargetNotFound, match="is not here any more") as caught:
        plan(builder, AtTime(20_500), timeline="1")
    assert "--txid 6" in caught.value.hint
    assert plan(builder, AtTxid(Txid(6)), timeline="1").position.txid == 6


def test_a_time_of_a_timeline_that_is_unreadable_whole_is_not_older_data() -> None:
    """Its numbers are there, so that the timeline before ends where it ends; that is not what stood later."""
    builder = left()
    second = builder.timeline
    builder.begin({1: page(8)}, 30_000, parent=builder.positions[second, 2], looked_ms=29_990)
    add(builder, steady(31_000))
    for key in [key for key in builder.objects if second in key]:
        del builder.objects[key]
    for number in (5, 6):
        builder.objects[segment_key(number)] = b"damaged"
    history = history_of(builder.objects)
    assert [(each.number, each.tail_missing) for each in history.timelines] == [(1, False), (3, False)]
    for ms in (16_000, 17_500, 20_500, 29_995):
        with pytest.raises(TargetNotFound, match="what was between timelines") as caught:
            plan(builder, AtTime(ms), nearest_before=True)
        assert "--timeline 00001-a1b2c3d4" in caught.value.hint
    assert plan(builder, AtTime(15_999), nearest_before=True).position.txid == 5
    assert plan(builder, AtTime(30_500)).position.timeline == builder.timeline


def test_where_the_first_timeline_has_no_snapshot_yet_there_is_nothing_else_to_name() -> None:
    builder = HistoryBuilder(512)
    builder.begin({1: page(7)}, 17_000, base=False)
    add(builder, steady(20_000))
    with pytest.raises(TargetNotFound) as caught:
        plan(builder, Latest())
    assert caught.value.hint == "wait until its first snapshot is stored"
