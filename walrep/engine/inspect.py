"""What `walrep list` and `walrep dump` show, as data.

A dump yields what is readable before it raises what is not: a damaged object is most often looked at to learn how
much of it is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from walrep.core.chunk import FLAG_REFERENCE
from walrep.core.container import KIND_OFFSET, PREAMBLE_BYTES, Kind
from walrep.core.history import History, Pack, Problem, Segment, Timeline, TxidRange
from walrep.core.names import FullName
from walrep.core.objects import PackHeader, ReplicaInfo, SegmentFooter, SegmentHeader, SnapshotFooter, SnapshotHeader
from walrep.core.pack import IndexBlock, read_source
from walrep.core.segment import SegmentChunk
from walrep.core.slices import split_parts
from walrep.core.snapshot import SnapshotPages, read_snapshot
from walrep.core.units import TimelineId
from walrep.engine.apply import ObjectFeed, naming
from walrep.errors import CorruptObject
from walrep.store.base import Store

__all__ = [
    "DumpRecord",
    "PackListing",
    "ReplicaListing",
    "SnapshotListing",
    "TimelineListing",
    "dump_file",
    "dump_object",
    "list_replica",
]

_Item = (
    SegmentHeader
    | SegmentChunk
    | SegmentFooter
    | PackHeader
    | IndexBlock
    | SnapshotHeader
    | SnapshotPages
    | SnapshotFooter
)


class PackListing(msgspec.Struct, frozen=True, kw_only=True):
    """One pack; its transactions are `first_txid` to `last_txid`."""

    key: str
    size_bytes: int
    first_txid: int
    last_txid: int
    first_seen_ms: int
    last_seen_ms: int
    first_seq: int
    last_seq: int


class SnapshotListing(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot; `full`, of a differential one: the full one under it."""

    key: str
    txid: int
    seen_ms: int
    size_bytes: int
    full: FullName | None


class TimelineListing(msgspec.Struct, frozen=True, kw_only=True):
    """One timeline: how it began, what is stored of it, and which of it is restorable.

    `transaction_count` are those in segments and packs, `pack_transaction_count` those in packs. What packs replace and
    is not deleted yet counts as `spare_`, and as nothing else.
    """

    timeline: TimelineId
    reason: str
    parent: str | None
    begin_ms: int
    segment_count: int
    segment_bytes: int
    pack_count: int
    pack_bytes: int
    pack_transaction_count: int
    spare_count: int
    spare_bytes: int
    transaction_count: int
    packs: tuple[PackListing, ...]
    snapshots: tuple[SnapshotListing, ...]
    restorable: tuple[TxidRange, ...]
    parent_timeline: TimelineId | None = None

    @property
    def first_snapshot(self) -> SnapshotListing | None:
        """The snapshot with which it begins, as far as it is there; None: there is none."""
        return min(self.snapshots, key=lambda each: (each.txid, each.key), default=None)


class ReplicaListing(msgspec.Struct, frozen=True, kw_only=True):
    """Everything stored for one database."""

    replica: str
    timelines: tuple[TimelineListing, ...]
    problems: tuple[Problem, ...]
    object_count: int
    object_bytes: int


class DumpRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an object; `offset` is where a chunk or a block of pages begins, None for the others.

    That of a row of a pack's index is the offset of the chunk that it is about.
    """

    kind: Literal["replica", "header", "chunk", "pages", "delta", "index", "footer"]
    offset: int | None
    fields: dict[str, Any]


def list_replica(history: History) -> ReplicaListing:
    """Return what a replica holds, for people and for JSON."""
    return ReplicaListing(
        replica=history.replica,
        timelines=tuple(_list_timeline(each) for each in history.timelines),
        problems=history.problems,
        object_count=history.object_count,
        object_bytes=history.object_bytes,
    )


def dump_file(path: Path) -> Iterator[DumpRecord]:
    """Yield the records of an object in a local file, then raise what is wrong with the rest.

    Raises:
        CorruptObject: from the first defect on, nothing is readable.
        OSError: the file cannot be read.

    """
    with path.open("rb") as file, naming(str(path)):
        beginning = file.read(PREAMBLE_BYTES)
        if _is_json(beginning):
            yield _replica_record(beginning + file.read())
            return
        file.seek(0)
        for item in _parser(beginning)(file.read):
            yield from _records(item)


async def dump_object(store: Store, key: str) -> AsyncIterator[DumpRecord]:
    """Yield the records of an object in a store, then raise what is wrong with the rest; reads it in parts.

    Raises:
        CorruptObject: from the first defect on, nothing is readable.
        StoreError: the store failed, or has no such object.

    """
    size_bytes = (await store.head(key)).size_bytes
    feed: ObjectFeed[_Item] | None = None
    for start, length in split_parts(size_bytes) or [(0, 0)]:
        data = await store.get(key, start=start, length=length)
        if start == 0 and _is_json(data):
            yield _replica_record(data)
            return
        feed = feed or ObjectFeed(_parser(data))
        with naming(key):
            for item in feed.feed(data, final=start + length >= size_bytes):
                for record in _records(item):
                    yield record


def _list_timeline(timeline: Timeline) -> TimelineListing:
    segments = [each for each in timeline.chain if isinstance(each, Segment)]
    packs = [each for each in timeline.chain if isinstance(each, Pack)]
    return TimelineListing(
        timeline=timeline.id,
        reason=timeline.reason,
        parent=str(timeline.parent) if timeline.parent else None,
        begin_ms=timeline.begin_ms,
        segment_count=len(segments),
        segment_bytes=sum(each.size_bytes for each in segments),
        pack_count=len(packs),
        pack_bytes=sum(each.size_bytes for each in packs),
        pack_transaction_count=sum(each.transaction_count for each in packs),
        spare_count=len(timeline.spares),
        spare_bytes=sum(each.size_bytes for each in timeline.spares),
        transaction_count=sum(each.transaction_count for each in timeline.chain),
        packs=tuple(_list_pack(each) for each in packs),
        snapshots=tuple(
            SnapshotListing(
                key=each.key,
                txid=each.name.txid,
                seen_ms=each.name.seen_ms,
                size_bytes=each.size_bytes,
                full=each.name.full,
            )
            for each in timeline.snapshots
        ),
        restorable=timeline.ranges,
        parent_timeline=timeline.parent.timeline if timeline.parent else None,
    )


def _list_pack(pack: Pack) -> PackListing:
    name = pack.name
    return PackListing(
        key=pack.key,
        size_bytes=pack.size_bytes,
        first_txid=name.first_txid,
        last_txid=name.last_txid,
        first_seen_ms=name.first_seen_ms,
        last_seen_ms=name.last_seen_ms,
        first_seq=name.first_seq,
        last_seq=name.last_seq,
    )


def _is_json(beginning: bytes) -> bool:
    return beginning.lstrip().startswith(b"{")


def _parser(beginning: bytes) -> Callable[[Callable[[int], bytes]], Iterator[_Item]]:
    """Return the parser of the kind that the preamble names; what is none is refused by any."""
    is_snapshot = beginning[KIND_OFFSET : KIND_OFFSET + 1] == bytes([Kind.SNAPSHOT])
    return read_snapshot if is_snapshot else read_source


def _replica_record(data: bytes) -> DumpRecord:
    try:
        info = msgspec.json.decode(data, type=ReplicaInfo)
    except msgspec.DecodeError as error:
        raise CorruptObject("malformed replica object", offset=0, detail=str(error)) from error
    return DumpRecord(kind="replica", offset=None, fields=msgspec.to_builtins(info))


def _records(item: _Item) -> Iterator[DumpRecord]:
    if isinstance(item, IndexBlock):
        for row in item.rows():
            fields = msgspec.to_builtins(row)
            yield DumpRecord(kind="index", offset=fields.pop("offset"), fields=fields)
    else:
        yield _record(item)


def _record(item: _Item) -> DumpRecord:
    match item:
        case SegmentChunk(table=table, body=body, offset=offset):
            commits = table.commits
            fields: dict[str, Any] = {
                "frames": len(table.pgnos),
                "commits": len(commits),
                "bytes": len(body),
                "first_txid": table.txid_before + 1 if commits else None,
                "last_txid": table.txid_before + len(commits) if commits else None,
                "pgnos": len(set(table.pgnos)),
                "references": sum(bool(flag & FLAG_REFERENCE) for flag in table.flags),
                "first_seen_ms": commits[0].seen_ms if commits else None,
                "last_seen_ms": commits[-1].seen_ms if commits else None,
            }
            return DumpRecord(kind="chunk", offset=offset, fields=fields)
        case SnapshotPages(pgnos=pgnos, body=body, offset=offset, is_delta=is_delta):
            fields = {"pages": len(pgnos), "bytes": len(body), "first_pgno": min(pgnos), "last_pgno": max(pgnos)}
            return DumpRecord(kind="delta" if is_delta else "pages", offset=offset, fields=fields)
        case SegmentHeader() | PackHeader() | SnapshotHeader():
            return DumpRecord(kind="header", offset=None, fields=msgspec.to_builtins(item))
        case _:
            return DumpRecord(kind="footer", offset=None, fields=msgspec.to_builtins(item))
