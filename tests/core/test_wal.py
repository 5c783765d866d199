"""The headers of SQLite's log and wal-index, from bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings, strategies as st

from walrep.core.units import PAGE_SIZES
from walrep.core.wal import (
    WalHeader,
    WalIndex,
    frame_offset,
    parse_page_size,
    parse_wal_header,
    parse_wal_index,
    wal_index_page_slots,
)
from walrep.core.walsum import checksum_words


def wal_header(page_size: int = 4096, *, big_endian: bool = False, magic: int = 0x377F_0682) -> bytes:
    body = struct.pack(">6I", magic | big_endian, 3007000, page_size, 5, 11, 12)
    order = ">" if big_endian else "<"
    return body + struct.pack(">2I", *checksum_words(struct.unpack(f"{order}6I", body)))


def wal_index(page_size: int = 4096, *, max_frame: int = 9, backfilled: int = 4) -> bytes:
    raw_size = 1 if page_size == 65536 else page_size
    body = struct.pack("=3IBBH4I", 3007000, 0, 77, 1, 0, raw_size, max_frame, 33, 101, 102)
    body += struct.pack(">2I", 11, 12)
    body += struct.pack("=2I", *checksum_words(struct.unpack("=10I", body)))
    return body * 2 + struct.pack("=I", backfilled) + bytes(36)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("big_endian", [False, True])
def test_the_header_of_a_wal_is_read(page_size: int, *, big_endian: bool) -> None:
    raw = wal_header(page_size, big_endian=big_endian)
    s0, s1 = struct.unpack(">2I", raw[24:])
    assert parse_wal_header(raw + b"frames") == WalHeader(page_size, (11, 12), (s0, s1), big_endian)


@pytest.mark.parametrize("length", range(32))
def test_a_short_wal_header_is_none(length: int) -> None:
    assert parse_wal_header(wal_header()[:length]) is None


@pytest.mark.parametrize("at", range(32))
def test_a_wal_header_with_a_changed_byte_is_none(at: int) -> None:
    raw = bytearray(wal_header())
    raw[at] ^= 0x40
    assert parse_wal_header(bytes(raw)) is None


@pytest.mark.parametrize("page_size", [0, 1, 256, 513, 131072])
def test_a_wal_header_with_an_impossible_page_size_is_none(page_size: int) -> None:
    assert parse_wal_header(wal_header(page_size)) is None


def test_the_wal_of_another_program_is_none() -> None:
    assert parse_wal_header(wal_header(magic=0x377F_0680)) is None


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_the_wal_index_is_read(page_size: int) -> None:
    """65536 does not fit the field and stands there as 1."""
    index = parse_wal_index(wal_index(page_size))
    assert index == WalIndex(9, 33, (101, 102), (11, 12), 4, page_size)
    assert index is not None
    assert index.backlog == 5


@pytest.mark.parametrize("at", range(96))
def test_a_torn_wal_index_is_none(at: int) -> None:
    """A writer changes one copy after the other: while they differ nothing is said."""
    raw = bytearray(wal_index())
    raw[at] ^= 1
    assert parse_wal_index(bytes(raw)) is None


@pytest.mark.parametrize("at", range(48))
def test_a_wal_index_whose_copies_agree_on_a_wrong_checksum_is_none(at: int) -> None:
    raw = bytearray(wal_index())
    raw[at] ^= 1
    raw[at + 48] ^= 1
    assert parse_wal_index(bytes(raw)) is None


@pytest.mark.parametrize("length", [0, 48, 96, 135])
def test_a_short_wal_index_is_none(length: int) -> None:
    assert parse_wal_index(wal_index()[:length]) is None


def naive_slot(frame: int) -> int:
    """Return where https://sqlite.org/walformat.html puts the page number of one frame.

    Blocks of 32768 bytes: 4096 page numbers, then 8192 slots of hash. The first block gives 136 bytes, 34 numbers, to
    the header, so that it holds 4062.
    """
    if frame <= 4062:
        return 136 + 4 * (frame - 1)
    block, slot = 1, frame - 4062 - 1
    while slot >= 4096:
        block, slot = block + 1, slot - 4096
    return 32768 * block + 4 * slot


@settings(deadline=None, max_examples=60)
@given(first=st.integers(1, 13000), count=st.integers(0, 9000))
def test_page_numbers_are_found_in_the_wal_index(first: int, count: int) -> None:
    runs = wal_index_page_slots(first, count)
    found = [offset + 4 * slot for offset, slots in runs for slot in range(slots)]
    assert found == [naive_slot(frame) for frame in range(first, first + count)]


def test_frames_begin_behind_the_header() -> None:
    assert [frame_offset(frame, 4096) for frame in (1, 2, 3)] == [32, 32 + 4120, 32 + 2 * 4120]


@pytest.mark.parametrize(
    ("field", "size"), [(1, 65536), (4096, 4096), (512, 512), (0, 0), (2, 0), (1000, 0), (32768, 32768)]
)
def test_the_page_size_of_a_database_is_read(field: int, size: int) -> None:
    assert parse_page_size(b"SQLite format 3\0" + field.to_bytes(2, "big")) == size


def test_a_short_database_header_names_no_page_size() -> None:
    assert parse_page_size(b"SQLite format 3\0\x10") == 0
