"""Sealed segments and snapshots on local disk: those that the store lacks, and durable ones that are kept a while.

    outbox/<seq>          a sealed segment that the store has not acknowledged
    outbox/<seq>.base     a base, which stands where segment <seq> ends that opened its timeline
    outbox/<seq>.snapshot another snapshot, which stands where segment <seq> ends
    cache/<seq>           a durable segment, kept so that packs need no download; evicted first, at no loss

Because nothing is lost with the cache, nothing that fails in it is an error.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from walrep.core.units import format_seq
from walrep.disk.atomic import fsync_directory, map_os_errors, remove_temporaries

__all__ = ["Outbox", "OutboxItem"]

_BASE, _SNAPSHOT = ".base", ".snapshot"


class OutboxItem(msgspec.Struct, frozen=True, order=True):
    """A file that waits for the store; a base goes after the segment that opened its timeline.

    `is_snapshot`: a base or another snapshot.
    """

    seq: int
    is_snapshot: bool
    path: Path
    size_bytes: int


class Outbox:
    """The two folders in a state directory, and how many bytes of segments wait."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "outbox"
        self.cache = directory / "cache"
        self.segment_bytes = 0
        """Bytes of the segments that were counted and not kept. Snapshots are as large as the database is."""
        for folder in (self.folder, self.cache):
            folder.mkdir(mode=0o700, exist_ok=True)
            remove_temporaries(folder, modified_before_ms=1 << 62)

    def segment_path(self, seq: int) -> Path:
        """Return where a sealed segment waits."""
        return self.folder / format_seq(seq)

    def base_path(self, seq: int) -> Path:
        """Return where the base waits that stands where this segment ends."""
        return self.folder / f"{format_seq(seq)}{_BASE}"

    def snapshot_path(self, seq: int) -> Path:
        """Return where another snapshot waits that stands where this segment ends."""
        return self.folder / f"{format_seq(seq)}{_SNAPSHOT}"

    def in_order(self) -> list[OutboxItem]:
        """Return the segments and the bases, in the order in which they must go; raises `SpoolError`."""
        return self._items("", _BASE)

    def snapshots(self) -> list[OutboxItem]:
        """Return the other snapshots, for which nothing has to wait; raises `SpoolError`."""
        return self._items(_SNAPSHOT)

    def count(self, seq: int, path: Path, *, is_snapshot: bool = False) -> OutboxItem:
        """Return the item of a file that was put here, and count its bytes; raises `SpoolError`."""
        with map_os_errors(f"read {path}"):
            item = OutboxItem(seq=seq, is_snapshot=is_snapshot, path=path, size_bytes=path.stat().st_size)
        if not is_snapshot:
            self.segment_bytes += item.size_bytes
        return item

    def keep(self, item: OutboxItem, *, cache_bytes_max: int) -> None:
        """Move what the store acknowledged to the cache, or remove it; raises `SpoolError` if it stays."""
        if item.is_snapshot or not self._moved_to_cache(item):
            with map_os_errors(f"remove {item.path}"):
                item.path.unlink(missing_ok=True)
        if not item.is_snapshot:
            self.segment_bytes -= item.size_bytes
            self.evict(cache_bytes_max)

    def evict(self, cache_bytes_max: int) -> None:
        """Remove the oldest of the cache beyond the limit."""
        cached = []
        with suppress(OSError):
            for path in sorted(self.cache.iterdir()):
                # What has become part of a pack is removed meanwhile.
                with suppress(FileNotFoundError):
                    cached.append((path, path.stat().st_size))
        total = sum(size_bytes for _path, size_bytes in cached)
        for path, size_bytes in cached:
            if total <= cache_bytes_max:
                break
            total -= size_bytes
            with suppress(OSError):
                path.unlink()

    def _items(self, *suffixes: str) -> list[OutboxItem]:
        with map_os_errors(f"read {self.folder}"):
            return sorted(
                OutboxItem(int(path.stem), path.suffix != "", path, path.stat().st_size)
                for path in self.folder.iterdir()
                if path.stem.isdigit() and path.suffix in suffixes
            )

    def _moved_to_cache(self, item: OutboxItem) -> bool:
        try:
            # Somebody who needs room may have removed the folder.
            self.cache.mkdir(mode=0o700, exist_ok=True)
            item.path.rename(self.cache / item.path.name)
            # A power cut must not bring it back when those before it, which are packed by then, are gone.
            fsync_directory(self.folder)
        except OSError:
            return False
        return True
