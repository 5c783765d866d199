"""A segment object: a header, chunks, a footer (see `container`, `chunk` and `objects` for their bytes).

A segment holds whole transactions of one timeline, in order. `read_segment` checks what ties it together: chunks
continue one another's txid, the last frame ends a transaction, and the footer agrees with the chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from walrep.core.chunk import FLAG_COMMIT, ChunkTable, decode_table
from walrep.core.container import (
    PREAMBLE_BYTES,
    Block,
    BlockType,
    Kind,
    decode_struct,
    encode_preamble,
    encode_struct_block,
    encode_tail,
    read_blocks,
)
from walrep.core.objects import SegmentFooter, SegmentHeader
from walrep.core.units import PAGE_SIZES
from walrep.errors import CorruptObject

__all__ = ["SegmentChunk", "encode_segment_end", "encode_segment_start", "read_segment"]


class SegmentChunk(msgspec.Struct, frozen=True):
    """One chunk of a segment, its pages still compressed."""

    table: ChunkTable
    body: bytes
    offset: int


def encode_segment_start(header: SegmentHeader) -> bytes:
    """Return the bytes before the first chunk."""
    return encode_preamble(Kind.SEGMENT) + encode_struct_block(BlockType.HEADER, header)


def encode_segment_end(footer: SegmentFooter, offset: int) -> bytes:
    """Return the bytes after the last chunk, which ended at `offset`."""
    return encode_struct_block(BlockType.FOOTER, footer) + encode_tail(offset)


def read_segment(read: Callable[[int], bytes]) -> Iterator[SegmentHeader | SegmentChunk | SegmentFooter]:
    """Yield the header, the chunks and the footer of a segment.

    `read(n)` returns the next n bytes, fewer only at the end. What lies before a defect is yielded before it raises.

    Raises:
        CorruptObject: anything malformed or inconsistent.

    """
    blocks = read_blocks(read, Kind.SEGMENT)
    header = decode_struct(next(blocks), BlockType.HEADER, SegmentHeader)
    if header.page_size not in PAGE_SIZES:
        raise CorruptObject(f"page size {header.page_size}", offset=PREAMBLE_BYTES)
    yield header
    txid = int(header.txid_before)
    frames = chunks = 0
    last = None
    ended = True
    for block in blocks:
        if block.type == BlockType.FOOTER:
            footer = decode_struct(block, BlockType.FOOTER, SegmentFooter)
            _check_footer(footer, header, block, (txid, frames, chunks, ended))
            if last is not None and (last.checksum, last.pages_after, last.seen_ms) != (
                footer.checksum_after,
                footer.pages_after,
                footer.last_seen_ms,
            ):
                raise CorruptObject("the footer contradicts the last transaction", offset=block.offset)
            yield footer
            continue
        if block.type != BlockType.CHUNK:
            raise CorruptObject(f"unexpected {block.type.name.lower()} block in a segment", offset=block.offset)
        table = decode_table(block.head, page_size=header.page_size, offset=block.offset)
        if table.txid_before != txid:
            raise CorruptObject(
                f"chunk continues transaction {table.txid_before}, expected {txid}", offset=block.offset
            )
        yield SegmentChunk(table, block.body, block.offset)
        txid += len(table.commits)
        frames += len(table.pgnos)
        chunks += 1
        ended = bool(table.flags[-1] & FLAG_COMMIT)
        last = table.commits[-1] if table.commits else last


def _check_footer(
    footer: SegmentFooter, header: SegmentHeader, block: Block, counted: tuple[int, int, int, bool]
) -> None:
    txid, frames, chunks, ended = counted
    if not ended:
        raise CorruptObject("the last transaction is not complete", offset=block.offset)
    if (footer.txid_after, footer.frame_count, footer.chunk_count) != (txid, frames, chunks):
        raise CorruptObject("the footer contradicts the chunks", offset=block.offset)
    if chunks == 0 and (footer.checksum_after, footer.pages_after) != (header.checksum_before, header.pages_before):
        raise CorruptObject("an empty segment changes the database", offset=block.offset)
