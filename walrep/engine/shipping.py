"""From the open segment to the store: when to seal is `walrep.core.flush`'s decision, uploads go in order.

The durable position moves after the PUT has returned, never before (INV-16). For a snapshot of a timeline that goes on
nothing has to wait, neither the segments behind it nor a stop: who makes it uploads it beside them. A differential one
goes only when the store was seen to hold the full one under it (INV-31).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol, TypeVar

from walrep.core.events import Alarm, Flushed, RpoRestored, RpoWidened, SnapshotWritten
from walrep.core.flush import FlushPlan, FlushState, plan_flush
from walrep.core.lineage import conflict_with
from walrep.core.names import segment_key, snapshot_key
from walrep.core.objects import SegmentFooter, SegmentHeader
from walrep.core.snapshot import snapshot_name
from walrep.core.state import LocalState
from walrep.core.units import Checksum, Position, Seq, TimelineId
from walrep.disk.full import forget_full
from walrep.disk.outbox import OutboxItem
from walrep.disk.peek import parse_segment_header, segment_ends, snapshot_ends
from walrep.disk.spool import Sealed, Spool
from walrep.engine.outage import Outage
from walrep.engine.parts import EngineParts, OpenedStore
from walrep.engine.settings import DatabaseSettings
from walrep.engine.spooler import Spooler
from walrep.engine.under import StoredFull
from walrep.engine.waiting import wait_for_event
from walrep.errors import CaptureBroken, CorruptObject, ObjectNotFound, PreconditionFailed, SnapshotFailed

__all__ = ["Gate", "Shipper"]

T = TypeVar("T")

_HEADER_BYTES = 64 << 10


class Gate(Protocol):
    """Says whether uploads are allowed; see `walrep.engine.admission`."""

    async def admit(self, spool: Spool) -> None:
        """Return once they are."""
        ...

    def storing(self, state: LocalState, header: SegmentHeader) -> AbstractAsyncContextManager[Callable[[], None]]:
        """Return a context in which a segment is stored; see `SoleWriter.storing`."""
        ...

    async def look_for_rivals(self, state: LocalState, uploaded: Seq) -> None:
        """Make sure that they still are, now that this segment is stored."""
        ...


class Shipper:
    """Seals and uploads for one database. `seal_loop` and `upload_loop` run until they are cancelled."""

    def __init__(
        self,
        parts: EngineParts,
        settings: DatabaseSettings,
        opened: OpenedStore,
        spool: Spool,
        gate: Gate,
        outage: Outage,
    ) -> None:
        self.changed = asyncio.Event()
        self.durable: Position | None = None
        self.spooler: Spooler | None = None
        """Set while a timeline is being captured."""
        self.admitted = asyncio.Event()
        """Set when uploads are allowed."""
        self.sealing = asyncio.Lock()
        """Held from before a segment is sealed until it is queued, so that segments are queued in order (INV-17)."""
        self.captures = asyncio.Event()
        """Set when transactions are captured for the first time, by a timeline that has its base."""
        self.stored: Callable[[str, SegmentHeader, SegmentFooter, int], None] | None = None
        """Called with key, ends and size of every segment that was stored."""
        self.snapshot_stored: Callable[[], None] | None = None
        """Called when a base or another snapshot was stored."""
        self.base_refused: Callable[[CaptureBroken], None] | None = None
        """Called when the base of the timeline that goes on turned out to be of no use."""
        self._parts = parts
        self._settings = settings
        self._store = opened.store
        self._full = StoredFull(opened.store, outage)
        self._baseless: set[TimelineId] = set()
        """Timelines whose base was refused: nothing of them is durable."""
        self._upload_p95_s = opened.upload_p95_s
        self._budget = opened.budget
        if self._budget is not None:
            self._budget.watch(spool)
        self._spool = spool
        self._gate, self._outage = gate, outage
        self._items: deque[OutboxItem] = deque(spool.outbox())
        self._reasons: dict[int, tuple[str, float, float]] = {}
        self._item_added = asyncio.Event()
        self._drained = asyncio.Event()
        self._last_flush_s: float | None = None
        self._rpo_s = settings.flush.rpo_s
        self._limited_s: float | None = None
        """Since when a budget keeps the RPO wider than was asked for."""
        if not self._items:
            self._drained.set()
            self.durable = spool.state.position()

    async def on_worker(self, call: Callable[[], T]) -> T:
        """Run a call on the spool worker, behind what was put before."""
        return await asyncio.wrap_future(self._parts.worker.submit(call))

    def add(self, item: OutboxItem) -> None:
        """Queue what was put into the outbox."""
        self._items.append(item)
        self._drained.clear()
        self._item_added.set()

    async def requeue(self) -> None:
        """Queue what is in the outbox and was not, because something failed after it was put there. INV-17."""
        waiting = await self.on_worker(self._spool.outbox)
        queued = {(item.seq, item.is_snapshot) for item in self._items}
        missing = [item for item in waiting if (item.seq, item.is_snapshot) not in queued]
        if missing:
            first, *rest = [*self._items, *missing]
            # The first may be on its way; it stays where it is.
            self._items = deque([first, *sorted(rest)] if queued else sorted(missing))
            self._drained.clear()
            self._item_added.set()

    def note_store_works(self) -> None:
        """Note that the store did what somebody else asked of it; an upload that is under way tells for itself."""
        if not self._items:
            self._outage.over()

    @property
    def lacks_base(self) -> bool:
        """Whether what is captured belongs to a timeline whose base was refused."""
        return self._spool.state.timeline in self._baseless

    @property
    def is_drained(self) -> bool:
        """Whether the store has everything that was queued."""
        return self._drained.is_set()

    async def drained(self) -> None:
        """Wait until the store has everything that was queued."""
        await self._drained.wait()

    async def seal(self, reason: str, *, final: bool) -> None:
        """Seal what is pending and queue it; `final` when nothing more will be captured behind it."""
        spooler = self.spooler
        if spooler is None:
            return
        async with self.sealing:
            oldest_s = spooler.pending().oldest_s
            sealed = await asyncio.wrap_future(spooler.seal(final=final))
            if sealed is not None:
                self.note_sealed(sealed, reason, oldest_s)

    def note_sealed(self, sealed: Sealed, reason: str, oldest_s: float | None) -> None:
        """Queue a segment, `sealing`; `oldest_s` is when its oldest commit was seen, on the monotonic clock."""
        now_s = self._parts.clock.monotonic_s()
        self._last_flush_s = now_s
        self._reasons[sealed.item.seq] = (reason, now_s if oldest_s is None else oldest_s, self._rpo_s)
        self.add(sealed.item)

    async def seal_loop(self) -> None:
        """Seal segments as planned, for ever."""
        while True:
            self.changed.clear()
            plan = self._plan()
            now_s = self._parts.clock.monotonic_s()
            self._tell_rpo(plan, now_s)
            if plan.at_s is not None and plan.at_s <= now_s:
                await self.seal(plan.reason, final=False)
                continue
            timeout_s = None if plan.at_s is None else plan.at_s - now_s
            await wait_for_event(self.changed, timeout_s)

    async def upload_loop(self) -> None:
        """Upload what is queued, in order, for ever; first be admitted."""
        await self._gate.admit(self._spool)
        self.admitted.set()
        while True:
            while self._items:
                await self._upload(self._items[0])
                self._outage.over()
                self._items.popleft()
                self.changed.set()
            self._drained.set()
            self._item_added.clear()
            await self._item_added.wait()

    def pending_ms(self) -> int | None:
        """Return when the oldest commit was seen that is not stored yet, on the wall clock; None if all are."""
        if self._items:
            return 0
        oldest_s = self.spooler.pending().oldest_s if self.spooler else None
        if oldest_s is None:
            return None
        clock = self._parts.clock
        return clock.now_ms() - int((clock.monotonic_s() - oldest_s) * 1000)

    def _plan(self) -> FlushPlan:
        spooler = self.spooler
        if spooler is None or spooler.failure is not None:
            rpo_s = self._settings.flush.rpo_s
            return FlushPlan(at_s=None, reason="nothing is captured", rpo_s=rpo_s, is_limited=None)
        pending = spooler.pending()
        state = FlushState(
            pending_bytes=pending.bytes,
            oldest_commit_s=pending.oldest_s,
            last_flush_s=self._last_flush_s,
            upload_p95_s=self._upload_p95_s(),
            outbox_count=len(self._items),
            pace=None if self._budget is None else self._budget.pace(),
        )
        return plan_flush(state, self._settings.flush)

    def _tell_rpo(self, plan: FlushPlan, now_s: float) -> None:
        """Tell when a budget begins to widen the RPO, and when that is over."""
        self._rpo_s = plan.rpo_s
        database = str(self._settings.path)
        if plan.is_limited and self._limited_s is None:
            self._limited_s = now_s
            self._parts.report(RpoWidened(database=database, rpo_s=plan.rpo_s, reason=plan.limit))
        elif plan.is_limited is False and self._limited_s is not None:
            seconds, self._limited_s = now_s - self._limited_s, None
            self._parts.report(RpoRestored(database=database, rpo_s=plan.rpo_s, seconds=seconds))

    async def _upload(self, item: OutboxItem) -> None:
        if item.is_snapshot:
            try:
                self.durable = await self.upload_snapshot(item)
            except SnapshotFailed as error:
                await self._refuse_base(item, error)
        else:
            header, footer = await self._parts.runner.run(lambda: segment_ends(item.path))
            await self._put_segment(item, header)
            # What opens a timeline is nothing to restore before its base is stored, which comes next.
            if header.start is None and header.timeline not in self._baseless:
                self.durable = Position(header.timeline, footer.txid_after, Checksum(footer.checksum_after))
                self._report_flush(item, header, footer)
            if self.stored is not None:
                self.stored(segment_key(item.seq, self._spool.state.segment_nonce()), header, footer, item.size_bytes)
            await self._gate.look_for_rivals(self._spool.state, header.seq)
            await self._keep(item)

    async def _keep(self, item: OutboxItem) -> None:
        limits = self._settings.spool
        keep = partial(
            self._spool.keep, item, cache_bytes_max=limits.cache_bytes_max, full_bytes_max=limits.full_bytes_max
        )
        await self.on_worker(keep)

    async def _refuse_base(self, item: OutboxItem, error: SnapshotFailed) -> None:
        """Have the timeline end of which nothing can be restored without this base, and another one begin.

        The base stays until that has begun, and until no segment of the timeline waits behind it: also after a kill
        this is found out again, and nothing of the timeline is called durable. INV-16
        """
        header, _footer = await self._parts.runner.run(lambda: snapshot_ends(item.path))
        timeline = header.timeline
        was_known = timeline in self._baseless
        self._baseless.add(timeline)
        if self._spool.state.timeline != timeline:
            if not await self._waits_behind(item, timeline):
                await self._keep(item)
            if not was_known:
                message = f"nothing of timeline {timeline}, which has ended, can be restored: {error}"
                self._parts.report(
                    Alarm(database=str(self._settings.path), key="timeline-ended", message=message, hint=error.hint)
                )
        elif not was_known:
            self.durable = None
            await self.on_worker(partial(forget_full, self._spool.directory.path))
            if self.base_refused is not None:
                self.base_refused(CaptureBroken(error.message, detail=error.detail, hint=error.hint))

    async def _waits_behind(self, base: OutboxItem, timeline: TimelineId) -> bool:
        """Say whether the next segment in the outbox behind a base is one of its timeline."""
        waiting = await self.on_worker(self._spool.outbox)
        behind = [item for item in waiting if item.seq > base.seq and not item.is_snapshot]
        if not behind:
            return False
        header, _footer = await self._parts.runner.run(lambda: segment_ends(behind[0].path))
        return header.timeline == timeline

    async def upload_snapshot(self, item: OutboxItem) -> Position:
        """Upload a base or another snapshot, once uploads are allowed; return where it stands.

        Raises:
            SnapshotFailed: it leans on a full one that is nowhere.

        """
        began_s = self._parts.clock.monotonic_s()
        header, footer = await self._parts.runner.run(lambda: snapshot_ends(item.path))
        if header.full is not None and not await self._full.is_stored(header.full):
            await self._upload_full(header.full, opens=footer.txid == 0)
        name = snapshot_name(header, footer)
        # The key has the timeline's nonce: whatever is there already is this very file.
        try:
            await self._store.put(snapshot_key(name), item.path, if_absent=self._spool.state.creates_only)
        except PreconditionFailed:
            there = await self._outage.wait_out(partial(self._store.head, snapshot_key(name)))
            if there.size_bytes != item.size_bytes:
                raise
        if header.full is None:
            self._full.note(header.timeline, footer)
        await self._keep(item)
        if self.snapshot_stored is not None:
            self.snapshot_stored()
        self._parts.report(
            SnapshotWritten(
                database=str(self._settings.path),
                timeline=header.timeline,
                txid=footer.txid,
                page_count=footer.page_count,
                stored_pages=footer.stored_pages,
                object_bytes=item.size_bytes,
                kind="full" if header.full is None else "differential",
                seconds=self._parts.clock.monotonic_s() - began_s,
            )
        )
        return Position(header.timeline, footer.txid, Checksum(footer.checksum))

    async def _upload_full(self, full: Position, *, opens: bool) -> None:
        """Upload the full snapshot under another one first, if it waits here; `opens`: that one is a base."""
        for item in await self.on_worker(self._spool.snapshots):
            try:
                header, footer = await self._parts.runner.run(partial(snapshot_ends, item.path))
            except CorruptObject:
                # Whichever it was, nothing can be built on it; the protection of the database goes on.
                await self.on_worker(partial(self._spool.discard_snapshot, item))
                continue
            if header.full is None and Position(header.timeline, footer.txid, Checksum(footer.checksum)) == full:
                if opens and self._budget is not None:
                    self._budget.openings.add(snapshot_key(snapshot_name(header, footer)))
                await self.upload_snapshot(item)
                return
        raise SnapshotFailed(
            "the full snapshot on which it leans is not in the store",
            detail=str(full),
            hint="a full one is made instead; if nobody deleted it, look at what else the store has lost",
        )

    async def _put_segment(self, item: OutboxItem, header: SegmentHeader) -> None:
        state = self._spool.state
        key = segment_key(item.seq, state.segment_nonce())
        if header.start is not None and self._budget is not None:
            self._budget.openings.add(key)
        async with self._gate.storing(state, header) as met_nobody:
            # A copy of this state on another host has the same nonce, and would be overwritten. INV-20
            if not state.creates_only and await self._is_stored(key, header):
                return
            try:
                await self._store.put(key, item.path, if_absent=state.creates_only)
                met_nobody()
            except PreconditionFailed:
                # A lost response looks the same as another writer: only the object tells.
                if not await self._is_stored(key, header):
                    raise

    async def _is_stored(self, key: str, header: SegmentHeader) -> bool:
        """Say whether the store has a segment; raises `ReplicaConflict` if it has another writer's under the key."""
        try:
            head = await self._outage.wait_out(partial(self._store.get, key, length=_HEADER_BYTES))
        except ObjectNotFound:
            return False
        there = parse_segment_header(head)
        if there != header:
            raise conflict_with(there)
        return True

    def _report_flush(self, item: OutboxItem, header: SegmentHeader, footer: SegmentFooter) -> None:
        now_s = self._parts.clock.monotonic_s()
        left = ("left from the run before", now_s, self._rpo_s)
        reason, oldest_s, rpo_s = self._reasons.pop(item.seq, left)
        self._parts.report(
            Flushed(
                database=str(self._settings.path),
                bookmark=str(self.durable),
                seq=item.seq,
                transactions=footer.txid_after - header.txid_before,
                object_bytes=item.size_bytes,
                lag_s=now_s - oldest_s,
                reason=reason,
                rpo_s=rpo_s,
            )
        )
