"""The three files of a live database, held open: pages, frames and the wal-index, by pread.

The descriptors are opened after the connections have taken their first locks, and closed only after both connections
are closed (INV-03). Reading here takes no lock and changes nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from walrep.core.state import CaptureMark, CleanEnd
from walrep.core.units import PAGE_SIZES
from walrep.core.wal import (
    WAL_HEADER_BYTES,
    WAL_INDEX_BYTES,
    WalHeader,
    WalIndex,
    frame_offset,
    parse_page_size,
    parse_wal_header,
    parse_wal_index,
    wal_index_page_slots,
)
from walrep.core.walsum import FRAME_HEADER_BYTES, frame_headers, valid_frame_count
from walrep.errors import CaptureBroken, DatabaseBusy, DatabaseInUse, NotADatabase

__all__ = ["CHECKPOINT_LOCK", "WRITE_LOCK", "WalFiles", "read_fully"]

WRITE_LOCK = 120
CHECKPOINT_LOCK = 121
"""Bytes of the -shm file that SQLite locks; https://sqlite.org/walformat.html#wal_locks."""

_READ_LOCK_0 = 123
_READ_MARK_LOCKS = (127, 126, 125, 124)
"""READ-LOCK 4 to 1; the higher ones are the least used."""

_FLOCK = struct.Struct("hhqqi4x")
_QUESTIONS = {byte: _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0) for byte in range(WRITE_LOCK, 128)}
_DATABASE_HEADER_BYTES = 100


def read_fully(descriptor: int, count: int, offset: int, pread: Callable[[int, int, int], bytes] = os.pread) -> bytes:
    """Return `count` bytes of a file, fewer only where it ends.

    A read that returns less than was asked for is no end: the kernel does so when a later sector cannot be read, and
    the next read then fails.
    """
    data = pread(descriptor, count, offset)
    while 0 < len(data) < count and (more := pread(descriptor, count - len(data), offset + len(data))):
        data += more
    return data


