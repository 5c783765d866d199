"""A replica that retention has thinned out: what is gone is no damage, what is lost is, and no time is older data."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from tests.core.test_restore_plan import add, page, plain, plan, steady
from walrep.core.history import Damage, History, SegmentEnds, build_history
from walrep.core.names import PinName, pin_key, pruned_key, segment_key
from walrep.core.objects import Writer
from walrep.core.prunings import PruneRecord, encode_record
from walrep.core.target import AtBookmark, AtTime, AtTxid, Latest, Target
from walrep.core.units import Seq, Txid
from walrep.errors import TargetNotFound
from walrep.testing.history import HistoryBuilder, history_of

EXPIRED_MS = 50_000


def kinds(history: History) -> list[str]:
    return [problem.kind for problem in history.problems]


def record(
    builder: HistoryBuilder, *gone: tuple[int, int], snapshots: tuple[str, ...] = (), at_ms: int = 90_000
) -> None:
    """Store the record of a prune."""
    made = PruneRecord(
        format=1,
        pruned_ms=at_ms,
        expired_ms=EXPIRED_MS,
        by=Writer(nonce="0"),
        counts=(1,),
        gone=tuple((Seq(first), Seq(last)) for first, last in gone),
        snapshots=snapshots,
    )
    builder.objects[pruned_key(at_ms)] = encode_record(made)


def lose(builder: HistoryBuilder, *numbers: int) -> None:
    for number in numbers:
        del builder.objects[segment_key(number)]


def lose_snapshots(builder: HistoryBuilder, kept: Collection[str] = ()) -> None:
    for key in [key for key in builder.objects if key.startswith("snapshots/") and key not in kept]:
        del builder.objects[key]


def prune(builder: HistoryBuilder, *gone: tuple[int, int]) -> None:
    """Delete segments, as the record tells; a number that is not there was in a pack."""
    record(builder, *gone)
    for first, last in gone:
        for number in range(first, last + 1):
            builder.objects.pop(segment_key(number), None)


def thinned() -> HistoryBuilder:
    """Segments 2 and 3 are gone, with the base; a snapshot of transaction 4 is left, and 4 and 5 on top of it."""
    builder = plain()
    add(builder, steady(17_000))
    # The snapshot stands where segment 3 ends, as if it had been taken then.
    other = plain()
    lose(other, 4)
    again = HistoryBuilder(builder.page_size)
    again.begin({1: page(1), 2: page(2)}, 10_000)
    add(again, steady(11_000, 12_000, 13_000), steady(14_000))
    middle = again.snapshot(14_500)
    builder.objects[middle] = again.objects[middle]
    lose_snapshots(builder, {middle})
    prune(builder, (2, 3))
    return builder


def test_what_was_deleted_before_a_snapshot_is_no_problem() -> None:
    builder = thinned()
    history = history_of(builder.objects)
    assert kinds(history) == []
    assert [(each.first_txid, each.last_txid) for each in history.timelines[0].ranges] == [(4, 7)]
    assert not history.timelines[0].tail_missing
    assert history.leaving == frozenset()


def test_without_the_record_it_would_be_damage() -> None:
    builder = thinned()
    del builder.objects[pruned_key(90_000)]
    assert kinds(history_of(builder.objects)) == ["missing-segment", "broken-chain"]


def test_of_what_is_missing_only_what_is_lost_is_told() -> None:
    builder = thinned()
    lose(builder, 4)
    history = history_of(builder.objects)
    assert kinds(history)[0] == "missing-segment"
    assert history.problems[0].message == "segment 4 is missing"


def test_a_lost_snapshot_under_what_is_kept_is_told() -> None:
    """Nothing else tells that transactions of the window cannot be restored any more."""
    builder = thinned()
    lose_snapshots(builder)
    builder.snapshot(18_000)
    history = history_of(builder.objects)
    assert kinds(history) == ["missing-base"]
    assert history.problems[0].message == f"{segment_key(4)} rests on no snapshot that is here"
    lose_snapshots(builder)
    assert kinds(history_of(builder.objects)) == ["missing-base"]


def pinned(number: int = 1) -> HistoryBuilder:
    """Of a timeline of 6 transactions what a pin of `number` needs is left, and all of one that began at 60 s."""
    builder = plain()
    builder.begin({1: page(7)}, 60_000, fence=True)
    add(builder, steady(61_000))
    builder.objects[pin_key(PinName("it", builder.positions[history_of(builder.objects).timelines[0].id, number]))] = (
        b""
    )
    return builder


def test_a_position_in_the_middle_of_what_is_gone_is_no_problem_and_restores() -> None:
    builder = pinned(2)
    prune(builder, (3, 4))
    history = history_of(builder.objects)
    assert kinds(history) == []
    (pin,) = history.pins
    assert plan(builder, AtBookmark(pin.position)).position == pin.position


def test_a_kept_position_of_which_something_is_lost_is_told() -> None:
    builder = pinned(2)
    prune(builder, (3, 4))
    lose(builder, 2)
    assert kinds(history_of(builder.objects)) == ["missing-segment", "lost-pin"]


@pytest.mark.parametrize("timeline", [None, "1"])
@pytest.mark.parametrize("nearest_before", [False, True])
def test_a_time_behind_a_kept_position_is_not_that_position(timeline: str | None, nearest_before: bool) -> None:  # noqa: FBT001
    """The timeline that followed was taken over: it does not tell how far this one went."""
    builder = pinned(2)
    prune(builder, (3, 4))
    for ms in (13_000, 14_500, 16_000, 59_000):
        with pytest.raises(TargetNotFound, match="is not here any more") as caught:
            plan(builder, AtTime(ms), timeline=timeline, nearest_before=nearest_before)
        assert "retention deleted it" in caught.value.detail
        assert "--txid 3" in caught.value.hint
    assert plan(builder, AtTime(12_500), timeline=timeline).position.txid == 2
    assert plan(builder, AtTime(60_000)).position.timeline == builder.timeline


def test_the_newest_of_a_timeline_whose_end_is_gone_is_not_what_is_left_of_it() -> None:
    builder = pinned(2)
    prune(builder, (3, 4))
    with pytest.raises(TargetNotFound, match="is not here any more"):
        plan(builder, Latest(), timeline="1")
    assert plan(builder, AtTxid(Txid(3)), timeline="1").position.txid == 3
    assert plan(builder, Latest()).position.timeline == builder.timeline


def test_a_timeline_whose_end_is_there_ends_with_it() -> None:
    builder = pinned(6)
    record(builder)
    assert plan(builder, Latest(), timeline="1").position.txid == 6
    assert plan(builder, AtTime(16_000)).position.txid == 6


def test_between_two_snapshots_that_are_left_no_time_is_known() -> None:
    """As the calendar leaves them: a day each, and nothing between."""
    builder = plain()
    builder.snapshot(16_500)
    add(builder, steady(17_000), steady(18_000))
    prune(builder, (2, 4))
    assert kinds(history_of(builder.objects)) == []
    for ms in (11_500, 15_000, 15_999):
        with pytest.raises(TargetNotFound, match="missing"):
            plan(builder, AtTime(ms), nearest_before=True)
    assert plan(builder, AtTime(17_500), nearest_before=True).position.txid == 7


def over(*, fence: bool = True, begin_ms: int = 20_000) -> HistoryBuilder:
    """A second timeline, without a transaction, and a third one; of the second nothing but the opening is left."""
    builder = plain()
    second = builder.begin({1: page(7)}, begin_ms, fence=fence)
    for key in [key for key in builder.objects if key.startswith(f"snapshots/{second}")]:
        del builder.objects[key]
    builder.begin({1: page(8)}, 70_000)
    add(builder, steady(71_000))
    return builder


def test_a_fence_of_which_the_rest_expired_is_no_problem() -> None:
    builder = over()
    assert kinds(history_of(builder.objects)) == ["missing-base"]
    record(builder)
    assert kinds(history_of(builder.objects)) == []
    with pytest.raises(TargetNotFound):
        plan(builder, AtTime(30_000), nearest_before=True)


def test_a_young_timeline_without_a_base_is_told() -> None:
    builder = over(begin_ms=EXPIRED_MS + 1)
    record(builder)
    assert kinds(history_of(builder.objects)) == ["missing-base"]


def test_the_newest_timeline_never_expires() -> None:
    builder = plain()
    record(builder, (3, 3))
    lose_snapshots(builder)
    assert kinds(history_of(builder.objects)) == ["missing-base"]


def test_a_timeline_of_which_something_else_is_left_has_not_expired() -> None:
    builder = pinned(2)
    lose_snapshots(builder, [key for key in builder.objects if builder.timeline in key])
    prune(builder, (3, 4))
    assert kinds(history_of(builder.objects)) == ["missing-base", "lost-pin"]


def test_the_newest_segment_that_no_restore_needs_is_no_problem() -> None:
    """INV-24: it stays for the writer's next start, below a snapshot of the same position."""
    builder = plain()
    builder.snapshot(18_000)
    lose_snapshots(builder, [key for key in builder.objects if f"/{6:016d}-" in key])
    prune(builder, (2, 3))
    history = history_of(builder.objects)
    assert kinds(history) == []
    assert [(each.first_txid, each.last_txid) for each in history.timelines[0].ranges] == [(6, 6)]


