"""What walrep needs of an object store: six verbs. Everything else is a wrapper.

The contract, each sentence a test of `walrep.testing.contract`:

- Keys are `/`-separated names of letters, digits, `.`, `_`, `-`; no empty, `.` or `..` part; at most 512 characters.
- `put` is atomic: a reader sees the whole object or none, also when the writer is killed.
- `put` returns when the object is durable; a cancelled or failed `put` has an unknown outcome.
- `put` with `if_absent` raises `PreconditionFailed` when the key exists, and of many at once exactly one succeeds. Some
  stores ignore the condition and overwrite, or raise `NotSupported`: `walrep.engine.prove` finds out.
- `get` returns the bytes asked for; a range that goes past the end is cut, one that begins past the end is empty.
- `get` and `head` raise `ObjectNotFound` for a key that does not exist.
- `list` yields every key with the prefix that sorts after `start_after`, in the order of their bytes, and no more than
  `limit`, for which it asks the store for no more.
- `delete` of a key that does not exist is no error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

__all__ = ["ObjectInfo", "Store"]


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the store knows of one object."""

    key: str
    size_bytes: int
    modified_ms: int


class Store(Protocol):
    """One place for one replica; keys are relative to it."""

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`."""
        ...

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`."""
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object."""
        ...

    def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`, at most `limit`."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        ...

    async def aclose(self) -> None:
        """Release what the store holds; using it afterwards is an error."""
        ...
