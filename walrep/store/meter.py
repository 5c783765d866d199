"""A wrapper that has every PUT counted before it is sent, and held back where there is a budget for them.

Stand inside the retries, so that each attempt counts, and outside the limits, so that what waits for its turn takes up
no place there. It must not know what an object is for, nor how long something waits and why: that is the meter's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from walrep.store.base import ObjectInfo, Store
from walrep.store.source import source_bytes

__all__ = ["MeteredStore", "PutMeter", "one_request"]

PutRequests = Callable[[int, bool], int]
"""Says how many requests of the class of PUT store a source of some size, create-only or not."""


class PutMeter(Protocol):
    """Counts the PUTs of one store."""

    def sending(self, key: str, put_count: int, size_bytes: int) -> AbstractAsyncContextManager[None]:
        """Wait until so many requests may be sent for an object, and count them; they are sent within the context."""
        ...

    def again(self) -> bool:
        """Count one request more, because one within an upload failed; False if there is none left."""
        ...

    async def aclose(self) -> None:
        """Keep what was counted."""
        ...


def one_request(_size_bytes: int, _if_absent: bool) -> int:  # noqa: FBT001 - the signature is `PutRequests`
    """Return 1: a store that takes any object at once."""
    return 1


class MeteredStore:
    """A store with a meter; without one it only passes calls on. `meter` may be set later, before the first call."""

    def __init__(self, store: Store, put_requests: PutRequests = one_request) -> None:
        self.meter: PutMeter | None = None
        self._store = store
        self._put_requests = put_requests

    def may_try_again(self) -> bool:
        """Say whether a request within an upload may be sent once more, and count it."""
        return self.meter is None or self.meter.again()

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`."""
        if self.meter is None:
            await self._store.put(key, source, if_absent=if_absent)
            return
        size_bytes = source_bytes(source)
        async with self.meter.sending(key, self._put_requests(size_bytes, if_absent), size_bytes):
            await self._store.put(key, source, if_absent=if_absent)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`."""
        return await self._store.get(key, start=start, length=length)

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object."""
        return await self._store.head(key)

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`."""
        async for info in self._store.list(prefix, start_after=start_after, limit=limit):
            yield info

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        await self._store.delete(keys)

    async def aclose(self) -> None:
        """Close the store, and keep what was counted."""
        if self.meter is not None:
            await self.meter.aclose()
        await self._store.aclose()
