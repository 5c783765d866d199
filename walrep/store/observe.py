"""Count what a store is asked: requests are what stores charge for and what users wonder about.

Two parties fill one `RequestCounter`. `ObservedStore` counts the calls, one request for each, and how long uploads
take: wrap the store itself, inside the retries, so that each attempt counts. A store that makes further requests inside
a call (pages of a listing, parts of an upload) reports those beyond the first. Neither must know why one is made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from walrep.clock import Clock, SystemClock
from walrep.errors import ObjectNotFound, PreconditionFailed, StoreError
from walrep.store.base import ObjectInfo, Store
from walrep.store.source import source_bytes

__all__ = ["ObservedStore", "RequestCounter", "RequestCounts", "Verb"]

Verb = Literal["put", "get", "head", "list", "delete"]

_PUTS_REMEMBERED_COUNT = 256
_SYSTEM_CLOCK = SystemClock()
_FIELDS: dict[Verb, str] = {
    "put": "put",
    "get": "get",
    "head": "head",
    "list": "list",
    "delete": "delete_requests",
}


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests by verb, whether they succeeded or not, and what they moved.

    All that an upload in parts takes counts as `put`. `errors` leaves out the answers that an object does not exist,
    or exists already.
    """

    put: int = 0
    get: int = 0
    head: int = 0
    list: int = 0
    delete_requests: int = 0
    deleted_objects: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    errors: int = 0


class RequestCounter:
    """What was asked of one store so far."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(RequestCounts.__struct_fields__, 0)
        self._put_seconds: deque[float] = deque(maxlen=_PUTS_REMEMBERED_COUNT)

    @property
    def counts(self) -> RequestCounts:
        """What was counted so far."""
        return RequestCounts(**self._counts)

    def upload_p95_s(self) -> float:
        """Return how long all but the slowest 5 % of the last 256 successful puts took at most; 0 before the first."""
        ordered = sorted(self._put_seconds)
        # The nearest rank: 95 % of the count, rounded up; in whole numbers, since a float may round to the next rank.
        return ordered[(len(ordered) * 95 + 99) // 100 - 1] if ordered else 0.0

    def request(self, verb: Verb) -> None:
        """Count a request: the one that every call makes, or one that a store makes beyond it."""
        self._counts[_FIELDS[verb]] += 1

    def failed(self) -> None:
        """Count a call that failed, or a request within one that was made again."""
        self._counts["errors"] += 1

    def uploaded(self, size_bytes: int, seconds: float) -> None:
        """Count what a successful put moved, and its time."""
        self._counts["bytes_up"] += size_bytes
        self._put_seconds.append(seconds)

    def downloaded(self, size_bytes: int) -> None:
        """Count what a successful get moved."""
        self._counts["bytes_down"] += size_bytes

    def deleted(self, object_count: int) -> None:
        """Count the objects of a successful delete."""
        self._counts["deleted_objects"] += object_count


class ObservedStore:
    """A store that counts its calls; `counter` is shared with the store inside where that makes further requests."""

    def __init__(self, store: Store, clock: Clock = _SYSTEM_CLOCK, counter: RequestCounter | None = None) -> None:
        self.counter = counter or RequestCounter()
        self._store = store
        self._clock = clock

    @property
    def counts(self) -> RequestCounts:
        """What was counted so far."""
        return self.counter.counts

    def upload_p95_s(self) -> float:
        """Return how long all but the slowest 5 % of the last 256 successful puts took at most; 0 before the first."""
        return self.counter.upload_p95_s()

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`."""
        size_bytes = source_bytes(source)
        began_s = self._clock.monotonic_s()
        with self._counting("put"):
            await self._store.put(key, source, if_absent=if_absent)
        self.counter.uploaded(size_bytes, self._clock.monotonic_s() - began_s)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`."""
        with self._counting("get"):
            data = await self._store.get(key, start=start, length=length)
        self.counter.downloaded(len(data))
        return data

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object."""
        with self._counting("head"):
            return await self._store.head(key)

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`."""
        self.counter.request("list")
        try:
            async for info in self._store.list(prefix, start_after=start_after, limit=limit):
                yield info
        except StoreError:
            self.counter.failed()
            raise

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        if not keys:
            await self._store.delete(keys)
            return
        with self._counting("delete"):
            await self._store.delete(keys)
        self.counter.deleted(len(keys))

    async def aclose(self) -> None:
        """Close the store; the counts stay."""
        await self._store.aclose()

    @contextmanager
    def _counting(self, verb: Verb) -> Iterator[None]:
        self.counter.request(verb)
        try:
            yield
        except (ObjectNotFound, PreconditionFailed):
            raise
        except StoreError:
            self.counter.failed()
            raise
