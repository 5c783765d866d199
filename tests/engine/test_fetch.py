"""What was read of a replica is kept, by several threads at once, and is what was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from random import Random

import pytest

from walrep.core.history import History, Segment
from walrep.core.names import segment_key
from walrep.core.records import Known, Needs
from walrep.core.slices import Slice
from walrep.engine.fetch import ReplicaReader, read_history
from walrep.engine.partcache import Part, PartCache
from walrep.errors import CorruptObject
from walrep.runner import InlineRunner, ThreadRunner
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import memory_store

PAGE = 512


@pytest.fixture
def threads() -> Iterator[ThreadRunner]:
    runner = ThreadRunner(4, "test")
    yield runner
    runner.close()


def test_the_part_cache_goes_to_disk_then_forgets() -> None:
    cache = PartCache(memory_bytes_max=10, disk_bytes_max=10)
    for name in "abc":
        cache.put(name, 0, name.encode() * 8)
    assert [cache.get(name, 0, 8) for name in "abc"] == [b"a" * 8, b"b" * 8, None]
    assert cache.get("a", 0, 7) is None
    assert cache.get("a", 1, 8) is None
    cache.close()
    assert cache.get("a", 0, 8) is None
    cache.put("a", 0, b"a" * 8)
    assert cache.get("a", 0, 8) is None


def test_what_is_kept_already_takes_no_room_again() -> None:
    cache = PartCache(memory_bytes_max=16, disk_bytes_max=16)
    for name in "aaaabbbbccccdddd":
        cache.put(name, 0, name.encode() * 8)
    assert [cache.get(name, 0, 8) for name in "abcd"] == [name.encode() * 8 for name in "abcd"]
    cache.close()


async def test_parts_are_not_mixed_up_by_threads(threads: ThreadRunner) -> None:
    """All of them share one file."""
    cache = PartCache(memory_bytes_max=0)
    parts = [(f"{number}", 3 * number, bytes([number]) * (100_000 + number)) for number in range(200)]

    async def put_and_get(key: str, start: int, data: bytes) -> bool:
        await threads.run(partial(cache.put, key, start, data))
        return await threads.run(partial(cache.get, key, start, len(data))) == data

    assert all(await asyncio.gather(*(put_and_get(*part) for part in parts)))
    kept = await asyncio.gather(*(threads.run(partial(cache.get, key, start, len(data))) for key, start, data in parts))
    cache.close()
    assert kept == [data for _key, _start, data in parts]


def large_history(segments: int, *, nonce: str = "a1b2c3d4e5f60718", seed: int = 1) -> HistoryBuilder:
    """Segments of two transactions and 40 KB that do not compress."""
    builder, dice = HistoryBuilder(PAGE, nonce=nonce), Random(seed)
    builder.begin({pgno: dice.randbytes(PAGE) for pgno in range(1, 65)}, 10_000)
    for _segment in range(segments):
        for _transaction in range(2):
            pages = [(pgno, dice.randbytes(PAGE)) for pgno in range(1, 41)]
            builder.commit(pages, 64, 11_000 + 1000 * builder.txid)
        builder.seal()
    return builder


class CountingStore(MemoryStore):
    """A store that counts the bytes that it gives."""

    given_bytes = 0

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Get, and count."""
        data = await super().get(key, start=start, length=length)
        self.given_bytes += len(data)
        return data


def segments_of(history: History) -> tuple[Segment, ...]:
    """Return the segments with transactions."""
    return history.timelines[0].segments[1:]


async def test_what_threads_keep_of_a_replica_is_what_the_store_has(threads: ThreadRunner) -> None:
    builder = large_history(24)
    store = CountingStore(memory_store(builder.objects).objects)
    reader = ReplicaReader(store, threads, cache=PartCache(memory_bytes_max=0))
    history = await reader.history()
    known = await reader.learn(Known(), Needs(segments=segments_of(history)))
    assert [len(known.commits[each.key]) for each in segments_of(history)] == [2] * 24
    given_bytes, found = store.given_bytes, dict[str, bytes]()

    async def consume(part: Part, data: bytes) -> bool:
        found[part.key] = data
        return True

    slices = [Slice(link=each, start=0, length=each.size_bytes) for each in segments_of(history)]
    await reader.each_part(slices, consume)
    reader.close()
    assert found == {each.key: builder.objects[each.key] for each in segments_of(history)}
    assert store.given_bytes == given_bytes


class ListingStore(MemoryStore):
    """A store that notes what is asked for."""

    def __init__(self, builder: HistoryBuilder) -> None:
        super().__init__(memory_store(builder.objects).objects)
        self.asked: list[str] = []

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Get, and note."""
        self.asked.append(key)
        return await super().get(key, start=start, length=length)


async def test_what_a_pack_that_does_not_fit_seems_to_replace_is_read() -> None:
    """A pack of another history, right in itself: what is restorable is in the segments that have its numbers."""
    builder, other = large_history(4), large_history(4, seed=2)
    pack = other.pack(other.packable()[1:3])
    builder.objects[pack] = other.objects[pack]
    store = ListingStore(builder)
    history = await read_history(store, InlineRunner())
    assert set(builder.packable()) <= set(store.asked)
    assert [each.kind for each in history.problems] == ["unused-object"]
    (timeline,) = history.timelines
    assert timeline.ranges[-1].last_txid == timeline.tip_txid == 8


async def test_a_stray_object_does_not_make_what_packs_replace_be_read() -> None:
    builder = large_history(4)
    replaced = builder.packable()[1:3]
    builder.pack(replaced, keep=True)
    builder.objects["notes.txt"] = b"hello"
    store = ListingStore(builder)
    history = await read_history(store, InlineRunner())
    assert [each.kind for each in history.problems] == ["unknown-key"]
    assert not set(store.asked) & set(replaced)


@pytest.mark.parametrize("other", ["number", "timeline"])
async def test_the_record_of_another_segment_than_was_listed_is_refused(other: str) -> None:
    """Somebody overwrites the replica while it is read; nothing was kept of what was there first."""
    builder, stranger = large_history(3), large_history(3, nonce="ffffffff00000000")
    store = memory_store(builder.objects)
    reader = ReplicaReader(store, InlineRunner(), cache=PartCache(memory_bytes_max=0, disk_bytes_max=0))
    planned = segments_of(await reader.history())[1]
    data = builder.objects[segment_key(4)] if other == "number" else stranger.objects[planned.key]
    store.objects[planned.key] = MemoryObject(data, 0)
    with pytest.raises(CorruptObject, match="another segment") as caught:
        await reader.learn(Known(), Needs(segments=(planned,)))
    reader.close()
    assert planned.key in caught.value.detail
