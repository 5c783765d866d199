"""The headers and footers of a replica's objects, and the replica object itself.

Headers and footers are MessagePack maps with these field names (see `walrep.core.container`); the replica object is
JSON, so that `cat` shows it. Times are ms since 1970 UTC.
"""

from __future__ import annotations

import msgspec

from walrep.core.units import Position, Seq, TimelineId, Txid

__all__ = [
    "REPLICA_FORMAT",
    "PackFooter",
    "PackHeader",
    "ReplicaInfo",
    "SegmentFooter",
    "SegmentHeader",
    "SnapshotFooter",
    "SnapshotHeader",
    "StoreFacts",
    "TimelineStart",
    "Writer",
]

REPLICA_FORMAT = 1


class Writer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who wrote an object. The nonce (16 hexadecimal digits) is drawn once per local state."""

    nonce: str
    host: str = ""
    pid: int = 0


class StoreFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a store was seen to do: refuse to overwrite, give a range; how far its clock is ahead of the writer's."""

    creates_only: bool
    ranges: bool
    clock_ahead_ms: int


class ReplicaInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The `replica` object: create-only, written once. `store` is what the store did then."""

    format: int
    replica: str
    database: str
    created_ms: int
    created_by: Writer
    walrep: str
    store: StoreFacts | None = None


class TimelineStart(msgspec.Struct, frozen=True, kw_only=True):
    """Why a timeline began, and the position of its parent that it left, if it had one.

    `looked_ms` is when walrep had last looked, and found nothing new, before it lost continuity.
    """

    reason: str
    parent: Position | None = None
    looked_ms: int | None = None


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state before a segment. A segment with `start` opens its timeline and holds no transaction.

    `fence`: with it its writer took the replica over from another one. It is never packed or deleted: the other's next
    PUT has to meet it, however long that one has slept.
    """

    replica: str
    seq: Seq
    timeline: TimelineId
    writer: Writer
    created_ms: int
    page_size: int
    txid_before: Txid
    checksum_before: int
    pages_before: int
    start: TimelineStart | None = None
    fence: bool = False


class SegmentFooter(msgspec.Struct, frozen=True, kw_only=True):
    """The state after a segment. `first_looked_ms` is when walrep had last looked before the first commit was seen.

    `earliest_seen_ms` and `latest_seen_ms` bound when its commits were seen: a clock can step between two of them.
    """

    txid_after: Txid
    checksum_after: int
    pages_after: int
    first_looked_ms: int
    first_seen_ms: int
    last_seen_ms: int
    earliest_seen_ms: int
    latest_seen_ms: int
    chunk_count: int
    frame_count: int


class PackHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The state before a pack, and which segments it replaces: all of its timeline with a number in that range.

    `writer` made the pack; the timeline's id tells who wrote the segments.
    """

    replica: str
    timeline: TimelineId
    writer: Writer
    created_ms: int
    page_size: int
    first_seq: Seq
    last_seq: Seq
    txid_before: Txid
    checksum_before: int
    pages_before: int


class PackFooter(SegmentFooter, frozen=True, kw_only=True):
    """The state after a pack, what its header says, and where its index begins: all that a reader of a history needs.

    The fields of a segment's footer are those of the whole.
    """

    header: PackHeader
    index_offset: int


class SnapshotHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a snapshot is of. `full`, of a differential one: the position of the full snapshot under it."""

    replica: str
    timeline: TimelineId
    writer: Writer
    created_ms: int
    page_size: int
    full: Position | None = None


class SnapshotFooter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The position at which a snapshot is valid, known when it is complete.

    `seq` is the newest segment that it includes: later ones apply on top. `stored_pages`: how many pages its blocks
    have, one that comes twice counted twice; 0 where that was not recorded.
    """

    txid: Txid
    seq: Seq
    seen_ms: int
    checksum: int
    page_count: int
    block_count: int
    stored_pages: int = 0
