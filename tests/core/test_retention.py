"""What is kept and what is deleted, rule by rule; `test_retention_model.py` has what holds of every plan."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.core.holdings import DAY, HOUR, T0
from walrep.core.holding import Holding, Log, Pin, Point, Snapshot
from walrep.core.retention import (
    RetentionPlan,
    RetentionPolicy,
    plan_retention,
    refuse_clocks_apart,
    refuse_unusual,
)
from walrep.core.units import Seq, TimelineId, Txid
from walrep.errors import InvariantViolated, PruneRefused

A, B, C = (TimelineId(f"{number:05d}-aaaaaaaa") for number in (1, 2, 3))
WEEK = RetentionPolicy(window_s=7 * 86_400.0, snapshots_min=0, grace_s=0.0)
NOTHING = RetentionPolicy(window_s=0.0, snapshots_min=0, grace_s=0.0)
NOW_DAY = 100


def day(number: float) -> int:
    return T0 + round(number * DAY)


def log(first: int, last: int, days: tuple[float, float], timeline: TimelineId = A, key: str = "") -> Log:
    return Log(
        key=key or f"{timeline[4]}/log/{first}-{last}",
        timeline=timeline,
        first_txid=Txid(first),
        last_txid=Txid(last),
        first_seen_ms=day(days[0]),
        last_seen_ms=day(days[1]),
        first_seq=Seq(first),
        last_seq=Seq(last),
        size_bytes=10,
    )


def opening(at: float, timeline: TimelineId = A, left: Point | None = None, *, is_fence: bool = False) -> Log:
    return Log(
        key=f"{timeline[4]}/opening",
        timeline=timeline,
        first_txid=Txid(1),
        last_txid=Txid(0),
        first_seen_ms=day(at),
        last_seen_ms=day(at),
        first_seq=Seq(1),
        last_seq=Seq(1),
        is_opening=True,
        is_fence=is_fence,
        left=left,
        size_bytes=1,
    )


def full(txid: int, at: float, timeline: TimelineId = A, base: str = "") -> Snapshot:
    return Snapshot(
        key=f"{timeline[4]}/{'diff' if base else 'full'}/{txid}",
        timeline=timeline,
        txid=Txid(txid),
        seen_ms=day(at),
        seq=Seq(txid),
        kind="differential" if base else "full",
        base_key=base,
        size_bytes=100,
    )


def plan_at(
    number: float,
    policy: RetentionPolicy,
    logs: Sequence[Log],
    snapshots: Sequence[Snapshot],
    pins: Sequence[Pin] = (),
) -> RetentionPlan:
    return plan_retention(Holding(snapshots=snapshots, logs=logs, pins=pins), policy, day(number))


def deleted(plan: RetentionPlan) -> set[str]:
    assert set(plan.deletions) == {verdict.key for verdict in plan.verdicts if not verdict.keep}
    return set(plan.deletions)


def reason(plan: RetentionPlan, key: str) -> str:
    return next(verdict.reason for verdict in plan.verdicts if verdict.key == key)


def daily(count: int, timeline: TimelineId = A) -> tuple[list[Log], list[Snapshot]]:
    """A pack and a snapshot on top of it for every day; each seventh snapshot is full."""
    logs = [opening(0, timeline)]
    snapshots = [full(0, 0, timeline)]
    for number in range(count):
        logs.append(log(100 * number + 1, 100 * number + 100, (number + 0.1, number + 0.9), timeline))
        base = f"{timeline[4]}/full/{100 * (number - number % 7)}" if number % 7 else ""
        snapshots.append(full(100 * number, number, timeline, base))
    return logs, [*snapshots[:1], *snapshots[2:]]


def test_thirty_days_of_a_database_that_is_written_every_day() -> None:
    """Thirty packs and as many snapshots; the oldest is a differential to the full one of day 28."""
    logs, snapshots = daily(60)
    plan = plan_at(60, RetentionPolicy(), logs, snapshots)
    expected = {each.key for each in snapshots if each.txid < 3000} - {"1/full/2800"}
    expected |= {each.key for each in logs if not each.is_opening and each.last_txid <= 3000}
    assert deleted(plan) == expected
    assert (plan.keep_count, plan.keep_bytes) == (30 + 31 + 1, 30 * 10 + 31 * 100 + 1)
    assert (plan.delete_count, plan.delete_bytes) == (30 + 29, 30 * 10 + 29 * 100)
    assert plan.expired_ms == day(30) - HOUR


def test_the_verdicts_say_why() -> None:
    logs, snapshots = daily(60)
    plan = plan_at(60, RetentionPolicy(grace_s=0.0), logs, snapshots)
    window = "in the window and its grace, since 2026-01-31T00:00:00.000Z"
    assert reason(plan, "1/log/3001-3100") == window
    assert reason(plan, "1/diff/3100") == window
    assert reason(plan, "1/diff/3000") == f"{window}: begins on top of it"
    assert reason(plan, "1/full/2800") == "the full snapshot under 1/diff/3000"
    assert reason(plan, "1/opening") == "opens timeline 00001-aaaaaaaa"
    assert reason(plan, "1/full/0") == "stored by 2026-01-01T00:00:00.000Z, before the window, and no point rests on it"
    assert reason(plan, "1/log/2901-3000") == (
        "its last transaction was seen by 2026-01-30T21:36:00.000Z, before the window, and no point needs it"
    )


def test_a_log_that_straddles_the_beginning_of_the_window_rests_on_what_is_before_it() -> None:
    """Which of its transactions stood when the window began is not known from outside."""
    logs = [log(1, 10, (1, 2)), log(11, 20, (3, 4)), log(21, 40, (92, 94)), log(41, 50, (95, 96))]
    plan = plan_at(NOW_DAY, WEEK, logs, [full(0, 0), full(10, 2.5), full(30, 92.5)])
    assert deleted(plan) == {"1/full/0", "1/log/1-10"}
    assert reason(plan, "1/log/11-20").endswith(": leads up to its beginning")


def test_what_stood_when_the_window_began_stays_though_a_snapshot_followed_at_once() -> None:
    logs = [log(1, 20, (1, 2)), log(21, 21, (95, 95)), log(22, 22, (96, 96))]
    plan = plan_at(NOW_DAY, WEEK, logs, [full(0, 0), full(20, 3), full(21, 95.5)])
    assert deleted(plan) == {"1/full/0", "1/log/1-20"}


def test_logs_without_a_transaction_go_with_what_is_beside_them() -> None:
    logs = [log(1, 10, (1, 2)), *(log(txid + 1, txid, (2, 2)) for txid in (9, 10, 20)), log(11, 20, (94, 95))]
    plan = plan_at(NOW_DAY, WEEK, logs, [full(0, 0), full(10, 2)])
    assert deleted(plan) == {"1/full/0", "1/log/1-10", "1/log/10-9"}


def test_a_clock_that_stepped_back_counts_by_the_latest_that_it_showed() -> None:
    logs = [log(1, 10, (1, 2)), log(11, 20, (80, 99)), log(21, 30, (82, 83))]
    plan = plan_at(NOW_DAY, WEEK, logs, [full(0, 0), full(10, 2), full(20, 81), full(30, 84)])
    assert deleted(plan) == {"1/full/0", "1/log/1-10"}


def test_the_grace_makes_the_window_longer() -> None:
    logs, snapshots = daily(60)
    with_grace = plan_at(60.5, RetentionPolicy(grace_s=86_400.0), logs, snapshots)
    longer = plan_at(60.5, RetentionPolicy(window_s=31 * 86_400.0, grace_s=0.0), logs, snapshots)
    assert with_grace == longer
    assert deleted(with_grace) < deleted(plan_at(60.5, RetentionPolicy(grace_s=0.0), logs, snapshots))


@pytest.mark.parametrize(("count", "left"), [(0, {"1/full/20"}), (1, {"1/full/20"}), (2, {"1/full/20", "1/diff/10"})])
def test_after_a_year_without_a_write_the_newest_state_is_there(count: int, left: set[str]) -> None:
    logs = [opening(0), log(1, 10, (0, 1)), log(11, 20, (1, 2)), log(21, 30, (2, 3))]
    snapshots = [full(0, 0), full(10, 1, base="1/full/0"), full(20, 2)]
    plan = plan_at(400, RetentionPolicy(snapshots_min=count), logs, snapshots)
    kept = {verdict.key for verdict in plan.verdicts if verdict.keep}
    assert kept == left | {"1/opening", "1/log/21-30"} | ({"1/full/0"} if count == 2 else set())
    assert reason(plan, "1/log/21-30") == "the newest state of timeline 00001-aaaaaaaa: leads up to its beginning"


@pytest.mark.parametrize(
    ("policy", "days"),
    [
        ({"daily": 2}, {38, 39}),
        ({"weekly": 2}, {38, 39}),
        ({"weekly": 3}, {31, 38, 39}),
        ({"monthly": 1}, {39}),
        ({"monthly": 2}, {30, 39}),
        ({"monthly": 9}, {30, 39}),
        ({"yearly": 5}, {39}),
        ({"daily": 1, "weekly": 3, "monthly": 2, "yearly": 1}, {30, 31, 38, 39}),
    ],
)
def test_beyond_the_window_the_last_of_a_day_week_month_and_year_stay(policy: dict[str, int], days: set[int]) -> None:
    """Day 0 is Thursday, January 1: Sundays are days 3, 10, … 38, and January ends with day 30."""
    snapshots = [full(number, number + 0.5) for number in range(60)]
    plan = plan_at(47, RetentionPolicy(window_s=7 * 86_400.0, snapshots_min=0, grace_s=0.0, **policy), [], snapshots)
    assert {each.txid for each in snapshots if each.txid < 40 and each.key not in deleted(plan)} == days


def test_a_calendar_point_keeps_the_full_snapshot_under_it_and_no_log() -> None:
    logs, snapshots = daily(60)
    policy = RetentionPolicy(window_s=7 * 86_400.0, monthly=2, snapshots_min=0, grace_s=0.0)
    plan = plan_at(60, policy, logs, snapshots)
    assert {each.txid for each in snapshots if each.key not in deleted(plan)} - set(range(4900, 6000)) == {2800, 3000}
    assert {each.key for each in logs if each.last_txid < 5300 and not each.is_opening} <= deleted(plan)
    assert reason(plan, "1/diff/3000") == "the last snapshot of month 2026-01"


def test_of_two_timelines_in_a_month_the_younger_counts() -> None:
    logs = [opening(0), opening(10, B)]
    snapshots = [full(0, 0), full(5, 12), full(0, 10, B), full(5, 50, B)]
    policy = RetentionPolicy(window_s=0.0, monthly=2, snapshots_min=0, grace_s=0.0)
    plan = plan_at(51, policy, logs, snapshots)
    assert deleted(plan) == {"1/full/0", "1/full/5", "1/opening"}


def test_a_pin_keeps_exactly_what_its_position_needs() -> None:
    """INV-25."""
    logs, snapshots = daily(60)
    pins = [Pin(name="before-migration", point=Point(A, Txid(1050)))]
    plan = plan_at(60, WEEK, logs, snapshots, pins)
    bare = plan_at(60, WEEK, logs, snapshots)
    assert deleted(bare) - deleted(plan) == {"1/log/1001-1100", "1/diff/1000", "1/full/700"}
    assert reason(plan, "1/diff/1000") == "pin before-migration: begins on top of it"
    assert plan.notices == ()


@pytest.mark.parametrize(("timeline", "txid"), [(A, 101), (A, 41), (A, 42), (C, 1)])
def test_a_pin_of_what_is_not_there_is_told(timeline: TimelineId, txid: int) -> None:
    logs = [log(1, 40, (0, 1)), log(42, 100, (1, 2))]
    plan = plan_at(3, WEEK, logs, [full(0, 0)], [Pin(name="it", point=Point(timeline, Txid(txid)))])
    assert plan.notices == (
        f"pin it: transaction {txid} of timeline {timeline} is not restorable from what the replica holds",
    )


PARENT = [opening(0), log(1, 10, (0, 1)), log(11, 20, (1, 2)), log(21, 30, (2, 3))]
PARENT_SNAPSHOTS = [full(0, 0), full(10, 1), full(20, 2)]
LEFT = Point(A, Txid(15))


def test_a_timeline_without_a_snapshot_of_its_own_rests_on_its_parent() -> None:
    """And follows nothing: the newest state that can surely be restored is still the parent's."""
    plan = plan_at(90, NOTHING, [*PARENT, opening(60, B, LEFT), log(1, 5, (61, 62), B)], PARENT_SNAPSHOTS)
    assert deleted(plan) == {"1/full/0", "1/log/1-10"}
    assert reason(plan, "1/full/10").startswith("timeline 00002-aaaaaaaa begins there, and has no snapshot of its own")


