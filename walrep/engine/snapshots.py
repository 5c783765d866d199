"""Snapshots of a database whose transactions are captured: once a day, when the logs have outgrown it, or when asked.

When, and of which kind, is decided by `walrep.core.snapshots`; how a page gets into one by `walrep.sqlite.snapshot`.
A snapshot is an addition: whatever fails in it is told, and tried again later, and no transaction waits for it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from math import inf

import msgspec
import numpy as np

from walrep.core.events import Alarm
from walrep.core.objects import SnapshotHeader
from walrep.core.snapshots import SnapshotFacts, plan_kind, plan_snapshot
from walrep.core.units import Seq, TimelineId
from walrep.disk.full import FullHashes, load_full
from walrep.disk.outbox import OutboxItem
from walrep.disk.spool import SNAPSHOT_PART, Sealed, Spool
from walrep.engine.asking import SNAPSHOT_REQUEST, SnapshotAnswer, SnapshotRequest, answer_request, read_request
from walrep.engine.inflight import task_group
from walrep.engine.parts import EngineParts
from walrep.engine.settings import DatabaseSettings
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler
from walrep.engine.waiting import wait_for_event
from walrep.errors import SpoolError, check
from walrep.sqlite.capture import Capture
from walrep.sqlite.snapshot import HashArray, SnapshotCopy, differing_pages

__all__ = ["Snapshotter"]

_AGAIN_S = 3600.0
_SWEEP_S = 0.02
_STORED_S = 0.05


class _Published(msgspec.Struct, frozen=True):
    """What the worker did: the segment that it sealed, if any, and the snapshot, or why there is none."""

    sealed: Sealed | None
    item: OutboxItem | None = None
    error: SpoolError | None = None


class Snapshotter:
    """Makes the snapshots of one timeline, from its base or resume until it ends."""

    def __init__(
        self, parts: EngineParts, settings: DatabaseSettings, capture: Capture, shipper: Shipper, spooler: Spooler
    ) -> None:
        self._parts = parts
        self._database = settings.path
        self._policy = settings.snapshots
        self._capture = capture
        self._shipper = shipper
        self._spooler = spooler
        self._not_before_s = -inf
        self._wake = asyncio.Event()

    async def run(self, ended: asyncio.Event) -> None:
        """Make snapshots when they are due, until `ended`.

        Raises:
            CaptureBroken: the log turned out to be broken, as it may at any sweep.
            DatabaseReplaced: the same.
            SpoolError: the spool failed, and with it the capture.

        """
        directory = self._spooler.spool.directory.path
        with self._parts.watcher.watch(directory, frozenset({SNAPSHOT_REQUEST}), self._wake):
            async with task_group() as group:
                relay = group.create_task(self._wake_at(ended))
                while not ended.is_set():
                    self._wake.clear()
                    request = await self._parts.runner.run(partial(read_request, directory))
                    if request is not None:
                        await self._answer(request, ended)
                    # An outage ends with segments; what is large goes out when they are.
                    elif not self._shipper.is_drained:
                        self._postpone(self._policy.look_s)
                    elif self._due_s() <= 0:
                        await self._attempt(ended)
                    await wait_for_event(self._wake, self._wait_s())
                relay.cancel()

    async def _wake_at(self, ended: asyncio.Event) -> None:
        await ended.wait()
        self._wake.set()

    async def _answer(self, request: SnapshotRequest, ended: asyncio.Event) -> None:
        """Make the snapshot that somebody asks for, if there is anything new, and tell when it is stored."""
        clock, spool = self._parts.clock, self._spooler.spool
        try:
            await self._shipper.seal("a snapshot was asked for", final=False)
            is_new = spool.state.txid != spool.state.snapshot_txid
            if is_new or request.full:
                await self._make(ended, full=request.full)
            while not self._shipper.is_drained and not ended.is_set():
                await clock.sleep(_STORED_S)
            answer = SnapshotAnswer(made=is_new or request.full, bookmark=str(spool.state.position()))
        except SpoolError as error:
            if self._spooler.failure is not None:
                raise
            answer = SnapshotAnswer(made=False, error=str(error), hint=error.hint)
        if not ended.is_set():
            await self._parts.runner.run(partial(answer_request, spool.directory.path, answer))

    def _wait_s(self) -> float:
        return max(0.0, min(self._policy.look_s, self._due_s()))

    def _due_s(self) -> float:
        """Return in how many seconds a snapshot is due."""
        clock = self._parts.clock
        plan = plan_snapshot(self._facts(), self._policy)
        due_s = inf if plan.at_ms is None else (plan.at_ms - clock.now_ms()) / 1000
        return max(due_s, self._not_before_s - clock.monotonic_s())

    def _postpone(self, seconds: float) -> None:
        self._not_before_s = self._parts.clock.monotonic_s() + seconds

    def _facts(self) -> SnapshotFacts:
        state = self._spooler.spool.state
        return SnapshotFacts(
            identity=state.replica,
            last_ms=state.snapshot_ms,
            last_txid=state.snapshot_txid,
            txid=state.txid,
            log_bytes=state.log_bytes,
            database_bytes=state.page_count * state.page_size,
        )

    async def _attempt(self, ended: asyncio.Event) -> None:
        try:
            await self._make(ended)
        except SpoolError as error:
            if self._spooler.failure is not None:
                raise
            self._postpone(_AGAIN_S)
            message = f"a snapshot could not be made: {error}"
            self._parts.report(Alarm(database=str(self._database), key="snapshot", message=message, hint=error.hint))

    async def _make(self, ended: asyncio.Event, *, full: bool = False) -> None:
        state = self._spooler.spool.state
        timeline = state.timeline
        check(timeline is not None, "a snapshot belongs to a timeline")
        header = SnapshotHeader(
            replica=state.replica,
            timeline=timeline or TimelineId(""),
            writer=state.writer,
            created_ms=self._parts.clock.now_ms(),
            page_size=state.page_size,
        )
        under = None if full else await self._choose(header.timeline)
        copy = await self._parts.runner.run(partial(self._new_copy, header, under))
        try:
            published = await self._copy(copy, ended)
        finally:
            await self._parts.runner.run(copy.abandon)
        if published is None:
            return
        if published.sealed is not None:
            self._shipper.note_sealed(published.sealed, "a snapshot stands behind it")
        if published.error is not None:
            raise published.error
        if published.item is not None:
            self._shipper.add(published.item)

    async def _choose(self, timeline: TimelineId) -> FullHashes | None:
        """Have it decided of which kind the snapshot is; return the full one to lean on, if it is differential."""
        spool, reader = self._spooler.spool, self._capture.reader
        full = await self._parts.runner.run(partial(load_full, spool.directory.path))
        if full is None:
            return None
        changed = await self._parts.captures.run(partial(differing_pages, reader.encoder.hashes, _array(full)))
        pages = (changed, spool.state.page_count)
        kind, _reason = plan_kind(
            full.snapshot, timeline, pages, now_ms=self._parts.clock.now_ms(), policy=self._policy
        )
        return full if kind == "differential" else None

    def _new_copy(self, header: SnapshotHeader, under: FullHashes | None) -> SnapshotCopy:
        spool, reader = self._spooler.spool, self._capture.reader
        path = spool.directory.path / SNAPSHOT_PART
        if under is None:
            return SnapshotCopy(reader, path, header, spool.room)
        header = msgspec.structs.replace(header, full_txid=under.snapshot.txid)
        return SnapshotCopy(reader, path, header, spool.room, _array(under))

    async def _copy(self, copy: SnapshotCopy, ended: asyncio.Event) -> _Published | None:
        """Copy, and publish at the first moment at which all is there; None if the timeline ended before."""
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
        while not ended.is_set():
            published = await parts.captures.run(partial(self._publish_if_ready, copy))
            if published is not None:
                return await asyncio.wrap_future(published)
            if copy.is_held_up:
                await clock.sleep(_SWEEP_S)
        return None

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
        full_hashes = copy.hashes() if copy.header.full_txid is None else None
        return _Published(sealed, item=spool.add_snapshot(copy.path, copy.seen_ms, full_hashes))
    except SpoolError as error:
        return _Published(sealed, error=error)


def _array(full: FullHashes) -> HashArray:
    return np.frombuffer(full.hashes, np.uint64)
