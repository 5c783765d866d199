"""Packs: every chunk as it was, an index that tells where each is, and nothing that contradicts itself."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec
import pytest
import zstandard

from tests.core.packs import PAGE, build, chunks_of, ends_of, packed, read, refusal
from walrep.core.chunk import Commit
from walrep.core.container import BlockType, Kind, encode_block, read_blocks
from walrep.core.index import INDEX_ROWS_MAX, encode_index_block, parse_index
from walrep.core.names import TIME_MS_MAX, pack_key, parse_pack_key
from walrep.core.objects import PackFooter
from walrep.core.pack import (
    ChunkRange,
    IndexBlock,
    encode_pack_end,
    encode_pack_start,
    pack_name,
    parse_pack_footer,
    read_pack_chunks,
)
from walrep.core.segment import SegmentChunk
from walrep.core.units import Seq
from walrep.errors import CorruptObject
from walrep.testing.history import HistoryBuilder
from walrep.testing.packs import index_tables, make_pack


def test_what_is_written_is_read() -> None:
    builder = build([1, 2], [130], [3])
    built, data = packed(builder)
    header, *middle, footer = read(data)
    chunks = [item for item in middle if isinstance(item, SegmentChunk)]
    (block,) = (item for item in middle if isinstance(item, IndexBlock))
    assert (header.first_seq, header.last_seq, header.txid_before, header.page_size) == (2, 4, 0, PAGE)
    assert footer == built.footer
    assert footer.header == header
    assert (footer.chunk_count, footer.frame_count, footer.txid_after) == (5, 136, 4)
    assert footer.checksum_after == builder.positions[builder.timeline, 4].checksum
    rows = block.rows()
    assert [(row.offset, row.block_bytes) for row in rows] == [(chunk.offset, chunk.block_bytes) for chunk in chunks]
    assert [(row.txid_before, row.txid_after) for row in rows] == [(0, 2), (2, 2), (2, 2), (2, 3), (3, 4)]
    assert [row.ends_transaction for row in rows] == [True, False, False, True, True]
    # Chunks in which no transaction ends leave everything as it was.
    checksums = [builder.positions[builder.timeline, row.txid_after].checksum for row in rows]
    assert [row.checksum_after for row in rows] == checksums
    assert [row.last_seen_ms for row in rows] == [12_000, 12_000, 12_000, 13_000, 14_000]
    assert [row.first_seen_ms for row in rows] == [11_000, 12_000, 12_000, 13_000, 14_000]
    assert [row.first_looked_ms for row in rows] == [10_990, 12_000, 12_000, 12_990, 13_990]


def test_a_pack_may_begin_with_a_transaction_of_several_chunks_and_times_may_step() -> None:
    builder = HistoryBuilder(PAGE)
    builder.begin({1: bytes(PAGE)}, 10_000)
    builder.commit([(1, bytes([n]) * PAGE) for n in range(200)], 1, 5_000, looked_ms=4_000)
    builder.commit([(1, bytes(PAGE))], 1, 3_000)
    builder.commit([(1, bytes(PAGE))], 1, 4_500)
    builder.seal()
    _built, data = packed(builder)
    footer, index = ends_of(data)
    rows = [index.row(number) for number in range(len(index))]
    assert rows == [row for item in read(data) if isinstance(item, IndexBlock) for row in item.rows()]
    assert [row.last_seen_ms for row in rows] == [0, 0, 0, 4_500]
    assert (rows[3].earliest_seen_ms, rows[3].latest_seen_ms, rows[3].first_looked_ms) == (3_000, 5_000, 4_000)
    assert (footer.first_looked_ms, footer.first_seen_ms, footer.last_seen_ms) == (4_000, 5_000, 4_500)
    assert (footer.earliest_seen_ms, footer.latest_seen_ms) == (3_000, 5_000)


@pytest.fixture(scope="module")
def large() -> tuple[HistoryBuilder, bytes]:
    """A pack whose index has two blocks."""
    builder = HistoryBuilder(PAGE)
    builder.begin({1: bytes(PAGE)}, 10_000)
    for txid in range(1, INDEX_ROWS_MAX + 3):
        builder.commit([(1, txid.to_bytes(4, "big") * 128)], 1, 10_000 + txid)
        builder.seal()
    return builder, packed(builder)[1]


def test_a_large_index_has_several_blocks(large: tuple[HistoryBuilder, bytes]) -> None:
    builder, data = large
    assert make_pack(builder.objects, builder.packable())[1] == data
    blocks = [item for item in read(data) if isinstance(item, IndexBlock)]
    assert [len(block.rows()) for block in blocks] == [INDEX_ROWS_MAX, 2]
    _footer, index = ends_of(data)
    assert [index.row(number) for number in range(len(index))] == [row for block in blocks for row in block.rows()]
    # The index of a day of segments of 10 s, 8,640 rows, is small beside the chunks.
    assert len(data) - blocks[0].offset < 25 * len(index)


@pytest.mark.parametrize("change", ["swap", "drop first", "drop last", "twice"])
def test_blocks_of_the_index_out_of_place_are_refused(large: tuple[HistoryBuilder, bytes], change: str) -> None:
    _builder, data = large
    footer, _index = ends_of(data)
    blocks = [item for item in read_blocks(io.BytesIO(data).read, Kind.PACK) if item.type == BlockType.INDEX]
    first, last = (data[block.offset : block.end] for block in blocks)
    changed = {"swap": last + first, "drop first": last, "drop last": first, "twice": first + last + last}[change]
    damaged = data[: footer.index_offset] + changed
    damaged += encode_pack_end(footer, len(damaged))
    assert "contradicts" in refusal(damaged)
    with pytest.raises(CorruptObject):
        parse_index(io.BytesIO(damaged[footer.index_offset :]).read, footer)


def test_rows_are_split_in_one_way_only(large: tuple[HistoryBuilder, bytes]) -> None:
    _builder, data = large
    header, *items, footer = read(data)
    chunks = [item for item in items if isinstance(item, SegmentChunk)]
    offsets = [chunk.offset for chunk in chunks]
    after = msgspec.structs.replace(header, txid_before=100)
    tables = index_tables(header, chunks[:100], offsets[:100]) + index_tables(after, chunks[100:], offsets[100:])
    damaged = data[: footer.index_offset] + b"".join(map(encode_index_block, tables))
    assert "contradicts the chunks" in refusal(damaged + encode_pack_end(footer, len(damaged)))


def test_every_changed_byte_and_every_length_of_a_pack_is_refused() -> None:
    _built, data = packed(build([1], [2]))
    assert len(read(data)) == 5
    for at in range(len(data)):
        refusal(data[:at])
        refusal(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])


def replaced(data: bytes, change: Callable[[PackFooter], PackFooter]) -> bytes:
    """Return a pack with another footer."""
    footer, _index = ends_of(data)
    end = len(data) - len(encode_pack_end(footer, 0))
    return data[:end] + encode_pack_end(change(footer), end)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"txid_after": 3}, "contradicts the chunks"),
        ({"chunk_count": 4}, "contradicts the chunks"),
        ({"frame_count": 4}, "contradicts the chunks"),
        ({"checksum_after": 60}, "contradicts the last transaction"),
        ({"pages_after": 5}, "contradicts the last transaction"),
        ({"last_seen_ms": 1000}, "contradicts the last transaction"),
        ({"first_seen_ms": 1000}, "contradicts header"),
        ({"first_looked_ms": 1000}, "contradicts header"),
        ({"earliest_seen_ms": 1000}, "contradicts header"),
        ({"latest_seen_ms": 1000}, "contradicts header"),
        ({"index_offset": 200}, "contradicts header"),
    ],
)
def test_a_footer_that_contradicts_the_rest_is_refused(changes: dict[str, object], message: str) -> None:
    _built, data = packed(build([1], [2]))
    assert message in refusal(replaced(data, lambda footer: msgspec.structs.replace(footer, **changes)))


@pytest.mark.parametrize("changes", [{"txid_after": 3}, {"checksum_after": 60}, {"pages_after": 5}, {"chunk_count": 1}])
def test_an_index_that_ends_in_another_state_than_its_pack_is_refused(changes: dict[str, object]) -> None:
    """Both right in themselves; nobody reads the chunks to find out."""
    _built, data = packed(build([1], [2]))
    with pytest.raises(CorruptObject, match="contradicts the footer"):
        ends_of(replaced(data, lambda footer: msgspec.structs.replace(footer, **changes)))


def test_a_footer_that_repeats_another_header_is_refused() -> None:
    _built, data = packed(build([1], [2]))

    def other(footer: PackFooter) -> PackFooter:
        return msgspec.structs.replace(footer, header=msgspec.structs.replace(footer.header, last_seq=Seq(4)))

    assert "contradicts header" in refusal(replaced(data, other))


@pytest.mark.parametrize(
    "changes",
    [
        {"page_size": 513},
        {"first_seq": 0},
        {"first_seq": 3, "last_seq": 2},
        {"txid_before": -1},
        {"txid_before": 1 << 62},
        {"checksum_before": -1},
        {"pages_before": 1 << 32},
    ],
)
def test_an_impossible_header_is_refused(changes: dict[str, object]) -> None:
    built, data = packed(build([1], [2]))
    header = built.footer.header
    start = len(encode_pack_start(header))
    bad = msgspec.structs.replace(header, **changes)
    message = refusal(encode_pack_start(bad) + data[start:])
    assert message.startswith(("the header of a pack contradicts itself", "page size 513"))
    with pytest.raises(CorruptObject):
        ends_of(replaced(data, lambda footer: msgspec.structs.replace(footer, header=bad)))


def test_a_pack_without_chunks_or_without_index_is_refused() -> None:
    built, data = packed(build([1]))
    start = encode_pack_start(built.footer.header)
    empty = msgspec.structs.replace(built.footer, txid_after=0, chunk_count=0, frame_count=0, index_offset=0)
    empty = msgspec.structs.replace(
        empty, checksum_after=built.footer.header.checksum_before, pages_after=built.footer.header.pages_before
    )
    assert "without a transaction" in refusal(start + encode_pack_end(empty, len(start)))
    body = data[: built.footer.index_offset]
    for offset in (0, len(body)):
        footer = msgspec.structs.replace(built.footer, index_offset=offset)
        assert "contradicts" in refusal(body + encode_pack_end(footer, len(body)))


def test_a_chunk_behind_the_index_is_refused() -> None:
    built, data = packed(build([1], [1]))
    (first, _second) = chunks_of(data)
    end = len(data) - len(encode_pack_end(built.footer, 0))
    damaged = data[:end] + first
    assert "behind the index" in refusal(damaged + encode_pack_end(built.footer, len(damaged)))


def test_a_transaction_that_does_not_end_is_refused() -> None:
    built, data = packed(build([70]))
    whole = chunks_of(data)[0]
    start = encode_pack_start(built.footer.header)
    refused = refusal(start + whole + encode_pack_end(built.footer, len(start + whole)))
    assert "not complete" in refused


@pytest.mark.parametrize("rows", [0, 2, 3, 1 << 31])
def test_an_index_of_another_length_than_it_declares_is_refused(rows: int) -> None:
    built, data = packed(build([1], [1], [1], [1]))
    (block,) = (item for item in read(data) if isinstance(item, IndexBlock))
    plain = rows.to_bytes(4, "little") + block.plain[4:]
    index = encode_index_block(plain)
    footer = built.footer
    with pytest.raises(CorruptObject, match="malformed index"):
        parse_index(io.BytesIO(index).read, footer)


def test_what_an_index_declares_is_bounded_by_the_object() -> None:
    """Rows that fill no bytes would cost memory that nobody paid for."""
    built, data = packed(build([1], [1]))
    header = built.footer.header
    chunks = [item for item in read(data) if isinstance(item, SegmentChunk)]
    many = 3 * INDEX_ROWS_MAX
    offsets = [chunks[0].offset + n * chunks[0].block_bytes for n in range(many)]
    tables = index_tables(header, chunks[:1] * many, offsets)
    index = b"".join(map(encode_index_block, tables))
    footer = msgspec.structs.replace(built.footer, chunk_count=many, txid_after=many)
    with pytest.raises(CorruptObject, match="does not continue"):
        parse_index(io.BytesIO(index).read, footer)
    with pytest.raises(CorruptObject, match="contradicts itself"):
        ends_of(replaced(data, lambda _footer: footer))
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    with pytest.raises(CorruptObject, match="declares"):
        parse_index(io.BytesIO(encode_block(BlockType.INDEX, bomb)).read, built.footer)


@pytest.mark.parametrize("seen_ms", [1 << 62, TIME_MS_MAX + 1, -1])
def test_a_time_that_is_none_is_refused(seen_ms: int) -> None:
    """No key can tell it."""
    builder = HistoryBuilder(PAGE)
    builder.begin({1: bytes(PAGE)}, 10_000)
    builder.commit([(1, bytes(PAGE))], 1, seen_ms)
    builder.seal()
    with pytest.raises(CorruptObject, match="a time that is none"):
        packed(builder)


@pytest.mark.parametrize("seen_ms", [1 << 62, TIME_MS_MAX + 1, -1])
def test_an_index_with_a_time_that_is_none_is_refused(seen_ms: int) -> None:
    changes = {"seen_ms": seen_ms, "looked_ms": seen_ms}
    data = forged(packed(build([1, 1]))[1], lambda commit: msgspec.structs.replace(commit, **changes))
    with pytest.raises(CorruptObject, match="malformed index"):
        ends_of(data)


def test_the_first_and_the_last_time_that_there_are_may_be_packed() -> None:
    builder = HistoryBuilder(PAGE)
    builder.begin({1: bytes(PAGE)}, 0)
    for seen_ms in (0, TIME_MS_MAX):
        builder.commit([(1, bytes(PAGE))], 1, seen_ms, looked_ms=seen_ms - 20)
    builder.seal()
    built, data = packed(builder)
    footer, index = ends_of(data)
    assert (footer.first_seen_ms, footer.last_seen_ms) == (0, TIME_MS_MAX)
    assert index.row(0).first_looked_ms == -20
    assert parse_pack_key(pack_key(built.name)) == built.name


def forged(data: bytes, change: Callable[[Commit], Commit], *, at: int = -1) -> bytes:
    """Return a pack whose index says something else of the transactions in a chunk; every block is right in itself.

    The footer is what it was.
    """
    header, *items, footer = read(data)
    chunks = [item for item in items if isinstance(item, SegmentChunk)]
    table = chunks[at].table
    changed = msgspec.structs.replace(table, commits=list(map(change, table.commits)))
    chunks[at] = msgspec.structs.replace(chunks[at], table=changed)
    index = b"".join(map(encode_index_block, index_tables(header, chunks, [chunk.offset for chunk in chunks])))
    body = data[: footer.index_offset] + index
    return body + encode_pack_end(footer, len(body))


# -- reading a part ----------------------------------------------------------------------------------------------------


def test_a_range_of_chunks_is_read_without_the_rest() -> None:
    builder = build([1, 2], [130, 1], [3])
    _built, data = packed(builder)
    _footer, index = ends_of(data)
    whole = [item for item in read(data) if isinstance(item, SegmentChunk)]
    for first in range(len(index)):
        for stop in range(first + 1, len(index) + 1):
            start, length = index.byte_range(first, stop)
            part = io.BytesIO(data[start : start + length])
            before, *chunks = read_pack_chunks(part.read, index, range(first, stop))
            assert chunks == whole[first:stop]
            assert before == ChunkRange(*index.state_before(first))
            assert part.read() == b""


def test_rows_are_found_by_transaction_and_a_reader_goes_on_only_where_a_chunk_begins() -> None:
    builder = build([1, 2], [130, 1], [3])
    _footer, index = ends_of(packed(builder)[1])
    # Chunks: 1 and 2; the first, the second, the rest of 3 with 4; 5.
    assert [index.row_holding(txid) for txid in range(1, 6)] == [0, 0, 3, 3, 4]
    assert [index.row_after(txid) for txid in range(7)] == [0, None, 1, None, 4, 5, None]
    position = builder.positions[builder.timeline, 2]
    assert index.state_before(1) == index.state_before(3) == (2, position.checksum, 19)
    assert index.state_before(0) == (0, builder.positions[builder.timeline, 0].checksum, 19)


def test_a_range_that_is_not_what_the_index_says_is_refused() -> None:
    builder, other = build([1], [1], [1]), build([1], [2], [1])
    _built, data = packed(builder)
    _footer, index = ends_of(data)
    start, length = index.byte_range(1, 3)
    mine, theirs = chunks_of(data), chunks_of(packed(other)[1])
    for part in (data[start : start + length - 1], mine[2] + mine[1], theirs[1] + theirs[2], mine[0] + mine[2]):
        with pytest.raises(CorruptObject):
            list(read_pack_chunks(io.BytesIO(part).read, index, range(1, 3)))


@pytest.mark.parametrize(
    "changes", [{"seen_ms": 99_000}, {"looked_ms": 10_000}, {"checksum": 1}, {"pages_after": 20}], ids=str
)
def test_a_chunk_is_compared_with_all_that_the_index_says_of_it(changes: dict[str, int]) -> None:
    """The index is right in itself, and says that another transaction stood at a time."""
    builder = build([1], [1, 1], [1])
    data = forged(packed(builder)[1], lambda commit: msgspec.structs.replace(commit, **changes), at=1)
    _footer, index = ends_of(data)
    (right, wrong) = (index.byte_range(number, number + 1)[0] for number in (0, 1))
    assert len(list(read_pack_chunks(io.BytesIO(data[right:]).read, index, range(1)))) == 2
    with pytest.raises(CorruptObject, match="contradicts the chunk"):
        list(read_pack_chunks(io.BytesIO(data[wrong:]).read, index, range(1, 2)))


def test_the_footer_tells_the_name() -> None:
    builder = build([1, 1], [2])
    built, data = packed(builder)
    footer, _index = ends_of(data)
    assert pack_name(footer) == built.name
    assert parse_pack_footer(data[-100:], len(data)) is None
