"""What a `put` takes: bytes, or a file of the spool. It must not know where they go."""

from __future__ import annotations

from pathlib import Path

from walrep.disk.atomic import map_os_errors

__all__ = ["source_bytes"]


def source_bytes(source: bytes | Path) -> int:
    """Return how large a source is.

    Raises:
        SpoolError: the file cannot be read.

    """
    if isinstance(source, bytes):
        return len(source)
    with map_os_errors(f"read {source}"):
        return source.stat().st_size
