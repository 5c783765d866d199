"""One database, protected: take up the replica, attach, resume or begin a timeline, ship, let go.

A timeline ends when continuity cannot be proven: the file was replaced, the log was broken behind SQLite's back, or
the outbox was full. What was captured until then is shipped, and the next one begins by itself; when, is decided in
`walrep.core.breaks`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from walrep.core.events import Detached, Stopping
from walrep.core.resume import ResumeEvidence, ResumeKind
from walrep.disk.atomic import map_os_errors
from walrep.disk.spool import Recovered, Spool
from walrep.disk.state import StateDirectory
from walrep.engine.admission import Admission
from walrep.engine.attach import Attacher
from walrep.engine.breaks import Breaks
from walrep.engine.budget import open_metered
from walrep.engine.captures import DatabaseCaptures
from walrep.engine.compaction import CompactionLoop
from walrep.engine.outage import Outage
from walrep.engine.parts import EngineParts
from walrep.engine.settings import DatabaseSettings
from walrep.engine.shipping import Shipper
from walrep.engine.snapshots import Snapshotter
from walrep.engine.spooler import Spooler, SpoolerLimits
from walrep.engine.timeline import begin_timeline
from walrep.engine.waiting import Deadline, unless
from walrep.errors import DatabaseError, NotDurable, SpoolError, WalrepError
from walrep.sqlite.capture import Capture

__all__ = ["DETACH_REQUEST", "Replicator"]

DETACH_REQUEST = "detach-request"
"""A file of this name in the state directory asks the walrep that holds it to let the database go."""

T = TypeVar("T")

_CATCH_UP_S = 0.02


class Replicator:
    """Protects one database until it is stopped, detached, or fails."""

    def __init__(self, settings: DatabaseSettings, parts: EngineParts, *, drain_s: float) -> None:
        self._settings = settings
        parts = msgspec.structs.replace(parts, captures=DatabaseCaptures(parts.captures, settings.path))
        self._parts = parts
        self._attacher = Attacher(parts, settings)
        self._breaks = Breaks(parts, settings)
        self._loop = asyncio.get_running_loop()
        self._quit = asyncio.Event()
        self._ended = asyncio.Event()
        self._broken: Exception | None = None
        self._spooler: Spooler | None = None
        """What takes the chunks of the capture that runs."""
        self._reason = ""
        """Why a new timeline has to begin; empty where the one before may go on."""
        self._deadline = Deadline(parts.clock, drain_s)
        self._retried = False
        self._attached = False
        """Whether a database is held; its file may be opened for nothing else then."""
        self._clean = False

    async def run(self, stop: asyncio.Event) -> None:
        """Protect the database until `stop`, or until a detach is asked for.

        Raises:
            WalrepError: what ends its protection for good; `NotDurable` if something captured is not durable.

        """
        try:
            if not self._settings.wait:
                await self._attacher.check()
            await self._run(stop)
        finally:
            if not self._attached:
                self._attacher.let_go()

    async def _run(self, stop: asyncio.Event) -> None:
        directory = await self._on_worker(self._open_directory)
        outage = Outage(str(self._settings.path), self._parts.clock, self._parts.report)
        opened = self._parts.open_store(self._settings.url, outage.failed)
        try:
            opened = await open_metered(self._parts, self._settings, opened, self._quit)
            admission = Admission(self._parts, self._settings, opened.store, outage)
            # The store may be waited for, and nothing of the database is held yet.
            spool = await unless(stop, admission.open_spool(directory))
            if spool is None:
                await self._on_worker(partial(_refuse_left_over, directory))
                return
            try:
                shipper = Shipper(self._parts, self._settings, opened, spool, admission, outage)
                shipper.base_refused = self._break
                compaction = CompactionLoop(self._parts, self._settings, opened.store, spool, shipper)
                await self._replicate(shipper, spool, compaction, stop)
            finally:
                await self._on_worker(spool.close)
        finally:
            await opened.store.aclose()
            # Behind whatever the worker still does in it.
            await self._on_worker(directory.close)

    def _open_directory(self) -> StateDirectory:
        directory = StateDirectory(self._settings.state_dir)
        try:
            with map_os_errors(f"use {directory.path}"):
                (directory.path / DETACH_REQUEST).unlink(missing_ok=True)
        except BaseException:
            directory.close()
            raise
        return directory

    async def _on_worker(self, call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._parts.worker.submit(call))

    async def _replicate(self, shipper: Shipper, spool: Spool, compaction: CompactionLoop, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(shipper.upload_loop()), group.create_task(shipper.seal_loop())]
            loops.append(group.create_task(compaction.run()))
            loops.append(group.create_task(self._quit_on_stop(stop)))
            loops.append(group.create_task(self._quit_on_request(spool.directory.path / DETACH_REQUEST)))
            await self._timelines(shipper, spool)
            is_known = await self._seal_leftover(shipper, spool)
            is_drained = await self._deadline.in_time(shipper.drained())
            durable = is_known and is_drained and not spool.totals.commit_count and not shipper.lacks_base
            for loop in loops:
                loop.cancel()
        self._parts.report(
            Detached(
                database=str(self._settings.path),
                position=None if shipper.durable is None else str(shipper.durable),
                clean=spool.state.clean_end is not None,
                durable=durable,
            )
        )
        if not durable:
            raise NotDurable(
                "stopped before everything captured was durable",
                detail=f"{self._settings.path}: {spool.outbox_bytes} bytes wait in {spool.directory.path}",
                hint="they are kept, and go out at the next start",
            )

    async def _seal_leftover(self, shipper: Shipper, spool: Spool) -> bool:
        """Ship what a spool that failed left in the journal; if it cannot be sealed now, the next start does.

        Return whether it is known that nothing is left on disk: where the disk fails, what is there cannot be told.
        """
        is_known = True
        try:
            if spool.totals.commit_count or not spool.is_known:
                await shipper.on_worker(spool.recover)
                await shipper.on_worker(partial(spool.seal, self._parts.clock.now_ms()))
        except SpoolError:
            is_known = False
        try:
            await shipper.requeue()
        except SpoolError:
            is_known = False
        return is_known

    async def _quit_on_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._end()

    async def _quit_on_request(self, request: Path) -> None:
        """End the database's protection when a detach is asked for."""
        asked = asyncio.Event()
        with self._parts.requests.watch(request, asked):
            await asked.wait()
        self._end()

    def _end(self) -> None:
        self._quit.set()
        self._ended.set()

    # -- timelines --------------------------------------------------------------------------------------------------

    async def _timelines(self, shipper: Shipper, spool: Spool) -> None:
        restored = spool.state.restored
        self._reason = f"the database was restored to {restored}" if restored else ""
        while not self._quit.is_set():
            self._breaks.begin()
            try:
                recovered = await self._recover(shipper, spool)
            except SpoolError as error:
                self._break(error)
            else:
                mark = None if recovered is None or self._reason else recovered.mark
                attached = await self._attacher.attach(spool.state, mark, again=self._retried, stop=self._quit)
                if attached is None:
                    return
                self._attached = True
                await self._capture(attached, recovered, shipper, spool)
            if self._broken is not None:
                await self._after_break(self._broken, spool)
            self._retried = True

    async def _recover(self, shipper: Shipper, spool: Spool) -> Recovered | None:
        recovered = await shipper.on_worker(spool.recover)
        if self._retried:
            # What filled the outbox goes out before more is captured.
            async with shipper.sealing:
                sealed = await shipper.on_worker(partial(spool.seal, self._parts.clock.now_ms()))
                if sealed is not None:
                    shipper.note_sealed(sealed, "resume", None)
        await shipper.requeue()
        return recovered

    async def _capture(
        self,
        attached: tuple[Capture, ResumeEvidence | None],
        recovered: Recovered | None,
        shipper: Shipper,
        spool: Spool,
    ) -> None:
        """Capture an attached database until something ends that, and let it go."""
        capture, evidence = attached
        spooler = self._spooler = self._new_spooler(spool, shipper)
        try:
            if await self._go_on(capture, shipper, spooler, (recovered, evidence)):
                self._breaks.captures()
                shipper.captures.set()
                self._reason = ""
                await Snapshotter(self._parts, self._settings, capture, shipper, spooler).run(self._ended)
        except (SpoolError, DatabaseError) as error:
            self._break(error)
        except asyncio.CancelledError:
            # Something else has failed: there is nobody left to wait for.
            self._deadline.expire()
            raise
        finally:
            await self._release(capture, shipper, spooler)

    def _new_spooler(self, spool: Spool, shipper: Shipper) -> Spooler:
        full_bytes = self._settings.flush.segment_bytes_max
        return Spooler(
            spool,
            self._parts.worker,
            clock=self._parts.clock,
            limits=SpoolerLimits(queue_bytes_max=self._parts.queue_bytes_max, segment_bytes_max=full_bytes),
            changed=partial(self._call_soon, shipper.changed.set),
            failed=self._break_soon,
        )

    async def _go_on(
        self,
        capture: Capture,
        shipper: Shipper,
        spooler: Spooler,
        known: tuple[Recovered | None, ResumeEvidence | None],
    ) -> bool:
        """Resume the timeline, or begin one; False when that was abandoned.

        `known` is what disk proves, and what stands in the files. The sweeps begin before anything of the worker is
        waited for, which may be busy with another database: nobody else looks after the lock that stands in for the
        keeper, and after who waits for it (INV-18).
        """
        captures, spool = self._parts.captures, spooler.spool
        shipper.spooler = spooler
        recovered, evidence = known
        if not self._reason:
            plan = await self._attacher.resume(capture, spool.state, recovered, evidence, stop=self._ended)
            if plan is None:
                return False
            if plan.kind is not ResumeKind.BROKEN:
                # A log that ended cleanly is still at its end, until something is captured.
                clean_end = spool.state.clean_end if plan.kind is ResumeKind.CLEAN_END else None
                spooler.note_recovered()
                wal_inode, boot_id = capture.files.wal_inode, self._parts.clock.boot_id()
                noted = spooler.begin_with(
                    partial(spool.update, wal_inode=wal_inode, clean_end=clean_end, boot_id=boot_id)
                )
                await captures.run(partial(self._begin_sweeping, capture, spooler))
                await asyncio.wrap_future(noted)
                return True
            self._reason = plan.reason
        await captures.run(partial(self._begin_sweeping, capture, None))
        # What the timeline before captured and did not ship is still shipped as part of it.
        await shipper.seal("the timeline ended", final=True)
        if spooler.failure is not None:
            raise spooler.failure
        shipper.spooler = None
        # Nothing continues it any more, also after a kill while the base is made.
        await shipper.on_worker(partial(spool.update, mark=None, clean_end=None))
        ending = (self._reason, self._ended)
        begun = await begin_timeline(self._parts, self._settings, capture, shipper, spooler, ending)
        if begun:
            shipper.spooler = spooler
            shipper.changed.set()
        return begun

    def _begin_sweeping(self, capture: Capture, spooler: Spooler | None) -> None:
        capture.reader.sink = spooler
        self._parts.captures.add(capture, self._break_soon)

    def _call_soon(self, call: Callable[[], None]) -> None:
        """Have the event loop make a call; from any thread."""
        self._loop.call_soon_threadsafe(call)

    def _break_soon(self, error: Exception) -> None:
        """End the timeline; from any thread."""
        self._call_soon(partial(self._break, error))

    def _break(self, error: Exception) -> None:
        self._broken = self._broken or error
        self._ended.set()
        if self._spooler is not None:
            self._spooler.end()

    async def _release(self, capture: Capture, shipper: Shipper, spooler: Spooler) -> None:
        """Make durable what is captured, then let the database go, whatever happens."""
        self._clean = False
        try:
            await self._settle(capture, shipper, spooler)
        except WalrepError as error:
            self._break(error)
        finally:
            shipper.spooler = None
            await asyncio.shield(self._close(capture))

    async def _close(self, capture: Capture) -> None:
        def close() -> None:
            self._parts.captures.remove(capture)
            # Where the end of the log is not proven it must stay: it may hold what was not captured.
            capture.close(remove_wal=self._clean)

        await self._parts.captures.run(close)
        self._attached = False
        self._attacher.let_go()

    async def _settle(self, capture: Capture, shipper: Shipper, spooler: Spooler) -> None:
        captures, encoding = self._parts.captures, capture.reader.sink is not None
        if self._broken is None:
            self._parts.report(Stopping(database=str(self._settings.path)))
        if self._broken is None and encoding:
            # While the store is slow the keeper goes on moving, so that the app's checkpoints work.
            await self._deadline.in_time(shipper.seal("stop", final=False))
            await self._deadline.in_time(shipper.drained())
        if self._broken is None:
            await self._catch_up(capture)
        await captures.run(partial(self._last_look, capture))
        # Of what a failed spool took, the next attempt finds all that is whole in the journal.
        if not encoding or spooler.failure is not None:
            return
        await shipper.seal("stop" if self._broken is None else "the timeline ended", final=True)
        clean_end = None
        if self._broken is None:
            await self._deadline.in_time(shipper.drained())
            clean_end = await captures.run(capture.finish)
        looked_ms = capture.reader.looked_ms
        await shipper.on_worker(partial(spooler.spool.update, clean_end=clean_end, looked_ms=looked_ms))
        self._clean = clean_end is not None

    async def _catch_up(self, capture: Capture) -> None:
        """Let the sweeps capture what is committed now; where writers outrun the compression, until the deadline."""
        target = await self._parts.captures.run(capture.files.index)
        while self._broken is None and not await self._parts.captures.run(partial(capture.reader.passed, target)):
            if self._deadline.has_passed:
                return
            await self._parts.clock.sleep(_CATCH_UP_S)

    def _last_look(self, capture: Capture) -> None:
        """Capture what was committed meanwhile and finds room; nothing sweeps the database afterwards."""
        self._parts.captures.remove(capture)
        if self._broken is None:
            capture.reader.read(self._parts.clock.now_ms())

    async def _after_break(self, error: Exception, spool: Spool) -> None:
        """Wait until it is worth another try."""
        self._broken = self._spooler = None
        if not self._quit.is_set():
            self._ended.clear()
        reason = await self._breaks.after(error, spool, self._quit)
        if reason is not None:
            self._reason = reason


def _refuse_left_over(directory: StateDirectory) -> None:
    """Say, at a stop before the store has answered, that what a run before left may not be durable."""
    state = directory.load()
    if state is not None and state.next_seq > 1:
        raise NotDurable(
            "stopped before the store had answered",
            detail=str(directory.path),
            hint="what was captured before is kept there, and goes out at the next start",
        )
