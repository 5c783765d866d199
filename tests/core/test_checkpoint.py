"""What the keeper does next, as tables, and what it never does."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from walrep.core.checkpoint import (
    CapturePolicy,
    Growth,
    KeeperView,
    Standstill,
    Step,
    TickView,
    WriteLockAdvice,
    next_passive_wait,
    note_growth,
    note_locks,
    plan_tick,
    plan_write_lock,
)
from walrep.core.wal import WalIndex

POLICY = CapturePolicy()
NOW, OTHER = (5, 6), (4, 6)


def index(max_frame: int, backfilled: int = 0, salts: tuple[int, int] = NOW) -> WalIndex:
    return WalIndex(max_frame, 9, (0, 0), salts, backfilled, 4096)


def view(
    seen: WalIndex,
    keeper: tuple[int, bool] = (100, False),
    *,
    salts: tuple[int, int] = NOW,
    idle_s: float = 0.0,
    since_passive_s: float = 10.0,
    since_write_lock_s: float = 10.0,
    handed_over: bool = False,
    waited_for: bool = False,
) -> TickView:
    """Return what a tick sees; `keeper` is the frame at which it began, and whether it sits on READ-LOCK 0."""
    return TickView(
        index=seen,
        keeper=KeeperView(salts, *keeper),
        idle_s=idle_s,
        since_passive_s=since_passive_s,
        passive_wait_s=0.02,
        since_write_lock_s=since_write_lock_s,
        handed_over=handed_over,
        waited_for=waited_for,
    )


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        # No frames: nothing to protect.
        (view(index(0)), Step.REST),
        (view(index(0), salts=OTHER), Step.REST),
        # 1. The log was restarted under the keeper.
        (view(index(7), salts=OTHER), Step.PROBE),
        (view(index(7, 7), (100, True), salts=OTHER), Step.PROBE),
        (view(index(9000), salts=OTHER, handed_over=True), Step.PROBE),
        # A blocking checkpoint waits: step aside, or to READ-LOCK 0 where all is copied.
        (view(index(100), waited_for=True), Step.STEP_ASIDE),
        (view(index(9000), waited_for=True), Step.STEP_ASIDE),
        (view(index(100, 100), (100, True), waited_for=True), Step.HAND_OVER),
        (view(index(0), waited_for=True), Step.REST),
        (view(index(7), salts=OTHER, waited_for=True), Step.PROBE),
        # 2. All is copied: to READ-LOCK 0, once.
        (view(index(100, 100)), Step.HAND_OVER),
        (view(index(100, 100), (90, True)), Step.HAND_OVER),
        (view(index(100, 100), (100, True)), Step.REST),
        (view(index(9000, 9000), (9000, True)), Step.REST),
        # 3. Frames since the keeper began, so that the app's checkpoints can copy them.
        (view(index(101)), Step.HAND_OVER),
        (view(index(101, 50)), Step.HAND_OVER),
        (view(index(9000)), Step.HAND_OVER),
        (view(index(101), (100, True)), Step.HAND_OVER),
        # 4. A backlog, or long quiet; a short log is left alone.
        (view(index(100)), Step.REST),
        (view(index(499), (499, False), idle_s=299.0), Step.REST),
        (view(index(500), (500, False)), Step.PASSIVE),
        (view(index(100), idle_s=301.0), Step.PASSIVE),
        (view(index(100), idle_s=301.0, since_passive_s=0.01), Step.WAIT),
        (view(index(101), handed_over=True), Step.WAIT),
        (view(index(600), (600, False)), Step.PASSIVE),
        (view(index(600, 200), (600, False)), Step.REST),
        (view(index(600), (600, False), since_passive_s=0.01), Step.WAIT),
        (view(index(101), idle_s=301.0, handed_over=True), Step.PASSIVE),
        # 5. Writers that never pause.
        (view(index(901), (901, False)), Step.WRITE_LOCK),
        (view(index(900), (900, False)), Step.PASSIVE),
        (view(index(901), (901, False), since_write_lock_s=0.1), Step.PASSIVE),
        (view(index(901), (890, False), handed_over=True), Step.WRITE_LOCK),
        (view(index(901, 500), (901, False), since_write_lock_s=0.1), Step.WAIT),
    ],
)
def test_the_next_step(seen: TickView, step: Step) -> None:
    assert plan_tick(seen, POLICY) is step


VIEWS = st.builds(
    lambda frames, backfilled, keeper, settled, restarted, times, handed_over, waited_for: view(
        index(frames, min(frames, backfilled)),
        (min(keeper, frames), settled),
        salts=OTHER if restarted else NOW,
        idle_s=times[0],
        since_passive_s=times[1],
        since_write_lock_s=times[2],
        handed_over=handed_over,
        waited_for=waited_for,
    ),
    st.integers(0, 10000),
    st.integers(0, 10000),
    st.integers(0, 10000),
    st.booleans(),
    st.booleans(),
    st.tuples(*[st.floats(0, 1000)] * 3),
    st.booleans(),
    st.booleans(),
)


@given(VIEWS)
def test_nothing_is_checkpointed_before_a_restart_was_probed(seen: TickView) -> None:
    """INV-05: on READ-LOCK 0 of an older generation the only step is the probe."""
    if seen.index.max_frame and seen.index.salts != seen.keeper.salts:
        assert plan_tick(seen, POLICY) is Step.PROBE


@given(VIEWS, st.floats(0, 1000))
def test_a_rest_is_ended_by_a_long_quiet_only_while_the_index_stays(seen: TickView, later_s: float) -> None:
    """Nobody plans again meanwhile: what waits for time alone must not be called rest."""
    if plan_tick(seen, POLICY) is Step.REST:
        later = msgspec.structs.replace(
            seen,
            since_passive_s=seen.since_passive_s + later_s,
            since_write_lock_s=seen.since_write_lock_s + later_s,
            passive_wait_s=0.0,
            handed_over=False,
        )
        assert plan_tick(later, POLICY) is Step.REST


@given(VIEWS)
def test_writers_are_never_stopped_before_the_keeper_is_handed_over(seen: TickView) -> None:
    """INV-06: what a hand-over and a PASSIVE can do costs nobody anything, and comes first."""
    if plan_tick(seen, POLICY) is Step.WRITE_LOCK:
        assert seen.handed_over or (seen.keeper.max_frame == seen.index.max_frame and not seen.keeper.settled)
        assert seen.index.max_frame > POLICY.wal_frames_max
        assert seen.index.backlog > 0
        assert seen.since_write_lock_s > POLICY.write_lock_interval_s


@given(VIEWS)
def test_a_tick_hands_over_for_new_frames_at_most_once(seen: TickView) -> None:
    """Writers that never pause would be handed over for ever, and nothing would ever be copied."""
    if seen.handed_over and seen.index.backlog:
        assert plan_tick(seen, POLICY) is not Step.HAND_OVER


@given(VIEWS)
def test_a_database_at_rest_needs_nothing(seen: TickView) -> None:
    settled = seen.keeper.settled and seen.keeper.max_frame == seen.index.max_frame
    if seen.index.backlog == 0 and settled and seen.index.salts == seen.keeper.salts and not seen.waited_for:
        assert plan_tick(seen, POLICY) is Step.REST


@pytest.mark.parametrize(
    ("backfilled", "keeper_frame", "max_frame", "rounds", "advice"),
    [
        (None, 5000, 5000, 0, WriteLockAdvice.STARVED),
        (4999, 5000, 5000, 0, WriteLockAdvice.STARVED),
        (0, 5000, 9000, 8, WriteLockAdvice.STARVED),
        (5000, 5000, 5000, 0, WriteLockAdvice.TAKE),
        (5000, 5000, 6500, 0, WriteLockAdvice.TAKE),
        (5000, 5000, 6501, 0, WriteLockAdvice.CONVERGE),
        (5000, 5000, 6501, 7, WriteLockAdvice.CONVERGE),
        (5000, 5000, 6501, 8, WriteLockAdvice.TAKE),
    ],
)
def test_the_write_lock_is_taken_only_where_it_helps(
    backfilled: int | None, keeper_frame: int, max_frame: int, rounds: int, advice: WriteLockAdvice
) -> None:
    """INV-06: an older reader of the app in the way makes it useless."""
    found = plan_write_lock(
        backfilled=backfilled, keeper_frame=keeper_frame, index=index(max_frame), rounds=rounds, policy=POLICY
    )
    assert found is advice


def test_a_passive_that_does_nothing_is_asked_for_less_and_less_often() -> None:
    wait_s, waits = POLICY.passive_wait_min_s, []
    for _ in range(8):
        wait_s = next_passive_wait(wait_s, progress=False, policy=POLICY)
        waits.append(wait_s)
    assert waits == sorted(waits)
    assert waits[-1] == POLICY.passive_wait_max_s
    assert next_passive_wait(wait_s, progress=True, policy=POLICY) == POLICY.passive_wait_min_s


def look_again(looks: list[tuple[float, bytes, int | None, int | None]]) -> tuple[Standstill | None, float]:
    """Return what looks add up to, each given by time, wal-index header, checkpointer and writer."""
    standstill: Standstill | None = None
    for now_s, header, checkpointer, writer in looks:
        standstill = note_locks(standstill, now_s=now_s, header=header, checkpointer=checkpointer, writer=writer)
    return standstill, looks[-1][0]


@pytest.mark.parametrize("pid", [7, 0])
def test_a_checkpoint_waits_that_holds_both_locks_at_every_look_while_nothing_is_committed(pid: int) -> None:
    """Also where the kernel does not tell its process, because it is in another container."""
    standstill, now_s = look_again([(0.03 * n, b"h", pid, pid) for n in range(5)])
    assert standstill is not None
    assert standstill.lasts(now_s, POLICY)


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([(0.01 * n, b"h", 7, 7) for n in range(6)], id="too short"),
        pytest.param([(1.0 * n, b"h", 7, 7) for n in range(3)], id="seen too seldom"),
        pytest.param([(0.03 * n, b"h%d" % (n // 2), 7, 7) for n in range(9)], id="commits"),
        pytest.param([(0.03 * n, b"h%d" % (n // 2), 0, 0) for n in range(9)], id="commits in another container"),
        pytest.param([(0.03 * n, b"h", 7, 8) for n in range(9)], id="two processes"),
        pytest.param([(0.03 * n, b"h", 7, 0) for n in range(9)], id="one of them in another container"),
        pytest.param([(0.03 * n, b"h", 7, None if n == 6 else 7) for n in range(9)], id="write lock let go"),
        pytest.param([(0.03 * n, b"h", None if n == 6 else 7, 7) for n in range(9)], id="checkpoint lock let go"),
        pytest.param([(0.03 * n, b"h", 7 + n // 3, 7 + n // 3) for n in range(9)], id="another process"),
    ],
)
def test_what_does_not_last_is_no_checkpoint_that_waits(
    looks: list[tuple[float, bytes, int | None, int | None]],
) -> None:
    standstill, now_s = look_again(looks)
    assert standstill is None or not standstill.lasts(now_s, POLICY)


@pytest.mark.parametrize(
    ("looks", "fast"),
    [
        # Seconds and frames in all, at each look.
        ([(0.01, 5), (0.02, 10), (0.03, 15), (0.11, 20), (0.21, 25)], False),
        ([(0.01, 64)], True),
        ([(0.01, 63)], False),
        ([(0.05, 40), (0.1, 80)], True),
        ([(0.2, 127)], False),
        ([(0.2, 128)], True),
        ([(0.01, 64), (0.02, 70), (0.05, 90)], True),
        ([(0.01, 64), (0.02, 70), (0.12, 90)], False),
    ],
)
def test_a_log_grows_fast_by_its_rate_however_often_it_is_looked_at(
    looks: list[tuple[float, int]], *, fast: bool
) -> None:
    growth = Growth(0.0, 0)
    for now_s, frames in looks:
        growth = note_growth(growth, now_s=now_s, frames=frames, policy=POLICY)
    assert growth.is_fast is fast