@pytest.mark.parametrize(("first", "told"), [(1, 0), (2, 1)])
def test_a_pin_on_it_needs_every_transaction_since_its_beginning(first: int, told: int) -> None:
    pins = [Pin(name="it", point=Point(B, Txid(5)))]
    plan = plan_at(90, WEEK, [*PARENT, opening(60, B, LEFT), log(first, 5, (61, 62), B)], PARENT_SNAPSHOTS, pins)
    assert len(plan.notices) == told


def test_a_timeline_that_names_itself_as_its_parent_has_none() -> None:
    plan = plan_at(90, WEEK, [opening(0, A, Point(A, Txid(1))), log(1, 5, (1, 2))], [])
    assert deleted(plan) == set()


def test_a_differential_snapshot_rests_on_the_full_one_of_the_parent() -> None:
    child = [opening(60, B, LEFT), log(1, 5, (61, 62), B)]
    plan = plan_at(90, NOTHING, [*PARENT, *child], [*PARENT_SNAPSHOTS, full(0, 60, B, base="1/full/10")])
    assert deleted(plan) == {"1/full/0", "1/log/1-10", "1/log/11-20", "1/log/21-30"}
    assert reason(plan, "1/full/20") == "the newest full snapshot, on which the next ones lean"
    assert reason(plan, "1/opening") == "opens timeline 00001-aaaaaaaa"


