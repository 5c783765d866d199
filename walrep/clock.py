"""The one door to time, and to what bounds the monotonic one: the boot of the machine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Wall time for records, monotonic time for intervals, and sleep."""

    def now_ms(self) -> int:
        """Return wall time, ms since 1970 UTC; it can step."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds from an arbitrary origin; never steps back."""
        ...

    def boot_id(self) -> str:
        """Return what tells this boot of the machine from every other; empty if it is not known."""
        ...

    def pause(self, seconds: float) -> None:
        """Block the calling thread; for the few sub-millisecond waits of the capture thread."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return wall time, ms since 1970 UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds from an arbitrary origin."""
        return time.monotonic()

    def boot_id(self) -> str:
        """Return the kernel's random id of this boot."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def pause(self, seconds: float) -> None:
        """Block the calling thread."""
        time.sleep(seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(seconds)
