"""What a `put` takes: bytes, or a file of the spool. It must not know where they go."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from walrep.disk.atomic import map_os_errors

__all__ = ["source_bytes", "source_slices"]


def source_bytes(source: bytes | Path) -> int:
    """Return how large a source is.

    Raises:
        SpoolError: the file cannot be read.

    """
    if isinstance(source, bytes):
        return len(source)
    with map_os_errors(f"read {source}"):
        return source.stat().st_size


def source_slices(source: bytes | Path, slice_bytes: int) -> Generator[bytes, None, None]:
    """Yield a source in slices of this size, the last one smaller; nothing of an empty one.

    Raises:
        SpoolError: the file cannot be read, which is trouble of the spool, not of the store.

    """
    if isinstance(source, bytes):
        for start in range(0, len(source), slice_bytes):
            yield source[start : start + slice_bytes]
        return
    with map_os_errors(f"read {source}"), source.open("rb", buffering=0) as file:
        while part := file.read(slice_bytes):
            yield part
