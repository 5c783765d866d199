"""A chunk: up to 64 consecutive WAL frames, compressed against the previous versions of their pages.

The head of a chunk block is the zstd-compressed table. Little-endian, columns one after the other:

    u16       frames, 1 to 64
    u16       commits c: how many of the frames end a transaction
    u64       txid of the last transaction before the chunk's first commit
    u32[n]    page number of each frame
    u8[n]     flags of each frame: 1 commits, 2 the page's pre-image is in the reference
    u32[c]    database size in pages after each transaction
    u64[c]    database checksum after each transaction
    i64[c]    when the commit was seen, ms since 1970 UTC, as the difference from the one before (the first from 0)
    u32[c]    how long before that walrep had looked and not seen it, in ms (2^32-1: that or longer)

The body is one zstd frame of the pages' new contents, in frame order. Its raw-content dictionary, the **reference**,
is the concatenated pre-images of the pages flagged 2, in frame order. A pre-image is the page's content before the
chunk's first frame, so a page is flagged at most once, at its first frame in the chunk. A page that has no
pre-image (new, or reused after a shrink), or whose pre-image could not be proven, is not flagged. Later versions of a
page within a chunk find the earlier ones through zstd's window.

zstd decodes without complaint against a wrong reference. The database checksum is what notices, so a reader compares
it with the recorded one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate

import msgspec
import zstandard

from walrep.core.units import lock_byte_page
from walrep.errors import CorruptObject, check

__all__ = [
    "CHUNK_BYTES_MAX",
    "CHUNK_FRAMES_MAX",
    "FLAG_COMMIT",
    "FLAG_REFERENCE",
    "ChunkTable",
    "Commit",
    "chunk_frames",
    "compress_pages",
    "decode_pages",
    "decode_table",
    "encode_table",
]

CHUNK_FRAMES_MAX = 64
CHUNK_BYTES_MAX = 256 << 10
"""A chunk ends at 64 frames or at 256 KiB of pages: beyond, zstd's level 3 window loses the reference."""

FLAG_COMMIT = 1
FLAG_REFERENCE = 2

_LEVEL = 3
# Level 3 with match tables that fit a core's cache. One bit less, and they no longer find a reference of 256 KiB.
_HASTY = zstandard.ZstdCompressionParameters.from_level(
    _LEVEL,
    source_size=CHUNK_BYTES_MAX,
    dict_size=CHUNK_BYTES_MAX,
    hash_log=15,
    chain_log=15,
    write_content_size=True,
)
_REFERENCE_BYTES_MIN = 8
_TABLE_BYTES_MAX = 64 << 10
_GAP_MAX = 0xFFFF_FFFF
_FIXED = struct.Struct("<HHQ")


class Commit(msgspec.Struct, frozen=True):
    """The end of one transaction."""

    pages_after: int
    checksum: int
    seen_ms: int
    looked_ms: int


class ChunkTable(msgspec.Struct, frozen=True):
    """What a chunk says of its frames; `commits` are in the order of the frames that carry the flag."""

    txid_before: int
    pgnos: list[int]
    flags: bytes
    commits: list[Commit]


