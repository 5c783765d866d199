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
from walrep.core.container import PREAMBLE_BYTES, Kind
from walrep.core.history import History, Problem, Timeline, TxidRange
from walrep.core.objects import ReplicaInfo, SegmentFooter, SegmentHeader, SnapshotFooter, SnapshotHeader
from walrep.core.restore import split_parts
from walrep.core.segment import SegmentChunk, read_segment
from walrep.core.snapshot import SnapshotPages, read_snapshot
from walrep.engine.apply import ObjectFeed, naming
from walrep.errors import CorruptObject
from walrep.store.base import Store

__all__ = [
    "DumpRecord",
    "ReplicaListing",
    "SnapshotListing",
    "TimelineListing",
    "dump_file",
    "dump_object",
    "list_replica",
]

_KIND_OFFSET = 9

_Item = SegmentHeader | SegmentChunk | SegmentFooter | SnapshotHeader | SnapshotPages | SnapshotFooter


class SnapshotListing(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot."""

    key: str
    txid: int
    seen_ms: int
    size_bytes: int


class TimelineListing(msgspec.Struct, frozen=True, kw_only=True):
    """One timeline: how it began, what is stored of it, and which of it is restorable."""

    timeline: str
    reason: str
    parent: str | None
    begin_ms: int
    segment_count: int
    segment_bytes: int
    transaction_count: int
    snapshots: tuple[SnapshotListing, ...]
    restorable: tuple[TxidRange, ...]


class ReplicaListing(msgspec.Struct, frozen=True, kw_only=True):
    """Everything stored for one database."""

    replica: str
    timelines: tuple[TimelineListing, ...]
    problems: tuple[Problem, ...]
    object_count: int
    object_bytes: int


class DumpRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an object; `offset` is where a chunk or a block of pages begins, None for the others."""

    kind: Literal["replica", "header", "chunk", "pages", "footer"]
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
            yield _record(item)


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
                yield _record(item)


def _list_timeline(timeline: Timeline) -> TimelineListing:
    return TimelineListing(
        timeline=timeline.id,
        reason=timeline.reason,
        parent=str(timeline.parent) if timeline.parent else None,
        begin_ms=timeline.begin_ms,
        segment_count=len(timeline.segments),
        segment_bytes=sum(each.size_bytes for each in timeline.segments),
        transaction_count=sum(each.transaction_count for each in timeline.segments),
        snapshots=tuple(
            SnapshotListing(key=each.key, txid=each.name.txid, seen_ms=each.name.seen_ms, size_bytes=each.size_bytes)
            for each in timeline.snapshots
        ),
        restorable=timeline.ranges,
    )


def _is_json(beginning: bytes) -> bool:
    return beginning.lstrip().startswith(b"{")


def _parser(beginning: bytes) -> Callable[[Callable[[int], bytes]], Iterator[_Item]]:
    """Return the parser of the kind that the preamble names; what is neither is refused by either."""
    is_snapshot = beginning[_KIND_OFFSET : _KIND_OFFSET + 1] == bytes([Kind.SNAPSHOT])
    return read_snapshot if is_snapshot else read_segment


def _replica_record(data: bytes) -> DumpRecord:
    try:
        info = msgspec.json.decode(data, type=ReplicaInfo)
    except msgspec.DecodeError as error:
        raise CorruptObject("malformed replica object", offset=0, detail=str(error)) from error
    return DumpRecord(kind="replica", offset=None, fields=msgspec.to_builtins(info))


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
        case SnapshotPages(pgnos=pgnos, body=body, offset=offset):
            fields = {"pages": len(pgnos), "bytes": len(body), "first_pgno": min(pgnos), "last_pgno": max(pgnos)}
            return DumpRecord(kind="pages", offset=offset, fields=fields)
        case SegmentHeader() | SnapshotHeader():
            return DumpRecord(kind="header", offset=None, fields=msgspec.to_builtins(item))
        case _:
            return DumpRecord(kind="footer", offset=None, fields=msgspec.to_builtins(item))
