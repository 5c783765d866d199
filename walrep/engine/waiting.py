"""Waiting for an event, but not for ever; for something else, but not once the event is set; and until a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from walrep.clock import Clock
from walrep.engine.inflight import task_group

__all__ = ["Deadline", "turn_unless", "unless", "wait_for_event"]

T = TypeVar("T")


class Deadline:
    """So many seconds from when something is first waited for, for everything that is waited for together."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._until_s: float | None = None

    @property
    def has_passed(self) -> bool:
        """Whether it has begun and is over."""
        return self._until_s is not None and self._clock.monotonic_s() > self._until_s

    def expire(self) -> None:
        """Wait for nothing any more."""
        self._until_s = self._clock.monotonic_s()

    async def in_time(self, work: Awaitable[None]) -> bool:
        """Wait for `work`, at most until the deadline; return whether it came to its end."""
        now_s = self._clock.monotonic_s()
        if self._until_s is None:
            self._until_s = now_s + self._seconds
        try:
            async with asyncio.timeout(max(self._until_s - now_s, 0.0)):
                await work
        except TimeoutError:
            return False
        return True


async def wait_for_event(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Return True when the event is set, False when `timeout_s` passed first (None: wait for ever)."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns; None, and `work` is cancelled, when the event is set first."""
    async with task_group() as group:
        working, waiting = group.create_task(work), group.create_task(event.wait())
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        waiting.cancel()
    return None if working.cancelled() else working.result()


@asynccontextmanager
async def turn_unless(event: asyncio.Event, turns: asyncio.Semaphore) -> AsyncIterator[bool]:
    """Have a turn within the context, and give it back; False, where the event is set before there is one."""
    is_taken = False

    async def take() -> None:
        nonlocal is_taken
        await turns.acquire()
        # Who is cancelled just now is not told of it, and gives it back all the same.
        is_taken = True

    try:
        await unless(event, take())
        yield is_taken
    finally:
        if is_taken:
            turns.release()
