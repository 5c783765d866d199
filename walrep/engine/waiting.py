"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio

__all__ = ["wait_for_event"]


async def wait_for_event(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Return True when the event is set, False when `timeout_s` passed first (None: wait for ever)."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
