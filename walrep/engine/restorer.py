"""Restoring a database: plan, build beside the target, prove, then put it there.

Until the last step nothing at the target changes: the database is built under a temporary name in the target's
directory, so that the last step is a rename. What each step needs and whether it is right is decided elsewhere
(`walrep.core.restore`, `walrep.engine.apply`, `walrep.sqlite.target`); this module awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from walrep.clock import Clock
from walrep.core.history import Snapshot
from walrep.core.names import parse_pack_key
from walrep.core.restore import RestorePlan
from walrep.core.target import AtBookmark, Latest, Target, depends_on_end
from walrep.disk.atomic import fsync_directory, map_os_errors, publish, temporary_path
from walrep.engine.apply import BlockBatch, SliceApplier, SnapshotLoader, naming
from walrep.engine.fetch import ReplicaReader
from walrep.engine.inflight import task_group
from walrep.engine.pagefile import CACHE_BYTES_MAX, PageFile, require_room
from walrep.engine.partcache import Part
from walrep.engine.planning import Wanted, plan_wanted
from walrep.engine.steps import Alone, RestoreSteps
from walrep.errors import (
    CorruptObject,
    InvariantViolated,
    NotADatabase,
    ObjectNotFound,
    RestoreError,
    RestoreMismatch,
    UsageError,
    WalrepError,
)
from walrep.runner import Runner
from walrep.sqlite.settle import settle_database
from walrep.sqlite.target import (
    Check,
    adopt_ownership,
    check_integrity,
    refuse_existing,
    refuse_live,
    without_sidecars,
)
from walrep.store.base import Store

__all__ = ["Progress", "RestoreOutcome", "RestoreProgress", "RestoreRequest", "restore"]

_BATCHES_IN_FLIGHT = 4
"""Batches of a snapshot that wait for a thread or are in one: twice the threads that are worth having, so that these do
not wait while the next part is parsed (measured, 200 MB: 1.06 times as long as `zstd -d` rather than 1.27)."""

_ATTEMPTS_MAX = 3

T = TypeVar("T")


class RestoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to restore, and where to. `timeline` is a full id or a number; `undo` is echoed in the outcome.

    `cache_bytes_max`: how many bytes of changed pages wait for a newer version before they are written.
    """

    output: Path
    target: Target = Latest()
    timeline: str | None = None
    nearest_before: bool = False
    force: bool = False
    check: Check = "quick"
    dry_run: bool = False
    undo: str | None = None
    cache_bytes_max: int = CACHE_BYTES_MAX


class RestoreProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a restore is; bytes are those of the plan's objects."""

    phase: str
    done_bytes: int
    total_bytes: int


class RestoreOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored, or would be if `written` is False; `seconds` by phase."""

    plan: RestorePlan
    output: Path
    written: bool
    bookmark: str
    txid: int
    seen_ms: int
    database_bytes: int
    downloaded_bytes: int
    requests: dict[str, int]
    seconds: dict[str, float]
    notices: tuple[str, ...]
    undo: str | None


Progress = Callable[[RestoreProgress], None]


async def restore(
    store: Store,
    request: RestoreRequest,
    *,
    clock: Clock,
    runner: Runner,
    progress: Progress | None = None,
    steps: RestoreSteps | None = None,
) -> RestoreOutcome:
    """Restore a database as `request` says. The runner needs two threads to be fast.

    Raises:
        UsageError: the target's directory does not exist, or the request contradicts itself.
        TargetExists: the output exists and `force` is not given, or it is in use.
        TargetNotFound: the replica does not hold the target.
        TargetAmbiguous: the target means one of two transactions.
        RestoreMismatch: what was built is not what was recorded; nothing was put at the target.
        CorruptObject: an object cannot be decoded; nothing was put at the target.
        SpoolError: the disk failed, or has no room.
        StoreError: the store failed.

    """
    work = _Restore(store, request, (clock, runner), progress or _ignore, steps or Alone())
    try:
        return await work.run()
    finally:
        work.reader.close()


class _Restore:
    """One restore."""

    def __init__(
        self,
        store: Store,
        request: RestoreRequest,
        services: tuple[Clock, Runner],
        progress: Progress,
        steps: RestoreSteps,
    ) -> None:
        self.clock, self.runner = services
        self.reader = ReplicaReader(store, self.runner)
        self._request = request
        self._progress, self._steps = progress, steps
        self._seconds: dict[str, float] = {}
        self._done_bytes = 0
        self._notices: tuple[str, ...] = ()

    async def run(self) -> RestoreOutcome:
        """Do everything; see `restore`."""
        request = self._request
        output = await self._blocking(partial(_check_output, request))
        target, timeline = request.target, request.timeline
        damage: WalrepError | None = None
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            damaged_before = self.reader.damaged_count
            try:
                plan = await self._plan(target, timeline)
                # What is planned stays: should an object be gone, the same transaction from what is there then.
                target, timeline = AtBookmark(plan.position), None
                self._notices = self._notices or plan.notices
                await self._steps.planned()
                notices = () if request.dry_run else await self._attempt(plan, output)
                return self._outcome(plan, output, notices)
            except ObjectNotFound:
                if attempt == _ATTEMPTS_MAX:
                    raise
            except (CorruptObject, RestoreMismatch) as error:
                if attempt == _ATTEMPTS_MAX or self.reader.damaged_count == damaged_before:
                    raise
                # What the pack replaced may be there still, and an older snapshot leads there, too.
                damage = error
            except RestoreError:
                # Without the object the transaction is not there: the damage is what has to be told.
                if damage is not None:
                    raise damage from None
                raise
        raise InvariantViolated("a restore ends by returning or raising")

    async def _plan(self, target: Target, timeline: str | None) -> RestorePlan:
        async with self._phase("plan"):
            wanted = Wanted(target=target, timeline=timeline, nearest_before=self._request.nearest_before)
            history = await self.reader.history(to_the_end=depends_on_end(target, timeline))
            return await plan_wanted(self.reader, history, wanted, self.clock.now_ms())

    async def _attempt(self, plan: RestorePlan, output: Path) -> tuple[str, ...]:
        """Build, prove and publish; leave nothing behind on failure."""
        temporary = temporary_path(output.parent, f".{output.name}")
        await self._blocking(partial(require_room, output.parent, plan.peak_bytes))
        pages = await self._blocking(
            partial(PageFile, temporary, plan.page_size, cache_bytes_max=self._request.cache_bytes_max)
        )
        try:
            self._done_bytes = 0
            async with self._phase("snapshot"):
                await self._load_snapshots(plan, pages)
            async with self._phase("segments"):
                await self._apply_slices(plan, pages)
            async with self._phase("check"):
                notices = await self._blocking(partial(_prove, pages, plan, self._request.check))
            async with self._phase("sync"):
                await self._blocking(partial(_within, pages, pages.sync))
            await self._steps.proved()
            return notices + await self._blocking(partial(_put_in_place, pages, output, force=self._request.force))
        finally:
            pages.discard()

    async def _load_snapshots(self, plan: RestorePlan, pages: PageFile) -> None:
        for snapshot in plan.snapshots:
            try:
                await self._load_snapshot(plan, snapshot, pages)
            except (CorruptObject, RestoreMismatch) as error:
                self.reader.damaged_snapshots[snapshot.key] = str(error)
                raise

    async def _load_snapshot(self, plan: RestorePlan, snapshot: Snapshot, pages: PageFile) -> None:
        loader = SnapshotLoader(plan, snapshot, pages)
        async with task_group() as group:
            writer = _BatchWriter(group, self._blocking, (snapshot.key, pages))

            async def consume(part: Part, data: bytes) -> bool:
                for batch in await self._blocking(partial(loader.feed, data, final=part.final)):
                    await writer.submit(batch)
                self._tell("snapshot", plan, data)
                return True

            await self.reader.each_part([snapshot], consume)
            await writer.drain()
        await self._blocking(partial(_within, pages, loader.finish))

    async def _apply_slices(self, plan: RestorePlan, pages: PageFile) -> None:
        applier = SliceApplier(plan, pages)

        async def consume(part: Part, data: bytes) -> bool:
            feed = partial(applier.feed, part.key, data, final=part.final)
            await self._blocking(partial(_within, pages, feed))
            self._tell("segments", plan, data)
            return not applier.is_done()

        try:
            await self.reader.each_part(plan.slices, consume)
        except (CorruptObject, RestoreMismatch) as error:
            if parse_pack_key(applier.key) is not None:
                self.reader.damaged_packs[applier.key] = str(error)
            raise
        await self._blocking(partial(_within, pages, applier.finish))

    async def _blocking(self, call: Callable[[], T]) -> T:
        def mapped() -> T:
            with map_os_errors("write the restored database"):
                return call()

        return await self.runner.run(mapped)

    @asynccontextmanager
    async def _phase(self, name: str) -> AsyncIterator[None]:
        start = self.clock.monotonic_s()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self.clock.monotonic_s() - start

    def _tell(self, phase: str, plan: RestorePlan, data: bytes) -> None:
        self._done_bytes += len(data)
        total = sum(each.size_bytes for each in plan.snapshots) + sum(each.length for each in plan.slices)
        self._progress(RestoreProgress(phase=phase, done_bytes=self._done_bytes, total_bytes=total))

    def _damage_notices(self) -> tuple[str, ...]:
        instead = {
            "what it replaced is there still, and was used": self.reader.damaged_packs,
            "an older snapshot and the transactions since were used": self.reader.damaged_snapshots,
        }
        return tuple(
            f"{key} is damaged ({why}); {what}" for what, found in instead.items() for key, why in found.items()
        )

    def _outcome(self, plan: RestorePlan, output: Path, notices: tuple[str, ...]) -> RestoreOutcome:
        return RestoreOutcome(
            plan=plan,
            output=output,
            written=not self._request.dry_run,
            bookmark=str(plan.position),
            txid=plan.position.txid,
            seen_ms=plan.seen_ms,
            database_bytes=plan.page_count * plan.page_size,
            downloaded_bytes=self.reader.got_bytes,
            requests={"list": self.reader.list_count, "get": self.reader.get_count, "head": self.reader.head_count},
            seconds=self._seconds,
            notices=self._notices + self._damage_notices() + notices,
            undo=self._request.undo,
        )


class _Blocking(Protocol):
    """Runs a blocking call somewhere else."""

    async def __call__(self, call: Callable[[], T]) -> T:
        """Return what `call` returns."""
        ...


class _BatchWriter:
    """Writes the batches of a snapshot, a few at a time; two that may share a page in their order."""

    def __init__(self, group: asyncio.TaskGroup, blocking: _Blocking, where: tuple[str, PageFile]) -> None:
        self._group = group
        self._blocking = blocking
        self._key, self._pages = where
        self._in_flight: dict[asyncio.Task[list[npt.NDArray[np.uint64]]], BlockBatch] = {}

    async def submit(self, batch: BlockBatch) -> None:
        """Begin to write a batch, as soon as it may be begun."""
        while self._must_wait(batch):
            await self._reap()
        self._in_flight[self._group.create_task(self._write(batch))] = batch

    async def drain(self) -> None:
        """Wait until everything is written."""
        while self._in_flight:
            await self._reap()

    def _must_wait(self, batch: BlockBatch) -> bool:
        return len(self._in_flight) >= _BATCHES_IN_FLIGHT or any(map(batch.overlaps, self._in_flight.values()))

    async def _write(self, batch: BlockBatch) -> list[npt.NDArray[np.uint64]]:
        return await self._blocking(partial(_write_batch, self._key, self._pages, batch))

    async def _reap(self) -> None:
        done, _rest = await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self._pages.note(self._in_flight.pop(task).blocks, task.result())


def _write_batch(key: str, pages: PageFile, batch: BlockBatch) -> list[npt.NDArray[np.uint64]]:
    with pages.using(), naming(key):
        return pages.write_blocks(batch.blocks)


def _within(pages: PageFile, call: Callable[[], T]) -> T:
    with pages.using():
        return call()


def _check_output(request: RestoreRequest) -> Path:
    """Return the file that the output names, links followed, if it may be written."""
    output = request.output.resolve()
    if not output.parent.is_dir():
        raise UsageError("the target's directory does not exist", detail=str(output.parent), hint="create it first")
    refuse_existing(output, force=request.force)
    refuse_live(output)
    return output


def _prove(pages: PageFile, plan: RestorePlan, check: Check) -> tuple[str, ...]:
    """Complete the file and prove that it holds the database; return notices."""
    with pages.using():
        pages.finish()
        # The transactions' checksums are of what was decoded. This one is of what the file holds.
        if pages.read_back() != plan.position.checksum:
            raise RestoreMismatch(
                "the written file does not read back as it was written",
                detail=str(pages.path),
                hint="the disk or its memory is failing; nothing was put at the target",
            )
        return check_integrity(pages.path, check)


def _put_in_place(pages: PageFile, output: Path, *, force: bool) -> tuple[str, ...]:
    """Give the file its name; return notices. Who opened the target while it was built is found here."""
    notices = adopt_ownership(pages.path, output)
    refuse_existing(output, force=force)
    refuse_live(output)
    # What is replaced keeps its last transactions, should this be the last thing that happens.
    with suppress(NotADatabase):
        settle_database(output)
    with without_sidecars(output, lambda: not pages.path.exists()) as had_some:
        if had_some:
            # Durably, before the rename: see there.
            fsync_directory(output.parent)
        publish(pages.path, output)
    return notices


def _ignore(_progress: RestoreProgress) -> None:
    pass
