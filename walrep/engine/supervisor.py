"""Many databases in one process: each protected by itself, all by one capture thread and one spool worker."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from walrep.clock import Clock
from walrep.core.backoff import BackoffPolicy, backoff_delay_s
from walrep.core.events import Failed, Report, RetryScheduled
from walrep.core.objects import Writer
from walrep.engine.parts import EngineParts, HeldFiles, StoreOpener
from walrep.engine.replicator import Replicator
from walrep.engine.requests import Requests
from walrep.engine.settings import DatabaseSettings, ReplicateSettings
from walrep.engine.waiting import wait_for_event
from walrep.engine.workers import Workers, start_threads
from walrep.errors import WalrepError
from walrep.sqlite.keeper import check_engine

__all__ = ["Supervisor", "new_writer"]

_RESTART_BACKOFF = BackoffPolicy()


class Supervisor:
    """Runs a replicator for each database."""

    def __init__(
        self,
        settings: ReplicateSettings,
        *,
        open_store: StoreOpener,
        clock: Clock,
        report: Report,
        new_writer: Callable[[], Writer],
        start_workers: Callable[[Clock], Workers] = start_threads,
    ) -> None:
        self._settings = settings
        self._open_store = open_store
        self._clock = clock
        self._report = report
        self._new_writer = new_writer
        self._start_workers = start_workers

    async def run(self, stop: asyncio.Event) -> None:
        """Protect the databases until `stop`.

        One that fails for good is reported and does not end the others.

        Raises:
            WalrepError: the first such failure, when all have ended.

        """
        check_engine()
        workers = self._start_workers(self._clock)
        parts = EngineParts(
            clock=self._clock,
            report=self._report,
            open_store=self._open_store,
            captures=workers.captures,
            watcher=workers.watcher,
            worker=workers.worker,
            runner=workers.runner,
            requests=Requests(self._clock, workers.runner),
            capture_policy=self._settings.capture,
            held=HeldFiles(),
            mountinfo=_mountinfo(),
            new_writer=self._new_writer,
            rival_check_s=self._settings.rival_check_s,
            compaction=self._settings.compaction,
        )
        try:
            async with asyncio.TaskGroup() as tg:
                looks = tg.create_task(parts.requests.run())
                async with asyncio.TaskGroup() as group:
                    protections = [
                        group.create_task(self._protect(database, parts, stop)) for database in self._settings.databases
                    ]
                looks.cancel()
        finally:
            workers.close()
        failures = [failure for protection in protections if (failure := protection.result()) is not None]
        if failures:
            raise failures[0]

    async def _protect(self, database: DatabaseSettings, parts: EngineParts, stop: asyncio.Event) -> WalrepError | None:
        """Run one database, again after what may pass; return what ended it for good."""
        failure_count = 0
        while True:
            try:
                await Replicator(database, parts, drain_s=self._settings.shutdown_deadline_s).run(stop)
            except* WalrepError as group:
                error = _first(group)
            else:
                return None
            if not error.transient or stop.is_set():
                self._report(
                    Failed(
                        database=str(database.path),
                        message=error.message,
                        detail=error.detail,
                        hint=error.hint,
                        exit_code=error.exit_code,
                    )
                )
                return error
            failure_count += 1
            delay_s = backoff_delay_s(_RESTART_BACKOFF, failure_count, 1.0)
            self._report(RetryScheduled(database=str(database.path), message=str(error), delay_s=delay_s))
            await wait_for_event(stop, delay_s)


def _first(group: BaseExceptionGroup[WalrepError]) -> WalrepError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, WalrepError):
        raise error
    return error


def new_writer() -> Writer:
    """Return who this process is, as the writer of a new lineage."""
    return Writer(nonce=secrets.token_hex(8), host=socket.gethostname(), pid=os.getpid())


def _mountinfo() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
