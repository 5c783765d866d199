"""Snapshots of a database whose transactions are captured: once a day, and when the logs have outgrown it.

When, and of which kind, is decided by `walrep.core.snapshots`; how a page gets into one by `walrep.sqlite.snapshot`.
A snapshot is an addition: whatever fails in it is told, and tried again later, and no transaction waits for it. Nor
does a stop: one that is being made is given up, and one that is not stored yet goes out at the next start.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from math import inf
from pathlib import Path

import msgspec
import numpy as np

from walrep.core.events import Alarm
from walrep.core.objects import SnapshotHeader
from walrep.core.snapshots import SnapshotFacts, SnapshotPolicy, plan_kind, plan_snapshot
from walrep.core.units import Seq, TimelineId
from walrep.disk.full import FullHashes, load_full
from walrep.disk.outbox import OutboxItem
from walrep.disk.spool import SNAPSHOT_PART, Sealed, Spool
from walrep.engine.parts import EngineParts
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler
from walrep.engine.waiting import unless, wait_for_event
from walrep.errors import CorruptObject, SnapshotFailed, SpoolError, WalrepError, check
from walrep.sqlite.capture import Capture
from walrep.sqlite.snapshot import HashArray, SnapshotCopy, differing_pages

__all__ = ["Snapshotter"]

_AGAIN_S = 3600.0
_SWEEP_S = 0.02


class _Published(msgspec.Struct, frozen=True):
    """What the worker did: the segment that it sealed, if any, and why there is no snapshot, if there is none."""

    sealed: Sealed | None
    error: SpoolError | None = None


class Snapshotter:
    """Makes and uploads the snapshots of one timeline, from its base or resume until it ends.

    Without a policy it only uploads what was made before.
    """

    def __init__(
        self,
        parts: EngineParts,
        database: Path,
        policy: SnapshotPolicy | None,
        capture: Capture,
        shipping: tuple[Shipper, Spooler],
    ) -> None:
        self._parts = parts
        self._database = database
        self._policy = SnapshotPolicy() if policy is None else policy
        self._makes_any = policy is not None
        self._capture = capture
        self._shipper, self._spooler = shipping
        self._not_before_s = float("-inf")
        self._is_waiting = True
        """Whether there may be one that is not stored."""

    async def run(self, ended: asyncio.Event) -> None:
        """Make snapshots when they are due, until `ended`.

        Raises:
            CaptureBroken: the log turned out to be broken, as it may at any sweep.
            DatabaseReplaced: the same.
            SpoolError: the spool failed, and with it the capture.

        """
        while not ended.is_set():
            await unless(ended, self._upload())
            if await wait_for_event(ended, self._wait_s()):
                return
            if self._is_waiting or self._due_s() > 0:
                continue
            # An outage ends with segments; what is large is not even made before they are stored.
            if not self._shipper.is_drained:
                self._postpone(self._policy.look_s)
            elif await unless(ended, self._parts.snapshot_turns.acquire()):
                try:
                    await self._attempt(ended)
                finally:
                    self._parts.snapshot_turns.release()

    def _wait_s(self) -> float:
        return max(0.0, min(self._policy.look_s, self._due_s()))

    def _due_s(self) -> float:
        """Return in how many seconds a snapshot is due."""
        clock = self._parts.clock
        plan = plan_snapshot(self._facts(), self._policy)
        at_ms = plan.at_ms if self._makes_any else None
        due_s = inf if at_ms is None else (at_ms - clock.now_ms()) / 1000
        return max(due_s, self._not_before_s - clock.monotonic_s())

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

    # -- uploading --------------------------------------------------------------------------------------------------

    async def _upload(self) -> None:
        """Upload what waits, behind the segments that lead up to it."""
        if not self._is_waiting or self._not_before_s > self._parts.clock.monotonic_s():
            return
        shipper, spool = self._shipper, self._spooler.spool
        try:
            for item in await shipper.on_worker(spool.snapshots):
                await shipper.admitted.wait()
                await shipper.drained()
                await self._upload_one(item)
        except WalrepError as error:
            self._tell("a snapshot could not be stored", error)
            return
        self._is_waiting = False

    async def _upload_one(self, item: OutboxItem) -> None:
        try:
            await self._shipper.upload_snapshot(item)
        except CorruptObject:
            # There is nothing in it that the transactions do not make.
            await self._shipper.on_worker(partial(self._spooler.spool.discard_snapshot, item))
            raise
        self._shipper.note_store_works()

    def _tell(self, what: str, error: WalrepError) -> None:
        """Report why there is no snapshot now; it is tried again later."""
        self._postpone(_AGAIN_S)
        database, message = str(self._database), f"{what}: {error}"
        self._parts.report(Alarm(database=database, key="snapshot", message=message, hint=error.hint))

    # -- making -----------------------------------------------------------------------------------------------------

    async def _attempt(self, ended: asyncio.Event) -> None:
        try:
            await self._make(ended)
        except (SpoolError, SnapshotFailed) as error:
            if self._spooler.failure is not None:
                raise
            self._tell("a snapshot could not be made", error)

    async def _make(self, ended: asyncio.Event) -> None:
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
        under = await self._choose(header.timeline)
        copy = await self._parts.runner.run(partial(self._new_copy, header, under))
        try:
            await self._copy(copy, ended)
            while not ended.is_set() and not await self._complete(copy):
                if copy.is_held_up:
                    await self._parts.clock.sleep(_SWEEP_S)
                else:
                    await self._parts.runner.run(copy.write_overlay)
        finally:
            await self._parts.runner.run(copy.abandon)

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
            return SnapshotCopy(reader, path, header, spool.new_room())
        header = msgspec.structs.replace(header, full_txid=under.snapshot.txid)
        return SnapshotCopy(reader, path, header, spool.new_room(), _array(under))

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

    async def _complete(self, copy: SnapshotCopy) -> bool:
        """Publish at the first moment at which all is there; say whether that was now."""
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
        spool.add_snapshot(copy.path, copy.seen_ms, copy.hashes() if copy.header.full_txid is None else None)
    except SpoolError as error:
        return _Published(sealed, error=error)
    return _Published(sealed)


def _array(full: FullHashes) -> HashArray:
    return np.frombuffer(full.hashes, np.uint64)
