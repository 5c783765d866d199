"""The database file that a restore builds, before it has its name.

The snapshot's pages are written as they come. The pages of later transactions wait in a cache, where the newest version
of a page replaces the one before, and go to the file in runs when the cache is full and at the end. **Whether a page
exists is what the hash array says**, never what file or cache hold: after a shrink and a regrowth both may still have
the bytes of a page that is gone. What does not exist within the size is zeros in the end.

`write_blocks` may run in several threads at once, for blocks with no page in common; everything else in one. Whoever
uses the file in a thread does so within `using`: a restore that is cancelled closes the file while threads still run,
and a write after that must not hit another file with the same descriptor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from walrep.core.pages import PageHashes
from walrep.core.snapshot import SnapshotPages
from walrep.core.units import lock_byte_page
from walrep.errors import CorruptObject, RestoreError, SpoolFull

__all__ = ["CACHE_BYTES_MAX", "PageFile", "require_room"]

CACHE_BYTES_MAX = 64 << 20
"""Pages that wait for a newer version before they are written."""

_VECTOR_MAX = 1024
"""IOV_MAX: how many pages one call writes."""

_READ_BACK_BYTES = 1 << 20
_ROOM_MARGIN_BYTES = 16 << 20


def require_room(directory: Path, needed_bytes: int) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        SpoolFull: the file system of `directory` has less room than `needed_bytes` and a margin.

    """
    facts = os.statvfs(directory)
    free_bytes = facts.f_bavail * facts.f_frsize
    # Some network file systems tell nothing: then the write itself has to fail.
    if facts.f_blocks and free_bytes < needed_bytes + _ROOM_MARGIN_BYTES:
        raise SpoolFull(
            "not enough room for the restored database",
            detail=f"{directory} has {free_bytes} bytes free, the restore needs {needed_bytes} and a margin of "
            f"{_ROOM_MARGIN_BYTES}",
            hint="make room, or restore to another file system; "
            "a file that is replaced stays until the new one is complete",
        )


