"""The index of a pack: one row for each chunk, so that one transaction is found without reading the rest.

It stands behind the chunks as one or more INDEX blocks of 4096 rows, the last of what remains. The head of such a block
is a zstd-compressed table, the body is empty. Little-endian, columns one after the other:

    u32       rows n, 1 to 4096
    u64       offset of the first row's chunk block in the object; the others follow without a gap
    u64       txid before the first row's chunk
    u32[n]    bytes of the chunk block
    u8[n]     how many transactions end in the chunk
    u8[n]     1 if its last frame ends a transaction, else 0
    u32[n]    database size in pages after its last transaction
    u64[n]    database checksum after its last transaction
    i64[n]    when its first transaction was seen, ms since 1970 UTC, as the difference from the last transaction of the
              row before (the first row of a block: from 0)
    i64[n]    when its last transaction was seen, as the difference from the first
    i64[n]    by how much the earliest sighting in the chunk was before that of the first transaction: a clock can step
    i64[n]    by how much the latest one was after that of the last transaction
    u32[n]    how long before the first sighting walrep had looked and not seen it, ms (2^32-1: that or longer)

Times of sightings are between 0 and the end of the year 9999, as those that the key of a pack can tell.

A chunk in which no transaction ends leaves everything as it was: the row repeats size and checksum of the row before
(the first: of the pack's header), and all its times are the last sighting before it (0 if there is none).

A chunk block has at least 44 bytes: its own header and two zstd frames. So an object of n bytes has at most n / 44
rows, whatever its index declares.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from walrep.core.chunk import CHUNK_FRAMES_MAX
from walrep.core.container import BLOCK_HEADER_BYTES, BlockType, encode_block, read_block
from walrep.core.names import TIME_MS_MAX
from walrep.core.objects import PackFooter, PackHeader
from walrep.core.segment import SegmentChunk
from walrep.errors import CorruptObject, check

__all__ = [
    "CHUNK_BLOCK_BYTES_MIN",
    "INDEX_ROWS_MAX",
    "IndexBuilder",
    "IndexRow",
    "PackIndex",
    "decode_index_rows",
    "decompress_index",
    "encode_index_block",
    "index_row",
    "parse_index",
]

INDEX_ROWS_MAX = 4096
"""Rows of every block of an index but the last."""

CHUNK_BLOCK_BYTES_MIN = BLOCK_HEADER_BYTES + 2 * 10

_LEVEL = 3
_FIXED = struct.Struct("<IQQ")
_ROW_BYTES = 54
_NUMBER_MAX = 1 << 60
_GAP_MAX = 0xFFFF_FFFF
_ROWS = np.dtype(
    [
        ("offset", "<i8"),
        ("block_bytes", "<i8"),
        ("txid_before", "<i8"),
        ("txid_after", "<i8"),
        ("ends_transaction", "?"),
        ("pages_after", "<u4"),
        ("checksum_after", "<u8"),
        ("first_looked_ms", "<i8"),
        ("first_seen_ms", "<i8"),
        ("last_seen_ms", "<i8"),
        ("earliest_seen_ms", "<i8"),
        ("latest_seen_ms", "<i8"),
    ]
)


class IndexRow(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk of a pack: where it lies, the state after it, and when its transactions were seen."""

    offset: int
    block_bytes: int
    txid_before: int
    txid_after: int
    ends_transaction: bool
    pages_after: int
    checksum_after: int
    first_looked_ms: int
    first_seen_ms: int
    last_seen_ms: int
    earliest_seen_ms: int
    latest_seen_ms: int

    @property
    def transaction_count(self) -> int:
        """How many transactions end in the chunk."""
        return self.txid_after - self.txid_before

    @property
    def state_after(self) -> tuple[int, int, int]:
        """Transaction, database checksum and size in pages after the chunk."""
        return self.txid_after, self.checksum_after, self.pages_after


def index_row(chunk: SegmentChunk, offset: int, state: tuple[int, int, int], seen_ms: int) -> IndexRow:
    """Return the row of a chunk whose block lies at `offset`.

    `state` is what a row's `state_after` is, of the chunk before, and `seen_ms` the last sighting before.

    Raises:
        CorruptObject: a time is none.

    """
    txid, checksum, pages = state
    commits = chunk.table.commits
    last = commits[-1] if commits else None
    seen = [commit.seen_ms for commit in commits] or [seen_ms]
    looked_ms = commits[0].looked_ms if commits else seen_ms
    if min(seen) < 0 or max(seen) > TIME_MS_MAX or abs(looked_ms) > TIME_MS_MAX:
        raise CorruptObject("a time that is none", offset=chunk.offset)
    return IndexRow(
        offset=offset,
        block_bytes=chunk.block_bytes,
        txid_before=txid,
        txid_after=txid + len(commits),
        ends_transaction=chunk.ends_transaction,
        pages_after=last.pages_after if last else pages,
        checksum_after=last.checksum if last else checksum,
        first_looked_ms=looked_ms,
        first_seen_ms=seen[0],
        last_seen_ms=seen[-1],
        earliest_seen_ms=min(seen),
        latest_seen_ms=max(seen),
    )