def test_the_newest_segment_of_who_was_shut_out_is_no_problem() -> None:
    """Its timeline has expired but for that: a take-over counts on from its number."""
    builder = plain()
    builder.seq = 9
    add(builder, steady(17_000))
    newest = builder.seq
    builder.seq = 4
    builder.begin({1: page(7)}, 60_000, fence=True)
    add(builder, steady(61_000))
    lose_snapshots(builder, [key for key in builder.objects if builder.timeline in key])
    prune(builder, (2, 4))
    assert newest == 10
    record(builder, (2, 4), (7, 9))
    assert kinds(history_of(builder.objects)) == []


def left_twice() -> HistoryBuilder:
    """Timeline 1 is segments 1 to 4; 2 left it, 5 and 6; 3 left that, 7 and 8."""
    builder = plain()
    for begin_ms in (20_000, 30_000):
        left = builder.positions[builder.timeline, builder.txid]
        builder.begin({1: page(7)}, begin_ms, parent=left, looked_ms=begin_ms - 10)
        add(builder, steady(begin_ms + 1000))
    return builder


def forget_timeline(builder: HistoryBuilder, index: int) -> None:
    identity = history_of(builder.objects).timelines[index].id
    for key in [key for key in builder.objects if identity in key]:
        del builder.objects[key]


