"""Reading a replica: its history, the records that a plan needs, and the parts of objects, each byte once.

Small segments are read whole when the history is read, since a range costs as much as the object; of a pack the last
16 KiB, which tell its footer, and mostly its index too. What was read is kept, in memory first, then in a temporary
file, up to a limit of each, and not asked for again. Which segments a history needs is decided by
`walrep.core.census`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from walrep.core.census import listing_lags, next_segment, segments_to_read
from walrep.core.chunk import Commit
from walrep.core.history import Damage, History, Pack, Segment, SegmentEnds, Snapshot, build_history
from walrep.core.index import PackIndex
from walrep.core.names import REPLICA_KEY, SEGMENTS_PREFIX, parse_pack_key, parse_pruned_key
from walrep.core.objects import PackFooter
from walrep.core.prunings import PruneRecord
from walrep.core.records import Known, Needs, PackChunk, SnapshotEnds
from walrep.core.segment import read_segment
from walrep.core.slices import PACK_END_BYTES, WHOLE_BYTES_MAX, Slice, split_parts
from walrep.engine.apply import ObjectFeed, naming
from walrep.engine.ends import (
    SegmentItem,
    commits_in,
    parse_chunk_commits,
    parse_pack_end,
    parse_pack_index,
    parse_prune_record,
    parse_replica,
    parse_segment_ends,
    parse_snapshot_ends,
)
from walrep.engine.inflight import each_in_order
from walrep.engine.partcache import Part, PartCache
from walrep.errors import AccessDenied, CorruptObject, ObjectNotFound
from walrep.runner import Runner
from walrep.store.base import Store

__all__ = ["ReplicaReader", "read_history"]

_HEAD_BYTES = 64 << 10
_FOOTER_BYTES = 4 << 10
_PARTS_IN_FLIGHT = 4
_SMALL_IN_FLIGHT = 16
_LISTS_MAX = 3

T = TypeVar("T")


class ReplicaReader:
    """Reads one replica for one operation; counts what it asks the store for."""

    def __init__(
        self, store: Store, runner: Runner, *, parallel: int = _PARTS_IN_FLIGHT, cache: PartCache | None = None
    ) -> None:
        self.list_count = 0
        self.get_count = 0
        self.head_count = 0
        self.got_bytes = 0
        self.damaged_packs: dict[str, str] = {}
        """Packs of which something beside the end was found to be damaged, and what; they count as unreadable."""
        self.damaged_snapshots: dict[str, str] = {}
        """Snapshots that were found to be damaged, and what; they count as missing."""
        self._store = store
        self._runner = runner
        self._parallel = parallel
        self._cache = PartCache() if cache is None else cache
        self._pack_ends: dict[str, tuple[int, int]] = {}
        """Start and length of what was read of the end of each pack."""

    async def history(self, *, to_the_end: bool = False) -> History:
        """List the replica and read the ends of its segments and packs.

        `to_the_end`: prove that the listing does not lag behind, with a HEAD of what would follow. INV-33.

        Raises:
            ObjectNotFound: what was listed is gone already: packed, and deleted. The next list does not have it.
            StoreUnavailable: the store lists less than it has.

        """
        sizes = await self._list("")
        if to_the_end:
            sizes |= await self._list_end(sizes)
        replica = parse_replica(await self._get(REPLICA_KEY, 0, sizes[REPLICA_KEY])) if REPLICA_KEY in sizes else ""
        pruned = await self._prune_records(sizes)
        footers = await self._pack_footers(sizes)
        ends = await self._segment_ends(sizes, segments_to_read(sizes, footers))
        history = build_history(sizes, ends, replica, footers, pruned)
        more = segments_to_read(sizes, footers, history.problems) - ends.keys()
        if more:
            ends |= await self._segment_ends(sizes, more)
            history = build_history(sizes, ends, replica, footers, pruned)
        return history

    async def settled_history(self, *, to_the_end: bool = False) -> History:
        """Return the history, listed again where something of it went meanwhile; a few times, then as `history`."""
        for _attempt in range(1, _LISTS_MAX):
            with suppress(ObjectNotFound):
                return await self.history(to_the_end=to_the_end)
        return await self.history(to_the_end=to_the_end)

    async def learn(self, known: Known, needs: Needs) -> Known:
        """Return what is known and what is needed; packs whose record is damaged are noted."""
        commits = {each.key: await self._commits(each) for each in needs.segments}
        snapshots = {each.key: await self._snapshot_ends(each) for each in needs.snapshots}
        indexes = {each.key: await self._index(each) for each in needs.packs}
        known = known.joined(Known(commits=commits, snapshots=snapshots, indexes=indexes))
        chunks: dict[tuple[str, int], list[Commit]] = {}

        async def fetch(chunk: PackChunk) -> bytes:
            return await self._get_part(_part_of(chunk), keep=True)

        async def consume(chunk: PackChunk, block: bytes) -> bool:
            key = chunk.pack.key
            parse = partial(parse_chunk_commits, key, known.indexes[key], chunk.number, block)
            chunks[key, chunk.number] = await self._of_pack(key, parse)
            return True

        await each_in_order(needs.chunks, fetch, consume, in_flight_max=_SMALL_IN_FLIGHT)
        return known.joined(Known(chunks=chunks))

    async def each_part(
        self, objects: Sequence[Slice | Snapshot], consume: Callable[[Part, bytes], Awaitable[bool]]
    ) -> None:
        """Hand the parts of snapshots and slices to `consume`, in order, until it returns False."""
        await each_in_order(_parts(objects), self._get_part, consume, in_flight_max=self._parallel)

    @property
    def damaged_count(self) -> int:
        """How many objects were found to be damaged that others may stand for."""
        return len(self.damaged_packs) + len(self.damaged_snapshots)

    def close(self) -> None:
        """Release what was kept."""
        self._cache.close()

    async def _list(self, prefix: str, start_after: str = "") -> dict[str, int]:
        self.list_count += 1
        listed = self._store.list(prefix, start_after=start_after)
        return {info.key: info.size_bytes async for info in listed if info.key not in self.damaged_snapshots}

    async def _list_end(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return what came behind the segments of a listing since, if anything."""
        last, following = next_segment(sizes)
        self.head_count += 1
        try:
            await self._store.head(following)
        except (ObjectNotFound, AccessDenied):
            # Who may not list everything is told so of what is not there.
            return {}
        # A writer that is at work is no reason to wait; a listing that still lacks it is.
        end = await self._list(SEGMENTS_PREFIX, last)
        if following not in end:
            raise listing_lags(following)
        return end

    async def _prune_records(self, sizes: Mapping[str, int]) -> list[PruneRecord | Damage]:
        keys = sorted(key for key in sizes if parse_pruned_key(key) is not None)
        return [parse_prune_record(key, await self._get(key, 0, sizes[key])) for key in keys]

    async def _segment_ends(self, sizes: dict[str, int], keys: Iterable[str]) -> dict[str, SegmentEnds | Damage]:
        ends: dict[str, SegmentEnds | Damage] = {}

        async def fetch(key: str) -> tuple[bytes, bytes]:
            return await self._ends(key, sizes[key])

        async def consume(key: str, data: tuple[bytes, bytes]) -> bool:
            ends[key] = parse_segment_ends(*data, sizes[key])
            return True

        await each_in_order(sorted(keys), fetch, consume, in_flight_max=_SMALL_IN_FLIGHT)
        return ends

    async def _pack_footers(self, sizes: dict[str, int]) -> dict[str, PackFooter | Damage]:
        footers: dict[str, PackFooter | Damage] = {key: Damage(why) for key, why in self.damaged_packs.items()}

        async def fetch(key: str) -> bytes:
            return await self._pack_end(key, sizes[key])

        async def consume(key: str, data: bytes) -> bool:
            footers[key] = parse_pack_end(data, sizes[key])
            return True

        keys = [key for key in sizes if parse_pack_key(key) is not None and key not in footers]
        await each_in_order(keys, fetch, consume, in_flight_max=_SMALL_IN_FLIGHT)
        return footers

    async def _get(self, key: str, start: int, length: int) -> bytes:
        self.get_count += 1
        data = await self._store.get(key, start=start, length=length)
        self.got_bytes += len(data)
        return data

    async def _get_part(self, part: Part, *, keep: bool = False) -> bytes:
        """Return a part that was kept, or ask the store for it, and with `keep` keep it then."""
        data = await self._runner.run(partial(self._kept, part))
        if data is None:
            data = await self._get(part.key, part.start, part.length)
            if keep:
                await self._runner.run(partial(self._cache.put, part.key, part.start, data))
        return data

    def _kept(self, part: Part) -> bytes | None:
        """Return a part that was read before, by itself or with the end of a pack."""
        data = self._cache.get(part.key, part.start, part.length)
        end = self._pack_ends.get(part.key)
        if data is None and end is not None and part.start >= end[0]:
            whole = self._cache.get(part.key, *end)
            data = whole[part.start - end[0] :][: part.length] if whole is not None else None
        return data

    async def _ends(self, key: str, size_bytes: int) -> tuple[bytes, bytes]:
        """Return the first and the last bytes of a segment: twice the whole of a small one."""
        if size_bytes > WHOLE_BYTES_MAX:
            start = size_bytes - _FOOTER_BYTES
            return await self._get(key, 0, _HEAD_BYTES), await self._get(key, start, _FOOTER_BYTES)
        data = await self._get_part(Part(key, 0, size_bytes, final=True), keep=True)
        return data, data

    async def _pack_end(self, key: str, size_bytes: int) -> bytes:
        length = min(size_bytes, PACK_END_BYTES)
        self._pack_ends[key] = (size_bytes - length, length)
        return await self._get_part(Part(key, size_bytes - length, length, final=True), keep=True)

    async def _commits(self, segment: Segment) -> list[Commit]:
        """Return all transactions of a segment, and keep it for the restore."""
        feed: ObjectFeed[SegmentItem] = ObjectFeed(read_segment)
        commits: list[Commit] = []

        def take(part: Part, data: bytes) -> None:
            with naming(part.key):
                for item in feed.feed(data, final=part.final):
                    commits.extend(commits_in(item, segment))

        async def consume(part: Part, data: bytes) -> bool:
            await self._runner.run(partial(take, part, data))
            return True

        whole = Slice(link=segment, start=0, length=segment.size_bytes)
        fetch = partial(self._get_part, keep=True)
        await each_in_order(_parts([whole]), fetch, consume, in_flight_max=self._parallel)
        return commits

    async def _index(self, pack: Pack) -> PackIndex:
        """Return the index of a pack, mostly from its last bytes, which the history has read."""
        offset = pack.footer.index_offset
        data = await self._get_part(Part(pack.key, offset, pack.size_bytes - offset, final=True))
        return await self._of_pack(pack.key, partial(parse_pack_index, pack, data))

    async def _of_pack(self, key: str, parse: Callable[[], T]) -> T:
        try:
            return await self._runner.run(parse)
        except CorruptObject as error:
            self.damaged_packs[key] = str(error)
            raise

    async def _snapshot_ends(self, snapshot: Snapshot) -> SnapshotEnds:
        size = snapshot.size_bytes
        head = await self._get(snapshot.key, 0, min(size, _HEAD_BYTES))
        tail = await self._get(snapshot.key, max(0, size - _FOOTER_BYTES), min(size, _FOOTER_BYTES))
        try:
            return parse_snapshot_ends(snapshot, head, tail)
        except CorruptObject as error:
            self.damaged_snapshots[snapshot.key] = str(error)
            raise


async def read_history(store: Store, runner: Runner, *, parallel: int = _PARTS_IN_FLIGHT) -> History:
    """Return what a replica holds, with one LIST, a GET or two for each segment, and one for each pack."""
    reader = ReplicaReader(store, runner, parallel=parallel)
    try:
        return await reader.settled_history()
    finally:
        reader.close()


def _parts(objects: Sequence[Slice | Snapshot]) -> Iterable[Part]:
    for each in objects:
        parts = each.parts() if isinstance(each, Slice) else split_parts(each.size_bytes)
        for number, (start, length) in enumerate(parts, 1):
            yield Part(each.key, start, length, final=number == len(parts))


def _part_of(chunk: PackChunk) -> Part:
    return Part(chunk.pack.key, chunk.offset, chunk.block_bytes, final=True)