def test_of_a_parent_with_a_child_that_has_a_full_snapshot_nothing_stays_beyond_the_window() -> None:
    child = [opening(60, B, LEFT), log(1, 5, (61, 62), B)]
    plan = plan_at(90, WEEK, [*PARENT, *child], [*PARENT_SNAPSHOTS, full(0, 60, B)])
    assert deleted(plan) == {each.key for each in PARENT} | {each.key for each in PARENT_SNAPSHOTS}
    assert reason(plan, "1/opening") == "nothing of timeline 00001-aaaaaaaa is kept, and a younger one goes on"


def test_the_last_state_of_a_timeline_stays_until_the_one_that_followed_it_fills_the_window() -> None:
    """Until then it is what stood at some moment of the window, though its last transaction is older than that."""
    logs = [*PARENT, opening(60, B, LEFT)]
    snapshots = [*PARENT_SNAPSHOTS, full(0, 60.5, B)]
    assert "1/log/21-30" not in deleted(plan_at(67.4, WEEK, logs, snapshots))
    assert "1/log/21-30" in deleted(plan_at(67.5, WEEK, logs, snapshots))


def test_a_timeline_is_over_when_the_next_one_began_not_the_last() -> None:
    logs = [*PARENT, opening(60, B), opening(85, C)]
    plan = plan_at(90, WEEK, logs, [*PARENT_SNAPSHOTS, full(0, 60, B), full(0, 85, C)])
    assert deleted(plan) == {each.key for each in PARENT} | {each.key for each in PARENT_SNAPSHOTS}


