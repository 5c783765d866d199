"""Ranges of objects, and those that were read kept for a while: in memory, then in a temporary file."""

from __future__ import annotations

import tempfile

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


class PartCache:
    """Parts that were read, in memory, then in an unnamed temporary file. What has no room is not kept."""

    def __init__(self, memory_bytes_max: int = _MEMORY_BYTES_MAX, disk_bytes_max: int = _DISK_BYTES_MAX) -> None:
        self._memory: dict[tuple[str, int], bytes] = {}
        self._memory_room = memory_bytes_max
        self._places: dict[tuple[str, int], tuple[int, int]] = {}
        self._disk_bytes = 0
        self._disk_bytes_max = disk_bytes_max
        self._file = tempfile.TemporaryFile() if disk_bytes_max else None  # noqa: SIM115 - `close` closes it

    def put(self, key: str, start: int, data: bytes) -> None:
        """Keep a part if there is room."""
        if len(data) <= self._memory_room:
            self._memory[key, start] = data
            self._memory_room -= len(data)
        elif self._file is not None and self._disk_bytes + len(data) <= self._disk_bytes_max:
            self._file.seek(self._disk_bytes)
            self._file.write(data)
            self._places[key, start] = (self._disk_bytes, len(data))
            self._disk_bytes += len(data)

    def get(self, key: str, start: int, length: int) -> bytes | None:
        """Return a part; None unless exactly this one was kept."""
        data = self._memory.get((key, start))
        if data is None and self._file is not None and (key, start) in self._places:
            offset, size = self._places[key, start]
            self._file.seek(offset)
            data = self._file.read(size)
        return data if data is not None and len(data) == length else None

    def close(self) -> None:
        """Release memory and file."""
        self._memory.clear()
        self._places.clear()
        if self._file is not None:
            self._file.close()
