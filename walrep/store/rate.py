"""How fast a process uploads, over all its stores: slices of bodies take their turns on one line.

Whoever has bytes to send asks for a turn before each slice. Over any time T no more than rate * T and a slice for each
upload in flight go out, and uploads at the same time share the line evenly, because slices are taken in the order in
which they were asked for. It must not know what is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BufferedIOBase, BytesIO

from walrep.clock import Clock
from walrep.errors import check

__all__ = ["UploadRate", "send_slowly", "waits_extend"]

_SLICE_BYTES_MIN = 4 << 10
_SLICE_BYTES_MAX = 1 << 20
_SLICES_PER_S = 10

_timeout: ContextVar[asyncio.Timeout | None] = ContextVar("timeout", default=None)


class UploadRate:
    """So many bytes per second, for all who share it."""

    def __init__(self, clock: Clock, bytes_per_s: int) -> None:
        check(bytes_per_s > 0, "nothing would ever be uploaded")
        self.slice_bytes = min(_SLICE_BYTES_MAX, max(_SLICE_BYTES_MIN, bytes_per_s // _SLICES_PER_S))
        """How much to send at once: a tenth of a second's, so that it flows evenly."""
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._free_s = clock.monotonic_s()

    async def take(self, size_bytes: int) -> None:
        """Wait until the line is free, and have it for so many bytes."""
        now_s = self._clock.monotonic_s()
        begin_s = max(now_s, self._free_s)
        self._free_s = begin_s + size_bytes / self._bytes_per_s
        if begin_s > now_s:
            timeout = _timeout.get()
            when_s = None if timeout is None else timeout.when()
            if timeout is not None and when_s is not None and not timeout.expired():
                timeout.reschedule(when_s + begin_s - now_s)
            await self._clock.sleep(begin_s - now_s)


async def send_slowly(body: bytes | bytearray | BufferedIOBase, rate: UploadRate) -> AsyncIterator[bytes]:
    """Yield a body in slices, each when its turn has come."""
    loop = asyncio.get_running_loop()
    file = BytesIO(body) if isinstance(body, bytes | bytearray) else body
    while part := await loop.run_in_executor(None, file.read, rate.slice_bytes):
        await rate.take(len(part))
        yield part


@contextmanager
def waits_extend(timeout: asyncio.Timeout) -> Iterator[None]:
    """Have a timeout not count what is waited for a turn within this context, and within tasks that begin in it."""
    token = _timeout.set(timeout)
    try:
        yield
    finally:
        _timeout.reset(token)