def test_a_timeline_is_not_over_while_the_next_one_is_young_whatever_its_clock_said_later() -> None:
    """B never got a base, and then the clock was set back: at day 87 what stood was the last of A."""
    logs = [*PARENT, opening(88, B), opening(60, C)]
    plan = plan_at(90, WEEK, logs, [*PARENT_SNAPSHOTS, full(0, 60, C)])
    assert "1/log/21-30" not in deleted(plan)


def test_what_was_last_seen_when_the_window_began_stood_only_until_then() -> None:
    logs = [log(1, 10, (1, 93)), log(11, 20, (94, 95))]
    policy = RetentionPolicy(window_s=7 * 86_400.0, daily=1, snapshots_min=0, grace_s=0.0)
    plan = plan_at(NOW_DAY, policy, logs, [full(0, 0), full(5, 93), full(10, 93.5)])
    assert deleted(plan) == {"1/full/0", "1/log/1-10"}
    assert reason(plan, "1/full/5") == "the last snapshot of day 2026-04-04"


def test_the_defaults() -> None:
    month = RetentionPolicy(
        window_s=30 * 86_400.0, daily=0, weekly=0, monthly=0, yearly=0, snapshots_min=2, grace_s=3600.0
    )
    assert RetentionPolicy() == month


def test_a_timeline_whose_opening_is_missing_follows_nothing() -> None:
    plan = plan_at(90, NOTHING, [*PARENT, log(1, 5, (61, 62), B)], [*PARENT_SNAPSHOTS, full(0, 60, B)])
    assert "1/log/21-30" not in deleted(plan)


