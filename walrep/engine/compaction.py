"""Compact one database's replica while it is written, and delete what retention does not keep.

Packs are made when windows are over, and what they replace is deleted when graces are. Retention follows once a day,
when there is something to delete; of a database that nobody writes, that is known without asking the store.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from walrep.core.events import Alarm, AlarmKey, Packed, Pruned, Removed
from walrep.core.objects import SegmentFooter, SegmentHeader
from walrep.disk.atomic import map_os_errors, remove_temporaries
from walrep.disk.spool import Spool
from walrep.engine.compactor import Compacted, Compactor, Workplace
from walrep.engine.janitor import Janitor
from walrep.engine.parts import EngineParts
from walrep.engine.retention import DailyRetention
from walrep.engine.settings import DatabaseSettings
from walrep.engine.shipping import Shipper
from walrep.engine.waiting import wait_for_event
from walrep.errors import CorruptObject, ObjectNotFound, PruneRefused, SpoolError, StoreError
from walrep.store.base import Store

__all__ = ["CompactionLoop"]

_AGAIN_S = 60.0
_BEGIN_S = 60.0


class CompactionLoop:
    """Runs until it is cancelled. Nothing that fails in here ends the protection of the database."""

    def __init__(
        self, parts: EngineParts, settings: DatabaseSettings, store: Store, spool: Spool, shipper: Shipper
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._shipper = shipper
        self._changed = asyncio.Event()
        self._told: set[tuple[AlarmKey, str]] = set()
        self._begins = spool.state.timeline is None
        self._work = spool.directory.path / "packing"
        self._compactor = Compactor(
            store,
            Workplace(spool.cache, self._work, spool.new_room()),
            clock=parts.clock,
            runner=parts.runner,
            writer=spool.state.writer,
            policy=parts.compaction,
        )
        janitor = Janitor(store, clock=parts.clock, runner=parts.runner, writer=spool.state.writer)
        policy = settings.retention
        self._retention = None if policy is None else DailyRetention(janitor, policy, parts.clock)
        shipper.stored = self._note
        if self._retention is not None:
            # It makes logs superfluous, also if nothing is committed any more.
            shipper.snapshot_stored = self._retention.note_stored

    async def run(self) -> None:
        """Compact for ever, once uploads are allowed."""
        await self._shipper.admitted.wait()
        if self._begins:
            # What a timeline begins with is looked at together with the rest, unless that takes long.
            await wait_for_event(self._shipper.captures, _BEGIN_S)
        is_loaded = False
        while True:
            wait_s: float | None = _AGAIN_S
            self._changed.clear()
            # What is captured goes first; behind it a window may be complete.
            await self._shipper.drained()
            try:
                if not is_loaded:
                    await self._parts.runner.run(partial(_prepare, self._work))
                    await self._compactor.load()
                    self._shipper.note_store_works()
                    is_loaded = True
                done = await self._compactor.run(self._shipper.pending_ms())
                self._tell(done)
                next_ms = None if done.may_not_delete else done.next_ms
                if self._retention is not None and not done.may_not_delete:
                    await self._prune(self._retention)
                    next_ms = min(next_ms or self._retention.next_ms(), self._retention.next_ms())
                wait_s = self._seconds_until(next_ms)
                self._told.discard(("compaction", ""))
            except (StoreError, CorruptObject, SpoolError) as error:
                # What is known to be there, somebody else may have deleted.
                is_loaded = is_loaded and not isinstance(error, ObjectNotFound)
                self._alarm("compaction", f"packs cannot be made now: {error}", error.hint)
            await wait_for_event(self._changed, wait_s)

    async def _prune(self, retention: DailyRetention) -> None:
        try:
            outcome = await retention.run(self._compactor.segments)
        except (PruneRefused, CorruptObject) as error:
            self._alarm("prune-refused", str(error), error.hint)
            return
        self._told.discard(("prune-refused", ""))
        if outcome.deleted:
            self._compactor.forget(outcome.deleted)
            self._parts.report(
                Pruned(
                    database=str(self._settings.path), objects=len(outcome.deleted), object_bytes=outcome.delete_bytes
                )
            )
        if outcome.may_not_delete:
            self._tell_may_not_delete()

    def _note(self, key: str, header: SegmentHeader, footer: SegmentFooter, size_bytes: int) -> None:
        self._compactor.note_segment(key, header, footer, size_bytes)
        # What opens a timeline brings nothing that could expire: a day without a commit stays without a request.
        if self._retention is not None and header.start is None:
            self._retention.note_stored()
        self._changed.set()

    def _seconds_until(self, next_ms: int | None) -> float | None:
        return None if next_ms is None else max(1.0, (next_ms - self._parts.clock.now_ms()) / 1000)

    def _tell(self, done: Compacted) -> None:
        database = str(self._settings.path)
        if done.packs or done.deleted:
            self._shipper.note_store_works()
        for key, size_bytes, reason in done.packs:
            downloaded = done.downloaded_bytes if key == done.packs[-1][0] else 0
            self._parts.report(
                Packed(database=database, key=key, object_bytes=size_bytes, downloaded_bytes=downloaded, reason=reason)
            )
        for key in done.damaged:
            hint = "`walrep list` says what is restorable"
            self._alarm("damaged-pack", f"a pack is damaged: {key}", hint, about=key)
        if done.deleted:
            self._parts.report(Removed(database=database, objects=len(done.deleted)))
        if done.may_not_delete:
            self._tell_may_not_delete()

    def _tell_may_not_delete(self) -> None:
        hint = "run `walrep compact` and `walrep prune` with other credentials from time to time, or allow DeleteObject"
        self._alarm("may-not-delete", "the store does not let walrep delete what is not needed any more", hint)

    def _alarm(self, key: AlarmKey, message: str, hint: str, *, about: str = "") -> None:
        """Report a condition, once for each object that it is about."""
        if (key, about) not in self._told:
            self._told.add((key, about))
            self._parts.report(Alarm(database=str(self._settings.path), key=key, message=message, hint=hint))


def _prepare(work: Path) -> None:
    with map_os_errors(f"use {work}"):
        work.mkdir(mode=0o700, exist_ok=True)
        remove_temporaries(work, modified_before_ms=1 << 62)