class PageFile:
    """A new file of pages, with the hash array of what it holds."""

    def __init__(self, path: Path, page_size: int, *, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self.path = path
        self.page_size = page_size
        self.hashes = PageHashes()
        self.cache: dict[int, bytes] = {}
        """Newest versions that are not written yet; may hold pages that are gone."""
        self._cache_pages_max = max(1, cache_bytes_max // page_size)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._idle = threading.Condition()
        self._user_count = 0
        self._closed = False

    @contextmanager
    def using(self) -> Iterator[None]:
        """Keep the file open for the duration.

        Raises:
            RestoreError: it is closed.

        """
        with self._idle:
            if self._closed:
                raise RestoreError("the restore was abandoned")
            self._user_count += 1
        try:
            yield
        finally:
            with self._idle:
                self._user_count -= 1
                self._idle.notify_all()

    def write_blocks(self, blocks: Sequence[SnapshotPages]) -> list[npt.NDArray[np.uint64]]:
        """Decompress the blocks of a snapshot and write their pages; return the page hashes of each.

        Raises:
            CorruptObject: a block does not decode, holds the lock-byte page, or one that leans on nothing.

        """
        return [self._write_block(block) for block in blocks]

    def note(self, blocks: Sequence[SnapshotPages], hashes: Sequence[npt.NDArray[np.uint64]]) -> None:
        """Record what `write_blocks` wrote; `hashes.rebuild()` afterwards makes the checksum right."""
        for block, values in zip(blocks, hashes, strict=True):
            self.hashes.set_many(np.array(block.pgnos, np.uint32), values)

    def page(self, pgno: int) -> bytes | None:
        """Return the newest content of a page; None if it does not exist."""
        slots = self.hashes.slots
        if pgno >= len(slots) or not slots[pgno]:
            return None
        content = self.cache.get(pgno)
        if content is None:
            content = os.pread(self._descriptor, self.page_size, (pgno - 1) * self.page_size)
        return content

    def spill_if_full(self) -> None:
        """Write the cached pages when there are too many of them."""
        if len(self.cache) > self._cache_pages_max:
            self.spill()

    def spill(self) -> None:
        """Write the cached pages, consecutive ones together, and empty the cache."""
        slots = self.hashes.slots
        pgnos = sorted(pgno for pgno in self.cache if slots[pgno])
        for first, stop in _runs(pgnos, _VECTOR_MAX):
            run = pgnos[first:stop]
            self._write_run([self.cache[pgno] for pgno in run], run[0])
        self.cache.clear()

    def finish(self) -> None:
        """Write what is left and give the file exactly the pages that the hash array tells."""
        self.spill()
        page_count = self.hashes.page_count
        self.hashes.reserve(page_count)
        present = np.frombuffer(self.hashes.slots, np.uint64, count=page_count + 1)
        os.ftruncate(self._descriptor, page_count * self.page_size)
        for pgno in (np.flatnonzero(present[1:] == 0) + 1).tolist():
            self._write_run([bytes(self.page_size)], pgno)

    def read_back(self) -> int:
        """Return the database checksum of what the finished file holds, read again."""
        step = max(1, _READ_BACK_BYTES // self.page_size)
        page_count = self.hashes.page_count
        present = np.frombuffer(self.hashes.slots, np.uint64, count=page_count + 1) != 0
        checksum = 0
        for first in range(1, page_count + 1, step):
            content = memoryview(os.pread(self._descriptor, step * self.page_size, (first - 1) * self.page_size))
            stop = first + len(content) // self.page_size
            hashes = _hash_pages(content, range(first, stop), self.page_size)
            checksum ^= int(np.bitwise_xor.reduce(hashes[present[first:stop]]))
        return checksum

    def sync(self) -> None:
        """Make the content durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Wait for who is using the file, and close it; a second call does nothing."""
        with self._idle:
            if self._closed:
                return
            self._closed = True
            self._idle.wait_for(lambda: self._user_count == 0)
        os.close(self._descriptor)

    def discard(self) -> None:
        """Close and remove the file, if it still has this name; what led here is not hidden by what fails in it."""
        with suppress(OSError):
            self.close()
        with suppress(OSError):
            self.path.unlink()

    def _write_block(self, block: SnapshotPages) -> npt.NDArray[np.uint64]:
        if lock_byte_page(self.page_size) in block.pgnos:
            raise CorruptObject("the lock-byte page has content", offset=block.offset)
        references = self._references(block) if block.is_delta else ()
        content = memoryview(block.decode(self.page_size, references))
        hashes = _hash_pages(content, block.pgnos, self.page_size)
        for first, stop in _runs(block.pgnos, len(block.pgnos)):
            part = content[first * self.page_size : stop * self.page_size]
            self._write_run([part], block.pgnos[first])
        return hashes

    def _references(self, block: SnapshotPages) -> list[bytes]:
        """Return what the full snapshot has of these pages: it is all in the file by then, and proved. INV-34."""
        slots = self.hashes.slots
        for pgno in block.pgnos:
            if pgno >= len(slots) or not slots[pgno]:
                raise CorruptObject(f"the full snapshot has nothing of page {pgno} of a delta", offset=block.offset)
        return [os.pread(self._descriptor, self.page_size, (pgno - 1) * self.page_size) for pgno in block.pgnos]

    def _write_run(self, parts: Sequence[bytes | memoryview], pgno: int) -> None:
        offset = (pgno - 1) * self.page_size
        expected = sum(map(len, parts))
        written = os.pwritev(self._descriptor, parts, offset)
        # A disk that fills up takes a part; what is left is written whole or fails with its own error.
        while written < expected:
            rest = memoryview(b"".join(parts))[written:]
            written += os.pwrite(self._descriptor, rest, offset + written)


def _hash_pages(content: memoryview, pgnos: Sequence[int], page_size: int) -> npt.NDArray[np.uint64]:
    """Return the hash of each page; one call a page is all that Python does."""
    pages = [content[start : start + page_size] for start in range(0, len(content), page_size)]
    hashes = np.fromiter(map(xxh3_64_intdigest, pages, pgnos), np.uint64, count=len(pages))
    hashes[hashes == 0] = 1
    return hashes


def _runs(pgnos: Sequence[int], count_max: int) -> list[tuple[int, int]]:
    """Return index ranges of consecutive page numbers, each at most `count_max` long."""
    if not pgnos:
        return []
    breaks = [index for index, (before, after) in enumerate(pairwise(pgnos), 1) if after != before + 1]
    bounds = [0, *breaks, len(pgnos)]
    return [
        (start, min(start + count_max, end))
        for begin, end in pairwise(bounds)
        for start in range(begin, end, count_max)
    ]
