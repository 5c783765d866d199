"""Who has no local record of the last full snapshot reads it from the store, once, to know what it has of each page.

That is a host that lost its state, or a new one: its database is mostly what the replica holds, so that a base which
leans on the newest full snapshot is small. The snapshot is hashed as it comes, a few blocks at a time, and its object
kept when all of it is proved (`walrep.disk.kept`).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from walrep.core.events import FullRead
from walrep.core.history import Snapshot
from walrep.core.names import SNAPSHOTS_PREFIX, parse_snapshot_key
from walrep.core.objects import SnapshotFooter, SnapshotHeader
from walrep.core.pages import PageHashes, page_hash
from walrep.core.snapshot import SnapshotPages, read_snapshot, snapshot_name
from walrep.core.snapshots import FullSnapshot, newest_full, plan_kind
from walrep.core.units import Checksum, lock_byte_page
from walrep.disk.full import FullHashes
from walrep.disk.kept import IncomingFull
from walrep.disk.room import DiskRoom
from walrep.engine.apply import ObjectFeed, naming
from walrep.engine.fetch import ReplicaReader
from walrep.engine.partcache import Part
from walrep.engine.parts import EngineParts
from walrep.engine.settings import DatabaseSettings
from walrep.errors import CorruptObject, RestoreMismatch, StoreError
from walrep.store.base import Store

__all__ = ["recall_full"]


async def recall_full(
    parts: EngineParts, settings: DatabaseSettings, store: Store, *, replica: str, known: FullHashes | None
) -> FullHashes | None:
    """Return what to lean on: `known`, if that is the newest full snapshot, or else what the store tells of that.

    None if there is nothing, or nothing that is young enough. What fails is told, and is no error. One LIST.
    """
    clock, reader = parts.clock, ReplicaReader(store, parts.runner)
    began_s, key, failed, found = clock.monotonic_s(), "", "", None
    try:
        newest = await _find_newest(store)
        if newest is None:
            return None
        key = newest.key
        if known is not None and (known.snapshot.replica, known.snapshot.key) == (replica, key):
            return known
        asked = FullSnapshot(replica=replica, name=newest.name, page_size=0, checksum=Checksum(0))
        kind, _why = plan_kind(
            asked, (0, 0), replica=replica, page_size=0, now_ms=clock.now_ms(), policy=settings.snapshots
        )
        if kind == "full":
            return None
        found = await _read(parts, settings, reader, _Hasher(newest, replica))
    except (CorruptObject, RestoreMismatch, StoreError) as error:
        failed = str(error)
    finally:
        reader.close()
    seconds = clock.monotonic_s() - began_s
    database = str(settings.path)
    parts.report(FullRead(database=database, key=key, read_bytes=reader.got_bytes, seconds=seconds, failed=failed))
    return found


async def _read(parts: EngineParts, settings: DatabaseSettings, reader: ReplicaReader, hasher: _Hasher) -> FullHashes:
    """Return the hashes of a snapshot's pages, and keep its object, which is proved by then."""
    directory, limits, size_bytes = settings.state_dir, settings.spool, hasher.snapshot.size_bytes
    room = DiskRoom(directory, limits.disk_reserve_bytes)
    incoming = await parts.runner.run(
        partial(IncomingFull, directory, size_bytes, room, bytes_max=limits.full_bytes_max)
    )

    def take(data: bytes, *, final: bool) -> None:
        incoming.write(data)
        hasher.feed(data, final=final)

    async def consume(part: Part, data: bytes) -> bool:
        await parts.runner.run(partial(take, data, final=part.final))
        return True

    try:
        await reader.each_part([hasher.snapshot], consume)
        found = await parts.runner.run(hasher.finish)
        await parts.runner.run(incoming.keep)
        return found
    finally:
        incoming.abandon()


async def _find_newest(store: Store) -> Snapshot | None:
    listed = {
        name: Snapshot(key=info.key, size_bytes=info.size_bytes, name=name)
        async for info in store.list(SNAPSHOTS_PREFIX)
        if (name := parse_snapshot_key(info.key)) is not None and name.full is None
    }
    newest = newest_full(listed)
    return listed[max(newest, key=lambda each: (each.seq, each.timeline))] if newest else None


class _Hasher:
    """Hashes the pages of a snapshot as they arrive."""

    def __init__(self, snapshot: Snapshot, replica: str) -> None:
        self.snapshot = snapshot
        self._replica = replica
        self._feed: ObjectFeed[SnapshotHeader | SnapshotPages | SnapshotFooter] = ObjectFeed(read_snapshot)
        self._hashes = PageHashes()
        self._header: SnapshotHeader | None = None
        self._footer: SnapshotFooter | None = None

    def feed(self, data: bytes, *, final: bool) -> None:
        """Take the next part of the object.

        Raises:
            CorruptObject: the object is malformed.
            RestoreMismatch: it is a differential one.

        """
        with naming(self.snapshot.key):
            for item in self._feed.feed(data, final=final):
                if isinstance(item, SnapshotPages):
                    self._take(item)
                elif isinstance(item, SnapshotFooter):
                    self._footer = item
                elif item.full is not None:
                    raise self._is_another()
                else:
                    self._header = item

    def finish(self) -> FullHashes:
        """Return the hashes of all pages, when they are proved.

        Raises:
            CorruptObject: the object is empty.
            RestoreMismatch: it is not the snapshot that its key says, or not what was recorded.

        """
        header, footer, hashes = self._header, self._footer, self._hashes
        if header is None or footer is None:
            raise CorruptObject("object ends before its footer", offset=0, detail=self.snapshot.key)
        if (header.replica, snapshot_name(header, footer)) != (self._replica, self.snapshot.name):
            raise self._is_another()
        hashes.rebuild()
        hashes.commit(footer.page_count)
        lacks = hashes.missing_page(lock_byte_page(header.page_size))
        if hashes.checksum != footer.checksum or lacks is not None:
            raise RestoreMismatch(
                "the pages of the snapshot are not those that were recorded", detail=self.snapshot.key
            )
        full = FullSnapshot(
            replica=header.replica,
            name=self.snapshot.name,
            page_size=header.page_size,
            checksum=Checksum(footer.checksum),
        )
        return FullHashes(snapshot=full, hashes=hashes.to_bytes())

    def _is_another(self) -> RestoreMismatch:
        return RestoreMismatch("the snapshot is another one than its key says", detail=self.snapshot.key)

    def _take(self, block: SnapshotPages) -> None:
        size = self._header.page_size if self._header else 0
        content = memoryview(block.decode(size))
        pages = (content[start : start + size] for start in range(0, len(content), size))
        hashes = np.fromiter(map(page_hash, pages, block.pgnos), np.uint64, count=len(block.pgnos))
        self._hashes.set_many(np.array(block.pgnos, np.uint32), hashes)
