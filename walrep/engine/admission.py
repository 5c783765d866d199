"""Before the first upload: may this writer write to the replica? And, on some stores, now and then again.

A database that was protected before is protected at once, from its local state: the store is asked while capture goes
on already, so that an outage at a start loses nothing. Where there is no lineage yet the store is asked first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

import msgspec

from walrep.core.events import Alarm, AlarmKey
from walrep.core.objects import SegmentHeader, StoreFacts
from walrep.core.state import LocalState
from walrep.core.target import format_duration, format_time
from walrep.core.units import Seq
from walrep.disk.full import forget_full, load_full, save_full
from walrep.disk.peek import segment_ends
from walrep.disk.spool import Spool
from walrep.disk.state import StateDirectory
from walrep.engine.lineage import ReplicaClaim, check_store, find_rivals
from walrep.engine.outage import Outage
from walrep.engine.parts import EngineParts
from walrep.engine.recall import recall_full
from walrep.engine.settings import DatabaseSettings
from walrep.engine.sole import SoleWriter
from walrep.errors import ReplicaConflict
from walrep.store.base import Store

__all__ = ["Admission"]

T = TypeVar("T")

_CLOCKS_APART_MS_MAX = 5 * 60 * 1000


class Admission:
    """The right of one database's writer to its replica."""

    def __init__(self, parts: EngineParts, settings: DatabaseSettings, store: Store, outage: Outage) -> None:
        self._parts = parts
        self._settings = settings
        self._store = store
        self._outage = outage
        self._claim = ReplicaClaim(
            store, settings, clock=parts.clock, new_writer=parts.new_writer, on_worker=self._on_worker
        )
        self._sole = SoleWriter(store, parts.clock, outage, grace_s=parts.compaction.grace_ms / 1000)
        self._admitted = False
        self._rivals_told: set[str] = set()
        self._looked_s = parts.clock.monotonic_s()
        self._looked_seq = Seq(0)

    async def open_spool(self, directory: StateDirectory) -> Spool:
        """Return the spool with which to capture; where this writer has no lineage, only if the store allows it.

        Raises:
            ReplicaConflict: it does not.

        """
        settings, state = self._settings, await self._on_worker(directory.load)
        may_adopt = settings.new_timeline or settings.take_over
        if state is not None and state.next_seq > 1 and not may_adopt:
            if state.fence:
                # A take-over that was cut short has not found out which full one is the newest. INV-30
                await self._on_worker(partial(forget_full, directory.path))
            writer = msgspec.structs.replace(self._parts.new_writer(), nonce=state.writer.nonce)
            return await self._spool(directory, msgspec.structs.replace(state, writer=writer, url=str(settings.url)))
        state, facts = await self._claim.take(directory)
        spool = await self._spool(directory, state)
        try:
            await self._check(spool)
        except ReplicaConflict:
            if not may_adopt:
                raise
            state, facts = await self._claim.adopt(directory)
            spool = await self._spool(directory, state)
            await self._check(spool)
        if state.fence:
            await self._recall_full(directory, state)
        self._tell_facts(state, facts)
        self._admitted = True
        return spool

    async def admit(self, spool: Spool) -> None:
        """Return once the store allows uploads; wait for as long as it fails in a way that may pass or be mended.

        Raises:
            ReplicaConflict: another writer has taken over, or the replica is not the one that was written.

        """
        if not self._admitted:
            creates_only = await self._outage.wait_out(partial(self._confirm, spool))
            if creates_only != spool.state.creates_only:
                await self._on_worker(partial(spool.update, creates_only=creates_only))
            self._tell_facts(spool.state, None)
            self._admitted = True
        self._outage.over()

    def storing(self, state: LocalState, header: SegmentHeader) -> AbstractAsyncContextManager[Callable[[], None]]:
        """Return a context in which a segment is stored: see `SoleWriter.storing`."""
        return self._sole.storing(state, header)

    async def look_for_rivals(self, state: LocalState, uploaded: Seq) -> None:
        """Where no PUT meets another writer's object, list now and then what is behind the last look.

        `uploaded` is the segment just stored. Costs nothing on a store with create-only PUT, and none while idle. While
        the store fails it is waited for, and nothing more is uploaded.

        Raises:
            ReplicaConflict: another writer has taken over.

        """
        clock = self._parts.clock
        if state.creates_only or clock.monotonic_s() - self._looked_s < self._parts.rival_check_s:
            return
        after = max(self._looked_seq, Seq(state.first_seq - 1))
        self._tell_rivals(await self._outage.wait_out(partial(find_rivals, self._store, state, after)))
        self._looked_s, self._looked_seq = clock.monotonic_s(), uploaded

    async def _recall_full(self, directory: StateDirectory, state: LocalState) -> None:
        """Find out on which full snapshot the base can lean; nothing is held yet that would have to wait for it."""
        known = await self._on_worker(partial(load_full, directory.path))
        found = await recall_full(self._parts, self._settings, self._store, replica=state.replica, known=known)
        if found is None:
            await self._on_worker(partial(forget_full, directory.path))
        elif found is not known:
            await self._on_worker(partial(save_full, directory.path, found))

    async def _confirm(self, spool: Spool) -> bool:
        creates_only = await self._claim.confirm(spool.state)
        await self._check(spool)
        return creates_only

    async def _check(self, spool: Spool) -> None:
        asked = self._sole.now()
        state, waiting = await self._on_worker(partial(_sequence, spool))
        self._tell_rivals(await check_store(self._store, state, waiting))
        self._sole.note(asked)
        self._looked_seq = Seq(min([*(each.seq for each in waiting), state.next_seq]) - 1)
        self._looked_s = self._parts.clock.monotonic_s()

    async def _spool(self, directory: StateDirectory, state: LocalState) -> Spool:
        limits = self._settings.spool
        return await self._on_worker(
            partial(
                Spool,
                directory,
                state,
                outbox_bytes_max=limits.outbox_bytes_max,
                disk_reserve_bytes=limits.disk_reserve_bytes,
            )
        )

    async def _on_worker(self, call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._parts.worker.submit(call))

    def _tell_facts(self, state: LocalState, facts: StoreFacts | None) -> None:
        if not state.creates_only:
            self._alarm(
                "no-create-only",
                "the store overwrites an object that must not exist yet: walrep names segments so that nothing is ever "
                "overwritten, but learns of a second writer only when it lists, at a start and every "
                f"{format_duration(int(self._parts.rival_check_s * 1000))} while segments are written",
                "make sure that one walrep only writes to this replica",
            )
        if facts is not None and not facts.ranges:
            self._alarm("no-ranges", "the store gives no ranges of objects: restores read whole objects", "")
        if facts is not None and abs(facts.clock_ahead_ms) > _CLOCKS_APART_MS_MAX:
            apart = format_duration(abs(facts.clock_ahead_ms))
            side = "ahead of" if facts.clock_ahead_ms > 0 else "behind"
            self._alarm(
                "clock-apart",
                f"the store's clock is {apart} {side} this machine's",
                "set the clock of this machine (NTP): the times of all transactions come from it",
            )

    def _tell_rivals(self, rivals: list[SegmentHeader]) -> None:
        for header in rivals:
            if header.writer.nonce in self._rivals_told:
                continue
            self._rivals_told.add(header.writer.nonce)
            self._alarm(
                "rival-writer",
                f"a walrep that was shut out went on writing: process {header.writer.pid} on {header.writer.host}, "
                f"timeline {header.timeline}, segment {header.seq} at {format_time(header.created_ms)}",
                "stop it. Until it is clear which history counts, `walrep restore` asks for --timeline; a walrep "
                "started with --take-over decides it",
            )

    def _alarm(self, key: AlarmKey, message: str, hint: str) -> None:
        self._parts.report(Alarm(database=str(self._settings.path), key=key, message=message, hint=hint))


def _sequence(spool: Spool) -> tuple[LocalState, list[SegmentHeader]]:
    """Return the state and the headers of the segments in the outbox, as they are at one moment."""
    return spool.state, [segment_ends(item.path)[0] for item in spool.outbox() if not item.is_snapshot]
