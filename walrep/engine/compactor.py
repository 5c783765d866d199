"""Fold segments into packs, and packs into larger ones, from local files where they are there; then delete.

What to do is `walrep.core.compaction`'s decision. Every step can be the last one before a kill: a pack is built beside
the cache, read back and compared with what its sources held, stored, and its size compared, before anything that it
replaces may go; what was done of a plan is found in the store at the next start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from walrep.clock import Clock
from walrep.core.compaction import CompactionPlan, CompactionPolicy, PackPlan, plan_compaction
from walrep.core.names import pack_key
from walrep.core.objects import PackHeader, SegmentFooter, SegmentHeader, Writer
from walrep.core.pack import read_pack, read_source
from walrep.core.packing import BuiltPack, build_pack, pack_header, verify_pack
from walrep.core.slices import split_parts
from walrep.core.stored import Leftover, PackFact, SegmentFact, Stored, pack_fact, segment_fact, stored_from
from walrep.core.units import format_seq, timeline_nonce
from walrep.disk.atomic import map_os_errors, temporary_path
from walrep.disk.room import DiskRoom
from walrep.engine.apply import ObjectFeed
from walrep.engine.fetch import ReplicaReader
from walrep.errors import AccessDenied, CorruptObject, SpoolFull, StoreError
from walrep.runner import Runner
from walrep.store.base import Store

__all__ = ["Compacted", "Compactor", "Workplace"]

_DENIED_S = 3600.0
"""How long a store that refused to delete is not asked again."""


class Compacted(msgspec.Struct, frozen=True, kw_only=True):
    """What one round did. `next_ms` is when there is more to do by the passage of time alone."""

    packs: tuple[tuple[str, int, str], ...] = ()
    """Key, bytes and reason of each pack that was stored."""
    deleted: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    """Packs that were found not to be readable; they are made again where what they replaced is still there."""
    downloaded_bytes: int = 0
    may_not_delete: bool = False
    next_ms: int | None = None


class Workplace(msgspec.Struct, frozen=True):
    """Where a compactor works on the local disk.

    `cache` is a folder with copies of the replica's objects, which others may evict at any time; the writer's own
    segments are there under their numbers. `work` is a folder on the same file system, for nobody else; `room` is what
    its disk has for it.
    """

    cache: Path
    work: Path
    room: DiskRoom


class Compactor:
    """Compacts one replica."""

    def __init__(
        self,
        store: Store,
        place: Workplace,
        *,
        clock: Clock,
        runner: Runner,
        writer: Writer,
        policy: CompactionPolicy,
    ) -> None:
        self._store = store
        self._place = place
        self._clock = clock
        self._runner = runner
        self._writer = writer
        self._policy = policy
        self._segments: dict[str, SegmentFact] = {}
        self._packs: dict[str, PackFact] = {}
        self._leftovers: dict[str, Leftover] = {}
        self._damaged: dict[str, str] = {}
        """Packs that were found not to be readable, and why."""
        self._downloaded_bytes = 0
        self._denied_until_s = float("-inf")

    @property
    def segments(self) -> Mapping[str, SegmentFact]:
        """What is known of the segments that are there, by key."""
        return self._segments

    async def load(self) -> None:
        """Learn what the replica holds, and forget what is not there any more. One LIST, and some GETs.

        What was known before is known better, and so is what is noted meanwhile.
        """
        before = {*self._segments, *self._packs}
        reader = ReplicaReader(self._store, self._runner)
        reader.damaged_packs.update(self._damaged)
        try:
            history = await reader.settled_history()
        finally:
            reader.close()
        stored = stored_from(history)
        self._leftovers = {each.key: each for each in stored.leftovers}
        # A pack of what retention is deleting would be young again, and outlive what it rests on.
        segments = {each.key: each for each in stored.segments if each.key not in history.leaving}
        packs = {each.key: each for each in stored.packs if each.key not in history.leaving}
        gone = before - segments.keys() - packs.keys() - self._leftovers.keys()
        self._segments = {key: each for key, each in (segments | self._segments).items() if key not in gone}
        self._packs = {key: each for key, each in (packs | self._packs).items() if key not in gone}

    def note_segment(self, key: str, header: SegmentHeader, footer: SegmentFooter, size_bytes: int) -> None:
        """Note a segment that has just been stored."""
        self._segments[key] = segment_fact(key, header, footer, size_bytes)

    def forget(self, keys: Collection[str]) -> None:
        """Note that objects are deleted."""
        for known in (self._segments, self._packs, self._leftovers):
            for key in keys:
                known.pop(key, None)

    def plan(self, pending_ms: int | None) -> CompactionPlan:
        """Return what is to be done now; `pending_ms` is when the oldest commit was seen that is not stored yet."""
        stored = Stored(
            segments=[*self._segments.values()],
            packs=[*self._packs.values()],
            leftovers=[*self._leftovers.values()],
            pending_ms=pending_ms,
        )
        return plan_compaction(stored, now_ms=self._clock.now_ms(), policy=self._policy)

    async def run(self, pending_ms: int | None) -> Compacted:
        """Do what is to be done, until nothing is.

        Raises:
            StoreError: the store failed; what is done is done.
            CorruptObject: an object of the store is damaged.

        """
        packs: list[tuple[str, int, str]] = []
        deleted: list[str] = []
        damaged: list[str] = []
        self._downloaded_bytes = 0
        while True:
            plan = self.plan(pending_ms)
            for build in plan.builds:
                pack = await self._build(build)
                packs.append((pack.key, pack.size_bytes, build.reason))
            unreadable = [pack.key for pack in plan.unverified if not await self._prove(pack)]
            if unreadable:
                damaged += unreadable
                # What they replaced was not read, and is what they can be made of again.
                await self.load()
                continue
            keys = [deletion.key for deletion in plan.deletions]
            may_not_delete = self._clock.monotonic_s() < self._denied_until_s
            if keys and not may_not_delete:
                try:
                    await self._store.delete(keys)
                except AccessDenied:
                    # A writer may be allowed to write only; then somebody else deletes, with `walrep compact`.
                    may_not_delete = True
                    self._denied_until_s = self._clock.monotonic_s() + _DENIED_S
                else:
                    self.forget(keys)
                    deleted += keys
            if not (plan.builds or plan.unverified) and (may_not_delete or not keys):
                return Compacted(
                    packs=tuple(packs),
                    deleted=tuple(deleted),
                    damaged=tuple(damaged),
                    downloaded_bytes=self._downloaded_bytes,
                    may_not_delete=may_not_delete,
                    next_ms=plan.next_ms,
                )

    async def _build(self, plan: PackPlan) -> PackFact:
        if not await self._runner.run(partial(self._place.room.allows, plan.size_bytes)):
            raise SpoolFull(
                "there is no room to make a pack", detail=str(self._place.work), hint="make room on its disk"
            )
        path = temporary_path(self._place.work, "pack")
        try:
            built = await self._write(plan, path)
            key = pack_key(built.name)
            await self._store.put(key, path)
            found = (await self._store.head(key)).size_bytes
            if found != built.size_bytes:
                raise StoreError("the store has another size of a pack than was put", detail=f"{key}: {found} bytes")
            fact = pack_fact(built.footer, built.size_bytes, stored_ms=self._clock.now_ms(), verified=True)
            self._packs[key] = fact
            self._damaged.pop(key, None)
            await self._runner.run(partial(self._keep, path, fact, plan))
        finally:
            with suppress(OSError):
                path.unlink()
        return fact

    async def _write(self, plan: PackPlan, path: Path) -> BuiltPack:
        """Write a pack and read it back; a damaged local copy of a source is done without."""
        for again in (False, True):
            sources = [await self._local(each, anew=again) for each in plan.sources]
            try:
                built = await self._runner.run(partial(self._write_from, plan, sources, path))
            except CorruptObject:
                if again:
                    raise
            else:
                if built is not None:
                    return built
        raise StoreError("the sources of a pack are evicted faster than they are read", detail=str(self._place.cache))

    def _write_from(self, plan: PackPlan, sources: list[Path], path: Path) -> BuiltPack | None:
        """Write a pack and read it back; None if a source was evicted meanwhile."""
        with ExitStack() as opened:
            files: list[BinaryIO] = []
            for source in sources:
                file = _open_copy(source)
                if file is None:
                    return None
                files.append(opened.enter_context(file))
            header = pack_header(_header_of(files[0]), plan.sources[-1].last_seq, self._writer, self._clock.now_ms())
            with map_os_errors(f"write {path}"), path.open("wb") as output:
                built = build_pack([file.read for file in files], output.write, header)
        with map_os_errors(f"read {path}"), path.open("rb") as written:
            verify_pack(written.read, built)
        return built

    async def _local(self, fact: SegmentFact | PackFact, *, anew: bool) -> Path:
        """Return a file with an object, got from the store if it is not there."""
        path = self._place.cache / self._file_name(fact)
        if anew or not await self._runner.run(partial(_exists, path)):
            partial_path = temporary_path(self._place.work, "get")
            try:
                for start, length in split_parts(fact.size_bytes):
                    data = await self._store.get(fact.key, start=start, length=length)
                    self._downloaded_bytes += len(data)
                    await self._runner.run(partial(_append, partial_path, data))
                await self._runner.run(partial(_move, partial_path, path))
            finally:
                with suppress(OSError):
                    partial_path.unlink()
        return path

    async def _prove(self, pack: PackFact) -> bool:
        """Read back a pack of an earlier run; one that is damaged is not counted any more. INV-23."""
        feed = ObjectFeed(read_pack)
        try:
            for start, length in split_parts(pack.size_bytes):
                data = await self._store.get(pack.key, start=start, length=length)
                self._downloaded_bytes += len(data)
                items = feed.feed(data, final=start + length == pack.size_bytes)
                await self._runner.run(partial(deque, items, maxlen=0))
        except CorruptObject as error:
            self._packs.pop(pack.key, None)
            self._damaged[pack.key] = str(error)
            return False
        self._packs[pack.key] = msgspec.structs.replace(pack, verified=True)
        return True

    def _keep(self, path: Path, pack: PackFact, plan: PackPlan) -> None:
        """Keep a pack for the next larger one, instead of what it was made of."""
        with map_os_errors(f"keep {path}"):
            path.rename(self._place.cache / self._file_name(pack))
            for source in plan.sources:
                (self._place.cache / self._file_name(source)).unlink(missing_ok=True)

    def _file_name(self, fact: SegmentFact | PackFact) -> str:
        if isinstance(fact, PackFact):
            return f"pack-{fact.timeline}-{format_seq(fact.first_seq)}-{format_seq(fact.last_seq)}"
        is_own = timeline_nonce(fact.timeline) == self._writer.nonce[:8]
        return format_seq(fact.seq) if is_own else fact.key.rpartition("/")[2] + "-other"


def _header_of(file: BinaryIO) -> SegmentHeader | PackHeader:
    header = next(iter(read_source(file.read)))
    file.seek(0)
    if not isinstance(header, SegmentHeader | PackHeader):
        raise CorruptObject("a source without a header", offset=0)
    return header


def _open_copy(path: Path) -> BinaryIO | None:
    """Open a local copy of an object; None if it is not there any more."""
    with map_os_errors(f"read {path}"), suppress(FileNotFoundError):
        return path.open("rb")
    return None


def _exists(path: Path) -> bool:
    with map_os_errors(f"read {path}"):
        return path.exists()


def _move(path: Path, to: Path) -> None:
    with map_os_errors(f"keep {to}"):
        path.replace(to)


def _append(path: Path, data: bytes) -> None:
    with map_os_errors(f"write {path}"), path.open("ab") as file:
        file.write(data)
