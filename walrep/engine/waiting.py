"""Waiting for an event, but not for ever, on an injected clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from walrep.clock import Clock

__all__ = ["wait_for_any", "wait_for_event"]


async def wait_for_event(event: asyncio.Event, clock: Clock, timeout_s: float | None) -> bool:
    """Return True when the event is set, False when `timeout_s` passed first (None: wait for ever)."""
    await wait_for_any((event,), clock, timeout_s)
    return event.is_set()


async def wait_for_any(events: Sequence[asyncio.Event], clock: Clock, timeout_s: float | None) -> None:
    """Return when one of the events is set, or when `timeout_s` passed (None: wait for ever)."""
    if any(event.is_set() for event in events) or (timeout_s is not None and timeout_s <= 0):
        return
    # These waits end here and have no effect of their own, so a task group would only add ceremony.
    waits: list[asyncio.Future[object]] = [asyncio.ensure_future(event.wait()) for event in events]
    if timeout_s is not None:
        waits.append(asyncio.ensure_future(clock.sleep(timeout_s)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
