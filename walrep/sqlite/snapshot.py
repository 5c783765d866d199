"""A snapshot of a live database while its transactions are captured: no long transaction, and no lock.

The hash array says what every page of S(n) is (`walrep.core.pages`), and each page that is written here is compared
with it: so nothing has to be known of who writes the file meanwhile.

1. Between two ticks, with everything captured, the pages are listed that the snapshot still lacks: all, or those in
   which the database differs from an earlier full snapshot.
2. They are read from the file, in slices, while the app writes, checkpoints and restarts the WAL. A page that is not
   what the array said when the copy began is left out.
3. Between two ticks pages that are lacking by then are read from the log and the file as they are at the captured
   position, few at a time, because the sweeps of all databases wait meanwhile. When one round reads all that is
   lacking, the snapshot is valid at exactly that position. A segment has to end there, and the snapshot names it.

A page in which the database differs from the full snapshot is compressed against that one's page, where the host has
kept that object and the page is proved (`walrep.disk.kept`, INV-34). The full one's pages are read in step 2. Those of
pages that are left out there wait for step 3, up to a limit; what has none is plain, and so is what is written again.

Where this does not get on for a while, because the app writes too fast or because a page of the file is not what was
captured, it is given up: a snapshot is not worth more than that.

    INV-27  Every page of a snapshot has the hash that the hash array has for it at the snapshot's position, and none is
            missing: a snapshot cannot differ from what the transactions before it make.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path

import numpy as np
import numpy.typing as npt

from walrep.core.objects import SnapshotFooter, SnapshotHeader
from walrep.core.pages import PageHashes, page_hash
from walrep.core.snapshot import (
    delta_block_pages,
    encode_snapshot_end,
    encode_snapshot_pages,
    encode_snapshot_start,
    snapshot_block_pages,
)
from walrep.core.units import Seq, Txid, lock_byte_page
from walrep.disk.atomic import map_os_errors
from walrep.disk.kept import KeptFull
from walrep.disk.room import DiskRoom
from walrep.errors import DatabaseBusy, SnapshotFailed, SpoolFull, check
from walrep.sqlite.reader import LogReader

__all__ = ["HashArray", "SnapshotCopy", "differing_pages"]

_OVERLAY_PAGES = 512
_OVERLAY_BYTES = 2 << 20
_SLICE_BYTES = 1 << 20
_HELD_BYTES = 8 << 20
"""Pages of the full one that wait for theirs: more than the log has, which is short (`walrep.core.checkpoint`)."""
_PATIENCE_S = 30.0
_RESERVE_SHARE = 2.0
"""A snapshot leaves twice the reserve: the journal, without which protection ends, may use the disk up to once."""

HashArray = npt.NDArray[np.uint64]
"""The hashes of a database's pages, from slot 0, which is unused; a copy that nobody changes."""


