"""A store in memory: the reference implementation, and the place that most tests use.

Several stores may share their objects, as several processes share a bucket. It must not know about files, but for
the one that a `put` reads from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from walrep.clock import Clock, SystemClock
from walrep.disk.atomic import map_os_errors
from walrep.errors import ObjectNotFound, PreconditionFailed, check
from walrep.store.base import ObjectInfo
from walrep.store.keys import check_key, check_prefix, check_range

__all__ = ["MemoryObject", "MemoryStore"]

_SYSTEM_CLOCK = SystemClock()


class MemoryObject(msgspec.Struct, frozen=True):
    """One object."""

    data: bytes
    modified_ms: int


class MemoryStore:
    """A dictionary with the contract of a store."""

    def __init__(self, objects: dict[str, MemoryObject] | None = None, clock: Clock = _SYSTEM_CLOCK) -> None:
        self.objects: dict[str, MemoryObject] = {} if objects is None else objects
        self._clock = clock
        self._is_closed = False

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`.

        Raises:
            PreconditionFailed: `if_absent`, and the key exists.
            SpoolError: the source file cannot be read.

        """
        self._check_open()
        check_key(key)
        data = _content(source) if isinstance(source, Path) else source
        if if_absent and key in self.objects:
            raise PreconditionFailed("the object exists already", detail=key)
        self.objects[key] = MemoryObject(data, self._clock.now_ms())

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`.

        Raises:
            ObjectNotFound: no object has the key.

        """
        check_range(start, length)
        return self._find(key).data[start : None if length is None else start + length]

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object.

        Raises:
            ObjectNotFound: no object has the key.

        """
        return _info(key, self._find(key))

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`, in the order of bytes.

        At most `limit` of them.
        """
        self._check_open()
        check_prefix(prefix)
        matching = [key for key in sorted(self.objects) if key.startswith(prefix) and key > start_after]
        for key in matching[:limit]:
            found = self.objects.get(key)
            if found is not None:
                yield _info(key, found)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects; one that does not exist is no error."""
        self._check_open()
        for key in keys:
            check_key(key)
            self.objects.pop(key, None)

    async def aclose(self) -> None:
        """End the use of this store; the objects stay for others that share them."""
        self._is_closed = True

    def _find(self, key: str) -> MemoryObject:
        self._check_open()
        check_key(key)
        found = self.objects.get(key)
        if found is None:
            raise ObjectNotFound("no such object", detail=key)
        return found

    def _check_open(self) -> None:
        check(not self._is_closed, "a store is used after it was closed")


def _content(source: Path) -> bytes:
    with map_os_errors(f"read {source}"):
        return source.read_bytes()


def _info(key: str, found: MemoryObject) -> ObjectInfo:
    return ObjectInfo(key=key, size_bytes=len(found.data), modified_ms=found.modified_ms)
