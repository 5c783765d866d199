"""What the beginnings and the ends of objects say, from the bytes of them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import msgspec

from walrep.core.chunk import Commit
from walrep.core.container import BlockType, decode_struct, parse_footer
from walrep.core.history import Damage, Pack, Segment, SegmentEnds, Snapshot
from walrep.core.index import PackIndex, parse_index
from walrep.core.objects import PackFooter, ReplicaInfo, SegmentFooter, SegmentHeader, SnapshotFooter, SnapshotHeader
from walrep.core.pack import parse_pack_footer, read_pack_chunks
from walrep.core.prunings import PruneRecord, decode_record
from walrep.core.records import SnapshotEnds
from walrep.core.segment import SegmentChunk, read_segment
from walrep.core.snapshot import read_snapshot
from walrep.engine.apply import naming
from walrep.errors import CorruptObject

__all__ = [
    "SegmentItem",
    "commits_in",
    "parse_chunk_commits",
    "parse_pack_end",
    "parse_pack_index",
    "parse_prune_record",
    "parse_replica",
    "parse_segment_ends",
    "parse_snapshot_ends",
]

SegmentItem = SegmentHeader | SegmentChunk | SegmentFooter

_TOO_LARGE = "the footer is larger than it may be"


def parse_segment_ends(head: bytes, tail: bytes, size_bytes: int) -> SegmentEnds | Damage:
    """Return the header and the footer of a segment of this size, from its first and its last bytes."""
    try:
        header = next(read_segment(io.BytesIO(head).read))
        block = parse_footer(tail, size_bytes)
        if block is None or not isinstance(header, SegmentHeader):
            return Damage(_TOO_LARGE)
        return SegmentEnds(header, decode_struct(block, BlockType.FOOTER, SegmentFooter))
    except CorruptObject as error:
        return Damage(str(error))


def parse_pack_end(tail: bytes, size_bytes: int) -> PackFooter | Damage:
    """Return the footer of a pack of this size, from its last bytes."""
    try:
        return parse_pack_footer(tail, size_bytes) or Damage(_TOO_LARGE)
    except CorruptObject as error:
        return Damage(str(error))


def parse_pack_index(pack: Pack, data: bytes) -> PackIndex:
    """Return the index of a pack, from its bytes from there to the end; raises `CorruptObject`."""
    with naming(pack.key):
        return parse_index(io.BytesIO(data).read, pack.footer)


def commits_in(item: SegmentItem, planned: Segment) -> Sequence[Commit]:
    """Return the transactions that end in an item of a segment.

    Raises:
        CorruptObject: it is of another segment than the history has read under this key.

    """
    if isinstance(item, SegmentChunk):
        return item.table.commits
    if item != (planned.header if isinstance(item, SegmentHeader) else planned.footer):
        raise CorruptObject("it is another segment than was listed", offset=0)
    return ()


def parse_chunk_commits(key: str, index: PackIndex, number: int, block: bytes) -> list[Commit]:
    """Return the transactions that end in a chunk of a pack, from its block; raises `CorruptObject`."""
    with naming(key):
        items = read_pack_chunks(io.BytesIO(block).read, index, range(number, number + 1))
        return [commit for item in items if isinstance(item, SegmentChunk) for commit in item.table.commits]


def parse_snapshot_ends(snapshot: Snapshot, head: bytes, tail: bytes) -> SnapshotEnds:
    """Return the header and the footer of a snapshot, from its first and its last bytes; raises `CorruptObject`."""
    with naming(snapshot.key):
        header = next(read_snapshot(io.BytesIO(head).read))
        block = parse_footer(tail, snapshot.size_bytes)
        if block is None or not isinstance(header, SnapshotHeader):
            raise CorruptObject(_TOO_LARGE, offset=snapshot.size_bytes)
        return SnapshotEnds(header, decode_struct(block, BlockType.FOOTER, SnapshotFooter))


def parse_replica(data: bytes) -> str:
    """Return the identity that the replica object tells; raises `CorruptObject`."""
    try:
        return msgspec.json.decode(data, type=ReplicaInfo).replica
    except msgspec.DecodeError as error:
        raise CorruptObject("malformed replica object", offset=0, detail=str(error)) from error


def parse_prune_record(key: str, data: bytes) -> PruneRecord | Damage:
    """Return what a record of a prune says."""
    try:
        return decode_record(data)
    except CorruptObject as error:
        return Damage(f"{key}: {error}")
