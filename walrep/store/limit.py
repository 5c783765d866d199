"""A wrapper that bounds what a process asks of its stores at once: requests, and the bytes that they hold in memory.

All stores of a process share one `StoreLimits`, so that many databases that come back from an outage together do not
take all memory. A file counts with what a store has of it in memory at once, not with its size: one large base would
keep the segments of all other databases waiting. First come, first served: a large request is not passed over for ever
by small ones, only by those that carry nothing, while it waits for memory. What is larger than the limit goes through
when no other bytes are in flight.

Stand inside the retries, so that waiting for the next attempt takes up no place (within a large upload it does, for
minutes at most). It must not know why a request is made.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from walrep.errors import WalrepError, check
from walrep.store.base import ObjectInfo, Store
from walrep.store.source import source_bytes

__all__ = ["LimitedStore", "StoreLimits"]

_LISTED_AT_ONCE_COUNT = 1000


class _Waiter(msgspec.Struct):
    """A request that waits for its turn; `turn` is done when it has it."""

    size_bytes: int
    turn: asyncio.Future[None]


class StoreLimits:
    """How many requests are in flight, how many bytes they carry, and who waits."""

    def __init__(self, requests_max: int, bytes_max: int) -> None:
        check(requests_max >= 1, "no request would ever be made")
        check(bytes_max >= 1, "no byte would ever be moved")
        self.requests_max = requests_max
        self.bytes_max = bytes_max
        self._request_count = 0
        self._bytes = 0
        self._waiters: list[_Waiter] = []

    @asynccontextmanager
    async def turn(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait for a place for a request that carries so many bytes, and keep it for as long as the context lasts."""
        # Where there is a place, whoever waits lacks memory.
        if not self._fits(size_bytes) or (size_bytes and self._waiters):
            await self._wait(_Waiter(size_bytes, asyncio.get_running_loop().create_future()))
        else:
            self._take(size_bytes)
        try:
            yield
        finally:
            self._give_back(size_bytes)

    async def _wait(self, waiter: _Waiter) -> None:
        self._waiters.append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.cancelled():
                # It left the queue; the next one may fit where this one did not.
                self._wake()
            else:
                # It had been given its place, and was cancelled before it knew.
                self._give_back(waiter.size_bytes)
            raise

    def _fits(self, size_bytes: int) -> bool:
        if self._request_count >= self.requests_max:
            return False
        # What carries nothing need not wait for memory, nor what is alone: it would never fit.
        return 0 in (size_bytes, self._bytes) or self._bytes + size_bytes <= self.bytes_max

    def _take(self, size_bytes: int) -> None:
        self._request_count += 1
        self._bytes += size_bytes

    def _give_back(self, size_bytes: int) -> None:
        self._request_count -= 1
        self._bytes -= size_bytes
        self._wake()

    def _wake(self) -> None:
        waiting: list[_Waiter] = []
        is_memory_awaited = False
        for waiter in self._waiters:
            # One that was cancelled stays in the queue until somebody wakes.
            if waiter.turn.done():
                continue
            if self._fits(waiter.size_bytes) and not (waiter.size_bytes and is_memory_awaited):
                self._take(waiter.size_bytes)
                waiter.turn.set_result(None)
            else:
                waiting.append(waiter)
                is_memory_awaited = is_memory_awaited or waiter.size_bytes > 0
        self._waiters = waiting


def _all_of_it(size_bytes: int) -> int:
    return size_bytes


class LimitedStore:
    """A store whose calls wait for their turn. A get of unknown length carries no bytes, and a listing none.

    `held_bytes` tells how much of a file of some size the store has in memory at once while it stores it.
    """

    def __init__(self, store: Store, limits: StoreLimits, held_bytes: Callable[[int], int] = _all_of_it) -> None:
        self._store = store
        self._limits = limits
        self._held_bytes = held_bytes

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`."""
        size_bytes = source_bytes(source)
        if isinstance(source, Path):
            size_bytes = self._held_bytes(size_bytes)
        async with self._limits.turn(size_bytes):
            await self._store.put(key, source, if_absent=if_absent)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`."""
        async with self._limits.turn(length or 0):
            return await self._store.get(key, start=start, length=length)

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object."""
        async with self._limits.turn(0):
            return await self._store.head(key)

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`.

        A turn lasts for a page, and is over before the page is yielded: whoever reads a listing makes requests of
        their own meanwhile.
        """
        listing = self._store.list(prefix, start_after=start_after, limit=limit)
        is_over = False
        while not is_over:
            page: deque[ObjectInfo] = deque()
            failure: WalrepError | None = None
            async with self._limits.turn(0):
                try:
                    is_over = await _read_page(listing, page)
                except WalrepError as error:
                    failure = error
            for info in page:
                yield info
            if failure is not None:
                raise failure

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        async with self._limits.turn(0):
            await self._store.delete(keys)

    async def aclose(self) -> None:
        """Close the store."""
        await self._store.aclose()


async def _read_page(listing: AsyncIterator[ObjectInfo], page: deque[ObjectInfo]) -> bool:
    """Add up to a page of a listing, and return whether it is over."""
    while len(page) < _LISTED_AT_ONCE_COUNT:
        try:
            page.append(await anext(listing))
        except StopAsyncIteration:
            return True
    return False
