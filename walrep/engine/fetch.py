"""Reading a replica: its history, the records that a plan needs, and the parts of objects, each byte once.

Small segments are read whole when the history is read, since a range costs as much as the object; what was read is
kept, in memory first, then in a temporary file, up to a limit of each, and not asked for again.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import TypeVar

import msgspec

from walrep.core.chunk import Commit
from walrep.core.container import BlockType, decode_struct, parse_footer
from walrep.core.history import Damage, History, Segment, SegmentEnds, Snapshot, build_history
from walrep.core.names import REPLICA_KEY, parse_segment_key
from walrep.core.objects import ReplicaInfo, SegmentFooter, SegmentHeader, SnapshotFooter, SnapshotHeader
from walrep.core.restore import WHOLE_BYTES_MAX, Known, Needs, SnapshotEnds, split_parts
from walrep.core.segment import SegmentChunk, read_segment
from walrep.core.snapshot import read_snapshot
from walrep.engine.apply import ObjectFeed, naming
from walrep.errors import CorruptObject
from walrep.runner import Runner
from walrep.store.base import Store

__all__ = ["Part", "PartCache", "ReplicaReader", "each_in_order", "read_history", "task_group"]

_HEAD_BYTES = 64 << 10
_FOOTER_BYTES = 4 << 10
_MEMORY_BYTES_MAX = 32 << 20
_DISK_BYTES_MAX = 1 << 30
_PARTS_IN_FLIGHT = 4
_SMALL_IN_FLIGHT = 16

T = TypeVar("T")
R = TypeVar("R")


class Part(msgspec.Struct, frozen=True):
    """A range of an object; `final`: the object ends with it."""

    key: str
    start: int
    length: int
    final: bool


class PartCache:
    """Parts that were read, in memory, then in an unnamed temporary file. What has no room is not kept."""

    def __init__(self, memory_bytes_max: int = _MEMORY_BYTES_MAX, disk_bytes_max: int = _DISK_BYTES_MAX) -> None:
        self._memory: dict[tuple[str, int], bytes] = {}
        self._memory_room = memory_bytes_max
        self._places: dict[tuple[str, int], tuple[int, int]] = {}
        self._disk_bytes = 0
        self._disk_bytes_max = disk_bytes_max
        self._file = tempfile.TemporaryFile() if disk_bytes_max else None  # noqa: SIM115 - `close` closes it

    def put(self, key: str, start: int, data: bytes) -> None:
        """Keep a part if there is room."""
        if len(data) <= self._memory_room:
            self._memory[key, start] = data
            self._memory_room -= len(data)
        elif self._file is not None and self._disk_bytes + len(data) <= self._disk_bytes_max:
            self._file.seek(self._disk_bytes)
            self._file.write(data)
            self._places[key, start] = (self._disk_bytes, len(data))
            self._disk_bytes += len(data)

    def get(self, key: str, start: int, length: int) -> bytes | None:
        """Return a part; None unless exactly this one was kept."""
        data = self._memory.get((key, start))
        if data is None and self._file is not None and (key, start) in self._places:
            offset, size = self._places[key, start]
            self._file.seek(offset)
            data = self._file.read(size)
        return data if data is not None and len(data) == length else None

    def close(self) -> None:
        """Release memory and file."""
        self._memory.clear()
        self._places.clear()
        if self._file is not None:
            self._file.close()


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open a task group that raises the first error itself rather than a group of them."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


async def each_in_order(
    items: Iterable[T],
    fetch: Callable[[T], Awaitable[R]],
    consume: Callable[[T, R], Awaitable[bool]],
    *,
    in_flight_max: int,
) -> None:
    """Fetch several items at a time and consume them in their order, until `consume` returns False."""
    rest = iter(items)

    async def run(item: T) -> R:
        return await fetch(item)

    async with task_group() as group:
        window = deque((item, group.create_task(run(item))) for item in islice(rest, in_flight_max))
        while window:
            item, task = window.popleft()
            result = await task
            window.extend((new, group.create_task(run(new))) for new in islice(rest, 1))
            if not await consume(item, result):
                break
        for _item, task in window:
            task.cancel()


class ReplicaReader:
    """Reads one replica for one operation; counts what it asks the store for."""

    def __init__(self, store: Store, runner: Runner, *, parallel: int = _PARTS_IN_FLIGHT) -> None:
        self.list_count = 0
        self.get_count = 0
        self.got_bytes = 0
        self._store = store
        self._runner = runner
        self._parallel = parallel
        self._cache = PartCache()

    async def history(self) -> History:
        """List the replica and read the ends of its segments."""
        sizes = await self._list()
        keys = [key for key in sizes if parse_segment_key(key) is not None]
        ends: dict[str, SegmentEnds | Damage] = {}

        async def fetch(key: str) -> tuple[bytes, bytes]:
            return await self._ends(key, sizes[key])

        async def consume(key: str, data: tuple[bytes, bytes]) -> bool:
            ends[key] = _parse_segment_ends(*data, sizes[key])
            return True

        await each_in_order(keys, fetch, consume, in_flight_max=_SMALL_IN_FLIGHT)
        replica = await self._replica(sizes)
        return build_history(sizes, ends, replica)

    async def learn(self, known: Known, needs: Needs) -> Known:
        """Return what is known and what is needed."""
        commits = {**known.commits, **{each.key: await self._commits(each) for each in needs.segments}}
        snapshots = {**known.snapshots, **{each.key: await self._snapshot_ends(each) for each in needs.snapshots}}
        return Known(commits=commits, snapshots=snapshots)

    async def each_part(
        self, objects: Sequence[Segment | Snapshot], consume: Callable[[Part, bytes], Awaitable[bool]]
    ) -> None:
        """Hand the parts of the objects to `consume`, in order, until it returns False."""
        await each_in_order(_parts(objects), self._get_part, consume, in_flight_max=self._parallel)

    def close(self) -> None:
        """Release what was kept."""
        self._cache.close()

    async def _list(self) -> dict[str, int]:
        self.list_count += 1
        return {info.key: info.size_bytes async for info in self._store.list("")}

    async def _replica(self, sizes: dict[str, int]) -> str:
        return _parse_replica(await self._get(REPLICA_KEY, 0, sizes[REPLICA_KEY])) if REPLICA_KEY in sizes else ""

    async def _get(self, key: str, start: int, length: int) -> bytes:
        self.get_count += 1
        data = await self._store.get(key, start=start, length=length)
        self.got_bytes += len(data)
        return data

    async def _get_part(self, part: Part) -> bytes:
        kept = await self._runner.run(partial(self._cache.get, part.key, part.start, part.length))
        return await self._get(part.key, part.start, part.length) if kept is None else kept

    async def _ends(self, key: str, size_bytes: int) -> tuple[bytes, bytes]:
        """Return the first and the last bytes of a segment: twice the whole of a small one."""
        if size_bytes > WHOLE_BYTES_MAX:
            start = size_bytes - _FOOTER_BYTES
            return await self._get(key, 0, _HEAD_BYTES), await self._get(key, start, _FOOTER_BYTES)
        part = Part(key, 0, size_bytes, final=True)
        data = await self._get_part(part)
        await self._runner.run(partial(self._cache.put, key, 0, data))
        return data, data

    async def _commits(self, segment: Segment) -> list[Commit]:
        """Return all transactions of a segment, and keep it for the restore."""
        feed: ObjectFeed[SegmentHeader | SegmentChunk | SegmentFooter] = ObjectFeed(read_segment)
        commits: list[Commit] = []

        def take(part: Part, data: bytes) -> None:
            self._cache.put(part.key, part.start, data)
            with naming(part.key):
                for item in feed.feed(data, final=part.final):
                    commits.extend(item.table.commits if isinstance(item, SegmentChunk) else ())

        async def consume(part: Part, data: bytes) -> bool:
            await self._runner.run(partial(take, part, data))
            return True

        await self.each_part([segment], consume)
        return commits

    async def _snapshot_ends(self, snapshot: Snapshot) -> SnapshotEnds:
        size = snapshot.size_bytes
        head = await self._get(snapshot.key, 0, min(size, _HEAD_BYTES))
        tail = await self._get(snapshot.key, max(0, size - _FOOTER_BYTES), min(size, _FOOTER_BYTES))
        return _parse_snapshot_ends(snapshot, head, tail)


async def read_history(store: Store, runner: Runner, *, parallel: int = _PARTS_IN_FLIGHT) -> History:
    """Return what a replica holds, with one LIST and a GET or two for each segment."""
    reader = ReplicaReader(store, runner, parallel=parallel)
    try:
        return await reader.history()
    finally:
        reader.close()


def _parts(objects: Sequence[Segment | Snapshot]) -> Iterable[Part]:
    for each in objects:
        for start, length in split_parts(each.size_bytes):
            yield Part(each.key, start, length, final=start + length == each.size_bytes)


def _parse_segment_ends(head: bytes, tail: bytes, size_bytes: int) -> SegmentEnds | Damage:
    try:
        header = next(read_segment(io.BytesIO(head).read))
        block = parse_footer(tail, size_bytes)
        if block is None or not isinstance(header, SegmentHeader):
            return Damage("the footer is larger than it may be")
        return SegmentEnds(header, decode_struct(block, BlockType.FOOTER, SegmentFooter))
    except CorruptObject as error:
        return Damage(str(error))


def _parse_snapshot_ends(snapshot: Snapshot, head: bytes, tail: bytes) -> SnapshotEnds:
    with naming(snapshot.key):
        header = next(read_snapshot(io.BytesIO(head).read))
        block = parse_footer(tail, snapshot.size_bytes)
        if block is None or not isinstance(header, SnapshotHeader):
            raise CorruptObject("the footer is larger than it may be", offset=snapshot.size_bytes)
        return SnapshotEnds(header, decode_struct(block, BlockType.FOOTER, SnapshotFooter))


def _parse_replica(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=ReplicaInfo).replica
    except msgspec.DecodeError as error:
        raise CorruptObject("malformed replica object", offset=0, detail=str(error)) from error


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
