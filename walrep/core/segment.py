"""A segment object: a header, chunks, a footer (see `container`, `chunk` and `objects` for their bytes).

A segment holds whole transactions of one timeline, in order. `read_segment` checks what ties it together: chunks
continue one another's txid, the last frame ends a transaction, and the footer agrees with the chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from walrep.core.chunk import FLAG_COMMIT, ChunkTable, Commit, decode_table
from walrep.core.container import (
    BLOCK_HEADER_BYTES,
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
from walrep.core.objects import PackHeader, SegmentFooter, SegmentHeader
from walrep.core.units import PAGE_SIZES
from walrep.errors import CorruptObject

__all__ = ["ChunkSequence", "SegmentChunk", "encode_segment_end", "encode_segment_start", "read_segment"]


class SegmentChunk(msgspec.Struct, frozen=True):
    """One chunk of a segment or pack, its pages still compressed; `head` is its table as it stands in the block."""

    table: ChunkTable
    body: bytes
    offset: int
    head: bytes

    @property
    def block_bytes(self) -> int:
        """Size of the block that holds it."""
        return BLOCK_HEADER_BYTES + len(self.head) + len(self.body)

    @property
    def ends_transaction(self) -> bool:
        """Whether the last frame ends a transaction."""
        return bool(self.table.flags[-1] & FLAG_COMMIT)


class ChunkSequence:
    """Chunks that continue one another, and what they amount to."""

    def __init__(self, header: SegmentHeader | PackHeader) -> None:
        self.txid = int(header.txid_before)
        self.frame_count = 0
        self.chunk_count = 0
        self.ended = True
        """Whether the last chunk ends a transaction."""
        self.last: Commit | None = None
        self._header = header

    def take(self, block: Block) -> SegmentChunk:
        """Return the next chunk.

        Raises:
            CorruptObject: the block holds no chunk, or one that does not continue the one before.

        """
        if block.type != BlockType.CHUNK:
            raise CorruptObject(f"unexpected {block.type.name.lower()} block among chunks", offset=block.offset)
        table = decode_table(block.head, page_size=self._header.page_size, offset=block.offset)
        if table.txid_before != self.txid:
            message = f"chunk continues transaction {table.txid_before}, expected {self.txid}"
            raise CorruptObject(message, offset=block.offset)
        chunk = SegmentChunk(table, block.body, block.offset, block.head)
        self.txid += len(table.commits)
        self.frame_count += len(table.pgnos)
        self.chunk_count += 1
        self.ended = chunk.ends_transaction
        self.last = table.commits[-1] if table.commits else self.last
        return chunk

    def check_footer(self, footer: SegmentFooter, offset: int) -> None:
        """Compare a footer, at `offset` in its object, with the chunks.

        Raises:
            CorruptObject: they contradict each other, or the last transaction is not complete.

        """
        if not self.ended:
            raise CorruptObject("the last transaction is not complete", offset=offset)
        counted = (self.txid, self.frame_count, self.chunk_count)
        if (footer.txid_after, footer.frame_count, footer.chunk_count) != counted:
            raise CorruptObject("the footer contradicts the chunks", offset=offset)
        before, last = self._header, self.last
        unchanged = (before.checksum_before, before.pages_before)
        if not self.chunk_count and (footer.checksum_after, footer.pages_after) != unchanged:
            raise CorruptObject("an empty segment changes the database", offset=offset)
        if last is not None and (last.checksum, last.pages_after, last.seen_ms) != (
            footer.checksum_after,
            footer.pages_after,
            footer.last_seen_ms,
        ):
            raise CorruptObject("the footer contradicts the last transaction", offset=offset)


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
    chunks = ChunkSequence(header)
    for block in blocks:
        if block.type == BlockType.FOOTER:
            footer = decode_struct(block, BlockType.FOOTER, SegmentFooter)
            chunks.check_footer(footer, block.offset)
            yield footer
        else:
            yield chunks.take(block)
