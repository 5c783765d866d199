"""What `walrep list` and `walrep dump` are made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from walrep.core.history import TxidRange
from walrep.core.names import REPLICA_KEY, segment_key
from walrep.core.restore import PART_BYTES
from walrep.core.units import TimelineId, Txid
from walrep.engine.fetch import read_history
from walrep.engine.inspect import DumpRecord, dump_file, dump_object, list_replica
from walrep.errors import CorruptObject, ObjectNotFound
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.history import HistoryBuilder

PAGE = 512


def page(value: int) -> bytes:
    return bytes([value]) * PAGE


def build() -> HistoryBuilder:
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: page(pgno) for pgno in range(1, 101)}, 10_000)
    for txid in range(1, 51):
        builder.commit([(txid, page(txid)), (1, page(txid + 1))], 100, 10_000 + txid)
    builder.seal()
    first = builder.timeline
    builder.begin({1: page(9)}, 20_000, parent=builder.positions[first, 50])
    return builder


def memory(builder: HistoryBuilder) -> MemoryStore:
    return MemoryStore({key: MemoryObject(data, 0) for key, data in builder.objects.items()})


async def test_a_listing_tells_timelines_snapshots_and_what_is_restorable() -> None:
    builder = build()
    listing = list_replica(await read_history(memory(builder), InlineRunner()))
    first, second = listing.timelines
    assert listing.replica == builder.replica
    assert listing.problems == ()
    assert listing.object_count == len(builder.objects)
    assert listing.object_bytes == sum(map(len, builder.objects.values()))
    assert (first.segment_count, first.transaction_count, first.parent) == (2, 50, None)
    assert first.segment_bytes == sum(len(builder.objects[segment_key(seq)]) for seq in (1, 2))
    assert [(each.txid, each.seen_ms) for each in first.snapshots] == [(0, 10_000)]
    assert first.restorable == (
        TxidRange(first_txid=Txid(0), last_txid=Txid(50), first_seen_ms=10_000, last_seen_ms=10_050),
    )
    assert second.parent == str(builder.positions[TimelineId(first.timeline), 50])
    assert (second.reason, second.transaction_count) == ("restore", 0)


def packed(*, keep: bool) -> tuple[HistoryBuilder, str]:
    """The first timeline of `build` in four segments, the first three of them packed."""
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: page(pgno) for pgno in range(1, 101)}, 10_000)
    for txid in range(1, 13):
        builder.commit([(txid, page(txid)), (1, page(txid + 1))], 100, 10_000 + txid)
        if txid % 3 == 0:
            builder.seal()
    return builder, builder.pack(builder.packable()[:3], keep=keep)


@pytest.mark.parametrize("keep", [False, True])
async def test_a_listing_tells_tiers(keep: bool) -> None:  # noqa: FBT001
    builder, key = packed(keep=keep)
    (timeline,) = list_replica(await read_history(memory(builder), InlineRunner())).timelines
    size = len(builder.objects[key])
    assert (timeline.pack_count, timeline.pack_bytes, timeline.pack_transaction_count) == (1, size, 9)
    assert (timeline.segment_count, timeline.transaction_count) == (2, 12)
    assert timeline.segment_bytes == sum(len(builder.objects[segment_key(seq)]) for seq in (1, 5))
    replaced = [len(builder.objects[segment_key(seq)]) for seq in (2, 3, 4)] if keep else []
    assert (timeline.spare_count, timeline.spare_bytes) == (len(replaced), sum(replaced))
    (pack,) = timeline.packs
    assert (pack.key, pack.size_bytes, pack.first_txid, pack.last_txid) == (key, size, 1, 9)
    assert (pack.first_seen_ms, pack.last_seen_ms, pack.first_seq, pack.last_seq) == (10_001, 10_009, 2, 4)


async def test_a_replica_object_that_is_no_replica_object_is_corrupt() -> None:
    builder = build()
    builder.objects[REPLICA_KEY] = b"{}"
    with pytest.raises(CorruptObject, match="malformed replica object"):
        await read_history(memory(builder), InlineRunner())


def dump(tmp_path: Path, data: bytes) -> tuple[list[DumpRecord], CorruptObject | None]:
    """Dump a local file until the end or the first error."""
    path = tmp_path / "object"
    path.write_bytes(data)
    records: list[DumpRecord] = []
    try:
        for record in dump_file(path):
            records.append(record)  # noqa: PERF402 - what came before an error is the point
    except CorruptObject as error:
        return records, error
    return records, None


def test_a_segment_is_dumped_chunk_by_chunk(tmp_path: Path) -> None:
    records, error = dump(tmp_path, build().objects[segment_key(2)])
    assert error is None
    assert [each.kind for each in records] == ["header", "chunk", "chunk", "footer"]
    assert records[0].fields["txid_before"] == 0
    first, second = records[1], records[2]
    assert first.offset is not None
    assert second.offset is not None
    assert first.offset < second.offset
    assert [first.fields[name] for name in ("frames", "commits", "first_txid", "last_txid")] == [64, 32, 1, 32]
    assert [second.fields[name] for name in ("frames", "commits", "first_txid", "last_txid")] == [36, 18, 33, 50]
    assert (first.fields["pgnos"], first.fields["references"]) == (32, 32)
    assert (first.fields["first_seen_ms"], second.fields["last_seen_ms"]) == (10_001, 10_050)
    assert records[3].fields["txid_after"] == 50


def test_a_pack_is_dumped_chunk_by_chunk_then_row_by_row(tmp_path: Path) -> None:
    builder, key = packed(keep=False)
    records, error = dump(tmp_path, builder.objects[key])
    assert error is None
    kinds = [each.kind for each in records]
    assert kinds == ["header", "chunk", "chunk", "chunk", "index", "index", "index", "footer"]
    assert (records[0].fields["first_seq"], records[0].fields["last_seq"]) == (2, 4)
    chunks, rows = records[1:4], records[4:7]
    assert [each.offset for each in rows] == [each.offset for each in chunks]
    assert [(row.fields["txid_before"], row.fields["txid_after"]) for row in rows] == [(0, 3), (3, 6), (6, 9)]
    assert [each.fields["last_txid"] for each in chunks] == [3, 6, 9]
    assert records[-1].fields["header"] == records[0].fields
    assert records[-1].fields["txid_after"] == 9


def test_a_snapshot_is_dumped_block_by_block(tmp_path: Path) -> None:
    builder = build()
    key = min(key for key in builder.objects if key.startswith("snapshots/"))
    records, error = dump(tmp_path, builder.objects[key])
    assert error is None
    assert [each.kind for each in records] == ["header", "pages", "pages", "footer"]
    assert [(each.fields["first_pgno"], each.fields["last_pgno"]) for each in records[1:3]] == [(1, 64), (65, 100)]
    assert records[3].fields["page_count"] == 100


def test_pages_against_those_of_the_full_one_are_told_apart(tmp_path: Path) -> None:
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: page(pgno) for pgno in range(1, 101)}, 10_000)
    builder.commit([(7, page(8)), (50, page(51)), (101, page(9))], 101, 11_000)
    builder.seal()
    records, error = dump(tmp_path, builder.objects[builder.snapshot(12_000, full_txid=0, delta=True)])
    assert error is None
    assert [each.kind for each in records] == ["header", "delta", "pages", "footer"]
    assert [[each.fields[name] for name in ("pages", "first_pgno", "last_pgno")] for each in records[1:3]] == [
        [2, 7, 50],
        [1, 101, 101],
    ]


def test_the_replica_object_is_dumped(tmp_path: Path) -> None:
    records, error = dump(tmp_path, build().objects[REPLICA_KEY])
    assert error is None
    assert [(each.kind, each.fields["database"]) for each in records] == [("replica", "/app.db")]


@pytest.mark.parametrize("kept", range(4))
def test_what_is_readable_comes_before_the_error(tmp_path: Path, kept: int) -> None:
    data = build().objects[segment_key(2)]
    whole, _error = dump(tmp_path, data)
    ends = [16, whole[1].offset or 0, whole[2].offset or 0, len(data) - 16]
    records, error = dump(tmp_path, data[: ends[kept] + 5])
    assert records == whole[: kept if kept < 3 else 4]
    assert error is not None
    assert str(tmp_path / "object") in str(error)


@pytest.mark.parametrize("data", [b"", b"x", b"{", b"not an object of any kind", b"SQLite format 3\0" * 10])
def test_what_is_no_object_is_refused(tmp_path: Path, data: bytes) -> None:
    records, error = dump(tmp_path, data)
    assert records == []
    assert error is not None


@pytest.mark.parametrize("builder", [build(), packed(keep=True)[0]])
async def test_an_object_of_a_store_is_dumped_as_a_file_is(tmp_path: Path, builder: HistoryBuilder) -> None:
    store = memory(builder)
    for key, data in builder.objects.items():
        records = [record async for record in dump_object(store, key)]
        assert (records, None) == dump(tmp_path, data)
    with pytest.raises(ObjectNotFound):
        [record async for record in dump_object(store, "segments/0000000000000099")]


async def test_a_large_object_of_a_store_is_dumped_in_parts() -> None:
    builder = HistoryBuilder(65536)
    builder.begin({pgno: os.urandom(65536) for pgno in range(1, 300)}, 10_000)
    key = max(builder.objects)
    store = memory(builder)
    assert len(builder.objects[key]) > 2 * PART_BYTES
    records = [record async for record in dump_object(store, key)]
    assert sum(each.fields["pages"] for each in records if each.kind == "pages") == 299
    store.objects[key] = MemoryObject(builder.objects[key][:-1], 0)
    iterator = dump_object(store, key)
    assert [await anext(iterator) for _record in records] == records
    with pytest.raises(CorruptObject):
        await anext(iterator)
