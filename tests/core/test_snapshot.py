"""Snapshots: pages in any order, the last one counts, and nothing that contradicts itself."""

from __future__ import annotations

import io
import random
import struct

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from walrep.core.container import BlockType, encode_block, encode_struct_block
from walrep.core.objects import SnapshotFooter, SnapshotHeader, Writer
from walrep.core.snapshot import (
    SnapshotPages,
    encode_snapshot_end,
    encode_snapshot_pages,
    encode_snapshot_start,
    read_snapshot,
    snapshot_block_pages,
)
from walrep.core.units import PAGE_SIZES, Seq, TimelineId, Txid
from walrep.errors import CorruptObject

HEADER = SnapshotHeader(
    replica="r", timeline=TimelineId("00001-00000000"), writer=Writer(nonce="n"), created_ms=5, page_size=512
)
FOOTER = SnapshotFooter(txid=Txid(0), seq=Seq(1), seen_ms=5, checksum=9, page_count=3, block_count=2)


def page(number: int) -> bytes:
    return random.Random(number).randbytes(512)


BLOCKS = (encode_snapshot_pages([1, 2, 3], [page(1), page(2), page(3)]), encode_snapshot_pages([2], [page(4)]))


def encode(
    header: SnapshotHeader = HEADER, blocks: tuple[bytes, ...] = BLOCKS, footer: SnapshotFooter = FOOTER
) -> bytes:
    data = encode_snapshot_start(header) + b"".join(blocks)
    return data + encode_snapshot_end(footer, len(data))


def read(data: bytes) -> list[SnapshotHeader | SnapshotPages | SnapshotFooter]:
    return list(read_snapshot(io.BytesIO(data).read))


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptObject) as caught:
        read(data)
    assert 0 <= caught.value.offset <= len(data)
    return str(caught.value)


def test_a_snapshot_round_trips() -> None:
    header, first, second, footer = read(encode())
    assert (header, footer) == (HEADER, FOOTER)
    assert isinstance(first, SnapshotPages)
    assert isinstance(second, SnapshotPages)
    assert (first.pgnos, first.decode(512)) == ([1, 2, 3], page(1) + page(2) + page(3))
    assert (second.pgnos, second.decode(512)) == ([2], page(4))


@settings(deadline=None)
@given(st.lists(st.integers(1, (1 << 32) - 2), min_size=1, max_size=64, unique=True))
def test_page_numbers_round_trip_as_runs(pgnos: list[int]) -> None:
    block = encode_snapshot_pages(pgnos, [bytes(512)] * len(pgnos))
    found = read(encode(blocks=(block,), footer=msgspec.structs.replace(FOOTER, block_count=1)))[1]
    assert isinstance(found, SnapshotPages)
    assert found.pgnos == pgnos


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_block_has_at_most_64_pages_and_1_mib(page_size: int) -> None:
    assert snapshot_block_pages(page_size) == min(64, (1 << 20) // page_size)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_footer_that_counts_other_blocks_is_refused(count: int) -> None:
    assert "number of blocks" in refusal(encode(footer=msgspec.structs.replace(FOOTER, block_count=count)))


@pytest.mark.parametrize("block_type", [BlockType.HEADER, BlockType.CHUNK])
def test_a_block_that_has_no_place_in_a_snapshot_is_refused(block_type: BlockType) -> None:
    assert "unexpected" in refusal(encode(blocks=(BLOCKS[0], encode_struct_block(block_type, HEADER))))


@pytest.mark.parametrize("page_size", [0, 100, 131072])
def test_an_impossible_page_size_is_refused(page_size: int) -> None:
    assert "page size" in refusal(encode(msgspec.structs.replace(HEADER, page_size=page_size)))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\1\0\0\0",
        struct.pack("<II", 0, 1),
        struct.pack("<II", 1, 0),
        struct.pack("<II", 1, 65),
        struct.pack("<4I", 1, 33, 100, 32),
        struct.pack("<II", 1, 0xFFFF_FFFF),
        struct.pack("<II", 1, 1) + b"\0",
    ],
)
def test_malformed_runs_are_refused_before_they_are_expanded(head: bytes) -> None:
    assert "page runs" in refusal(encode(blocks=(encode_block(BlockType.PAGES, head, b""), BLOCKS[1])))


def test_pages_that_are_not_there_are_refused_when_they_are_decoded() -> None:
    short = encode_block(BlockType.PAGES, struct.pack("<II", 1, 2), BLOCKS[1][-40:])
    found = read(encode(blocks=(short, BLOCKS[1])))[1]
    assert isinstance(found, SnapshotPages)
    with pytest.raises(CorruptObject):
        found.decode(512)


def test_every_changed_byte_and_every_length_of_a_snapshot_is_refused() -> None:
    blocks = (encode_snapshot_pages([1], [bytes(512)]), encode_snapshot_pages([7], [bytes(512)]))
    data = encode(blocks=blocks)
    for at in range(len(data)):
        refusal(data[:at])
        refusal(data[:at] + bytes([data[at] ^ 0x08]) + data[at + 1 :])
