"""What holds of every plan of retention, whatever the history and the policy."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from hypothesis import given, strategies as st

from tests.core.holdings import DAY, History, histories, without
from walrep.core.retention import RetentionPlan, RetentionPolicy, plan_retention
from walrep.core.units import TimelineId

POLICIES = st.builds(
    RetentionPolicy,
    window_s=st.sampled_from([0.0, 7200.0, 86_400.0, 5 * 86_400.0, 30 * 86_400.0]),
    daily=st.integers(0, 3),
    weekly=st.integers(0, 3),
    monthly=st.integers(0, 3),
    yearly=st.integers(0, 2),
    snapshots_min=st.integers(0, 2),
    grace_s=st.sampled_from([0.0, 3600.0]),
)
NOTHING = RetentionPolicy(window_s=0.0, snapshots_min=0, grace_s=0.0)
LATER = st.integers(0, 60).map(lambda days: days * DAY)


@st.composite
def stored(draw: st.DrawFn) -> History:
    """Draw a history whose store tells when it stored each object, and of which some are reserved."""
    history = draw(histories(damaged=True))
    ages = st.sampled_from([0, 0, -DAY, DAY, 9 * DAY, 40 * DAY])
    holding = msgspec.structs.replace(
        history.holding,
        logs=[msgspec.structs.replace(each, stored_ms=each.last_seen_ms + draw(ages)) for each in history.holding.logs],
        snapshots=[
            msgspec.structs.replace(each, stored_ms=each.seen_ms + draw(ages)) for each in history.holding.snapshots
        ],
    )
    reserved = draw(st.sets(st.sampled_from(sorted(history.keys())), max_size=3))
    holding = msgspec.structs.replace(holding, reserved=dict.fromkeys(sorted(reserved), "somebody needs it"))
    return msgspec.structs.replace(history, holding=holding)


def kept(plan: RetentionPlan) -> set[str]:
    return {verdict.key for verdict in plan.verdicts if verdict.keep}


def lost_by(history: History, plan: RetentionPlan) -> set[tuple[TimelineId, int]]:
    """Return the positions that could be restored before the plan and cannot be after it."""
    return history.all_restorable(history.keys()) - history.all_restorable(kept(plan))


def days(history: History, keys: set[str], until_ms: int) -> set[str]:
    """Return the days, up to a moment, of which there is a snapshot that can be used."""
    return {
        f"{datetime.fromtimestamp(each.seen_ms / 1000, UTC):%Y-%m-%d}"
        for each in history.holding.snapshots
        if {each.key, each.base_key or each.key} <= keys and each.seen_ms <= until_ms
    }


def newest_full_keys(history: History) -> set[str]:
    """Return the full snapshots on which a writer may be about to lean: the last of each newest timeline."""
    full = [each for each in history.holding.snapshots if each.kind == "full"]
    newest = [each for each in full if all(other.timeline[:5] <= each.timeline[:5] for other in full)]
    return {
        each.key
        for each in newest
        if not any(
            other.timeline == each.timeline and (other.txid, other.seq) > (each.txid, each.seq) for other in newest
        )
    }


def sound(history: History, keys: set[str]) -> set[str]:
    """Return the objects with which nothing looks wrong: what they rest on is there, and what opens their timeline."""
    logs = [each for each in history.holding.logs if each.key in keys]
    opened = {each.timeline for each in logs if each.is_opening}
    good = {each.key for each in logs if each.is_opening or each.is_fence}
    snapshots = [each for each in history.holding.snapshots if {each.key, each.base_key or each.key} <= keys]
    for log in logs:
        above = {each.key for each in snapshots if each.timeline == log.timeline and each.txid >= log.last_txid}
        if history.restorable(keys - above, log.timeline, log.last_txid):
            good.add(log.key)
    good |= {each.key for each in snapshots}
    good -= {each.key for each in logs if each.timeline not in opened}
    return good - {each.key for each in snapshots if each.timeline not in opened}


@given(histories(damaged=True), POLICIES, LATER)
def test_every_transaction_of_the_window_stays(history: History, policy: RetentionPolicy, later_ms: int) -> None:
    now_ms = history.end_ms + later_ms
    lost = lost_by(history, plan_retention(history.holding, policy, now_ms))
    assert {each for each in lost if history.seen[each] > now_ms - policy.window_s * 1000} == set()


@given(histories(), POLICIES, LATER)
def test_what_stood_at_any_moment_of_the_window_stays(history: History, policy: RetentionPolicy, later_ms: int) -> None:
    now_ms = history.end_ms + later_ms
    begin_ms = now_ms - round(policy.window_s * 1000)
    moments = {begin_ms, now_ms, *history.seen.values(), *(ms - 1 for ms in history.seen.values())}
    lost = lost_by(history, plan_retention(history.holding, policy, now_ms))
    assert [(ms, each) for ms in moments if ms >= begin_ms for each in history.stood_at(ms) if each in lost] == []


@given(histories(damaged=True), POLICIES, LATER)
def test_the_newest_restorable_point_stays(history: History, policy: RetentionPolicy, later_ms: int) -> None:
    plan = plan_retention(history.holding, policy, history.end_ms + later_ms)
    before, after = history.all_restorable(history.keys()), history.all_restorable(kept(plan))
    newest = max((timeline[:5] for timeline, _txid in before), default="")
    tips = {timeline: txid for timeline, txid in sorted(before) if timeline[:5] == newest}
    assert set(tips.items()) <= after


@given(histories(damaged=True, plain=True), POLICIES, LATER)
def test_the_newest_full_snapshot_stays(history: History, policy: RetentionPolicy, later_ms: int) -> None:
    """INV-30: however old, and whatever else is newer."""
    plan = plan_retention(history.holding, policy, history.end_ms + later_ms)
    assert newest_full_keys(history) <= kept(plan)


@given(histories(damaged=True), POLICIES, LATER)
def test_points_of_the_plan_and_pins_stay(history: History, policy: RetentionPolicy, later_ms: int) -> None:
    plan = plan_retention(history.holding, policy, history.end_ms + later_ms)
    asked = {(each.timeline, txid) for each in plan.points for txid in range(each.first_txid, each.last_txid + 1)}
    asked |= {(pin.point.timeline, pin.point.txid) for pin in history.holding.pins}
    assert lost_by(history, plan) & asked == set()


@given(histories(damaged=True), LATER)
def test_a_pin_that_cannot_be_met_is_told(history: History, later_ms: int) -> None:
    plan = plan_retention(history.holding, NOTHING, history.end_ms + later_ms)
    keys = history.keys()
    broken = [
        f"pin {pin.name}"
        for pin in history.holding.pins
        if not history.restorable(keys, pin.point.timeline, pin.point.txid)
    ]
    assert [notice.split(":")[0] for notice in plan.notices] == broken


@given(histories(damaged=True), POLICIES, LATER)
def test_the_newest_days_beyond_the_window_have_a_snapshot(
    history: History, policy: RetentionPolicy, later_ms: int
) -> None:
    plan = plan_retention(history.holding, policy, history.end_ms + later_ms)
    before = days(history, history.keys(), plan.expired_ms)
    assert set(sorted(before)[len(before) - policy.daily :] if policy.daily else ()) <= days(
        history, kept(plan), plan.expired_ms
    )


@given(histories(damaged=True), POLICIES, LATER)
def test_fences_and_what_is_no_log_or_snapshot_stay(history: History, policy: RetentionPolicy, later_ms: int) -> None:
    plan = plan_retention(history.holding, policy, history.end_ms + later_ms)
    assert {"replica", "what/is-this"} | {each.key for each in history.holding.logs if each.is_fence} <= kept(plan)


@given(histories(damaged=True), POLICIES, LATER)
def test_cut_off_anywhere_nothing_looks_damaged_and_the_next_plan_ends_where_this_one_does(
    history: History, policy: RetentionPolicy, later_ms: int
) -> None:
    """Looks may suffer where something is damaged already: a pin that cannot be met keeps what there is of its way."""
    now_ms = history.end_ms + later_ms
    plan = plan_retention(history.holding, policy, now_ms)
    before = set() if plan.notices else sound(history, history.keys())
    for count in range(len(plan.deletions) + 1):
        gone = set(plan.deletions[:count])
        assert before - gone <= sound(history, history.keys() - gone)
        again = plan_retention(without(history.holding, gone), policy, now_ms)
        assert again.deletions == plan.deletions[count:]
        assert kept(again) == kept(plan)


@given(histories(damaged=True), POLICIES, POLICIES, LATER)
def test_more_retention_never_deletes_more(
    history: History, policy: RetentionPolicy, other: RetentionPolicy, later_ms: int
) -> None:
    now_ms = history.end_ms + later_ms
    names = [field.name for field in msgspec.structs.fields(RetentionPolicy)]
    larger = RetentionPolicy(**{name: max(getattr(policy, name), getattr(other, name)) for name in names})
    unpinned = msgspec.structs.replace(history.holding, pins=history.holding.pins[1:])
    assert kept(plan_retention(unpinned, policy, now_ms)) <= kept(plan_retention(history.holding, larger, now_ms))


@given(histories(plain=True), LATER)
def test_without_a_policy_nothing_stays_but_what_the_newest_state_needs(history: History, later_ms: int) -> None:
    """Without any other object it is gone, or rests on an older snapshot."""
    holding = msgspec.structs.replace(history.holding, pins=())
    plan = plan_retention(holding, NOTHING, history.end_ms + DAY + later_ms)
    newest = max(timeline[:5] for timeline, _txid in history.seen)
    tips = [(timeline, txid) for timeline, txid in history.seen if (timeline, txid + 1) not in history.seen]
    tips = [tip for tip in tips if tip[0][:5] == newest]
    spare = {each.key for each in holding.logs if each.is_opening} | set(holding.others) | newest_full_keys(history)
    before = {tip: history.best_start(kept(plan), *tip) for tip in tips}
    for key in kept(plan) - spare:
        assert {tip: history.best_start(kept(plan) - {key}, *tip) for tip in tips} != before, key


@given(stored(), POLICIES, LATER)
def test_nothing_goes_that_any_clock_calls_young(history: History, policy: RetentionPolicy, later_ms: int) -> None:
    """INV-25: the writer's at either end, and the store's."""
    now_ms = history.end_ms + later_ms
    begin_ms = now_ms - policy.window_s * 1000
    deleted = set(plan_retention(history.holding, policy, now_ms).deletions)
    ages = {each.key: max(each.first_seen_ms, each.last_seen_ms, each.stored_ms) for each in history.holding.logs}
    ages |= {each.key: max(each.seen_ms, each.stored_ms) for each in history.holding.snapshots}
    assert {key for key in deleted if ages[key] > begin_ms} == set()


@given(stored(), POLICIES, LATER)
def test_what_is_reserved_stays_and_nothing_else_goes_for_it(
    history: History, policy: RetentionPolicy, later_ms: int
) -> None:
    now_ms = history.end_ms + later_ms
    plan = plan_retention(history.holding, policy, now_ms)
    assert history.holding.reserved.keys() <= kept(plan)
    free = plan_retention(msgspec.structs.replace(history.holding, reserved={}), policy, now_ms)
    assert kept(free) <= kept(plan)
    # An opening stays for whatever is left of its timeline.
    openings = {each.key for each in history.holding.logs if each.is_opening}
    assert kept(plan) - kept(free) <= history.holding.reserved.keys() | openings


@given(stored(), POLICIES, LATER)
def test_what_is_stored_and_reserved_is_planned_for_again_the_same(
    history: History, policy: RetentionPolicy, later_ms: int
) -> None:
    now_ms = history.end_ms + later_ms
    plan = plan_retention(history.holding, policy, now_ms)
    for count in range(len(plan.deletions) + 1):
        again = plan_retention(without(history.holding, plan.deletions[:count]), policy, now_ms)
        assert again.deletions == plan.deletions[count:]


@given(stored(), POLICIES, LATER)
def test_what_opens_a_timeline_goes_in_a_step_of_its_own(
    history: History, policy: RetentionPolicy, later_ms: int
) -> None:
    plan = plan_retention(history.holding, policy, history.end_ms + later_ms)
    openings = {each.key for each in history.holding.logs if each.is_opening}
    assert [set(step) <= openings for step in plan.steps] in ([], [False], [True], [False, True])
    assert all((step and set(step).isdisjoint(openings)) or set(step) <= openings for step in plan.steps)
