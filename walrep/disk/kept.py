"""The object of the last full snapshot, kept so that the pages of differential ones need not be whole.

    full.snapshot   the very object that the store has, of the snapshot whose hashes `full` has (`walrep.disk.full`)

It is moved here from the outbox when the store has acknowledged it, or comes from the store where that is read to learn
its hashes. It is lost at no loss: where it is not here, differential snapshots have plain pages. One that does not
belong to that snapshot, or is damaged, is removed. Nothing that fails here is an error.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from walrep.core.pages import page_hash
from walrep.core.snapshot import read_snapshot_block, scan_snapshot, snapshot_name
from walrep.core.snapshots import FullSnapshot
from walrep.core.units import Checksum
from walrep.disk.atomic import fsync_directory, publish, temporary_path
from walrep.disk.full import KEPT_NAME, FullHashes, drop_kept, load_full
from walrep.disk.peek import snapshot_ends
from walrep.disk.room import DiskRoom
from walrep.errors import CorruptObject, SpoolError

__all__ = ["IncomingFull", "KeptFull", "keep_full", "open_kept"]

_NOWHERE = 0xFFFF_FFFF
_RESERVE_SHARE = 2.0
"""As for a snapshot that is made: the journal, without which protection ends, comes first."""
_DECODED_MAX = 2
"""A copy goes through the pages in order, as the full one mostly does; one more for a page that was written twice."""


def keep_full(directory: Path, path: Path, *, bytes_max: int) -> bool:
    """Move a snapshot that the store has acknowledged here, in place of the one before, durably.

    False, and it is where it was, unless it is the full one that is remembered, and not too large.
    """
    try:
        found = _read_ends(path)
        if found.name.full is not None or not _is_remembered(found, load_full(directory)):
            return False
        if path.stat().st_size > bytes_max:
            drop_kept(directory)
            return False
        path.rename(directory / KEPT_NAME)
        fsync_directory(directory)
        # A power cut must not bring it back in the outbox, where it would be uploaded again.
        fsync_directory(path.parent)
    except (CorruptObject, OSError, SpoolError):
        return False
    return True


def open_kept(directory: Path, full: FullHashes, *, bytes_max: int) -> KeptFull | None:
    """Return the object of this full snapshot; None if there is none. One that is of no use is removed."""
    path = directory / KEPT_NAME
    try:
        if not path.exists():
            return None
        if path.stat().st_size <= bytes_max and _is_remembered(_read_ends(path), full):
            return KeptFull(directory, full)
    except (CorruptObject, OSError, SpoolError):
        pass
    drop_kept(directory)
    return None


class KeptFull:
    """Finds pages in the object, and proves each. One call at a time.

    In memory it has 4 bytes for each page and 8 for each block, and the two blocks that it decoded last, of at most
    1 MiB each. The file is open only while a block is read: who needs its room removes it at any time.
    """

    def __init__(self, directory: Path, full: FullHashes) -> None:
        self._directory = directory
        self._hashes = full.array()
        self._page_size = full.snapshot.page_size
        self._block_of: npt.NDArray[np.uint32] = np.full(len(self._hashes), _NOWHERE, np.uint32)
        self._decoded: dict[int, tuple[dict[int, int], bytes]] = {}
        self._is_gone = False
        with (directory / KEPT_NAME).open("rb") as file:
            self._inode = os.fstat(file.fileno()).st_ino
            self._offsets = self._scan(file)

    def page(self, pgno: int) -> bytes | None:
        """Return what the full snapshot has of a page; None if it has nothing, or that cannot be proved."""
        expected = int(self._hashes[pgno]) if pgno < len(self._hashes) else 0
        number = int(self._block_of[pgno]) if expected else _NOWHERE
        if number == _NOWHERE or self._is_gone:
            return None
        try:
            places, content = self._block(number)
        except FileNotFoundError:
            self._is_gone = True
            return None
        except (CorruptObject, OSError):
            self._remove()
            return None
        start = places.get(pgno, 0) * self._page_size
        page = content[start : start + self._page_size]
        # zstd decodes against a wrong reference, too, and nobody can restore what it makes then. INV-34
        if page_hash(page, pgno) != expected:
            self._remove()
            return None
        return page

    def _remove(self) -> None:
        """Remove the object: it is damaged, or not what its ends say."""
        self._is_gone = True
        drop_kept(self._directory)

    def _block(self, number: int) -> tuple[dict[int, int], bytes]:
        """Return the index of each page in a block, and their contents."""
        found = self._decoded.get(number)
        if found is None:
            with (self._directory / KEPT_NAME).open("rb") as file:
                if os.fstat(file.fileno()).st_ino != self._inode:
                    raise FileNotFoundError("another one is in its place")
                offset = int(self._offsets[number])
                file.seek(offset)
                block = read_snapshot_block(file.read, offset, self._page_size)
            found = {pgno: index for index, pgno in enumerate(block.pgnos)}, block.decode(self._page_size)
            if len(self._decoded) == _DECODED_MAX:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[number] = found
        return found

    def _scan(self, file: BinaryIO) -> npt.NDArray[np.uint64]:
        """Note in which block each page stands last; return where the blocks begin."""
        offsets: list[int] = []

        def read_at(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        for offset, pgnos in scan_snapshot(read_at, self._page_size):
            within = np.array(pgnos, np.uint32)
            self._block_of[within[within < len(self._block_of)]] = len(offsets)
            offsets.append(offset)
        return np.array(offsets, np.uint64)


class IncomingFull:
    """Writes the object as it comes from the store; `keep` gives it its place, once it was proved."""

    def __init__(self, directory: Path, size_bytes: int, room: DiskRoom, *, bytes_max: int) -> None:
        self._final = directory / KEPT_NAME
        self._path = temporary_path(directory, KEPT_NAME)
        self._file: BinaryIO | None = None
        with suppress(OSError, SpoolError):
            if size_bytes <= bytes_max and room.allows(size_bytes, reserve_share=_RESERVE_SHARE):
                self._file = self._path.open("wb")

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        try:
            if self._file is not None:
                self._file.write(data)
        except OSError:
            self.abandon()

    def keep(self) -> None:
        """Put it in the place of the one before, durably."""
        try:
            if self._file is not None:
                self._file.close()
                publish(self._path, self._final)
                self._file = None
        except OSError:
            self.abandon()

    def abandon(self) -> None:
        """Remove what there is of it, unless it was kept."""
        file, self._file = self._file, None
        if file is not None:
            # Closing writes what is buffered, for which a full disk has no room.
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                self._path.unlink()


def _read_ends(path: Path) -> FullSnapshot:
    """Return which snapshot a file is, as its ends tell; raises `CorruptObject`."""
    header, footer = snapshot_ends(path)
    return FullSnapshot(
        replica=header.replica,
        name=snapshot_name(header, footer),
        page_size=header.page_size,
        checksum=Checksum(footer.checksum),
    )


def _is_remembered(found: FullSnapshot, full: FullHashes | None) -> bool:
    return full is not None and found == full.snapshot
