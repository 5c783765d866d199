"""A pack: what many segments of one timeline held, in one object, with every transaction.

A header, the segments' chunk blocks byte for byte, the index, a footer (see `container`, `chunk`, `index` and `objects`
for their bytes). The chunks' tables name transactions by their numbers in the timeline, so that nothing has to be
encoded anew. The footer repeats the header: the end of the object tells all that a history needs.

    INV-21  A pack is made of segments or packs that continue one another, whole; it is read back, and its chunks are
            compared with theirs, before anything that it replaces may go.

Packing does not merge small chunks into full ones, though it could: on the four workloads of `benchmarks`, with one
transaction a second and a segment each 10 s, that would save 8 % of the bytes (mixed) and 2, 2 and 0 % of the others,
and packing would need the contents of the pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from xxhash import xxh3_128_digest

from walrep.core.container import (
    KIND_OFFSET,
    PREAMBLE_BYTES,
    BlockType,
    Kind,
    decode_struct,
    encode_preamble,
    encode_struct_block,
    encode_tail,
    parse_footer,
    read_block,
    read_blocks,
)
from walrep.core.index import (
    CHUNK_BLOCK_BYTES_MIN,
    IndexBuilder,
    IndexRow,
    PackIndex,
    decode_index_rows,
    decompress_index,
    index_row,
)
from walrep.core.names import PackName
from walrep.core.objects import PackFooter, PackHeader, SegmentFooter, SegmentHeader
from walrep.core.segment import ChunkSequence, SegmentChunk, read_segment
from walrep.core.units import PAGE_SIZES, Txid
from walrep.errors import CorruptObject

__all__ = [
    "ChunkRange",
    "IndexBlock",
    "Read",
    "encode_pack_end",
    "encode_pack_start",
    "pack_footer",
    "pack_name",
    "parse_pack_footer",
    "read_pack",
    "read_pack_chunks",
    "read_source",
]

Read = Callable[[int], bytes]
"""`read(n)` returns the next n bytes of an object, fewer only at its end."""

_INDEX_BYTES_PER_ROW_MAX = 128
_CHECKSUMS = 1 << 64
_PAGE_COUNTS = 1 << 32
_TXIDS = 1 << 60


class IndexBlock(msgspec.Struct, frozen=True):
    """One block of a pack's index."""

    plain: bytes
    offset: int

    def rows(self) -> list[IndexRow]:
        """Return the rows; raises `CorruptObject`."""
        rows = decode_index_rows(self.plain, offset=self.offset)
        names = rows.dtype.names or ()
        return [msgspec.convert(dict(zip(names, row, strict=True)), IndexRow) for row in rows.tolist()]


class ChunkRange(msgspec.Struct, frozen=True):
    """The state before a range of chunks of a pack; stands for the header where only the range is read."""

    txid_before: int
    checksum_before: int
    pages_before: int


def read_pack(read: Read) -> Iterator[PackHeader | SegmentChunk | IndexBlock | PackFooter]:
    """Yield the header, the chunks, the blocks of the index and the footer of a pack.

    What lies before a defect is yielded before it raises. Of the index it keeps a digest for each block.

    Raises:
        CorruptObject: anything malformed or inconsistent.

    """
    blocks = read_blocks(read, Kind.PACK)
    header = decode_struct(next(blocks), BlockType.HEADER, PackHeader)
    _check_header(header, PREAMBLE_BYTES)
    yield header
    chunks, index = ChunkSequence(header), IndexBuilder(header)
    expected: list[bytes] = []
    found = index_offset = 0
    for block in blocks:
        if block.type == BlockType.FOOTER:
            footer = decode_struct(block, BlockType.FOOTER, PackFooter)
            chunks.check_footer(footer, block.offset)
            if not chunks.chunk_count:
                raise CorruptObject("a pack without a transaction", offset=block.offset)
            if not index_offset or found < len(expected) or footer != pack_footer(header, chunks, index, index_offset):
                raise CorruptObject("the footer contradicts header, chunks or index", offset=block.offset)
            yield footer
        elif block.type == BlockType.INDEX:
            if not index_offset:
                index_offset = block.offset
                _note(expected, index.rest())
            plain = decompress_index(block.head, offset=block.offset)
            if found == len(expected) or xxh3_128_digest(plain) != expected[found]:
                raise CorruptObject("the index contradicts the chunks", offset=block.offset)
            found += 1
            yield IndexBlock(plain, block.offset)
        elif index_offset:
            raise CorruptObject(f"unexpected {block.type.name.lower()} block behind the index", offset=block.offset)
        else:
            chunk = chunks.take(block)
            _note(expected, index.add(chunk, block.offset))
            yield chunk