class IndexBuilder:
    """Makes the index of a pack while its chunks go by; holds at most one block's rows.

    The five times of the whole are those of a pack's footer.
    """

    def __init__(self, header: PackHeader) -> None:
        self.first_looked_ms = self.first_seen_ms = self.last_seen_ms = 0
        self.earliest_seen_ms = self.latest_seen_ms = 0
        self._transaction_count = 0
        self._state = (int(header.txid_before), header.checksum_before, header.pages_before)
        self._rows: list[IndexRow] = []

    def add(self, chunk: SegmentChunk, offset: int) -> bytes | None:
        """Note a chunk whose block begins at `offset` of the pack; return a plain table when a block is complete.

        Raises:
            CorruptObject: a time is none.

        """
        row = index_row(chunk, offset, self._state, self.last_seen_ms)
        self._state = row.state_after
        if row.transaction_count:
            self._note_times(row)
        self._rows.append(row)
        return self.rest() if len(self._rows) == INDEX_ROWS_MAX else None

    def rest(self) -> bytes | None:
        """Return the plain table of the rows that no block holds yet; None if there are none."""
        rows, self._rows = self._rows, []
        return _encode_rows(rows) if rows else None

    def _note_times(self, row: IndexRow) -> None:
        if not self._transaction_count:
            self.first_looked_ms, self.first_seen_ms = row.first_looked_ms, row.first_seen_ms
            self.earliest_seen_ms, self.latest_seen_ms = row.earliest_seen_ms, row.latest_seen_ms
        self.last_seen_ms = row.last_seen_ms
        self.earliest_seen_ms = min(self.earliest_seen_ms, row.earliest_seen_ms)
        self.latest_seen_ms = max(self.latest_seen_ms, row.latest_seen_ms)
        self._transaction_count += row.transaction_count


class PackIndex:
    """The whole index of a pack; `rows` is a structured array with the fields of `IndexRow`, numbered from 0."""

    def __init__(self, header: PackHeader, rows: npt.NDArray[np.void]) -> None:
        self.rows = rows
        self.header = header

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, number: int) -> IndexRow:
        """Return one row."""
        return msgspec.convert(dict(zip(_ROWS.names or (), self.rows[number].item(), strict=True)), IndexRow)

    def row_holding(self, txid: int) -> int:
        """Return the number of the row in whose chunk transaction `txid` ends, which is one of the pack's."""
        number = int(np.searchsorted(self.rows["txid_after"], txid))
        check(int(self.header.txid_before) < txid and number < len(self), "the pack has the transaction")
        return number

    def row_after(self, txid: int) -> int | None:
        """Return the number of the row with which whoever is at `txid` goes on; None if no chunk begins there.

        Chunks are compressed against the pages before their first frame, so nobody can begin within one.
        """
        if txid == self.header.txid_before:
            return 0
        number = int(np.searchsorted(self.rows["txid_after"], txid))
        there = number < len(self) and self.rows["txid_after"][number] == txid
        return number + 1 if there and self.rows["ends_transaction"][number] else None

    def state_before(self, number: int) -> tuple[int, int, int]:
        """Return transaction, database checksum and size in pages before the chunk of a row."""
        if number == 0:
            return int(self.header.txid_before), self.header.checksum_before, self.header.pages_before
        return self.row(number - 1).state_after

    def seen_before(self, number: int) -> int:
        """Return when the last transaction before the chunk of a row was seen; 0 if the pack has none."""
        return self.row(number - 1).last_seen_ms if number else 0

    def byte_range(self, first: int, stop: int) -> tuple[int, int]:
        """Return where the chunks of rows `first` up to `stop` lie, as start and length."""
        start, last = int(self.rows["offset"][first]), self.rows[stop - 1]
        return start, int(last["offset"]) + int(last["block_bytes"]) - start


def encode_index_block(plain: bytes) -> bytes:
    """Return the block of a plain table."""
    return encode_block(
        BlockType.INDEX, zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(plain)
    )


