"""Chunks: tables and pages round trip; malformed ones are refused; a wrong reference is noticed by the checksum."""

from __future__ import annotations

import random
import struct

import pytest
import zstandard
from hypothesis import given, settings, strategies as st

from walrep.core.chunk import (
    CHUNK_BYTES_MAX,
    FLAG_COMMIT,
    FLAG_REFERENCE,
    ChunkTable,
    Commit,
    chunk_frames,
    compress_pages,
    decode_pages,
    decode_table,
    encode_table,
)
from walrep.core.pages import page_hash
from walrep.core.units import PAGE_SIZES, lock_byte_page
from walrep.errors import CorruptObject, InvariantViolated

U32 = (1 << 32) - 1
COMMITS = st.builds(
    Commit,
    pages_after=st.integers(1, U32),
    checksum=st.integers(0, (1 << 64) - 1),
    seen_ms=st.integers(0, 1 << 45),
    looked_ms=st.integers(0, 1 << 45),
)


@st.composite
def tables(draw: st.DrawFn) -> ChunkTable:
    pgnos = draw(st.lists(st.integers(1, 0x1F_FFFF), min_size=1, max_size=64))
    flags = bytearray(draw(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=len(pgnos), max_size=len(pgnos))))
    seen: set[int] = set()
    for index, pgno in enumerate(pgnos):
        if pgno in seen:
            flags[index] &= ~FLAG_REFERENCE
        seen.add(pgno)
    count = sum(flag & FLAG_COMMIT for flag in flags)
    commits = [
        Commit(c.pages_after, c.checksum, c.seen_ms, max(min(c.looked_ms, c.seen_ms), c.seen_ms - U32))
        for c in draw(st.lists(COMMITS, min_size=count, max_size=count))
    ]
    return ChunkTable(draw(st.integers(0, (1 << 64) - 1)), pgnos, bytes(flags), commits)


@settings(deadline=None)
@given(tables())
def test_a_table_round_trips(table: ChunkTable) -> None:
    assert decode_table(encode_table(table), page_size=512, offset=0) == table


def test_a_gap_that_does_not_fit_is_the_longest_one_and_a_clock_that_went_back_is_none() -> None:
    table = ChunkTable(0, [1, 2], b"\1\1", [Commit(2, 5, 1 << 40, 0), Commit(2, 5, 100, 200)])
    long, back = decode_table(encode_table(table), page_size=512, offset=0).commits
    assert (long.seen_ms - long.looked_ms, back.seen_ms, back.looked_ms) == (U32, 100, 100)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_chunks_have_at_most_64_frames_and_256_kib(page_size: int) -> None:
    assert chunk_frames(page_size) == min(64, CHUNK_BYTES_MAX // page_size)


def pack_table(
    *,
    frames: int | None = None,
    commits: int | None = None,
    pgnos: tuple[int, ...] = (1, 2),
    flags: bytes = b"\2\1",
    sizes: tuple[int, ...] = (2,),
    extra: bytes = b"",
) -> bytes:
    """Return a compressed table, by default a right one, written from the table in the module's text."""
    n = len(sizes)
    plain = struct.pack("<HHQ", len(pgnos) if frames is None else frames, n if commits is None else commits, 7)
    plain += struct.pack(f"<{len(pgnos)}I", *pgnos) + flags + struct.pack(f"<{n}I", *sizes)
    plain += struct.pack(f"<{n}Q", *(99 for _ in sizes)) + struct.pack(f"<{n}q", *(1000 for _ in sizes))
    return zstandard.compress(plain + struct.pack(f"<{n}I", *(10 for _ in sizes)) + extra)


def test_the_format_is_the_one_in_the_table() -> None:
    assert decode_table(pack_table(), page_size=4096, offset=0) == ChunkTable(
        7, [1, 2], b"\2\1", [Commit(2, 99, 1000, 990)]
    )


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"not zstd",
        zstandard.compress(b""),
        zstandard.compress(b"\1\0\0\0"),
        pack_table(frames=0),
        pack_table(frames=3),
        pack_table(frames=65),
        pack_table(commits=0),
        pack_table(commits=2),
        pack_table(commits=0xFFFF),
        pack_table(extra=b"\0"),
        pack_table(pgnos=(0, 2)),
        pack_table(pgnos=(1, lock_byte_page(4096))),
        pack_table(flags=b"\2\2"),
        pack_table(flags=b"\1\1"),
        pack_table(flags=b"\4\1"),
        pack_table(flags=b"\2\x81"),
        pack_table(sizes=(0,)),
        pack_table(pgnos=(2, 2), flags=b"\2\3"),
        pack_table() + b"\0",
        pack_table()[:-1],
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100)),
        zstandard.compress(bytes((64 << 10) + 1)),
    ],
)
def test_a_malformed_table_is_refused_with_the_offset_of_its_block(head: bytes) -> None:
    with pytest.raises(CorruptObject) as caught:
        decode_table(head, page_size=4096, offset=777)
    assert caught.value.offset == 777