def test_a_parent_that_expired_is_no_problem() -> None:
    builder = left_twice()
    forget_timeline(builder, 0)
    lose(builder, 1, 2, 3, 4)
    assert kinds(history_of(builder.objects)) == ["parent-mismatch"]
    record(builder, (1, 4))
    assert kinds(history_of(builder.objects)) == []


def test_a_parent_whose_end_expired_is_no_problem() -> None:
    builder = left_twice()
    prune(builder, (3, 4))
    history = history_of(builder.objects)
    assert kinds(history) == []
    assert (history.timelines[0].tip_txid, history.timelines[0].readable_txid) == (6, 3)


def test_a_parent_that_is_lost_is_told_by_the_numbers_that_are_not_gone() -> None:
    builder = left_twice()
    forget_timeline(builder, 1)
    lose(builder, 5, 6)
    prune(builder, (2, 3))
    history = history_of(builder.objects)
    assert kinds(history)[0] == "missing-segment"
    assert "segments 5 to 6 are missing" in history.problems[0].message


def test_what_is_gone_later_does_not_excuse_a_parent() -> None:
    builder = left_twice()
    forget_timeline(builder, 0)
    lose(builder, 1, 2, 3, 4)
    record(builder, (8, 8))
    assert kinds(history_of(builder.objects)) == ["parent-mismatch"]