class SnapshotCopy:
    """Writes a snapshot to a local file. `begin` and `overlay` run on the capture thread, the rest on any.

    One call at a time. `full` are the hashes of the full snapshot under a differential one, `kept` is its object.
    """

    def __init__(
        self,
        reader: LogReader,
        path: Path,
        header: SnapshotHeader,
        room: DiskRoom,
        full: HashArray | None = None,
        kept: KeptFull | None = None,
    ) -> None:
        check(kept is None or header.full is not None, "only what leans on a full one has its pages for reference")
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
        self._kept = kept
        self._references: dict[int, bytes] = {}
        """What the full one has of pages that no block has yet."""
        self._overlay_pages = min(_OVERLAY_PAGES, _OVERLAY_BYTES // header.page_size)
        self._written = np.zeros(1, np.uint64) if full is None else full.copy()
        self._expected = np.zeros(0, np.uint64)
        self._todo: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._done = 0
        self._read: list[tuple[int, bytes]] = []
        self._fewest = inf
        self._got_on_s = reader.clock.monotonic_s()
        self._blocks = 0
        self._pages = 0
        self._offset = 0
        with map_os_errors(f"create {path}"):
            self._file = path.open("wb")
        try:
            self._write(encode_snapshot_start(header))
        except BaseException:
            self.abandon()
            raise

    def begin(self) -> bool:
        """List what the snapshot lacks; False if not everything committed could be captured yet.

        Raises:
            SnapshotFailed: it could not for a while.

        """
        if not self._is_captured():
            self._require_progress("the app commits faster than it is captured")
            return False
        self._todo, self._expected = self._lacking()
        return True

    def copy_slice(self) -> bool:
        """Copy the next pages from the file; False when there was none left."""
        slice_pages = max(1, _SLICE_BYTES // self.header.page_size)
        part = slice(self._done, self._done + slice_pages)
        self._done += slice_pages
        expected = self._expected[part].tolist()
        good: list[tuple[int, memoryview]] = []
        for index, pgno, page in self._file_pages(self._todo[part]):
            if page_hash(page, pgno) == expected[index]:
                good.append((pgno, page))
                self._written[pgno] = expected[index]
                self._refer(pgno)
            elif len(self._references) * self.header.page_size < _HELD_BYTES:
                self._refer(pgno)
        self._write_pages(good)
        return self._done < len(self._todo)

    def overlay(self) -> bool:
        """Read what is lacking as it is now; True when that was all, and the snapshot is valid at this very position.

        What was read is written by `write_overlay`, or by `finish`.

        Raises:
            SnapshotFailed: it did not get on for a while.
            CaptureBroken: what was captured lacks a page (INV-28).

        """
        self.is_held_up = not self._is_captured()
        if self.is_held_up:
            self._require_progress("the app commits faster than it is captured")
            return False
        pgnos, hashes = self._lacking()
        if len(pgnos) < self._fewest:
            self._fewest, self._got_on_s = len(pgnos), self._reader.clock.monotonic_s()
        wrong = self._read_settled(pgnos[: self._overlay_pages].tolist(), hashes[: self._overlay_pages].tolist())
        if wrong:
            # It may not yet be what it must be where the app has just begun the log anew.
            self.is_held_up = True
            self._require_progress(f"page {wrong[0]} of the database file is not what was captured")
            return False
        if len(pgnos) > self._overlay_pages:
            self._require_progress("the app changes pages faster than they are copied")
            return False
        encoder = self._reader.encoder
        missing = encoder.hashes.missing_page(lock_byte_page(self.header.page_size))
        if missing is not None:
            raise self._reader.files.missing_page(missing)
        self.txid, self.checksum = Txid(encoder.txid), encoder.hashes.checksum
        self.page_count, self.seen_ms = encoder.hashes.page_count, self._reader.looked_ms
        return True

    def write_overlay(self) -> None:
        """Write what the overlay read."""
        read, self._read = self._read, []
        self._write_pages(read)

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
        self.write_overlay()
        footer = SnapshotFooter(
            txid=self.txid,
            seq=seq,
            seen_ms=self.seen_ms,
            checksum=self.checksum,
            page_count=self.page_count,
            block_count=self._blocks,
            stored_pages=self._pages,
        )
        self._write(encode_snapshot_end(footer, self._offset))
        self.sync()
        self._file.close()

    def abandon(self) -> None:
        """Remove the file, unless it is finished and was put elsewhere."""
        # Closing writes what is buffered, for which a full disk has no room.
        with suppress(OSError):
            self._file.close()
        with map_os_errors(f"remove {self.path}"):
            self.path.unlink(missing_ok=True)

    def _is_captured(self) -> bool:
        reader = self._reader
        check(reader.sink is not None, "a snapshot is of what is encoded")
        try:
            _, complete = reader.read(reader.clock.now_ms())
        except DatabaseBusy:
            # A writer is stopped while it publishes a commit; the sweeps know what to do about that.
            return False
        return complete and reader.is_guarded

    def _lacking(self) -> tuple[npt.NDArray[np.intp], HashArray]:
        """Return the pages that the snapshot lacks at the captured position, and their hashes."""
        hashes = self._reader.encoder.hashes
        self._written = _resized(self._written, hashes.page_count + 1)
        return hashes.differing(self._written)

    def _require_progress(self, reason: str) -> None:
        if self._reader.clock.monotonic_s() - self._got_on_s > _PATIENCE_S:
            raise SnapshotFailed(
                reason,
                detail=str(self._reader.files.path),
                hint="every transaction is stored all the same, and restores do not read this file; where it says that "
                "a page is not what was captured, something other than SQLite wrote the file, or the disk is failing",
            )

    def _file_pages(self, pgnos: npt.NDArray[np.intp]) -> Iterator[tuple[int, int, memoryview]]:
        """Yield index and page of each that the file has, with one read for each run of them."""
        page_size, start = self.header.page_size, 0
        for run in np.split(pgnos, np.flatnonzero(np.diff(pgnos) != 1) + 1):
            if not len(run):
                continue
            first = int(run[0])
            with map_os_errors("read the database for a snapshot"):
                data = self._reader.files.file_pages(first, len(run))
            view = memoryview(data)
            for index in range(len(data) // page_size):
                yield start + index, first + index, view[index * page_size : (index + 1) * page_size]
            start += len(run)

    def _read_settled(self, pgnos: Sequence[int], hashes: Sequence[int]) -> list[int]:
        """Read pages as they are at the captured position; return those that are not found like that."""
        wrong: list[int] = []
        with map_os_errors("read the database for a snapshot"):
            for pgno, expected in zip(pgnos, hashes, strict=True):
                page = self._settled(pgno, expected)
                if page is None:
                    wrong.append(pgno)
                else:
                    self._read.append((pgno, page))
                    self._written[pgno] = expected
        return wrong

    def _settled(self, pgno: int, expected: int) -> bytes | None:
        """Return a page as it is at the captured position, from the log if that has it (INV-07); None: not found."""
        files, frame = self._reader.files, self._reader.encoder.frame_of.get(pgno)
        if frame is not None:
            page = files.frame_page(frame)
            if page_hash(page, pgno) == expected:
                return page
            # The app has begun the log anew, and so everything that was captured is in the file (INV-14).
        page = files.file_page(pgno)
        return page if page_hash(page, pgno) == expected else None

    def _refer(self, pgno: int) -> None:
        """Hold what the full snapshot has of a page until that is written for the first time."""
        reference = self._kept.page(pgno) if self._kept else None
        if reference is not None:
            self._references[pgno] = reference

    def _write_pages(self, pages: Sequence[tuple[int, bytes | memoryview]]) -> None:
        """Write pages that have been compared with the hash array; against the full one's where that is held."""
        plain, delta = [], []
        for pgno, page in pages:
            # INV-34: from now on a reader may find this one in the place of the full one's.
            reference = self._references.pop(pgno, None)
            if reference is None:
                plain.append((pgno, page))
            else:
                delta.append((pgno, page, reference))
        step = delta_block_pages(self.header.page_size)
        for start in range(0, len(delta), step):
            self._write_block(*zip(*delta[start : start + step], strict=True))
        step = snapshot_block_pages(self.header.page_size)
        for start in range(0, len(plain), step):
            self._write_block(*zip(*plain[start : start + step], strict=True))

    def _write_block(
        self, pgnos: Sequence[int], pages: Sequence[bytes | memoryview], references: Sequence[bytes] = ()
    ) -> None:
        self._write(encode_snapshot_pages(pgnos, pages, references))
        self._blocks += 1
        self._pages += len(pgnos)

    def _write(self, data: bytes) -> None:
        if not self._room.allows(len(data), reserve_share=_RESERVE_SHARE):
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
    pgnos, _hashes = hashes.differing(_resized(full, hashes.page_count + 1))
    return len(pgnos)


def _resized(array: HashArray, length: int) -> HashArray:
    """Return an array of this length: cut, or with absent pages at its end; the same one if it has it already."""
    if len(array) == length:
        return array
    found = np.zeros(length, np.uint64)
    found[: min(length, len(array))] = array[:length]
    return found
