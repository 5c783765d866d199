"""How capture goes on after a break."""

from __future__ import annotations

import msgspec
import pytest

from walrep.core.breaks import Break, BreakKind, NextStep, SpoolFacts, count_break, has_room, plan_after_break

ROOM = SpoolFacts(in_transaction=False, sealed_bytes=0, outbox_bytes_max=1000, disk_has_room=True)
BREAK = Break(kind=BreakKind.LOG, message="the log is another one", count=1, protected=True, had_base=True)


def broke(**changes: object) -> Break:
    return msgspec.structs.replace(BREAK, **changes)


def test_a_broken_log_begins_a_timeline_at_once_and_says_why() -> None:
    plan = plan_after_break(BREAK, ROOM)
    assert (plan.step, plan.wait_s, plan.needs_room) == (NextStep.NEW_TIMELINE, 0.0, False)
    assert plan.reason == "the log is another one"


@pytest.mark.parametrize("kind", [BreakKind.LOG, BreakKind.DATABASE, BreakKind.SPOOL])
@pytest.mark.parametrize("had_base", [False, True])
def test_what_breaks_again_and_again_is_tried_again_ever_later(kind: BreakKind, *, had_base: bool) -> None:
    waits = [plan_after_break(broke(kind=kind, count=count, had_base=had_base), ROOM).wait_s for count in range(1, 40)]
    assert waits == sorted(waits)
    assert waits[1] >= 1.0
    assert waits[6] > 8 * waits[2]
    assert waits[-1] == 60.0


def test_a_base_for_which_there_is_no_room_is_tried_again_ever_later() -> None:
    """Each attempt may copy the whole database."""
    first, later = (
        plan_after_break(broke(kind=BreakKind.NO_ROOM, had_base=False, count=count), ROOM) for count in (1, 8)
    )
    assert (first.step, first.needs_room, later.needs_room) == (NextStep.RESUME, True, True)
    assert later.wait_s == 60.0 > first.wait_s > 0


def test_a_full_outbox_is_only_waited_for_until_there_is_room() -> None:
    """The longer nothing is captured, the less likely the log still proves that nothing is missing."""
    plans = {plan_after_break(broke(kind=BreakKind.NO_ROOM, count=count), ROOM).wait_s for count in (1, 5, 50)}
    assert plans == {2.0}


def test_what_may_pass_goes_on_in_the_same_timeline() -> None:
    for kind in (BreakKind.DATABASE, BreakKind.SPOOL, BreakKind.NO_ROOM):
        plan = plan_after_break(broke(kind=kind), ROOM)
        assert (plan.step, plan.reason) == (NextStep.RESUME, "")
        assert plan.wait_s > 0


def test_only_the_spool_needs_room() -> None:
    needs = {kind: plan_after_break(broke(kind=kind), ROOM).needs_room for kind in BreakKind}
    assert needs == {
        BreakKind.LOG: False,
        BreakKind.DATABASE: False,
        BreakKind.NO_ROOM: True,
        BreakKind.SPOOL: True,
    }


def test_a_transaction_that_alone_fills_the_outbox_ends_the_timeline() -> None:
    within = msgspec.structs.replace(ROOM, in_transaction=True)
    plan = plan_after_break(broke(kind=BreakKind.NO_ROOM), within)
    assert (plan.step, plan.reason) == (NextStep.NEW_TIMELINE, "a transaction does not fit into the outbox")
    behind = msgspec.structs.replace(within, sealed_bytes=1)
    assert plan_after_break(broke(kind=BreakKind.NO_ROOM), behind).step is NextStep.RESUME
    assert plan_after_break(broke(kind=BreakKind.SPOOL), within).step is NextStep.RESUME


def test_before_anything_was_protected_a_spool_that_fails_ends_it() -> None:
    for kind in BreakKind:
        step = plan_after_break(broke(kind=kind, protected=False, had_base=False), ROOM).step
        assert (step is NextStep.STOP) == (kind in (BreakKind.NO_ROOM, BreakKind.SPOOL))


def test_there_is_room_when_the_outbox_is_half_empty_and_the_disk_allows_it() -> None:
    assert has_room(msgspec.structs.replace(ROOM, sealed_bytes=500))
    assert not has_room(msgspec.structs.replace(ROOM, sealed_bytes=501))
    assert not has_room(msgspec.structs.replace(ROOM, disk_has_room=False))


def test_a_capture_that_lasted_forgets_the_breaks_before() -> None:
    assert [count_break(5, lasted_s) for lasted_s in (0.0, 119.0, 120.0)] == [6, 6, 1]
