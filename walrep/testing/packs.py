"""Makes packs from a replica's objects, written anew from the format's description, row by row.

So a test of what reads packs is not a test of the product's builder against itself, and the builder has something to be
compared with.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence

import zstandard

from walrep.core.chunk import FLAG_COMMIT, Commit
from walrep.core.container import BlockType, Kind, encode_block, encode_preamble, encode_struct_block, encode_tail
from walrep.core.names import PackName, pack_key
from walrep.core.objects import PackFooter, PackHeader, SegmentFooter, SegmentHeader, Writer
from walrep.core.pack import read_source
from walrep.core.segment import SegmentChunk
from walrep.core.units import Seq, Txid
from walrep.errors import check

__all__ = ["index_tables", "make_pack"]

_ROWS_MAX = 4096

_Ends = tuple[SegmentHeader | PackHeader, SegmentFooter]


def make_pack(objects: Mapping[str, bytes], keys: Sequence[str], *, created_ms: int = 0) -> tuple[str, bytes]:
    """Return the key and the bytes of the pack that replaces these segments and packs, given in order."""
    ends: list[_Ends] = []
    chunks: list[SegmentChunk] = []
    for key in keys:
        items = list(read_source(io.BytesIO(objects[key]).read))
        header, footer = items[0], items[-1]
        check(isinstance(header, SegmentHeader | PackHeader), "an object begins with a header")
        check(isinstance(footer, SegmentFooter), "an object ends with a footer")
        if isinstance(header, SegmentHeader | PackHeader) and isinstance(footer, SegmentFooter):
            ends.append((header, footer))
        chunks += [item for item in items if isinstance(item, SegmentChunk)]
    header = _header(ends, created_ms)
    data = encode_preamble(Kind.PACK) + encode_struct_block(BlockType.HEADER, header)
    offsets = []
    for chunk in chunks:
        offsets.append(len(data))
        data += encode_block(BlockType.CHUNK, chunk.head, chunk.body)
    index_offset = len(data)
    for table in index_tables(header, chunks, offsets):
        data += encode_block(BlockType.INDEX, zstandard.ZstdCompressor(level=3).compress(table))
    footer = _footer(header, [footer for _header, footer in ends], index_offset)
    data += encode_struct_block(BlockType.FOOTER, footer) + encode_tail(len(data))
    name = PackName(
        timeline=header.timeline,
        first_txid=Txid(header.txid_before + 1),
        last_txid=footer.txid_after,
        first_seen_ms=footer.first_seen_ms,
        last_seen_ms=footer.last_seen_ms,
        first_seq=header.first_seq,
        last_seq=header.last_seq,
    )
    return pack_key(name), data


def index_tables(header: PackHeader, chunks: Sequence[SegmentChunk], offsets: Sequence[int]) -> list[bytes]:
    """Return the plain tables of the index of these chunks, whose blocks lie at `offsets`."""
    checksum, pages, txid, seen = header.checksum_before, header.pages_before, int(header.txid_before), 0
    tables = []
    for start in range(0, len(chunks), _ROWS_MAX):
        columns: list[list[bytes]] = [[] for _ in range(10)]
        before, fixed = 0, struct.pack("<IQQ", len(chunks[start : start + _ROWS_MAX]), offsets[start], txid)
        for chunk in chunks[start : start + _ROWS_MAX]:
            commits: Sequence[Commit] = chunk.table.commits
            if commits:
                checksum, pages = commits[-1].checksum, commits[-1].pages_after
            times = [commit.seen_ms for commit in commits] or [seen]
            looked = commits[0].looked_ms if commits else seen
            row = (
                struct.pack("<I", 24 + len(chunk.head) + len(chunk.body)),
                struct.pack("<B", len(commits)),
                struct.pack("<B", chunk.table.flags[-1] & FLAG_COMMIT),
                struct.pack("<I", pages),
                struct.pack("<Q", checksum),
                struct.pack("<q", times[0] - before),
                struct.pack("<q", times[-1] - times[0]),
                struct.pack("<q", times[0] - min(times)),
                struct.pack("<q", max(times) - times[-1]),
                struct.pack("<I", times[0] - looked),
            )
            for column, value in zip(columns, row, strict=True):
                column.append(value)
            txid += len(commits)
            before = seen = times[-1]
        tables.append(fixed + b"".join(b"".join(column) for column in columns))
    return tables


def _header(ends: Sequence[_Ends], created_ms: int) -> PackHeader:
    first, last = ends[0][0], ends[-1][0]
    return PackHeader(
        replica=first.replica,
        timeline=first.timeline,
        writer=Writer(nonce="fedcba9876543210", host="packer", pid=2),
        created_ms=created_ms,
        page_size=first.page_size,
        first_seq=first.seq if isinstance(first, SegmentHeader) else first.first_seq,
        last_seq=Seq(last.seq if isinstance(last, SegmentHeader) else last.last_seq),
        txid_before=first.txid_before,
        checksum_before=first.checksum_before,
        pages_before=first.pages_before,
    )


def _footer(header: PackHeader, footers: Sequence[SegmentFooter], index_offset: int) -> PackFooter:
    first, last = footers[0], footers[-1]
    return PackFooter(
        header=header,
        index_offset=index_offset,
        txid_after=last.txid_after,
        checksum_after=last.checksum_after,
        pages_after=last.pages_after,
        first_looked_ms=first.first_looked_ms,
        first_seen_ms=first.first_seen_ms,
        last_seen_ms=last.last_seen_ms,
        earliest_seen_ms=min(each.earliest_seen_ms for each in footers),
        latest_seen_ms=max(each.latest_seen_ms for each in footers),
        chunk_count=sum(each.chunk_count for each in footers),
        frame_count=sum(each.frame_count for each in footers),
    )
