"""Attach to a live database, and find out whether capture can go on where it stood."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from walrep.core.events import Alarm, AlarmKey, Attached, Resumed
from walrep.core.pages import PageHashes
from walrep.core.resume import ResumeEvidence, ResumeKind, ResumePlan, plan_resume
from walrep.core.state import CaptureMark, LocalState
from walrep.disk.spool import Recovered
from walrep.engine.descriptors import check_descriptors
from walrep.engine.parts import EngineParts
from walrep.engine.settings import DatabaseSettings
from walrep.engine.waiting import wait_for_event
from walrep.errors import DatabaseBusy, DatabaseError, DatabaseInUse, DatabaseMissing, DatabaseReplaced
from walrep.sqlite.capture import Capture
from walrep.sqlite.compare import FileComparison
from walrep.sqlite.failures import map_database_errors
from walrep.sqlite.keeper import Keeper
from walrep.sqlite.preflight import check_database_file

__all__ = ["Attacher"]

_LOOK_AGAIN_S = 1.0
_LOCK_AGAIN_S = 0.02
_LOCK_PATIENCE_S = 2.0


class Attacher:
    """Opens one database again and again: at the start, and after its file was replaced or removed."""

    def __init__(self, parts: EngineParts, settings: DatabaseSettings) -> None:
        self._parts = parts
        self._settings = settings
        self._told = ""
        self._waited = False

    async def check(self) -> None:
        """Refuse a database that cannot be protected, before anything is created for it; raises `DatabaseError`."""
        path, mountinfo, enable_wal = self._settings.path, self._parts.mountinfo, self._settings.enable_wal
        self._parts.held.release(self)
        file = await self._parts.runner.run(partial(_stat, path))
        if file is not None:
            self._parts.held.claim(self, file, path)
        await self._parts.runner.run(partial(check_database_file, path, mountinfo=mountinfo, enable_wal=enable_wal))

    def let_go(self) -> None:
        """Give up the claim to the file; it is closed."""
        self._parts.held.release(self)

    async def attach(
        self, state: LocalState, mark: CaptureMark | None, *, again: bool, stop: asyncio.Event
    ) -> tuple[Capture, ResumeEvidence | None] | None:
        """Return the database, held so that its log is not restarted; None when `stop` came first.

        With it comes what stands in the files around `mark`, where disk proves that capture stood.

        What may come right by itself is waited for: a stale -wal; with the setting `wait` no file, or an empty one;
        `again`, after it was protected in this run, everything, because somebody is at work on it.

        Raises:
            DatabaseError: it cannot be protected.

        """
        appeared = asyncio.Event()
        clock = self._parts.clock
        # An app that opens, recovers or closes the database locks it for a moment; only a lock that lasts is a setting.
        patient_until_s = clock.monotonic_s() + _LOCK_PATIENCE_S
        with self._watching(appeared):
            while not stop.is_set():
                try:
                    return await self._open(state, mark)
                except DatabaseError as error:
                    if isinstance(error, DatabaseInUse) and clock.monotonic_s() < patient_until_s:
                        await clock.sleep(_LOCK_AGAIN_S)
                        continue
                    if not again and not self._may_pass(error):
                        raise
                    self._tell(error)
                appeared.clear()
                await wait_for_event(appeared, _LOOK_AGAIN_S)
        return None

    async def resume(
        self,
        capture: Capture,
        state: LocalState,
        recovered: Recovered | None,
        evidence: ResumeEvidence | None,
        *,
        stop: asyncio.Event,
    ) -> ResumePlan | None:
        """Let capture go on where disk proves that it stood, if the files prove that nothing is missing.

        Return None when `stop` came before that was known.
        """
        if recovered is None or evidence is None:
            why = "there is no local state" if state.timeline is None else "the local state is incomplete"
            return ResumePlan(kind=ResumeKind.BROKEN, reason=why)
        mark = recovered.mark
        clean_end = state.clean_end if mark == state.mark else None

        plan = plan_resume(mark, clean_end, evidence)
        if plan.kind is ResumeKind.COMPARE:
            differs = await self._compare(capture, recovered.hashes, stop)
            if differs is None:
                return None
            plan = plan_resume(mark, clean_end, msgspec.structs.replace(evidence, differs=differs))
        if plan.kind is not ResumeKind.BROKEN:
            within = mark if plan.kind is ResumeKind.CONTINUE else None
            await self._parts.captures.run(
                partial(capture.reader.resume, within, recovered.hashes, recovered.txid, state.looked_ms)
            )
            self._parts.report(
                Resumed(
                    database=str(self._settings.path),
                    timeline=str(state.timeline),
                    txid=recovered.txid,
                    reason=plan.reason,
                )
            )
        return plan

    async def _compare(self, capture: Capture, hashes: PageHashes, stop: asyncio.Event) -> str | None:
        """Return how the database file differs from the captured state; None when `stop` came first."""
        comparison = FileComparison(capture.files, hashes, clock=self._parts.clock, policy=self._parts.capture_policy)
        more = True
        while more:
            if stop.is_set():
                return None
            more = await self._parts.runner.run(comparison.step)
        return comparison.differs

    async def _open(self, state: LocalState, mark: CaptureMark | None) -> tuple[Capture, ResumeEvidence | None]:
        settings, parts = self._settings, self._parts
        path, enable_wal = settings.path, settings.enable_wal
        await self.check()
        with map_database_errors(path):
            await parts.runner.run(partial(_refuse_stale_wal, path, state))

        def attach() -> tuple[Capture, Attached, ResumeEvidence | None]:
            check_descriptors()
            keeper = Keeper(path, enable_wal=enable_wal)
            try:
                index = keeper.files.index()
                page_count = keeper.files.page_count(index)
                capture = Capture(keeper, policy=parts.capture_policy, clock=parts.clock, alarm=self._alarm)
                evidence = None
                if mark is not None:
                    evidence = capture.reader.evidence(
                        mark, inode=state.inode, page_size=state.page_size, boot_id=state.boot_id
                    )
            except BaseException:
                keeper.close(remove_wal=False)
                raise
            size = keeper.files.page_size
            attached = Attached(database=str(path), page_size=size, page_count=page_count, wal_frames=index.max_frame)
            return capture, attached, evidence

        capture, attached, evidence = await parts.captures.run(attach, discard=_close)
        parts.report(attached)
        self._told = ""
        return capture, evidence

    @contextmanager
    def _watching(self, appeared: asyncio.Event) -> Iterator[None]:
        """Have the event set when the database comes or goes; of a link, both ends are watched."""
        with ExitStack() as stack:
            for path in {self._settings.path, self._settings.path.resolve()}:
                names = frozenset({path.name, f"{path.name}-wal"})
                stack.enter_context(self._parts.watcher.watch(path.parent, names, appeared))
            yield

    def _may_pass(self, error: DatabaseError) -> bool:
        if isinstance(error, DatabaseBusy | DatabaseReplaced):
            return True
        # Once it was waited for, the app is at work: it makes the file, fills it, and switches it to WAL mode.
        self._waited = self._waited or isinstance(error, DatabaseMissing)
        return self._settings.wait and self._waited

    def _tell(self, error: DatabaseError) -> None:
        """Report why nothing is attached, once for each reason."""
        if str(error) != self._told:
            self._told = str(error)
            self._alarm("waiting", f"waiting: {error}", error.hint)

    def _alarm(self, key: AlarmKey, message: str, hint: str) -> None:
        self._parts.report(Alarm(database=str(self._settings.path), key=key, message=message, hint=hint))


def _refuse_stale_wal(path: Path, state: LocalState) -> None:
    """Refuse a database beside which the -wal of the one before it still lies: SQLite would replay it into this one."""
    path = path.resolve()
    try:
        wal = os.stat(f"{path}-wal")
        replaced = os.stat(path).st_ino != state.inode
    except FileNotFoundError:
        return
    if state.wal_inode and replaced and wal.st_ino == state.wal_inode and wal.st_size:
        raise DatabaseReplaced(
            "the -wal of the database that was here before lies beside the new one",
            detail=f"{path}-wal",
            hint="opening the new database now would corrupt it: stop the app, remove the -wal and -shm files, put the "
            "new database in place again, and start the app",
        )


def _close(attached: tuple[Capture, Attached, ResumeEvidence | None]) -> None:
    attached[0].keeper.close(remove_wal=False)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
