"""SQLite's write-ahead log and wal-index, as bytes. Source: https://sqlite.org/walformat.html.

WAL header, 32 bytes, big-endian:

    0   magic 0x377f0682, or 0x377f0683 when checksums are big-endian
    4   format version 3007000
    8   page size
    12  checkpoint sequence number: per connection, goes backwards; walrep ignores it
    16  salt 1, salt 2
    24  checksum of the 24 bytes before

Frame header, 24 bytes, big-endian: pgno; database size in pages after a commit, else 0; salt 1; salt 2; checksum.
Frame numbers begin at 1; frame f starts at 32 + (f - 1) * (page size + 24).

Wal-index header (the start of the -shm file), 136 bytes, native byte order, the first 48 twice:

    0   version, unused      8  change counter    12  isInit   13  bigEndCksum   14  page size (u16, 1 means 65536)
    16  mxFrame              20  database size in pages        24  checksum of frame mxFrame
    32  salts, as the bytes of the WAL header                  40  checksum of the 40 bytes before
    96  nBackfill           100  five read marks              120  lock bytes

**mxFrame says what is committed.** A commit flag in the file does not: an app can die between writing the frame
and publishing it, and the next transaction then overwrites it.
"""

from __future__ import annotations

import struct

import msgspec
import numpy as np

from walrep.core.units import PAGE_SIZES
from walrep.core.walsum import FRAME_HEADER_BYTES, checksum_words

__all__ = [
    "WAL_HEADER_BYTES",
    "WAL_INDEX_BYTES",
    "WAL_INDEX_HEADER_BYTES",
    "WalHeader",
    "WalIndex",
    "frame_offset",
    "parse_page_size",
    "parse_wal_header",
    "parse_wal_index",
    "wal_index_page_slots",
]

WAL_HEADER_BYTES = 32
WAL_INDEX_BYTES = 136
WAL_INDEX_HEADER_BYTES = 48
_SLOTS_PER_BLOCK = 4096
_SLOTS_FIRST_BLOCK = 4062
_BLOCK_BYTES = 32768


class WalHeader(msgspec.Struct, frozen=True):
    """The header of one WAL generation."""

    page_size: int
    salts: tuple[int, int]
    checksum: tuple[int, int]
    big_endian: bool


class WalIndex(msgspec.Struct, frozen=True):
    """One consistent reading of the wal-index header."""

    max_frame: int
    page_count: int
    checksum: tuple[int, int]
    salts: tuple[int, int]
    backfilled: int
    page_size: int

    @property
    def backlog(self) -> int:
        """Frames that are committed and not yet copied into the database file."""
        return self.max_frame - self.backfilled


def frame_offset(frame: int, page_size: int) -> int:
    """Return the byte offset in the WAL of frame number `frame` (from 1)."""
    return WAL_HEADER_BYTES + (frame - 1) * (page_size + FRAME_HEADER_BYTES)


def parse_page_size(header: bytes) -> int:
    """Return the page size that the first 18 bytes of a database file name, or 0 if they name none."""
    size = int.from_bytes(header[16:18], "big") if len(header) >= 18 else 0
    size = 65536 if size == 1 else size
    return size if size in PAGE_SIZES else 0


def parse_wal_header(header: bytes) -> WalHeader | None:
    """Parse the first 32 bytes of a WAL; None if they are not a valid header."""
    if len(header) < WAL_HEADER_BYTES:
        return None
    magic, _version, page_size, _sequence, salt1, salt2, sum0, sum1 = struct.unpack(">8I", header[:WAL_HEADER_BYTES])
    if magic & ~1 != 0x377F_0682 or page_size not in PAGE_SIZES:
        return None
    big_endian = bool(magic & 1)
    words = np.frombuffer(header[:24], ">u4" if big_endian else "<u4").tolist()
    if checksum_words(words) != (sum0, sum1):
        return None
    return WalHeader(page_size=page_size, salts=(salt1, salt2), checksum=(sum0, sum1), big_endian=big_endian)


def parse_wal_index(header: bytes) -> WalIndex | None:
    """Parse the first 136 bytes of a wal-index; None while a writer is changing it, or if it is not one."""
    if len(header) < WAL_INDEX_BYTES or header[:48] != header[48:96]:
        return None
    words = struct.unpack_from("=12I", header)
    if checksum_words(words[:10]) != words[10:12]:
        return None
    raw_size = struct.unpack_from("=H", header, 14)[0]
    salts: tuple[int, int] = struct.unpack_from(">2I", header, 32)
    return WalIndex(
        max_frame=words[4],
        page_count=words[5],
        checksum=(words[6], words[7]),
        salts=salts,
        backfilled=struct.unpack_from("=I", header, 96)[0],
        page_size=65536 if raw_size == 1 else raw_size,
    )


def wal_index_page_slots(first_frame: int, count: int) -> list[tuple[int, int]]:
    """Return where the wal-index keeps the page numbers of `count` frames from `first_frame`, as (offset, slots)."""
    runs: list[tuple[int, int]] = []
    index = first_frame - 1
    while count > 0:
        if index < _SLOTS_FIRST_BLOCK:
            offset, room = WAL_INDEX_BYTES + 4 * index, _SLOTS_FIRST_BLOCK - index
        else:
            block, slot = divmod(index - _SLOTS_FIRST_BLOCK, _SLOTS_PER_BLOCK)
            offset, room = _BLOCK_BYTES * (1 + block) + 4 * slot, _SLOTS_PER_BLOCK - slot
        take = min(room, count)
        runs.append((offset, take))
        index += take
        count -= take
    return runs
