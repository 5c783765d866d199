"""Turns: whoever has one gives it back, whenever it is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from walrep.engine.waiting import turn_unless

STEPS = 12
"""More steps of the event loop than it takes to have a turn."""


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def have_a_turn(event: asyncio.Event, turns: asyncio.Semaphore, had: list[bool]) -> None:
    async with turn_unless(event, turns) as has_turn:
        had.append(has_turn)
        await asyncio.Event().wait()


@pytest.mark.parametrize("count", range(STEPS))
async def test_who_is_cancelled_at_any_step_gives_the_turn_back(count: int) -> None:
    """One that is lost is lost for all databases of the process, and they make no snapshots any more."""
    turns, had = asyncio.Semaphore(1), list[bool]()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(have_a_turn(asyncio.Event(), turns, had))
        await steps(count)
        task.cancel()
    assert not turns.locked()


async def test_the_steps_are_enough_for_a_turn() -> None:
    turns, had = asyncio.Semaphore(1), list[bool]()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(have_a_turn(asyncio.Event(), turns, had))
        await steps(STEPS)
        assert had == [True]
        assert turns.locked()
        task.cancel()


async def test_an_event_comes_before_a_turn_that_somebody_else_has() -> None:
    turns, event, had = asyncio.Semaphore(0), asyncio.Event(), list[bool]()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(have_a_turn(event, turns, had))
        await steps(STEPS)
        assert had == []
        event.set()
        await steps(STEPS)
        assert had == [False]
        task.cancel()
    assert turns.locked()
