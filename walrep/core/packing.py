"""Making a pack from segments, or a larger pack from packs, and proving it.

Both work on streams: what is read and written lies with the caller, who discards what was begun when it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from xxhash import xxh3_128

from walrep.core.container import PREAMBLE_BYTES, Block, BlockType, encode_block
from walrep.core.index import IndexBuilder, encode_index_block
from walrep.core.names import PackName
from walrep.core.objects import PackFooter, PackHeader, SegmentFooter, SegmentHeader, Writer
from walrep.core.pack import Read, encode_pack_end, encode_pack_start, pack_footer, pack_name, read_pack, read_source
from walrep.core.segment import ChunkSequence, SegmentChunk
from walrep.core.units import Seq
from walrep.errors import CorruptObject

__all__ = ["BuiltPack", "build_pack", "pack_header", "verify_pack"]


class BuiltPack(msgspec.Struct, frozen=True, kw_only=True):
    """A pack that was written, and a digest of its chunks' blocks as the sources had them."""

    name: PackName
    footer: PackFooter
    size_bytes: int
    chunks_digest: bytes


def pack_header(first: SegmentHeader | PackHeader, last_seq: Seq, writer: Writer, created_ms: int) -> PackHeader:
    """Return the header of a pack from the header of its first source; `last_seq` is the number of its last segment."""
    return PackHeader(
        replica=first.replica,
        timeline=first.timeline,
        writer=writer,
        created_ms=created_ms,
        page_size=first.page_size,
        first_seq=first.seq if isinstance(first, SegmentHeader) else first.first_seq,
        last_seq=last_seq,
        txid_before=first.txid_before,
        checksum_before=first.checksum_before,
        pages_before=first.pages_before,
    )


def build_pack(sources: Iterable[Read], write: Callable[[bytes], object], header: PackHeader) -> BuiltPack:
    """Write a pack of these segments and packs, which continue one another, a chunk at a time.

    In memory are one chunk, the compressed index, and the rows of its last block.

    Raises:
        CorruptObject: a source is malformed, does not continue the one before, or does not belong into this pack.

    """
    chunks, index, chain = ChunkSequence(header), IndexBuilder(header), _Chain(header)
    digest, tables = xxh3_128(), list[bytes]()
    start = encode_pack_start(header)
    write(start)
    offset = len(start)
    for source in sources:
        for item in read_source(source):
            if isinstance(item, SegmentChunk):
                block = encode_block(BlockType.CHUNK, item.head, item.body)
                digest.update(block)
                chunk = chunks.take(Block(BlockType.CHUNK, item.offset, item.head, item.body))
                _note(tables, index.add(chunk, offset))
                write(block)
                offset += len(block)
            elif isinstance(item, SegmentFooter):
                chain.end(item)
            elif isinstance(item, SegmentHeader | PackHeader):
                chain.begin(item)
    chain.finish()
    _note(tables, index.rest())
    footer = pack_footer(header, chunks, index, offset)
    ending = b"".join(tables)
    ending += encode_pack_end(footer, offset + len(ending))
    write(ending)
    return BuiltPack(
        name=pack_name(footer),
        footer=footer,
        size_bytes=offset + len(ending),
        chunks_digest=digest.digest(),
    )


def verify_pack(read: Read, expected: BuiltPack) -> None:
    """Read a written pack from its beginning to its end, and compare it with what its sources held. INV-21.

    Raises:
        CorruptObject: it is malformed, or not what was written.

    """
    digest, size_bytes = xxh3_128(), 0

    def counted(count: int) -> bytes:
        nonlocal size_bytes
        data = read(count)
        size_bytes += len(data)
        return data

    footer = None
    for item in read_pack(counted):
        if isinstance(item, SegmentChunk):
            digest.update(encode_block(BlockType.CHUNK, item.head, item.body))
        elif isinstance(item, PackFooter):
            footer = item
    if (footer, size_bytes, digest.digest()) != (expected.footer, expected.size_bytes, expected.chunks_digest):
        raise CorruptObject("the pack is not what its sources held", offset=0)


class _Chain:
    """Sources that continue one another, from where a pack's header begins to where it ends."""

    def __init__(self, header: PackHeader) -> None:
        self._header = header
        self._state = (int(header.txid_before), header.checksum_before, header.pages_before)
        self._next_seq = int(header.first_seq)

    def begin(self, source: SegmentHeader | PackHeader) -> None:
        """Check that a source goes on here."""
        first, last = (source.seq,) * 2 if isinstance(source, SegmentHeader) else (source.first_seq, source.last_seq)
        if isinstance(source, SegmentHeader) and (source.start is not None or source.fence):
            raise CorruptObject(f"segment {first} opens a timeline, and stays", offset=PREAMBLE_BYTES)
        same = (self._header.replica, self._header.timeline, self._header.page_size)
        if (source.replica, source.timeline, source.page_size) != same:
            message = f"segment {first} is of another replica, timeline or page size"
            raise CorruptObject(message, offset=PREAMBLE_BYTES)
        state = (source.txid_before, source.checksum_before, source.pages_before)
        if state != self._state or first != self._next_seq or last > self._header.last_seq:
            raise CorruptObject(f"segment {first} does not continue what is packed", offset=PREAMBLE_BYTES)
        self._next_seq = last + 1

    def end(self, source: SegmentFooter) -> None:
        """Go on behind a source."""
        self._state = (source.txid_after, source.checksum_after, source.pages_after)

    def finish(self) -> None:
        """Check that this is the end."""
        if self._next_seq != self._header.last_seq + 1:
            raise CorruptObject(f"segment {self._next_seq} is missing in what is packed", offset=0)


def _note(tables: list[bytes], plain: bytes | None) -> None:
    """Keep a block of the index until the chunks are written."""
    if plain is not None:
        tables.append(encode_index_block(plain))
