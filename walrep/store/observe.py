"""A wrapper that counts what a store is asked: requests are what stores charge for and what users wonder about.

Wrap the store itself, inside the retries, so that each attempt counts. It must not know why a request is made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from walrep.clock import Clock, SystemClock
from walrep.disk.atomic import map_os_errors
from walrep.errors import ObjectNotFound, PreconditionFailed, StoreError
from walrep.store.base import ObjectInfo, Store

__all__ = ["KEYS_PER_REQUEST", "ObservedStore", "RequestCounts"]

KEYS_PER_REQUEST = 1000
"""How many keys one LIST returns and one DELETE takes, as in S3."""

_PUTS_REMEMBERED_COUNT = 256
_SYSTEM_CLOCK = SystemClock()


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests by verb, whether they succeeded or not, and what they moved.

    `list` and `delete_requests` count a request for every 1,000 keys begun. `errors` leaves out the answers that an
    object does not exist, or exists already.
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


class ObservedStore:
    """A store that counts its requests."""

    def __init__(self, store: Store, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._store = store
        self._clock = clock
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

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`."""
        self._counts["put"] += 1
        size_bytes = _file_bytes(source) if isinstance(source, Path) else len(source)
        began_s = self._clock.monotonic_s()
        with self._counting_errors():
            await self._store.put(key, source, if_absent=if_absent)
        self._put_seconds.append(self._clock.monotonic_s() - began_s)
        self._counts["bytes_up"] += size_bytes

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`."""
        self._counts["get"] += 1
        with self._counting_errors():
            data = await self._store.get(key, start=start, length=length)
        self._counts["bytes_down"] += len(data)
        return data

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object."""
        self._counts["head"] += 1
        with self._counting_errors():
            return await self._store.head(key)

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`."""
        self._counts["list"] += 1
        listed_count = 0
        with self._counting_errors():
            async for info in self._store.list(prefix, start_after=start_after, limit=limit):
                if listed_count and listed_count % KEYS_PER_REQUEST == 0:
                    self._counts["list"] += 1
                listed_count += 1
                yield info

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        self._counts["delete_requests"] += -(-len(keys) // KEYS_PER_REQUEST)
        with self._counting_errors():
            await self._store.delete(keys)
        self._counts["deleted_objects"] += len(keys)

    async def aclose(self) -> None:
        """Close the store; the counts stay."""
        await self._store.aclose()

    @contextmanager
    def _counting_errors(self) -> Iterator[None]:
        try:
            yield
        except (ObjectNotFound, PreconditionFailed):
            raise
        except StoreError:
            self._counts["errors"] += 1
            raise


def _file_bytes(source: Path) -> int:
    with map_os_errors(f"read {source}"):
        return source.stat().st_size