def test_more_frames_than_the_page_size_allows_are_refused() -> None:
    table = ChunkTable(0, [1, 2, 3, 4, 5], b"\0\0\0\0\1", [Commit(5, 1, 1, 1)])
    assert decode_table(encode_table(table), page_size=32768, offset=0) == table
    with pytest.raises(CorruptObject):
        decode_table(encode_table(table), page_size=65536, offset=0)


@pytest.mark.parametrize(
    "table", [ChunkTable(0, [], b"", []), ChunkTable(0, [1], b"", []), ChunkTable(0, [1] * 65, bytes(65), [])]
)
def test_a_table_out_of_shape_is_not_written(table: ChunkTable) -> None:
    with pytest.raises(InvariantViolated):
        encode_table(table)


PAGE = st.integers(0, 1 << 30).map(lambda seed: random.Random(seed).randbytes(512))


@settings(deadline=None)
@given(st.lists(PAGE, min_size=1, max_size=64), st.lists(PAGE, max_size=64))
def test_pages_round_trip_against_any_reference(pages: list[bytes], references: list[bytes]) -> None:
    body = compress_pages(pages, references)
    plain = decode_pages(body, references, page_count=len(pages), page_size=512, offset=0)
    assert plain == b"".join(pages)


def test_a_small_change_of_a_known_page_costs_few_bytes() -> None:
    before = random.Random(1).randbytes(4096)
    after = before[:100] + b"changed" + before[107:]
    assert len(compress_pages([after], [before])) < 60
    assert len(compress_pages([after])) > 4000


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_hasty_compression_finds_the_whole_of_the_largest_reference(page_size: int) -> None:
    dice = random.Random(page_size)
    before = [dice.randbytes(page_size) for _ in range(chunk_frames(page_size))]
    after = [page[:100] + b"changed" + page[107:] for page in before]
    hasty = compress_pages(after, before, hasty=True)
    assert len(hasty) < 60 * len(after)
    assert decode_pages(hasty, before, page_count=len(after), page_size=page_size, offset=0) == b"".join(after)


@pytest.mark.parametrize("page_count", [0, 1, 3, 1 << 20])
def test_pages_of_another_size_than_declared_are_refused(page_count: int) -> None:
    body = compress_pages([bytes(512)] * 2)
    with pytest.raises(CorruptObject) as caught:
        decode_pages(body, (), page_count=page_count, page_size=512, offset=9)
    assert caught.value.offset == 9


def test_a_decompression_bomb_is_refused_by_the_size_it_declares() -> None:
    """The declaration is compared before anything is allocated; one that declares nothing is refused as well."""
    bomb = zstandard.compress(bytes(256 << 20), level=1)
    assert len(bomb) < 20_000
    with pytest.raises(CorruptObject, match="declares 268435456 bytes"):
        decode_pages(bomb, (), page_count=64, page_size=4096, offset=0)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(512))
    with pytest.raises(CorruptObject):
        decode_pages(silent, (), page_count=1, page_size=512, offset=0)


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    honest = compress_pages([bytes(1 << 16)] * 4)
    lying = honest.replace((4 << 16).to_bytes(4, "little"), (64).to_bytes(4, "little"), 1)
    assert lying != honest
    with pytest.raises(CorruptObject):
        decode_pages(lying, (), page_count=1, page_size=512, offset=0)


def test_a_wrong_reference_is_noticed_only_by_the_checksum() -> None:
    """Zstd decodes without complaint, which is why every reader compares the database checksum."""
    before, other = random.Random(1).randbytes(4096), random.Random(2).randbytes(4096)
    after = before[:100] + b"changed" + before[107:]
    body = compress_pages([after], [before])
    wrong = decode_pages(body, [other], page_count=1, page_size=4096, offset=0)
    assert wrong != after
    assert page_hash(wrong, 5) != page_hash(after, 5)
