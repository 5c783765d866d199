"""Virtual time moves when everybody waits, and only then."""

from __future__ import annotations

import asyncio
import time

import pytest

from walrep.errors import InvariantViolated
from walrep.runner import InlineRunner, Runner, ThreadRunner
from walrep.testing.clock import SimClock


def test_a_day_passes_in_a_moment() -> None:
    clock = SimClock(now_ms=1_000)
    began_s = time.monotonic()

    async def body() -> str:
        await clock.sleep(86_400)
        return "done"

    assert clock.run(body()) == "done"
    assert clock.monotonic_s() == pytest.approx(86_400)
    assert clock.now_ms() == 1_000 + 86_400_000
    assert time.monotonic() - began_s < 5


def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock = SimClock()
    woken: list[tuple[float, str]] = []

    async def sleeper(name: str, seconds: float) -> None:
        for _ in range(2):
            await clock.sleep(seconds)
            woken.append((round(clock.monotonic_s(), 6), name))

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(sleeper("slow", 3))
            group.create_task(sleeper("quick", 2))

    clock.run(body())
    assert woken == [(2, "quick"), (3, "slow"), (4, "quick"), (6, "slow")]


def test_timeouts_are_simulated_too() -> None:
    clock = SimClock()

    async def body() -> None:
        async with asyncio.timeout(10):
            await clock.sleep(60)

    with pytest.raises(TimeoutError):
        clock.run(body())
    assert clock.monotonic_s() == pytest.approx(10)


def test_wall_time_steps_and_monotonic_time_does_not() -> None:
    clock = SimClock(now_ms=10_000)
    clock.advance(1)
    clock.pause(0.5)
    clock.step_wall(-5_000)
    assert clock.now_ms() == 6_500
    assert clock.monotonic_s() == 1.5
    with pytest.raises(InvariantViolated):
        clock.advance(-1)


def test_sleeping_on_another_loop_is_refused() -> None:
    with pytest.raises(InvariantViolated, match=r"SimClock\.run"):
        asyncio.run(SimClock().sleep(1))


@pytest.mark.parametrize("make_runner", [InlineRunner, lambda: ThreadRunner(2, "test")])
def test_a_runner_returns_what_the_call_returns_or_raises(make_runner: type[InlineRunner]) -> None:
    runner: Runner = make_runner()

    async def body() -> int:
        with pytest.raises(ZeroDivisionError):
            await runner.run(lambda: 1 // 0)
        return await runner.run(lambda: 42)

    assert asyncio.run(body()) == 42
    runner.close()