class WalFiles:
    """Read access to a database file, its -wal and its -shm.

    `path` is the name that the database was given, perhaps a link, and `file` what it led to when it was opened. SQLite
    follows links, too, and names the -wal and the -shm after the file.
    """

    def __init__(self, path: Path, file: Path) -> None:
        self.path = path
        self._path = str(path)
        self.file = file
        self._wal_path = f"{file}-wal"
        self._fds: list[int] = []
        try:
            self.shm_fd = self._open(f"{file}-shm")
            self.wal_fd = self._open(self._wal_path)
            self.db_fd = self._open(str(file))
            self._claim()
            opened = os.fstat(self.db_fd)
            self.device, self.inode = opened.st_dev, opened.st_ino
            self.wal_inode = os.fstat(self.wal_fd).st_ino
            self.page_size = self._find_page_size()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptors; both connections must be closed before. INV-03."""
        while self._fds:
            os.close(self._fds.pop())

    def raw_index(self) -> bytes:
        """Return the first 136 bytes of the wal-index; equal bytes mean that nothing happened."""
        return os.pread(self.shm_fd, WAL_INDEX_BYTES, 0)

    def index(self) -> WalIndex:
        """Return one consistent reading of the wal-index header.

        Raises:
            DatabaseBusy: it stays unreadable: a writer was stopped while it published, or something else wrote there.

        """
        for _ in range(10_000):
            index = parse_wal_index(self.raw_index())
            if index is not None:
                return index
        raise DatabaseBusy(
            "the wal-index stays unreadable",
            detail=f"{self.file}-shm",
            hint="a process of the app was stopped while it committed, or a program wrote over the file",
        )

    def wal_header(self) -> WalHeader | None:
        """Return the header of the current generation, None if there is none."""
        return parse_wal_header(os.pread(self.wal_fd, WAL_HEADER_BYTES, 0))

    def frames(self, first: int, count: int) -> bytes:
        """Return `count` whole frames from number `first`, fewer where the file ends."""
        return os.pread(self.wal_fd, count * (self.page_size + FRAME_HEADER_BYTES), frame_offset(first, self.page_size))

    def frame_page(self, frame: int) -> bytes:
        """Return the page in a frame."""
        return os.pread(self.wal_fd, self.page_size, frame_offset(frame, self.page_size) + FRAME_HEADER_BYTES)

    def frame_checksum(self, frame: int) -> tuple[int, int]:
        """Return the checksum that is stored in a frame's header; zeros beyond the end of the file."""
        header = os.pread(self.wal_fd, FRAME_HEADER_BYTES, frame_offset(frame, self.page_size))
        return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")

    def file_page(self, pgno: int) -> bytes:
        """Return a page of the database file; less where the file ends before its end."""
        return os.pread(self.db_fd, self.page_size, (pgno - 1) * self.page_size)

    def file_pages(self, first_pgno: int, count: int) -> bytes:
        """Return `count` whole pages of the database file from page `first_pgno`, fewer where the file ends. INV-28."""
        data = read_fully(self.db_fd, count * self.page_size, (first_pgno - 1) * self.page_size)
        return data[: len(data) - len(data) % self.page_size]

    def missing_page(self, pgno: int) -> CaptureBroken:
        """Return the error that a page of the database stands nowhere. INV-28."""
        return CaptureBroken(
            f"page {pgno} of the database is neither in the file nor in the log",
            detail=str(self.path),
            hint="the file was cut behind SQLite's back, or the disk is failing; run `pragma integrity_check`",
        )

    def index_pgnos(self, first: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        """Return the page numbers that the wal-index has for `count` frames from number `first`."""
        parts = [
            np.frombuffer(os.pread(self.shm_fd, 4 * slots, offset), "=u4")
            for offset, slots in wal_index_page_slots(first, count)
        ]
        return np.concatenate(parts).astype(np.uint32)

    def page_count(self, index: WalIndex) -> int:
        """Return the size of the database in pages, as SQLite computes it for a reader of this index."""
        if index.max_frame and index.page_count:
            return index.page_count
        header = os.pread(self.db_fd, _DATABASE_HEADER_BYTES, 0)
        if len(header) == _DATABASE_HEADER_BYTES and header[24:28] == header[92:96]:
            declared = int.from_bytes(header[28:32], "big")
            if declared:
                return declared
        return os.fstat(self.db_fd).st_size // self.page_size

    def sync_database(self) -> None:
        """Have the disk take what checkpoints wrote to the database file.

        SQLite syncs it only in a checkpoint that copies the whole log; what partial ones wrote waits until then.
        """
        os.fdatasync(self.db_fd)

    def lock_holder(self, byte: int) -> int | None:
        """Return the process that holds a lock byte of the -shm; None if nobody does. Only asks, takes nothing."""
        answer = fcntl.fcntl(self.shm_fd, fcntl.F_OFD_GETLK, _QUESTIONS[byte])
        kind, _whence, _start, _length, pid = _FLOCK.unpack(answer)
        return None if kind == fcntl.F_UNLCK else pid

    def checkpoint_holders(self) -> tuple[int | None, int | None]:
        """Return the processes that hold the checkpoint and the write lock; the second only where the first is held."""
        checkpointer = self.lock_holder(CHECKPOINT_LOCK)
        return checkpointer, None if checkpointer is None else self.lock_holder(WRITE_LOCK)

    def is_on_read_lock_0(self) -> bool:
        """Say whether a connection of this process is known to hold READ-LOCK 0."""
        return self.lock_holder(_READ_LOCK_0) == os.getpid()

    def lock_read_mark(self, attempt: int) -> int | None:
        """Lock a read mark, one that nobody is on if there is one, and return its byte; None if none can be had.

        Shared, and of the open file, which SQLite's own locks of this process neither see as theirs nor release. Each
        `attempt` begins with another one.
        """
        first = attempt % len(_READ_MARK_LOCKS)
        ordered = _READ_MARK_LOCKS[first:] + _READ_MARK_LOCKS[:first]
        for byte in sorted(ordered, key=lambda each: self.lock_holder(each) is not None):
            with suppress(BlockingIOError):
                self._set_lock(byte, fcntl.F_RDLCK)
                return byte
        return None

    def unlock_read_mark(self, byte: int) -> None:
        """Release what `lock_read_mark` returned."""
        self._set_lock(byte, fcntl.F_UNLCK)

    def replaced(self) -> str | None:
        """Say how the path no longer leads to the files that are held; None while it does."""
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return "the database file was removed"
        if (now.st_dev, now.st_ino) != (self.device, self.inode):
            return "the path names another file"
        try:
            if os.stat(self._wal_path).st_ino != self.wal_inode:
                return "the -wal file was replaced"
        except FileNotFoundError:
            return "the -wal file was removed"
        return None

    def file_state(self) -> CleanEnd:
        """Return what identifies the content of the database file without reading all of it."""
        stat = os.fstat(self.db_fd)
        header = os.pread(self.db_fd, _DATABASE_HEADER_BYTES, 0)
        return CleanEnd(stat.st_size, stat.st_mtime_ns, xxh3_64_intdigest(header), stat.st_ctime_ns)

    def frame_evidence(self, mark: CaptureMark) -> tuple[tuple[int, int] | None, bool]:
        """Return the checksum of frame `mark.frame` if it has the mark's salts, and whether the next may continue it.

        Both byte orders of checksums are tried for the next frame: the header that told it may be gone.
        """
        if mark.frame == 0:
            return None, False
        stride = self.page_size + FRAME_HEADER_BYTES
        both = self.frames(mark.frame, 2)
        headers = frame_headers(both, self.page_size)
        if len(headers) == 0 or (int(headers[0, 2]), int(headers[0, 3])) != mark.salts:
            return None, False
        checksum = int(headers[0, 4]), int(headers[0, 5])
        if len(headers) == 1:
            # Part of a frame: the file was cut to `journal_size_limit`, and where the generation ended is not known.
            return checksum, len(both) > stride
        if (int(headers[1, 2]), int(headers[1, 3])) == (0, 0):
            # SQLite before 3.50.2 commits such frames after some ROLLBACK TO.
            return checksum, True
        continues = any(
            valid_frame_count(
                both[stride:],
                headers[1:],
                page_size=self.page_size,
                salts=mark.salts,
                before=checksum,
                big_endian=big_endian,
            )
            for big_endian in (False, True)
        )
        return checksum, continues

    def _open(self, path: str) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(fd)
        return fd

    def _set_lock(self, byte: int, kind: int) -> None:
        fcntl.fcntl(self.shm_fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))

    def _claim(self) -> None:
        """Make sure that this is the only walrep on the database.

        A BSD lock on the descriptor that is held anyway: SQLite's locks are POSIX locks, which it does not meet.
        """
        try:
            fcntl.flock(self.db_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatabaseInUse(
                "another walrep protects this database",
                detail=str(self.path),
                hint="stop it first, or `walrep detach` the database",
            ) from error

    def _find_page_size(self) -> int:
        page_size = self.index().page_size
        if page_size not in PAGE_SIZES:
            page_size = parse_page_size(os.pread(self.db_fd, _DATABASE_HEADER_BYTES, 0))
        if page_size not in PAGE_SIZES:
            raise NotADatabase("the database names no page size", detail=str(self.path))
        return page_size
