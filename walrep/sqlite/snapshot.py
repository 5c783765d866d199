"""A snapshot of a live database while its transactions are captured: no long transaction, and no lock.

The hash array says what every page of S(n) is (`walrep.core.pages`), and each page that is written here is compared
with it: so nothing has to be known of who writes the file meanwhile.

1. Between two ticks, with everything captured, the pages are listed that the snapshot still lacks: all, or those in
   which the database differs from an earlier full snapshot.
2. They are read from the file, in slices, while the app writes, checkpoints and restarts the WAL. A page that is not
   what the array said when the copy began is left out.
3. Between two ticks the pages that are lacking by then are read from the log and the file as they are at the captured
   position. When few are left they are all written between two ticks, and the snapshot is valid at exactly that
   position. A segment has to end there, and the snapshot names it.

    INV-27  Every page of a snapshot has the hash that the hash array has for it at the snapshot's position, and none is
            missing: a snapshot cannot differ from what the transactions before it make.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from walrep.core.objects import SnapshotFooter, SnapshotHeader
from walrep.core.pages import PageHashes, page_hash
from walrep.core.snapshot import (
    encode_snapshot_end,
    encode_snapshot_pages,
    encode_snapshot_start,
    snapshot_block_pages,
)
from walrep.core.units import Seq, Txid
from walrep.disk.atomic import map_os_errors
from walrep.disk.room import DiskRoom
from walrep.errors import SpoolFull, check
from walrep.sqlite.failures import map_database_errors
from walrep.sqlite.reader import LogReader

__all__ = ["HashArray", "SnapshotCopy", "differing_pages"]

_OVERLAY_PAGES = 512
_OVERLAY_ROUNDS_MAX = 200
_SLICE_BYTES = 1 << 20

HashArray = npt.NDArray[np.uint64]
"""The hashes of a database's pages, from slot 0, which is unused; a copy that nobody changes."""


