"""Ranges of objects, and those that were read kept for a while: in memory, then in a temporary file."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from threading import Lock
from typing import BinaryIO

import msgspec

__all__ = ["Part", "PartCache"]

_MEMORY_BYTES_MAX = 32 << 20
_DISK_BYTES_MAX = 1 << 30


class Part(msgspec.Struct, frozen=True):
    """A range of an object; `final`: the object ends with it."""

    key: str
    start: int
    length: int
    final: bool


_Range = tuple[str, int, int]
"""The key of an object, where a part of it begins, and its length."""


class PartCache:
    """Parts that were read, in memory, then in an unnamed temporary file. What has no room is not kept.

    Several threads may use it at once, also while it is closed.
    """

    def __init__(self, memory_bytes_max: int = _MEMORY_BYTES_MAX, disk_bytes_max: int = _DISK_BYTES_MAX) -> None:
        # Held while the file is used, too: a descriptor that was closed meanwhile could be another file's.
        self._lock = Lock()
        self._memory: dict[_Range, bytes] = {}
        self._memory_room = memory_bytes_max
        self._offsets: dict[_Range, int] = {}
        self._disk_bytes = 0
        self._disk_room = disk_bytes_max
        self._file: BinaryIO | None = None

    def put(self, key: str, start: int, data: bytes) -> None:
        """Keep a part, unless it is kept already, there is no room, or the disk does not take it."""
        part = (key, start, len(data))
        with self._lock:
            if part in self._memory or part in self._offsets:
                return
            if len(data) <= self._memory_room:
                self._memory[part] = data
                self._memory_room -= len(data)
            elif len(data) <= self._disk_room:
                with suppress(OSError):
                    self._append(part, data)

    def get(self, key: str, start: int, length: int) -> bytes | None:
        """Return a part; None unless exactly this one was kept."""
        part = (key, start, length)
        with self._lock:
            if part in self._memory:
                return self._memory[part]
            if self._file is None or part not in self._offsets:
                return None
            with suppress(OSError):
                data = os.pread(self._file.fileno(), length, self._offsets[part])
                return data if len(data) == length else None
            return None

    def close(self) -> None:
        """Release memory and file; nothing is kept any more."""
        with self._lock:
            self._memory.clear()
            self._offsets.clear()
            self._memory_room = self._disk_room = 0
            if self._file is not None:
                self._file.close()
                self._file = None

    def _append(self, part: _Range, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `close` closes it
        if os.pwrite(self._file.fileno(), data, self._disk_bytes) == len(data):
            self._offsets[part] = self._disk_bytes
            self._disk_bytes += len(data)
            self._disk_room -= len(data)
