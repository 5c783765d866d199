"""Segments: whole transactions in order, and nothing that contradicts itself."""

from __future__ import annotations

import io
import random
from typing import Any

import msgspec
import pytest

from walrep.core.chunk import ChunkTable, Commit, compress_pages, encode_table
from walrep.core.container import BlockType, Kind, encode_block, encode_preamble, encode_struct_block, encode_tail
from walrep.core.objects import SegmentFooter, SegmentHeader, TimelineStart, Writer
from walrep.core.segment import SegmentChunk, encode_segment_end, encode_segment_start, read_segment
from walrep.core.units import Seq, TimelineId, Txid
from walrep.errors import CorruptObject
from walrep.testing.history import HistoryBuilder

HEADER = SegmentHeader(
    replica="r",
    seq=Seq(3),
    timeline=TimelineId("00001-00000000"),
    writer=Writer(nonce="n"),
    created_ms=1000,
    page_size=512,
    txid_before=Txid(7),
    checksum_before=50,
    pages_before=4,
)
FOOTER = SegmentFooter(
    txid_after=Txid(9),
    checksum_after=77,
    pages_after=6,
    first_looked_ms=990,
    first_seen_ms=1000,
    last_seen_ms=1500,
    earliest_seen_ms=1000,
    latest_seen_ms=1500,
    chunk_count=2,
    frame_count=3,
)
FIRST = ChunkTable(7, [2, 5], b"\0\1", [Commit(5, 60, 1000, 990)])
SECOND = ChunkTable(8, [6], b"\1", [Commit(6, 77, 1500, 1400)])


def chunk_block(table: ChunkTable) -> bytes:
    return encode_block(BlockType.CHUNK, encode_table(table), compress_pages([bytes(512)] * len(table.pgnos)))


def encode(
    header: SegmentHeader = HEADER, blocks: tuple[bytes, ...] | None = None, footer: SegmentFooter = FOOTER
) -> bytes:
    chunks = (chunk_block(FIRST), chunk_block(SECOND)) if blocks is None else blocks
    data = encode_segment_start(header) + b"".join(chunks)
    return data + encode_segment_end(footer, len(data))


def read(data: bytes) -> list[SegmentHeader | SegmentChunk | SegmentFooter]:
    return list(read_segment(io.BytesIO(data).read))


def changed(value: Any, **changes: object) -> Any:  # noqa: ANN401  msgspec.structs.replace has no narrower type
    return msgspec.structs.replace(value, **changes)


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptObject) as caught:
        read(data)
    assert 0 <= caught.value.offset <= len(data)
    return str(caught.value)


def test_a_segment_round_trips() -> None:
    header, *chunks, footer = read(encode())
    assert (header, footer) == (HEADER, FOOTER)
    assert [chunk.table for chunk in chunks if isinstance(chunk, SegmentChunk)] == [FIRST, SECOND]


def test_a_segment_that_opens_a_timeline_holds_no_transaction() -> None:
    start = changed(HEADER, start=TimelineStart(reason="new replica"), txid_before=0)
    end = changed(FOOTER, txid_after=0, checksum_after=50, pages_after=4, chunk_count=0, frame_count=0)
    assert read(encode(start, (), end)) == [start, end]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"txid_after": 8}, "contradicts the chunks"),
        ({"txid_after": 10}, "contradicts the chunks"),
        ({"chunk_count": 1}, "contradicts the chunks"),
        ({"frame_count": 4}, "contradicts the chunks"),
        ({"checksum_after": 60}, "contradicts the last transaction"),
        ({"pages_after": 5}, "contradicts the last transaction"),
        ({"last_seen_ms": 1000}, "contradicts the last transaction"),
    ],
)
def test_a_footer_that_contradicts_the_chunks_is_refused(changes: dict[str, object], message: str) -> None:
    assert message in refusal(encode(footer=changed(FOOTER, **changes)))


@pytest.mark.parametrize("changes", [{"checksum_after": 51}, {"pages_after": 5}])
def test_an_empty_segment_does_not_change_the_database(changes: dict[str, object]) -> None:
    end = changed(FOOTER, txid_after=7, checksum_after=50, pages_after=4, chunk_count=0, frame_count=0)
    assert "empty segment" in refusal(encode(HEADER, (), changed(end, **changes)))


def test_chunks_out_of_order_are_refused() -> None:
    assert "expected 7" in refusal(encode(blocks=(chunk_block(SECOND), chunk_block(FIRST))))


def test_a_missing_or_repeated_chunk_is_refused() -> None:
    assert "expected 7" in refusal(encode(blocks=(chunk_block(SECOND),)))
    assert "expected 8" in refusal(encode(blocks=(chunk_block(FIRST), chunk_block(FIRST))))
    assert "contradicts" in refusal(encode(blocks=(chunk_block(FIRST),)))


def test_a_transaction_that_does_not_end_is_refused() -> None:
    torn = ChunkTable(8, [6, 7], b"\1\0", [Commit(6, 77, 1500, 1400)])
    end = changed(FOOTER, frame_count=4)
    assert "not complete" in refusal(encode(blocks=(chunk_block(FIRST), chunk_block(torn)), footer=end))


def test_a_transaction_may_go_over_several_chunks() -> None:
    blocks = (chunk_block(ChunkTable(7, [2, 5], b"\0\0", [])), chunk_block(ChunkTable(7, [6], b"\1", SECOND.commits)))
    end = changed(FOOTER, txid_after=8)
    assert len(read(encode(blocks=blocks, footer=end))) == 4


@pytest.mark.parametrize("page_size", [0, 1, 513, 131072])
def test_an_impossible_page_size_is_refused(page_size: int) -> None:
    assert "page size" in refusal(encode(changed(HEADER, page_size=page_size)))


@pytest.mark.parametrize("block_type", [BlockType.HEADER, BlockType.PAGES])
def test_a_block_that_has_no_place_in_a_segment_is_refused(block_type: BlockType) -> None:
    assert "unexpected" in refusal(encode(blocks=(encode_struct_block(block_type, HEADER),)))


def test_an_object_that_does_not_begin_with_a_header_is_refused() -> None:
    data = encode_preamble(Kind.SEGMENT) + chunk_block(FIRST)
    assert "expected a header" in refusal(data + encode_struct_block(BlockType.FOOTER, FOOTER) + encode_tail(len(data)))


def test_every_changed_byte_and_every_length_of_a_segment_is_refused() -> None:
    dice = random.Random(3)
    history = HistoryBuilder(512)
    history.begin({1: dice.randbytes(512)}, 1000)
    history.commit([(1, dice.randbytes(512)), (2, bytes(512))], 2, 2000)
    data = history.objects[history.seal()]
    assert len(read(data)) == 3
    for at in range(len(data)):
        refusal(data[:at])
        refusal(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