class SnapshotCopy:
    """Writes a snapshot to a local file. `begin` and `overlay` run on the capture thread, the rest on any.

    `full` are the hashes of the full snapshot under a differential one.
    """

    def __init__(
        self, reader: LogReader, path: Path, header: SnapshotHeader, room: DiskRoom, full: HashArray | None = None
    ) -> None:
        self.path = path
        self.header = header
        self.txid = Txid(0)
        self.checksum = 0
        self.page_count = 0
        self.seen_ms = 0
        """With the three above: where it is valid, once it is complete."""
        self.is_held_up = False
        """Whether the last overlay could not go on, and only sweeps of the log or the app can change that."""
        self._reader = reader
        self._room = room
        self._block_pages = snapshot_block_pages(header.page_size)
        self._written = np.zeros(1, np.uint64) if full is None else full.copy()
        self._expected = np.zeros(1, np.uint64)
        self._todo: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._done = 0
        self._rounds = 0
        self._blocks = 0
        self._offset = 0
        with map_os_errors(f"create {path}"):
            self._file = path.open("wb")
        self._write(encode_snapshot_start(header))

    def begin(self) -> bool:
        """List what the snapshot lacks; False if not everything committed could be captured yet."""
        if not self._is_captured():
            return False
        hashes = self._reader.encoder.hashes
        self._expected = _array_of(hashes)
        self._written = _resized(self._written, len(self._expected))
        self._todo = np.flatnonzero(self._expected != self._written)
        return True

    def copy_slice(self) -> bool:
        """Copy the next pages from the file; False when there was none left."""
        slice_pages = max(1, _SLICE_BYTES // self.header.page_size)
        pgnos = self._todo[self._done : self._done + slice_pages]
        self._done += len(pgnos)
        good: list[tuple[int, bytes | memoryview]] = []
        for pgno, page in self._file_pages(pgnos):
            if page_hash(page, pgno) == int(self._expected[pgno]):
                good.append((pgno, page))
        self._write_pages(good)
        return self._done < len(self._todo)

    def overlay(self) -> bool:
        """Write what is lacking as it is now; True when nothing is, and the snapshot is valid at this very position."""
        self.is_held_up = not self._is_captured()
        if self.is_held_up:
            return False
        self._rounds += 1
        hashes = self._reader.encoder.hashes
        now = _array_of(hashes)
        self._written = _resized(self._written, len(now))
        lacking = np.flatnonzero(now != self._written)
        last = len(lacking) <= _OVERLAY_PAGES or self._rounds > _OVERLAY_ROUNDS_MAX
        todo: list[int] = (lacking if last else lacking[:_OVERLAY_PAGES]).tolist()
        for start in range(0, len(todo), self._block_pages):
            pgnos = todo[start : start + self._block_pages]
            found = zip(pgnos, self._settled(pgnos), strict=True)
            self._write_pages([(pgno, page) for pgno, page in found if page_hash(page, pgno) == int(now[pgno])])
        if not last or not np.array_equal(now, self._written):
            # A page is not yet what it must be where the app has just begun the log anew.
            self.is_held_up = last
            return False
        self.txid, self.checksum = Txid(self._reader.encoder.txid), hashes.checksum
        self.page_count, self.seen_ms = hashes.page_count, self._reader.looked_ms
        return True

    def hashes(self) -> bytes:
        """Return the hash array of the finished snapshot, as `PageHashes.to_bytes` does."""
        return self._written.tobytes()

    def sync(self) -> None:
        """Make durable what was copied so far, so that little is left to do at the end."""
        with map_os_errors(f"write {self.path}"):
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self, seq: Seq) -> None:
        """Write the end, make the file durable and close it; `seq` is the segment that ends where it is valid."""
        footer = SnapshotFooter(
            txid=self.txid,
            seq=seq,
            seen_ms=self.seen_ms,
            checksum=self.checksum,
            page_count=self.page_count,
            block_count=self._blocks,
        )
        self._write(encode_snapshot_end(footer, self._offset))
        self.sync()
        self._file.close()

    def abandon(self) -> None:
        """Remove the file, unless it is finished and was put elsewhere."""
        # To close it writes what is left in memory, for which a full disk has no room.
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _is_captured(self) -> bool:
        reader = self._reader
        check(reader.sink is not None, "a snapshot is of what is encoded")
        _, complete = reader.read(reader.clock.now_ms())
        return complete and reader.is_guarded

    def _file_pages(self, pgnos: npt.NDArray[np.intp]) -> Iterator[tuple[int, memoryview]]:
        """Yield pages of the file, with one read for each run of them; what is beyond its end is left out."""
        files, page_size = self._reader.files, self.header.page_size
        for run in np.split(pgnos, np.flatnonzero(np.diff(pgnos) != 1) + 1):
            if not len(run):
                continue
            first = int(run[0])
            with map_database_errors(files.path):
                data = os.pread(files.db_fd, len(run) * page_size, (first - 1) * page_size)
            view = memoryview(data)
            for index in range(len(data) // page_size):
                yield first + index, view[index * page_size : (index + 1) * page_size]

    def _settled(self, pgnos: Sequence[int]) -> list[bytes]:
        """Return pages as they are at the captured position, from the log where it has them (INV-07, INV-08)."""
        files, frame_of = self._reader.files, self._reader.encoder.frame_of
        pages = [
            files.frame_page(frame) if (frame := frame_of.get(pgno)) is not None else files.file_page(pgno)
            for pgno in pgnos
        ]
        if any(pgno in frame_of for pgno in pgnos) and files.index().salts != self._reader.salts:
            pages = [files.file_page(pgno) for pgno in pgnos]
        return pages

    def _write_pages(self, pages: Sequence[tuple[int, bytes | memoryview]]) -> None:
        """Write pages that have been compared with the hash array."""
        for start in range(0, len(pages), self._block_pages):
            block = pages[start : start + self._block_pages]
            pgnos = [pgno for pgno, _page in block]
            self._write(encode_snapshot_pages(pgnos, [page for _pgno, page in block]))
            self._blocks += 1
            for pgno, page in block:
                self._written[pgno] = page_hash(page, pgno)

    def _write(self, data: bytes) -> None:
        if not self._room.allows(len(data)):
            raise SpoolFull(
                "the disk is almost full",
                detail=str(self.path),
                hint="make room for a compressed copy of the database, or move the state with state-dir",
            )
        with map_os_errors(f"write {self.path}"):
            self._file.write(data)
        self._offset += len(data)


def differing_pages(hashes: PageHashes, full: HashArray) -> int:
    """Return in how many pages a database differs from a full snapshot of it."""
    now = _array_of(hashes)
    return int(np.count_nonzero(now != _resized(full, len(now))))


def _array_of(hashes: PageHashes) -> HashArray:
    return np.frombuffer(hashes.to_bytes(), np.uint64)


def _resized(array: HashArray, length: int) -> HashArray:
    """Return an array of this length: cut, or with absent pages at its end."""
    found = np.zeros(length, np.uint64)
    found[: min(length, len(array))] = array[:length]
    return found
