"""A snapshot object: the whole database at one position.

A header, `pages` blocks, a footer. The head of a pages block is runs of page numbers, each (first u32, count u32),
little-endian; its body is one zstd frame of those pages' contents, in order, at most 64 pages and 1 MiB of them.

A snapshot is copied while the database changes, so a page can stand in it more than once: **the last one counts**.
The footer tells at which transaction the whole is valid, and the database checksum there. Pages beyond its page
count are to be ignored; the lock-byte page is never written and reads as zeros.

A differential one may also have `delta` blocks. Their head is the same; their body is one zstd frame of the pages'
contents whose raw-content dictionary, the **reference**, is the contents that the full snapshot under it has of the
same pages, in the same order: at most as many as a chunk has frames, so that zstd's window holds it
(`walrep.core.chunk`). A page of which the full one has nothing is in none. Nor is one that stands in an earlier block:
a reader puts a differential one on top of the full one, and finds there what the full one has.

    INV-34  A reference of a page in a differential snapshot is the proved content of that page in the very full
            snapshot under it, and a reader decodes it before anything else of the differential one is in that place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

import msgspec

from walrep.core.chunk import chunk_frames, compress_pages, decode_pages
from walrep.core.container import (
    PREAMBLE_BYTES,
    Block,
    BlockType,
    Kind,
    decode_struct,
    encode_block,
    encode_preamble,
    encode_struct_block,
    encode_tail,
    read_block,
    read_blocks,
    scan_blocks,
)
from walrep.core.names import FullName, SnapshotName
from walrep.core.objects import SnapshotFooter, SnapshotHeader
from walrep.core.units import PAGE_SIZES
from walrep.errors import CorruptObject, check

__all__ = [
    "SnapshotPages",
    "delta_block_pages",
    "encode_snapshot_end",
    "encode_snapshot_pages",
    "encode_snapshot_start",
    "read_snapshot",
    "read_snapshot_block",
    "scan_snapshot",
    "snapshot_block_pages",
    "snapshot_name",
]

_BLOCK_PAGES_MAX = 64
_BLOCK_BYTES_MAX = 1 << 20
_RUN = struct.Struct("<II")
_SET_BITS = 1024


class SnapshotPages(msgspec.Struct, frozen=True):
    """One block of a snapshot, its pages still compressed; `is_delta`: against those of the full one under it."""

    pgnos: list[int]
    body: bytes
    offset: int
    is_delta: bool = False

    def decode(self, page_size: int, references: Sequence[bytes] = ()) -> bytes:
        """Return the contents of the pages, in the order of `pgnos`.

        `references` are what the full snapshot has of them, if this is a delta block.

        Raises:
            CorruptObject: the body is not a zstd frame of that size.

        """
        check(len(references) == (len(self.pgnos) if self.is_delta else 0), "each page of a delta has a reference")
        return decode_pages(self.body, references, page_count=len(self.pgnos), page_size=page_size, offset=self.offset)


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


def delta_block_pages(page_size: int) -> int:
    """Return how many pages of this size a delta block holds at most."""
    return chunk_frames(page_size)


def encode_snapshot_start(header: SnapshotHeader) -> bytes:
    """Return the bytes before the first pages block."""
    return encode_preamble(Kind.SNAPSHOT) + encode_struct_block(BlockType.HEADER, header)


def encode_snapshot_pages(
    pgnos: Sequence[int], pages: Sequence[bytes | memoryview], references: Sequence[bytes | memoryview] = ()
) -> bytes:
    """Return one block of pages; `pages[i]` is the content of page `pgnos[i]`.

    With `references`, a delta block: `references[i]` is what the full snapshot has of that page, which was proved.
    """
    check(len(references) in (0, len(pgnos)), "each page of a delta has a reference")
    runs: list[tuple[int, int]] = []
    for pgno in pgnos:
        if runs and pgno == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((pgno, 1))
    head = b"".join(_RUN.pack(first, count) for first, count in runs)
    block_type = BlockType.DELTA if references else BlockType.PAGES
    return encode_block(block_type, head, compress_pages(pages, references))


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
    stood = None if header.full is None else _PageSet()
    for block in blocks:
        if block.type == BlockType.FOOTER:
            footer = decode_struct(block, BlockType.FOOTER, SnapshotFooter)
            if footer.block_count != count:
                raise CorruptObject("the footer contradicts the number of blocks", offset=block.offset)
            yield footer
            continue
        yield _parse_pages(block, header.page_size, stood)
        count += 1


def scan_snapshot(read_at: Callable[[int, int], bytes], page_size: int) -> Iterator[tuple[int, list[int]]]:
    """Yield where each block of pages of a full snapshot begins, and its page numbers; nothing is verified.

    `read_at(offset, n)` returns n bytes, fewer only at the end.

    Raises:
        CorruptObject: anything malformed.

    """
    for block in scan_blocks(read_at, Kind.SNAPSHOT):
        if block.type not in (BlockType.HEADER, BlockType.FOOTER):
            yield block.offset, _parse_pages(block, page_size, None).pgnos


def read_snapshot_block(read: Callable[[int], bytes], offset: int, page_size: int) -> SnapshotPages:
    """Return the block of pages of a full snapshot that begins at `offset`, where `read` stands.

    Raises:
        CorruptObject: it is malformed, or its checksum does not match.

    """
    return _parse_pages(read_block(read, offset), page_size, None)


class _PageSet:
    """Page numbers, a bit each; pages that are far apart cost no more than those between were there."""

    def __init__(self) -> None:
        self._bits: dict[int, int] = {}

    def add(self, pgno: int) -> bool:
        """Add a page; False if it was there."""
        place, bit = pgno // _SET_BITS, 1 << pgno % _SET_BITS
        bits = self._bits.get(place, 0)
        self._bits[place] = bits | bit
        return not bits & bit


def _parse_pages(block: Block, page_size: int, stood: _PageSet | None) -> SnapshotPages:
    """Return a block of pages; `stood` are those of the blocks before it, in a differential snapshot."""
    is_delta = block.type == BlockType.DELTA
    if not is_delta and block.type != BlockType.PAGES:
        raise CorruptObject(f"unexpected {block.type.name.lower()} block in a snapshot", offset=block.offset)
    if is_delta and stood is None:
        raise CorruptObject("a full snapshot has a delta block", offset=block.offset)
    pages_max = delta_block_pages(page_size) if is_delta else snapshot_block_pages(page_size)
    pgnos = _parse_runs(block.head, pages_max, block.offset)
    # In a differential snapshot, what the full one has of a page has to be what a reader finds in its place. INV-34
    repeated = [pgno for pgno in pgnos if not stood.add(pgno)] if stood is not None else []
    if is_delta and repeated:
        raise CorruptObject(f"page {repeated[0]} of a delta block stands in an earlier one", offset=block.offset)
    return SnapshotPages(pgnos, block.body, block.offset, is_delta)


def _parse_runs(head: bytes, pages_max: int, offset: int) -> list[int]:
    if len(head) % _RUN.size or not head:
        raise CorruptObject("malformed page runs", offset=offset)
    pgnos: list[int] = []
    for first, count in _RUN.iter_unpack(head):
        if first < 1 or not 0 < count <= pages_max - len(pgnos):
            raise CorruptObject("malformed page runs", offset=offset)
        pgnos.extend(range(first, first + count))
    return pgnos