def chunk_frames(page_size: int) -> int:
    """Return how many frames of this page size a chunk holds at most."""
    return max(1, min(CHUNK_FRAMES_MAX, CHUNK_BYTES_MAX // page_size))


def encode_table(table: ChunkTable) -> bytes:
    """Return the compressed table, the head of a chunk block."""
    frames, commits = len(table.pgnos), table.commits
    check(frames == len(table.flags) and 0 < frames <= CHUNK_FRAMES_MAX, "chunk table out of shape")
    seen = [commit.seen_ms for commit in commits]
    deltas = [later - earlier for earlier, later in zip([0, *seen], seen, strict=False)]
    gaps = [min(max(c.seen_ms - c.looked_ms, 0), _GAP_MAX) for c in commits]
    n = len(commits)
    plain = b"".join(
        (
            _FIXED.pack(frames, n, table.txid_before),
            struct.pack(f"<{frames}I", *table.pgnos),
            table.flags,
            struct.pack(f"<{n}I", *(c.pages_after for c in commits)),
            struct.pack(f"<{n}Q", *(c.checksum for c in commits)),
            struct.pack(f"<{n}q", *deltas),
            struct.pack(f"<{n}I", *gaps),
        )
    )
    return zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(plain)


def decode_table(head: bytes, *, page_size: int, offset: int) -> ChunkTable:
    """Parse the head of the chunk block at `offset` in its object.

    Raises:
        CorruptObject: anything malformed.

    """

    def refuse(message: str) -> CorruptObject:
        return CorruptObject(f"malformed chunk table: {message}", offset=offset)

    plain = _decompress(head, None, _TABLE_BYTES_MAX, offset=offset)
    if len(plain) < _FIXED.size:
        raise refuse("too short")
    frames, n, txid_before = _FIXED.unpack_from(plain)
    if not 0 < frames <= chunk_frames(page_size):
        raise refuse(f"{frames} frames")
    if len(plain) != _FIXED.size + 5 * frames + 24 * n:
        raise refuse("length")
    at = _FIXED.size
    pgnos = list(struct.unpack_from(f"<{frames}I", plain, at))
    at += 4 * frames
    flags = plain[at : at + frames]
    at += frames
    sizes = struct.unpack_from(f"<{n}I", plain, at)
    checksums = struct.unpack_from(f"<{n}Q", plain, at + 4 * n)
    seen = list(accumulate(struct.unpack_from(f"<{n}q", plain, at + 12 * n)))
    gaps = struct.unpack_from(f"<{n}I", plain, at + 20 * n)
    lock_page = lock_byte_page(page_size)
    if min(pgnos) < 1 or lock_page in pgnos:
        raise refuse("page number")
    if max(flags) > (FLAG_COMMIT | FLAG_REFERENCE) or sum(flag & FLAG_COMMIT for flag in flags) != n:
        raise refuse("flags")
    if n and min(sizes) < 1:
        raise refuse("database size")
    referenced = [pgno for pgno, flag in zip(pgnos, flags, strict=True) if flag & FLAG_REFERENCE]
    if len(referenced) != len(set(referenced)):
        raise refuse("a page has two pre-images")
    commits = [
        Commit(pages_after=size, checksum=checksum, seen_ms=when, looked_ms=when - gap)
        for size, checksum, when, gap in zip(sizes, checksums, seen, gaps, strict=True)
    ]
    return ChunkTable(txid_before=txid_before, pgnos=pgnos, flags=flags, commits=commits)


def compress_pages(
    pages: Sequence[bytes | memoryview], references: Sequence[bytes | memoryview] = (), *, hasty: bool = False
) -> bytes:
    """Return the compressed pages, the body of a block; `references` are the pre-images, in table order.

    `hasty` is for a backlog: with references it is 1.4 to 1.8 times as fast on three of the four workloads of
    `benchmarks`, no faster on the job queue, for up to 5 % more bytes. The format is the same.
    """
    dictionary = _dictionary(references)
    if hasty and dictionary is not None:
        compressor = zstandard.ZstdCompressor(compression_params=_HASTY, dict_data=dictionary)
    else:
        compressor = zstandard.ZstdCompressor(level=_LEVEL, dict_data=dictionary, write_content_size=True)
    return compressor.compress(b"".join(pages))


def decode_pages(body: bytes, references: Sequence[bytes], *, page_count: int, page_size: int, offset: int) -> bytes:
    """Return `page_count` decompressed pages as one buffer.

    Raises:
        CorruptObject: the body is not a zstd frame of exactly that size.

    """
    plain = _decompress(body, _dictionary(references), page_count * page_size, offset=offset)
    if len(plain) != page_count * page_size:
        raise CorruptObject("pages do not have the declared size", offset=offset)
    return plain


def _dictionary(references: Sequence[bytes | memoryview]) -> zstandard.ZstdCompressionDict | None:
    joined = b"".join(references)
    if len(joined) < _REFERENCE_BYTES_MIN:
        return None
    return zstandard.ZstdCompressionDict(joined, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _decompress(data: bytes, dictionary: zstandard.ZstdCompressionDict | None, bytes_max: int, *, offset: int) -> bytes:
    """Decompress one zstd frame that declares its size; the declaration is checked before anything is allocated."""
    try:
        declared = zstandard.frame_content_size(data)
        if not 0 <= declared <= bytes_max:
            raise CorruptObject(f"compressed data declares {declared} bytes", offset=offset)
        return zstandard.ZstdDecompressor(dict_data=dictionary).decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObject("compressed data does not decode", offset=offset, detail=str(error)) from error