def test_a_snapshot_that_was_misplaced_is_told_though_others_are_gone() -> None:
    builder = thinned()
    (key,) = [key for key in builder.objects if key.startswith("snapshots/")]
    name = key.replace(f"-{3:016d}-full", f"-{4:016d}-full")
    builder.objects[name] = builder.objects.pop(key)
    assert "misplaced-snapshot" in kinds(history_of(builder.objects))


def test_several_records_tell_together_what_is_gone() -> None:
    """Two prunes at once know nothing of one another."""
    builder = thinned()
    record(builder, (3, 3), at_ms=91_000)
    del builder.objects[pruned_key(90_000)]
    assert kinds(history_of(builder.objects)) == ["missing-segment"]
    record(builder, (2, 2), at_ms=92_000)
    assert kinds(history_of(builder.objects)) == []


def test_a_damaged_record_is_told_and_others_count() -> None:
    builder = thinned()
    sizes = {key: len(data) for key, data in builder.objects.items()}
    whole = history_of(builder.objects)
    segments = {each.key: each for timeline in whole.timelines for each in timeline.segments}
    ends = {key: SegmentEnds(each.header, each.footer) for key, each in segments.items()}
    good = PruneRecord(format=1, pruned_ms=1, expired_ms=1, by=Writer(nonce="0"), counts=(), gone=((Seq(2), Seq(3)),))
    history = build_history(sizes, ends, builder.replica, {}, [good, Damage("it is broken")])
    assert kinds(history) == ["damaged-record"]
    assert history.problems[0].message == "what was pruned is not known: it is broken"
    assert "missing-segment" in kinds(build_history(sizes, ends, builder.replica, {}, [Damage("it is broken")]))


def test_what_a_record_names_and_is_there_is_leaving() -> None:
    """A run was interrupted: nothing looks damaged, and all of it can be read."""
    builder = left_twice()
    (base,) = [key for key in builder.objects if key.startswith("snapshots/00001")]
    record(builder, (2, 4), snapshots=(base, "snapshots/that/is/gone"))
    lose(builder, 4)
    history = history_of(builder.objects)
    assert kinds(history) == []
    assert history.leaving == {base, segment_key(2), segment_key(3)}
    # A DELETE of many keys has no order.
    del builder.objects[base]
    assert kinds(history_of(builder.objects)) == []


def test_a_pack_is_leaving_only_if_all_of_it_is_gone() -> None:
    builder = plain()
    add(builder, steady(17_000))
    pack = builder.pack([segment_key(2), segment_key(3)])
    record(builder, (2, 2))
    assert history_of(builder.objects).leaving == frozenset()
    record(builder, (2, 3))
    assert history_of(builder.objects).leaving == {pack}


TARGETS: list[Target] = [Latest(), AtTime(61_000), AtTxid(Txid(1))]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_what_expired_does_not_get_into_the_way_of_what_is_new(target: Target) -> None:
    builder = pinned(2)
    prune(builder, (2, 4))
    assert plan(builder, target).position == builder.positions[builder.timeline, 1]


def test_an_end_that_is_lost_is_not_older_data_though_nobody_tells_how_far_it_went() -> None:
    """Whoever took over does not know the timeline before; but one sequence of numbers goes through all."""
    builder = pinned(2)
    lose(builder, 4)
    for target in (Latest(), AtTime(15_500)):
        with pytest.raises(TargetNotFound, match="is not here any more") as caught:
            plan(builder, target, timeline="1", nearest_before=True)
        assert caught.value.detail == "segment 4 is missing"
    assert plan(builder, AtTime(13_500), timeline="1").position.txid == 3
