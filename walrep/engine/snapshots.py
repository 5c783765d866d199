"""Snapshots of a database whose transactions are captured: once a day, when the logs have outgrown it, or when asked.

When, and of which kind, is decided by `walrep.core.snapshots`; how a page gets into one by `walrep.sqlite.snapshot`.
A snapshot is an addition: whatever fails in it is told, and tried again later, and no transaction waits for it. Nor
does a stop: one that is being made is given up, and one that is not stored yet goes out at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import partial
from math import inf

import msgspec

from walrep.core.events import Alarm
from walrep.core.objects import SnapshotHeader
from walrep.core.snapshots import SnapshotFacts, plan_kind, plan_snapshot
from walrep.core.units import Checksum, Position, Seq, TimelineId
from walrep.disk.full import FullHashes, load_full
from walrep.disk.kept import open_kept
from walrep.disk.spool import SNAPSHOT_PART, Sealed, Spool
from walrep.engine.asking import SNAPSHOT_REQUEST, SnapshotAnswer, SnapshotRequest, answer_request, read_request
from walrep.engine.inflight import task_group
from walrep.engine.parts import EngineParts
from walrep.engine.settings import DatabaseSettings
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler
from walrep.engine.waiting import turn_unless, unless, wait_for_event
from walrep.errors import CorruptObject, SnapshotFailed, SpoolError, StoreError, check
from walrep.sqlite.capture import Capture
from walrep.sqlite.snapshot import SnapshotCopy, differing_pages

__all__ = ["Snapshotter"]

_SWEEP_S = 0.02
_TOLD = (CorruptObject, SnapshotFailed, SpoolError, StoreError)
"""What may fail in a snapshot, and ends nothing."""


class _Published(msgspec.Struct, frozen=True):
    """What the worker did: the segment that it sealed, if any, and why there is no snapshot, if there is none."""

    sealed: Sealed | None
    error: SpoolError | None = None


class Snapshotter:
    """Makes and uploads the snapshots of one timeline, from its base or resume until it ends."""

    def __init__(
        self, parts: EngineParts, settings: DatabaseSettings, capture: Capture, shipper: Shipper, spooler: Spooler
    ) -> None:
        self._parts = parts
        self._database = settings.path
        self._policy = settings.snapshots
        self._full_bytes_max = settings.spool.full_bytes_max
        self._capture = capture
        self._shipper = shipper
        self._spooler = spooler
        self._not_before_s = -inf
        self._is_waiting = True
        """Whether there may be one that is not stored; no other is made then."""
        self._wake = asyncio.Event()

    async def run(self, ended: asyncio.Event) -> None:
        """Make snapshots when they are due or asked for, until `ended`.

        Raises:
            CaptureBroken: the log turned out to be broken, as it may at any sweep.
            DatabaseReplaced: the same.

        """
        directory = self._spooler.spool.directory.path
        with self._parts.requests.watch(directory / SNAPSHOT_REQUEST, self._wake):
            async with task_group() as group:
                relay = group.create_task(self._wake_at(ended))
                while not ended.is_set():
                    self._wake.clear()
                    request = await self._parts.runner.run(partial(read_request, directory))
                    if request is not None:
                        await self._answer(request, ended)
                    else:
                        await self._do_what_is_due(ended)
                    await wait_for_event(self._wake, self._wait_s())
                relay.cancel()

    async def _wake_at(self, ended: asyncio.Event) -> None:
        await ended.wait()
        self._wake.set()

    async def _answer(self, request: SnapshotRequest, ended: asyncio.Event) -> None:
        """Make the snapshot that somebody asks for, if there is anything new, and tell when it is stored."""
        spool = self._spooler.spool
        try:
            await self._store(ended)
            await self._shipper.seal("a snapshot was asked for", final=False)
            position = spool.state.position()
            makes = request.full or spool.state.txid != spool.state.snapshot_txid
            if makes:
                position = await self._make(ended, full=request.full)
                await self._store(ended)
            answer = SnapshotAnswer(made=makes, bookmark=str(position))
        except _TOLD as error:
            answer = SnapshotAnswer(made=False, error=str(error), hint=error.hint)
        if not ended.is_set():
            await self._parts.runner.run(partial(answer_request, spool.directory.path, answer))

    async def _do_what_is_due(self, ended: asyncio.Event) -> None:
        if not self._is_waiting and self._due_s() <= 0:
            # An outage ends with segments; what is large is not even made before they are stored.
            if self._shipper.is_drained:
                await self._try("a snapshot could not be made", self._make(ended))
            else:
                self._postpone(self._policy.look_s)
        if self._is_waiting and self._rest_s() <= 0:
            await self._try("a snapshot could not be stored", self._store(ended))

    async def _try(self, failed: str, work: Coroutine[None, None, object]) -> None:
        """Do something, and report what failed in it; it is tried again later."""
        try:
            await work
        except _TOLD as error:
            self._postpone(self._policy.again_s)
            # What ends the timeline is told where that ends.
            if self._spooler.failure is None:
                message = f"{failed}: {error}"
                alarm = Alarm(database=str(self._database), key="snapshot", message=message, hint=error.hint)
                self._parts.report(alarm)

    # -- when -------------------------------------------------------------------------------------------------------

    def _wait_s(self) -> float:
        return max(0.0, min(self._policy.look_s, self._due_s()))

    def _rest_s(self) -> float:
        return self._not_before_s - self._parts.clock.monotonic_s()

    def _due_s(self) -> float:
        """Return in how many seconds a snapshot is due."""
        plan = plan_snapshot(self._facts(), self._policy)
        due_s = inf if plan.at_ms is None else (plan.at_ms - self._parts.clock.now_ms()) / 1000
        return max(due_s, self._rest_s())

    def _postpone(self, seconds: float) -> None:
        self._not_before_s = self._parts.clock.monotonic_s() + seconds

    def _facts(self) -> SnapshotFacts:
        state = self._spooler.spool.state
        return SnapshotFacts(
            identity=state.replica,
            now_ms=self._parts.clock.now_ms(),
            last_ms=state.snapshot_ms,
            last_txid=state.snapshot_txid,
            txid=state.txid,
            log_bytes=state.log_bytes,
            database_bytes=state.page_count * state.page_size,
        )

    # -- storing ----------------------------------------------------------------------------------------------------

    async def _store(self, ended: asyncio.Event) -> None:
        """Upload what waits, unless `ended` comes first."""
        await unless(ended, self._upload())

    async def _upload(self) -> None:
        """Upload what waits, behind the segments that lead up to it."""
        shipper, spool = self._shipper, self._spooler.spool
        while await shipper.on_worker(spool.snapshots):
            await shipper.admitted.wait()
            await shipper.drained()
            # A base that leans on one of them, and was waited for, has taken that along.
            waiting = await shipper.on_worker(spool.snapshots)
            if not waiting:
                break
            item = waiting[0]
            try:
                await shipper.upload_snapshot(item)
            except (CorruptObject, SnapshotFailed):
                # There is nothing in it that the transactions do not make.
                await shipper.on_worker(partial(spool.discard_snapshot, item))
                raise
            shipper.note_store_works()
        self._is_waiting = False

    # -- making -----------------------------------------------------------------------------------------------------

    async def _make(self, ended: asyncio.Event, *, full: bool = False) -> Position | None:
        """Make a snapshot in its turn, and return where it stands; None if `ended` came first."""
        async with turn_unless(ended, self._parts.snapshot_turns) as has_turn:
            if not has_turn:
                return None
            copy = await self._new_copy(full=full)
            try:
                await self._copy(copy, ended)
                return await self._finish(copy, ended)
            finally:
                await self._parts.runner.run(copy.abandon)

    async def _new_copy(self, *, full: bool) -> SnapshotCopy:
        spool, reader, runner = self._spooler.spool, self._capture.reader, self._parts.runner
        state, path = spool.state, spool.directory.path / SNAPSHOT_PART
        timeline = state.timeline
        check(timeline is not None, "a snapshot belongs to a timeline")
        header = SnapshotHeader(
            replica=state.replica,
            timeline=timeline or TimelineId(""),
            writer=state.writer,
            created_ms=self._parts.clock.now_ms(),
            page_size=state.page_size,
        )
        under = None if full else await self._choose(header)
        if under is None:
            return await runner.run(partial(SnapshotCopy, reader, path, header, spool.new_room()))
        header = msgspec.structs.replace(header, full=under.snapshot.position)
        kept = await runner.run(partial(open_kept, spool.directory.path, under, bytes_max=self._full_bytes_max))
        return await runner.run(partial(SnapshotCopy, reader, path, header, spool.new_room(), under.array(), kept))

    async def _choose(self, header: SnapshotHeader) -> FullHashes | None:
        """Have it decided of which kind the snapshot is; return the full one to lean on, if it is differential."""
        spool, reader = self._spooler.spool, self._capture.reader
        full = await self._parts.runner.run(partial(load_full, spool.directory.path))
        if full is None:
            return None
        changed = await self._parts.captures.run(partial(differing_pages, reader.encoder.hashes, full.array()))
        pages = (changed, spool.state.page_count)
        kind, _reason = plan_kind(
            full.snapshot,
            pages,
            replica=header.replica,
            page_size=header.page_size,
            now_ms=self._parts.clock.now_ms(),
            policy=self._policy,
        )
        return full if kind == "differential" else None

    async def _copy(self, copy: SnapshotCopy, ended: asyncio.Event) -> None:
        """Copy from the file, in slices."""
        parts, clock = self._parts, self._parts.clock
        while not ended.is_set() and not await parts.captures.run(copy.begin):
            await clock.sleep(_SWEEP_S)
        more = True
        while more and not ended.is_set():
            began_s = clock.monotonic_s()
            more = await parts.runner.run(copy.copy_slice)
            # Nobody waits for a snapshot: the app has the disk for at least half of the time.
            await clock.sleep(clock.monotonic_s() - began_s)
        if not ended.is_set():
            await parts.runner.run(copy.sync)

    async def _finish(self, copy: SnapshotCopy, ended: asyncio.Event) -> Position | None:
        """Bring the copy up to now, until it is complete and published, or `ended`."""
        while not ended.is_set():
            if await self._publish(copy):
                return Position(copy.header.timeline, copy.txid, Checksum(copy.checksum))
            if copy.is_held_up:
                await self._parts.clock.sleep(_SWEEP_S)
            else:
                await self._parts.runner.run(copy.write_overlay)
        return None

    async def _publish(self, copy: SnapshotCopy) -> bool:
        """Publish it if it is complete now; say whether it was."""
        async with self._shipper.sealing:
            oldest_s = self._spooler.pending().oldest_s
            publishing = await self._parts.captures.run(partial(self._publish_if_ready, copy))
            if publishing is None:
                return False
            published = await asyncio.wrap_future(publishing)
            if published.sealed is not None:
                self._shipper.note_sealed(published.sealed, "a snapshot stands behind it", oldest_s)
        # Also what failed may have got as far as the outbox.
        self._is_waiting = True
        if published.error is not None:
            raise published.error
        return True

    def _publish_if_ready(self, copy: SnapshotCopy) -> Future[_Published] | None:
        """Between two ticks: if the snapshot is complete, end the open segment at this very position.

        Everything captured was given to the worker, and it does calls in order; nothing more is captured before this
        call returns.
        """
        if not copy.overlay():
            return None
        return self._spooler.seal_then(partial(_publish, self._spooler.spool, copy))


def _publish(spool: Spool, copy: SnapshotCopy, sealed: Sealed | None) -> _Published:
    state = spool.state
    where = (copy.txid, copy.checksum, copy.page_count)
    check(where == (state.txid, state.checksum, state.page_count), "a snapshot stands where a segment ends")
    try:
        copy.finish(Seq(state.next_seq - 1))
        spool.add_snapshot(copy.path, copy.seen_ms, copy.hashes() if copy.header.full is None else None)
    except SpoolError as error:
        return _Published(sealed, error=error)
    return _Published(sealed)
