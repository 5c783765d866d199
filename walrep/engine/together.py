"""Restoring several databases together: all are planned before one is built, and all are proved before one is renamed.

Each is restored as it would be alone (`walrep.engine.restorer`), and waits for the others at two places. What fails
before the renames leaves every target as it was. The renames come one after the other; should one fail, those before it
are done, and the error says which.

It is one instant by the clock that observed the commits, for each database by itself: no transaction spans two of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from walrep.clock import Clock
from walrep.core.units import Position, parse_bookmark
from walrep.engine.inflight import task_group
from walrep.engine.lineage import read_replica_info
from walrep.engine.parts import StoreOpener
from walrep.engine.restored import note_restored, position_before
from walrep.engine.restorer import Progress, RestoreOutcome, RestoreProgress, RestoreRequest, restore
from walrep.errors import WalrepError
from walrep.runner import Runner
from walrep.store.base import Store
from walrep.store.url import StoreUrl

__all__ = ["DatabaseRestore", "restore_together", "undo_of"]

_BUILT_AT_ONCE = 2
"""So many databases are built at the same time: each has pages in memory."""


class DatabaseRestore(msgspec.Struct, frozen=True, kw_only=True):
    """One of the databases. `state_dir`: of the one that is at the output."""

    database: Path
    url: StoreUrl
    state_dir: Path
    request: RestoreRequest


async def restore_together(
    wanted: Sequence[DatabaseRestore], *, open_store: StoreOpener, clock: Clock, runner: Runner, progress: Progress
) -> list[RestoreOutcome]:
    """Restore all of them, or none; see `walrep.engine.restorer.restore` for what it raises.

    Of an error the detail begins with the database that it is about. If a rename failed, it ends with those that are
    in place already.
    """
    work = _Together(len(wanted), open_store, progress)
    async with task_group() as group:
        tasks = [group.create_task(work.restore(each, (clock, runner))) for each in wanted]
    return [task.result() for task in tasks]


async def undo_of(state_dir: Path, store: Store, runner: Runner) -> Position | None:
    """Return where to go back to from a restore over a database that walrep protected; None where it did not."""
    info = await read_replica_info(store) if await runner.run(state_dir.is_dir) else None
    return None if info is None else await runner.run(partial(position_before, state_dir, info.replica))


class _Together:
    """The places where they wait for one another."""

    def __init__(self, count: int, open_store: StoreOpener, progress: Progress) -> None:
        self.all_planned = asyncio.Barrier(count)
        self.all_proved = asyncio.Barrier(count)
        self.building = asyncio.Semaphore(_BUILT_AT_ONCE)
        self.renaming = asyncio.Lock()
        self._open_store, self._progress = open_store, progress
        self._told: dict[Path, RestoreProgress] = {}
        self._done: list[Path] = []

    async def restore(self, wanted: DatabaseRestore, services: tuple[Clock, Runner]) -> RestoreOutcome:
        """Restore one of them."""
        steps, store = _Steps(self), self._open_store(wanted.url, lambda _error, _delay_s: None).store
        try:
            outcome = await self._restore(wanted, store, steps, services)
        except WalrepError as error:
            done = f"; in place already: {', '.join(map(str, self._done))}" if self._done else ""
            told = f": {error.detail}" if error.detail else ""
            error.detail = f"{wanted.database}{told}{done}"
            raise
        finally:
            await store.aclose()
        # Only now: behind a failure nobody has a turn, until all are cancelled.
        steps.release()
        return outcome

    async def _restore(
        self, wanted: DatabaseRestore, store: Store, steps: _Steps, services: tuple[Clock, Runner]
    ) -> RestoreOutcome:
        clock, runner = services
        undo = await undo_of(wanted.state_dir, store, runner)
        request = msgspec.structs.replace(wanted.request, undo=None if undo is None else str(undo))
        tell = partial(self._tell, request.output)
        outcome = await restore(store, request, clock=clock, runner=runner, progress=tell, steps=steps)
        if outcome.written:
            self._done.append(outcome.output)
            if undo is not None:
                await runner.run(partial(note_restored, wanted.state_dir, parse_bookmark(outcome.bookmark)))
        return outcome

    def _tell(self, output: Path, state: RestoreProgress) -> None:
        self._told[output] = state
        told = self._told.values()
        done_bytes, total_bytes = sum(each.done_bytes for each in told), sum(each.total_bytes for each in told)
        self._progress(RestoreProgress(phase=state.phase, done_bytes=done_bytes, total_bytes=total_bytes))


class _Steps:
    """How far one of them is; a step that was passed is passed for good, however often it is tried again."""

    def __init__(self, together: _Together) -> None:
        self._together = together
        self._is_planned = self._is_building = self._is_renaming = False

    async def planned(self) -> None:
        """Return when all are planned, and it is this one's turn to be built."""
        if not self._is_planned:
            self._is_planned = True
            await self._together.all_planned.wait()
        if not self._is_building:
            await self._together.building.acquire()
            self._is_building = True

    async def proved(self) -> None:
        """Return when all are proved, and it is this one's turn to be renamed."""
        self._stop_building()
        await self._together.all_proved.wait()
        await self._together.renaming.acquire()
        self._is_renaming = True

    def release(self) -> None:
        """Give the next one its turn."""
        self._stop_building()
        if self._is_renaming:
            self._is_renaming = False
            self._together.renaming.release()

    def _stop_building(self) -> None:
        if self._is_building:
            self._is_building = False
            self._together.building.release()