def decompress_index(head: bytes, *, offset: int) -> bytes:
    """Return the plain table in the head of the index block at `offset`.

    Raises:
        CorruptObject: it does not decode, or declares more rows than a block has.

    """
    try:
        declared = zstandard.frame_content_size(head)
        if not _FIXED.size < declared <= _FIXED.size + INDEX_ROWS_MAX * _ROW_BYTES:
            raise CorruptObject(f"the index declares {declared} bytes", offset=offset)
        return zstandard.ZstdDecompressor().decompress(head, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObject("the index does not decode", offset=offset, detail=str(error)) from error


def decode_index_rows(plain: bytes, *, offset: int) -> npt.NDArray[np.void]:
    """Return the rows of a plain table, a structured array; `offset` is that of its block.

    Raises:
        CorruptObject: anything malformed.

    """
    if len(plain) < _FIXED.size:
        raise CorruptObject("malformed index: length", offset=offset)
    n, first_offset, txid = _FIXED.unpack_from(plain)
    if n < 1 or len(plain) != _FIXED.size + n * _ROW_BYTES or max(first_offset, txid) >= _NUMBER_MAX:
        raise CorruptObject("malformed index: length", offset=offset)
    at = _FIXED.size

    def column(kind: str) -> npt.NDArray[np.int64]:
        nonlocal at
        found = np.frombuffer(plain, kind, n, at)
        at += found.nbytes
        return found

    rows = np.zeros(n, _ROWS)
    rows["block_bytes"] = column("<u4")
    counts, ends = column("u1"), column("u1")
    rows["pages_after"], rows["checksum_after"] = column("<u4"), column("<u8")
    from_before, lengths, earlier, later = (column("<i8") for _ in range(4))
    gaps = column("<u4")
    rows["offset"] = first_offset + np.cumsum(rows["block_bytes"]) - rows["block_bytes"]
    rows["txid_after"] = txid + np.cumsum(counts, dtype=np.int64)
    rows["txid_before"] = rows["txid_after"] - counts
    rows["ends_transaction"] = ends
    # Sums that overflow wrap around, and are refused like every other time that is none.
    rows["last_seen_ms"] = np.cumsum(from_before + lengths)
    rows["first_seen_ms"] = rows["last_seen_ms"] - lengths
    rows["first_looked_ms"] = rows["first_seen_ms"] - gaps
    rows["earliest_seen_ms"] = rows["first_seen_ms"] - earlier
    rows["latest_seen_ms"] = rows["last_seen_ms"] + later
    _check_rows(rows, counts, ends, offset)
    return rows


def parse_index(read: Callable[[int], bytes], footer: PackFooter) -> PackIndex:
    """Return the index of the pack with this footer; `read` stands where the index begins, and goes on to the footer.

    Raises:
        CorruptObject: it is malformed, or contradicts the footer.

    """
    parts: list[npt.NDArray[np.void]] = []
    offset, count = footer.index_offset, 0
    while count < footer.chunk_count:
        block = read_block(read, offset)
        if block.type != BlockType.INDEX:
            raise CorruptObject(f"unexpected {block.type.name.lower()} block in an index", offset=offset)
        rows = decode_index_rows(decompress_index(block.head, offset=offset), offset=offset)
        txid = parts[-1]["txid_after"][-1] if parts else footer.header.txid_before
        joined = not parts or rows["offset"][0] == parts[-1]["offset"][-1] + parts[-1]["block_bytes"][-1]
        # What is declared has to lie before the index, which bounds what is kept.
        if rows["txid_before"][0] != txid or not joined or rows["offset"][-1] >= footer.index_offset:
            raise CorruptObject("the index does not continue", offset=offset)
        parts.append(rows)
        offset, count = block.end, count + len(rows)
    index = PackIndex(footer.header, np.concatenate(parts))
    last = index.row(len(index) - 1)
    state = (last.txid_after, last.checksum_after, last.pages_after)
    end = last.offset + last.block_bytes
    said = (footer.txid_after, footer.checksum_after, footer.pages_after, footer.index_offset, footer.chunk_count)
    if (*state, end, count) != said or read_block(read, offset).type != BlockType.FOOTER:
        raise CorruptObject("the index contradicts the footer", offset=footer.index_offset)
    return index


def _encode_rows(rows: list[IndexRow]) -> bytes:
    times = [(row.first_seen_ms, row.last_seen_ms) for row in rows]
    before = [0, *(last for _first, last in times)]
    columns = (
        ("<u4", [row.block_bytes for row in rows]),
        ("u1", [row.transaction_count for row in rows]),
        ("u1", [row.ends_transaction for row in rows]),
        ("<u4", [row.pages_after for row in rows]),
        ("<u8", [row.checksum_after for row in rows]),
        ("<i8", [first - last for (first, _), last in zip(times, before, strict=False)]),
        ("<i8", [last - first for first, last in times]),
        ("<i8", [row.first_seen_ms - row.earliest_seen_ms for row in rows]),
        ("<i8", [row.latest_seen_ms - row.last_seen_ms for row in rows]),
        ("<u4", [min(row.first_seen_ms - row.first_looked_ms, _GAP_MAX) for row in rows]),
    )
    fixed = _FIXED.pack(len(rows), rows[0].offset, rows[0].txid_before)
    return b"".join((fixed, *(np.array(values, kind).tobytes() for kind, values in columns)))


def _check_rows(
    rows: npt.NDArray[np.void], counts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], offset: int
) -> None:
    times = [rows[name] for name in ("earliest_seen_ms", "latest_seen_ms")]
    if (
        rows["block_bytes"].min() < CHUNK_BLOCK_BYTES_MIN
        or counts.max() > CHUNK_FRAMES_MAX
        or ends.max() > 1
        or (ends > counts).any()
        or any(column.min() < 0 or column.max() > TIME_MS_MAX for column in times)
        or (rows["earliest_seen_ms"] > np.minimum(rows["first_seen_ms"], rows["last_seen_ms"])).any()
        or (rows["latest_seen_ms"] < np.maximum(rows["first_seen_ms"], rows["last_seen_ms"])).any()
    ):
        raise CorruptObject("malformed index", offset=offset)
