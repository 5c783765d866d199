"""The base of a timeline: a snapshot of a live database, with no long transaction and no lock.

1. Between two ticks, with everything captured, the pages of all frames of this generation are noted as dirty; from
   then on every captured page is added (INV-13).
2. The file is copied raw, in slices, while the app writes, checkpoints and restarts the WAL. What is dirty by then is
   left out. A page in the copy that becomes dirty may be old, new or torn; one that does not has no frame since frame 1
   of the generation in which the copy began, and a backfill writes only captured pages, so it is whole and final.
3. Between ticks, dirty pages are written as they are at the moment; captured pages become dirty anew. When few are
   left they are all written between two ticks, and the snapshot is valid at exactly that position: the timeline begins
   there, at transaction 0.

A differential base leaves out what a reader has by then: a page whose content is what the full snapshot under it has,
or what was written last for it. So a page that was copied too early, and is in the end what the full one has, is
written again. What is written for the first time goes against the full one's page, where the host has kept that object
and the page is proved (`walrep.disk.kept`, INV-34). The full one's pages are read in step 2; those of pages that are
left out there wait for step 3, up to a limit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
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
from walrep.errors import SpoolFull, check
from walrep.sqlite.failures import map_database_errors
from walrep.sqlite.reader import LogReader

__all__ = ["BaseCopy"]

_OVERLAY_PAGES = 512
_OVERLAY_ROUNDS_MAX = 200
_HELD_BYTES = 8 << 20
"""Pages of the full one that wait for theirs."""
_SLICE_BYTES = 1 << 20
"""The threads that copy keep some multiple of it as memory: measured 8 MiB more with slices of 4 MiB."""


class BaseCopy:
    """Writes the base of a timeline to a local file. `begin` and `overlay` run on the capture thread.

    `full` are the hashes of the full snapshot under a differential one, `kept` is its object.
    """

    def __init__(
        self,
        reader: LogReader,
        path: Path,
        header: SnapshotHeader,
        room: DiskRoom,
        full: npt.NDArray[np.uint64] | None = None,
        kept: KeptFull | None = None,
    ) -> None:
        check((full is None) == (header.full is None), "a differential base says on what it is made")
        check(kept is None or full is not None, "only what leans on a full one has its pages for reference")
        self.path = path
        self.header = header
        self.hashes = PageHashes()
        self.footer: SnapshotFooter | None = None
        self.is_held_up = False
        """Whether the last overlay could write nothing, and only the sweeps of the log can change that."""
        self.page_count = 0
        """How many pages the database had when the copy began."""
        self.written_pages = 0
        """How many were written so far, one that was written twice counted twice."""
        self._differing_pages = 0
        self._held = None if full is None else full.copy()
        """Of a differential base: what a reader has of each page by now, as a hash."""
        self._kept = kept
        self._references: dict[int, bytes] = {}
        """What the full one has of pages that no block has yet."""
        self._reader = reader
        self._room = room
        self._page_size = header.page_size
        self._block_pages = snapshot_block_pages(header.page_size)
        self._lock_page = lock_byte_page(header.page_size)
        self._next_pgno = 1
        self._rounds = 0
        self._blocks = 0
        self._offset = 0
        with map_os_errors(f"create {path}"):
            self._file = path.open("wb")
        try:
            self._write(encode_snapshot_start(header))
        except BaseException:
            self.abandon()
            raise

    @property
    def differing_pages(self) -> int:
        """How many pages of a differential base seem to differ from the full one, as far as the file was copied.

        Those that are dirty are taken to: they were written not long ago.
        """
        return self._differing_pages + len(self._reader.dirty or ())

    def begin(self) -> bool:
        """Note what is dirty when the copy begins; False if not everything committed could be captured yet."""
        reader = self._reader
        check(reader.sink is None, "a base is made before anything is encoded")
        index, complete = reader.read(reader.clock.now_ms())
        complete = complete and reader.is_guarded
        if complete:
            reader.dirty = set(reader.encoder.frame_of)
            self.page_count = reader.encoder.hashes.page_count or reader.files.page_count(index)
        return complete

    def copy_slice(self) -> bool:
        """Copy the next slice of the file; False when its end was reached. Runs on any thread."""
        page_size = self._page_size
        slice_pages = max(1, _SLICE_BYTES // page_size)
        with map_database_errors(self._reader.files.path):
            data = self._reader.files.file_pages(self._next_pgno, slice_pages)
        view = memoryview(data)
        count = len(data) // page_size
        for start in range(0, count, self._block_pages):
            stop = min(start + self._block_pages, count)
            first, dirty = self._next_pgno, self._reader.dirty or ()
            pgnos = []
            for pgno in range(first + start, first + stop):
                if pgno in dirty:
                    self._hold_reference(pgno)
                elif pgno != self._lock_page:
                    pgnos.append(pgno)
            pages = [view[(pgno - first) * page_size : (pgno - first + 1) * page_size] for pgno in pgnos]
            self._differing_pages += sum(pgno not in dirty for pgno in self._write_pages(pgnos, pages, self._kept))
        self._next_pgno += count
        return count == slice_pages

    def overlay(self, seq: Seq) -> bool:
        """Write dirty pages as they are now; True when none is left and the snapshot is valid at this very position.

        `seq` is the newest segment that the snapshot includes.
        """
        reader = self._reader
        dirty = reader.dirty
        check(dirty is not None, "the copy has begun")
        index, complete = reader.read(reader.clock.now_ms())
        self.is_held_up = not complete or not reader.is_guarded
        if dirty is None or self.is_held_up:
            return False
        self._rounds += 1
        page_count = reader.encoder.hashes.page_count or reader.files.page_count(index)
        last = len(dirty) <= _OVERLAY_PAGES or self._rounds > _OVERLAY_ROUNDS_MAX
        todo = sorted(dirty) if last else sorted(dirty)[:_OVERLAY_PAGES]
        dirty.difference_update(todo)
        todo = [pgno for pgno in todo if pgno <= page_count and pgno != self._lock_page]
        for start in range(0, len(todo), self._block_pages):
            pgnos = todo[start : start + self._block_pages]
            self._write_pages(pgnos, self._settled(pgnos))
        if not last:
            return False
        self._finish(seq, page_count)
        return True

    def sync(self) -> None:
        """Make durable what was copied so far, so that little is left to do at the end."""
        with map_os_errors(f"write {self.path}"):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make the file durable and close it."""
        self.sync()
        self._file.close()

    def abandon(self) -> None:
        """Remove the unfinished file."""
        self._reader.dirty = None
        # Closing writes what is buffered, for which a full disk has no room.
        with suppress(OSError):
            self._file.close()
        with map_os_errors(f"remove {self.path}"):
            self.path.unlink(missing_ok=True)

    def _settled(self, pgnos: Sequence[int]) -> list[bytes]:
        """Return pages as they are at the captured position, also while the app restarts the WAL under us.

        A restart is published in the wal-index before the first frame is overwritten. It proves that all that was
        captured is in the file, and READ-LOCK 0, on which our keeper then sits, keeps the file as it is (INV-14).
        """
        files, frame_of = self._reader.files, self._reader.encoder.frame_of
        pages = [
            files.frame_page(frame) if (frame := frame_of.get(pgno)) is not None else files.file_page(pgno)
            for pgno in pgnos
        ]
        if any(pgno in frame_of for pgno in pgnos) and files.index().salts != self._reader.salts:
            pages = [files.file_page(pgno) for pgno in pgnos]
        for pgno, page in zip(pgnos, pages, strict=True):
            if len(page) != self._page_size:
                raise files.missing_page(pgno)
        return pages

    def _finish(self, seq: Seq, page_count: int) -> None:
        reader = self._reader
        self.hashes.commit(page_count)
        self.hashes.rebuild()
        missing = self.hashes.missing_page(self._lock_page)
        if missing is not None:
            raise reader.files.missing_page(missing)
        reader.dirty = None
        reader.encoder.start(self.hashes, 0)
        self.footer = SnapshotFooter(
            txid=Txid(0),
            seq=seq,
            seen_ms=reader.looked_ms,
            checksum=self.hashes.checksum,
            page_count=page_count,
            block_count=self._blocks,
            stored_pages=self.written_pages,
        )
        self._write(encode_snapshot_end(self.footer, self._offset))

    def _write_pages(
        self, pgnos: Sequence[int], pages: Sequence[bytes | memoryview], kept: KeptFull | None = None
    ) -> list[int]:
        """Write what a reader does not have of these pages, and return which that is.

        Against the full one's pages, as long as none of these was written before: those that are held, or else those of
        `kept`, which is given only where that is so. INV-34
        """
        if not pgnos:
            return []
        self.hashes.reserve(pgnos[-1])
        hashes = [page_hash(page, pgno) for pgno, page in zip(pgnos, pages, strict=True)]
        for pgno, found in zip(pgnos, hashes, strict=True):
            self.hashes.set(pgno, found)
        lacking = self._lacking(pgnos, hashes)
        plain, delta = [], []
        for at in lacking:
            reference = self._references.pop(pgnos[at], None) or (kept.page(pgnos[at]) if kept else None)
            if reference is None:
                plain.append((pgnos[at], pages[at]))
            else:
                delta.append((pgnos[at], pages[at], reference))
        step = delta_block_pages(self._page_size)
        for start in range(0, len(delta), step):
            self._write_block(*zip(*delta[start : start + step], strict=True))
        if plain:
            self._write_block(*zip(*plain, strict=True))
        return [pgnos[at] for at in lacking]

    def _hold_reference(self, pgno: int) -> None:
        """Hold what the full snapshot has of a page that is left out now, and written later."""
        if self._kept is not None and len(self._references) * self._page_size < _HELD_BYTES:
            reference = self._kept.page(pgno)
            if reference is not None:
                self._references[pgno] = reference

    def _write_block(
        self, pgnos: Sequence[int], pages: Sequence[bytes | memoryview], references: Sequence[bytes] = ()
    ) -> None:
        self._write(encode_snapshot_pages(pgnos, pages, references))
        self._blocks += 1
        self.written_pages += len(pgnos)

    def _lacking(self, pgnos: Sequence[int], hashes: Sequence[int]) -> Sequence[int]:
        """Return which of these a reader does not have, and note that it will."""
        if self._held is None:
            return range(len(pgnos))
        if pgnos[-1] >= len(self._held):
            # What the full one does not have is absent there.
            missing = pgnos[-1] + 1 + len(self._held) // 8 - len(self._held)
            self._held = np.concatenate([self._held, np.zeros(missing, np.uint64)])
        now = np.array(hashes, np.uint64)
        lacking: list[int] = np.flatnonzero(self._held[pgnos] != now).tolist()
        self._held[pgnos] = now
        return lacking

    def _write(self, data: bytes) -> None:
        if not self._room.allows(len(data)):
            raise SpoolFull(
                "the disk is almost full",
                detail=str(self.path),
                hint="make room for a compressed copy of the database, or move the state with state-dir",
                room_bytes=self._offset + len(data) + _SLICE_BYTES,
            )
        with map_os_errors(f"write {self.path}"):
            self._file.write(data)
        self._offset += len(data)