def test_fences_stay() -> None:
    logs = [opening(0), opening(10, B, is_fence=True), log(1, 5, (11, 12), B), opening(20, C)]
    plan = plan_at(90, WEEK, logs, [full(0, 0), full(0, 10, B), full(0, 20, C)])
    assert deleted(plan) == {"1/opening", "1/full/0", "2/full/0", "2/log/1-5"}
    assert reason(plan, "2/opening") == "a fence stays as long as the replica"


def test_what_is_not_understood_stays() -> None:
    holding = Holding(snapshots=[], logs=[], others={"replica": 100, "segments/what": 5})
    plan = plan_retention(holding, NOTHING, day(NOW_DAY))
    assert [(each.key, each.keep, each.reason) for each in plan.verdicts] == [
        ("replica", True, "not a log and not a snapshot of this replica"),
        ("segments/what", True, "not a log and not a snapshot of this replica"),
    ]
    assert (plan.keep_count, plan.keep_bytes, plan.delete_count) == (2, 105, 0)


def test_a_differential_without_its_full_is_no_restore_point() -> None:
    snapshots = [full(0, 0), full(10, 1, base="1/full/gone"), full(20, 2, base="1/full/lost")]
    plan = plan_at(90, WEEK, [log(1, 10, (0, 1)), log(11, 20, (1, 2))], snapshots)
    assert deleted(plan) == {"1/diff/10"}
    assert reason(plan, "1/log/1-10") == "the newest state of timeline 00001-aaaaaaaa: leads up to its beginning"


def test_the_order_of_deletions() -> None:
    """What begins last goes first, whatever overlaps; then differentials, full ones, and what opens a dead timeline."""
    logs = [opening(0), log(1, 10, (0, 1)), log(1, 30, (0, 2), key="1/pack"), log(21, 30, (1, 2))]
    logs += [opening(3, B), log(1, 9, (3, 4), B), opening(50, C)]
    snapshots = [full(0, 0), full(10, 1, base="1/full/0"), full(0, 3, B, base="1/full/0"), full(0, 50, C)]
    plan = plan_at(90, WEEK, logs, snapshots)
    assert plan.deletions == (
        "2/log/1-9",
        "1/log/21-30",
        "1/log/1-10",
        "1/pack",
        "1/diff/10",
        "2/diff/0",
        "1/full/0",
        "2/opening",
        "1/opening",
    )


def test_a_key_names_one_object() -> None:
    with pytest.raises(InvariantViolated, match="a key names one object"):
        plan_at(1, WEEK, [log(1, 2, (0, 1)), log(1, 2, (0, 1))], [])


@pytest.mark.parametrize(
    ("apart_ms", "told"), [(-5 * 60_000 - 1, "5m behind"), (5 * 60_000 + 1, "5m ahead of"), (DAY, "1d ahead of")]
)
def test_nothing_is_deleted_by_a_clock_that_is_not_the_stores(apart_ms: int, told: str) -> None:
    with pytest.raises(PruneRefused, match="clocks disagree") as refused:
        refuse_clocks_apart(now_ms=T0, store_ms=T0 + apart_ms)
    assert refused.value.detail == f"the store's clock is {told} this machine's"
    assert "NTP" in refused.value.hint


@pytest.mark.parametrize("apart_ms", [-5 * 60_000, 0, 5 * 60_000])
def test_clocks_may_be_five_minutes_apart(apart_ms: int) -> None:
    refuse_clocks_apart(now_ms=T0 + HOUR, store_ms=T0 + HOUR + apart_ms)


@pytest.mark.parametrize(
    ("delete_count", "last_counts", "refused"),
    [
        (5000, [], False),
        (5000, [0, 0], False),
        (10, [2, 2, 2], False),
        (11, [2, 2, 2], True),
        (60, [10, 20, 30], False),
        (61, [10, 20, 30], True),
        (60, [10, 0, 20, 0, 30], False),
        (47, [1, 30], True),
        (0, [1], False),
    ],
)
def test_a_run_that_deletes_many_more_than_usual_needs_a_yes(
    delete_count: int, last_counts: list[int], *, refused: bool
) -> None:
    refuse_unusual(delete_count, last_counts, yes=True)
    if not refused:
        refuse_unusual(delete_count, last_counts, yes=False)
        return
    with pytest.raises(PruneRefused, match=f"{delete_count} objects would be deleted") as error:
        refuse_unusual(delete_count, last_counts, yes=False)
    assert "--yes" in error.value.hint