def read_pack_chunks(read: Read, index: PackIndex, rows: range) -> Iterator[ChunkRange | SegmentChunk]:
    """Yield the state before some chunks of a pack, and the chunks, without the rest of the object.

    `rows` are their numbers in the index; `read` stands where the first of them begins.

    Raises:
        CorruptObject: what is there is malformed, or not what the index says.

    """
    state, seen_ms = index.state_before(rows.start), index.seen_before(rows.start)
    yield ChunkRange(*state)
    chunks = ChunkSequence(msgspec.structs.replace(index.header, txid_before=Txid(state[0])))
    for number in rows:
        row = index.row(number)
        chunk = chunks.take(read_block(read, row.offset))
        # Also when it was seen: a time that was asked for was found in the index alone.
        if index_row(chunk, row.offset, state, seen_ms) != row:
            raise CorruptObject("the index contradicts the chunk", offset=row.offset)
        state, seen_ms = row.state_after, row.last_seen_ms
        yield chunk


def parse_pack_footer(ending: bytes, object_bytes: int) -> PackFooter | None:
    """Return the footer of a pack if it lies whole in `ending`, the last bytes of an object of this size; else None.

    Raises:
        CorruptObject: tail or footer is malformed, or it declares what an object of this size cannot hold.

    """
    block = parse_footer(ending, object_bytes)
    if block is None:
        return None
    footer = decode_struct(block, BlockType.FOOTER, PackFooter)
    _check_header(footer.header, block.offset)
    index_bytes = block.offset - footer.index_offset
    if (
        footer.txid_after <= footer.header.txid_before
        or footer.chunk_count < 1
        or footer.chunk_count * CHUNK_BLOCK_BYTES_MIN > footer.index_offset
        or not 0 < index_bytes <= (footer.chunk_count + 1) * _INDEX_BYTES_PER_ROW_MAX
    ):
        raise CorruptObject("the footer of a pack contradicts itself", offset=block.offset)
    return footer


def read_source(read: Read) -> Iterator[SegmentHeader | PackHeader | SegmentChunk | IndexBlock | SegmentFooter]:
    """Yield the items of a segment or a pack, whichever the preamble names; a pack's footer is a segment's, too.

    Raises:
        CorruptObject: anything malformed or inconsistent.

    """
    preamble = read(PREAMBLE_BYTES)
    rest = iter((preamble,))

    def again(count: int) -> bytes:
        return next(rest, None) or read(count)

    is_pack = preamble[KIND_OFFSET : KIND_OFFSET + 1] == bytes([Kind.PACK])
    yield from read_pack(again) if is_pack else read_segment(again)


def pack_name(footer: PackFooter) -> PackName:
    """Return the name of the pack with this footer."""
    header = footer.header
    return PackName(
        timeline=header.timeline,
        first_txid=Txid(header.txid_before + 1),
        last_txid=footer.txid_after,
        first_seen_ms=footer.first_seen_ms,
        last_seen_ms=footer.last_seen_ms,
        first_seq=header.first_seq,
        last_seq=header.last_seq,
    )


def encode_pack_start(header: PackHeader) -> bytes:
    """Return the bytes before the first chunk."""
    return encode_preamble(Kind.PACK) + encode_struct_block(BlockType.HEADER, header)


def encode_pack_end(footer: PackFooter, offset: int) -> bytes:
    """Return the bytes after the index, which ended at `offset`."""
    return encode_struct_block(BlockType.FOOTER, footer) + encode_tail(offset)


def pack_footer(header: PackHeader, chunks: ChunkSequence, index: IndexBuilder, index_offset: int) -> PackFooter:
    """Return what the footer has to say; chunks that end no transaction leave what the header says."""
    last = chunks.last
    return PackFooter(
        header=header,
        index_offset=index_offset,
        txid_after=Txid(chunks.txid),
        checksum_after=last.checksum if last else header.checksum_before,
        pages_after=last.pages_after if last else header.pages_before,
        first_looked_ms=index.first_looked_ms,
        first_seen_ms=index.first_seen_ms,
        last_seen_ms=index.last_seen_ms,
        earliest_seen_ms=index.earliest_seen_ms,
        latest_seen_ms=index.latest_seen_ms,
        chunk_count=chunks.chunk_count,
        frame_count=chunks.frame_count,
    )


def _note(expected: list[bytes], plain: bytes | None) -> None:
    """Remember what a block of the index has to be."""
    if plain is not None:
        expected.append(xxh3_128_digest(plain))


def _check_header(header: PackHeader, offset: int) -> None:
    if header.page_size not in PAGE_SIZES:
        raise CorruptObject(f"page size {header.page_size}", offset=offset)
    if (
        not 0 < header.first_seq <= header.last_seq
        or not 0 <= header.txid_before < _TXIDS
        or not 0 <= header.checksum_before < _CHECKSUMS
        or not 0 <= header.pages_before < _PAGE_COUNTS
    ):
        raise CorruptObject("the header of a pack contradicts itself", offset=offset)
