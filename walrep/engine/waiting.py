"""Waiting for an event, but not for ever; and for something else, but not once the event is set."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from walrep.engine.inflight import task_group

__all__ = ["unless", "wait_for_event"]

T = TypeVar("T")


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
