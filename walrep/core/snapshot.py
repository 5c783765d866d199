"""A snapshot object: the whole database at one position.

A header, `pages` blocks, a footer. The head of a pages block is runs of page numbers, each (first u32, count u32),
little-endian; its body is one zstd frame of those pages' contents, in order, at most 64 pages and 1 MiB of them.

A snapshot is copied while the database changes, so a page can stand in it more than once: **the last one counts**.
The footer tells at which transaction the whole is valid, and the database checksum there. Pages beyond its page
count are to be ignored; the lock-byte page is never written and reads as zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

import msgspec

from walrep.core.chunk import compress_pages, decode_pages
from walrep.core.container import (
    PREAMBLE_BYTES,
    BlockType,
    Kind,
    decode_struct,
    encode_block,
    encode_preamble,
    encode_struct_block,
    encode_tail,
    read_blocks,
)
from walrep.core.names import FullName, SnapshotName
from walrep.core.objects import SnapshotFooter, SnapshotHeader
from walrep.core.units import PAGE_SIZES
from walrep.errors import CorruptObject

__all__ = [
    "SnapshotPages",
    "encode_snapshot_end",
    "encode_snapshot_pages",
    "encode_snapshot_start",
    "read_snapshot",
    "snapshot_block_pages",
    "snapshot_name",
]

_BLOCK_PAGES_MAX = 64
_BLOCK_BYTES_MAX = 1 << 20
_RUN = struct.Struct("<II")


class SnapshotPages(msgspec.Struct, frozen=True):
    """One block of a snapshot, its pages still compressed."""

    pgnos: list[int]
    body: bytes
    offset: int

    def decode(self, page_size: int) -> bytes:
        """Return the contents of the pages, in the order of `pgnos`; raises `CorruptObject`."""
        return decode_pages(self.body, (), page_count=len(self.pgnos), page_size=page_size, offset=self.offset)


def snapshot_name(header: SnapshotHeader, footer: SnapshotFooter) -> SnapshotName:
    """Return what the key of a snapshot says."""
    full = header.full
    return SnapshotName(
        timeline=header.timeline,
        txid=footer.txid,
        seen_ms=footer.seen_ms,
        seq=footer.seq,
        full=None if full is None else FullName(full.timeline, full.txid),
    )


def snapshot_block_pages(page_size: int) -> int:
    """Return how many pages of this size a block holds at most."""
    return min(_BLOCK_PAGES_MAX, _BLOCK_BYTES_MAX // page_size)


def encode_snapshot_start(header: SnapshotHeader) -> bytes:
    """Return the bytes before the first pages block."""
    return encode_preamble(Kind.SNAPSHOT) + encode_struct_block(BlockType.HEADER, header)


def encode_snapshot_pages(pgnos: Sequence[int], pages: Sequence[bytes | memoryview]) -> bytes:
    """Return one block of pages; `pages[i]` is the content of page `pgnos[i]`."""
    runs: list[tuple[int, int]] = []
    for pgno in pgnos:
        if runs and pgno == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((pgno, 1))
    head = b"".join(_RUN.pack(first, count) for first, count in runs)
    return encode_block(BlockType.PAGES, head, compress_pages(pages))


def encode_snapshot_end(footer: SnapshotFooter, offset: int) -> bytes:
    """Return the bytes after the last pages block, which ended at `offset`."""
    return encode_struct_block(BlockType.FOOTER, footer) + encode_tail(offset)


def read_snapshot(read: Callable[[int], bytes]) -> Iterator[SnapshotHeader | SnapshotPages | SnapshotFooter]:
    """Yield the header, the pages blocks and the footer of a snapshot.

    `read(n)` returns the next n bytes, fewer only at the end. What lies before a defect is yielded before it raises.

    Raises:
        CorruptObject: anything malformed.

    """
    blocks = read_blocks(read, Kind.SNAPSHOT)
    header = decode_struct(next(blocks), BlockType.HEADER, SnapshotHeader)
    if header.page_size not in PAGE_SIZES:
        raise CorruptObject(f"page size {header.page_size}", offset=PREAMBLE_BYTES)
    yield header
    count = 0
    pages_max = snapshot_block_pages(header.page_size)
    for block in blocks:
        if block.type == BlockType.FOOTER:
            footer = decode_struct(block, BlockType.FOOTER, SnapshotFooter)
            if footer.block_count != count:
                raise CorruptObject("the footer contradicts the number of blocks", offset=block.offset)
            yield footer
            continue
        if block.type != BlockType.PAGES:
            raise CorruptObject(f"unexpected {block.type.name.lower()} block in a snapshot", offset=block.offset)
        yield SnapshotPages(_parse_runs(block.head, pages_max, block.offset), block.body, block.offset)
        count += 1


def _parse_runs(head: bytes, pages_max: int, offset: int) -> list[int]:
    if len(head) % _RUN.size or not head:
        raise CorruptObject("malformed page runs", offset=offset)
    pgnos: list[int] = []
    for first, count in _RUN.iter_unpack(head):
        if first < 1 or not 0 < count <= pages_max - len(pgnos):
            raise CorruptObject("malformed page runs", offset=offset)
        pgnos.extend(range(first, first + count))
    return pgnos
