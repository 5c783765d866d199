"""From the open segment to the store: when to seal is `walrep.core.flush`'s decision, uploads go in order.

The durable position moves after the PUT has returned, never before (INV-16). For a snapshot of a timeline that goes on
nothing has to wait, neither the segments behind it nor a stop: who makes it uploads it beside them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from walrep.core.events import Flushed, SnapshotWritten
from walrep.core.flush import FlushPlan, FlushState, plan_flush
from walrep.core.lineage import conflict_with
from walrep.core.names import SnapshotName, segment_key, snapshot_key
from walrep.core.objects import SegmentFooter, SegmentHeader
from walrep.core.state import LocalState
from walrep.core.units import Checksum, Position, Seq
from walrep.disk.outbox import OutboxItem
from walrep.disk.peek import parse_segment_header, segment_ends, snapshot_ends
from walrep.disk.spool import Sealed, Spool
from walrep.engine.outage import Outage
from walrep.engine.parts import EngineParts, OpenedStore
from walrep.engine.settings import DatabaseSettings
from walrep.engine.spooler import Spooler
from walrep.engine.waiting import wait_for_event
from walrep.errors import ObjectNotFound, PreconditionFailed

__all__ = ["Gate", "Shipper"]

T = TypeVar("T")

_HEADER_BYTES = 64 << 10


class Gate(Protocol):
    """Says whether uploads are allowed; see `walrep.engine.admission`."""

    async def admit(self, spool: Spool) -> None:
        """Return once they are."""
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
        self._parts = parts
        self._settings = settings
        self._store = opened.store
        self._upload_p95_s = opened.upload_p95_s
        self._spool = spool
        self._gate, self._outage = gate, outage
        self._items: deque[OutboxItem] = deque(spool.outbox())
        self._reasons: dict[int, tuple[str, float]] = {}
        self._item_added = asyncio.Event()
        self._drained = asyncio.Event()
        self._last_flush_s: float | None = None
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
        self._reasons[sealed.item.seq] = (reason, now_s if oldest_s is None else oldest_s)
        self.add(sealed.item)

    async def seal_loop(self) -> None:
        """Seal segments as planned, for ever."""
        while True:
            self.changed.clear()
            plan = self._plan()
            now_s = self._parts.clock.monotonic_s()
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
            return FlushPlan(at_s=None, reason="nothing is captured")
        pending = spooler.pending()
        state = FlushState(
            pending_bytes=pending.bytes,
            oldest_commit_s=pending.oldest_s,
            last_flush_s=self._last_flush_s,
            upload_p95_s=self._upload_p95_s(),
            outbox_count=len(self._items),
        )
        return plan_flush(state, self._settings.flush)

    async def _upload(self, item: OutboxItem) -> None:
        if item.is_snapshot:
            self.durable = await self.upload_snapshot(item)
        else:
            header, footer = await self._parts.runner.run(lambda: segment_ends(item.path))
            await self._put_segment(item, header)
            if header.start is None:
                # What opens a timeline is nothing to restore before its base is stored, which comes next.
                self.durable = Position(header.timeline, footer.txid_after, Checksum(footer.checksum_after))
            self._report_flush(item, header, footer)
            if self.stored is not None:
                self.stored(segment_key(item.seq, self._spool.state.segment_nonce()), header, footer, item.size_bytes)
            await self._gate.look_for_rivals(self._spool.state, header.seq)
            await self._keep(item)

    async def _keep(self, item: OutboxItem) -> None:
        limit = self._settings.spool.cache_bytes_max
        await self.on_worker(lambda: self._spool.keep(item, cache_bytes_max=limit))

    async def upload_snapshot(self, item: OutboxItem) -> Position:
        """Upload a base or another snapshot, once uploads are allowed; return where it stands."""
        began_s = self._parts.clock.monotonic_s()
        header, footer = await self._parts.runner.run(lambda: snapshot_ends(item.path))
        name = SnapshotName(
            timeline=header.timeline,
            txid=footer.txid,
            seen_ms=footer.seen_ms,
            seq=footer.seq,
            full_txid=header.full_txid,
        )
        # The key has the timeline's nonce: whatever is there already is this very file.
        try:
            await self._store.put(snapshot_key(name), item.path, if_absent=self._spool.state.creates_only)
        except PreconditionFailed:
            there = await self._outage.wait_out(partial(self._store.head, snapshot_key(name)))
            if there.size_bytes != item.size_bytes:
                raise
        await self._keep(item)
        if self.snapshot_stored is not None:
            self.snapshot_stored()
        self._parts.report(
            SnapshotWritten(
                database=str(self._settings.path),
                timeline=header.timeline,
                txid=footer.txid,
                page_count=footer.page_count,
                object_bytes=item.size_bytes,
                kind="full" if header.full_txid is None else "differential",
                seconds=self._parts.clock.monotonic_s() - began_s,
            )
        )
        return Position(header.timeline, footer.txid, Checksum(footer.checksum))

    async def _put_segment(self, item: OutboxItem, header: SegmentHeader) -> None:
        state = self._spool.state
        key = segment_key(item.seq, state.segment_nonce())
        # A copy of this state on another host has the same nonce, and would be overwritten. INV-20
        if not state.creates_only and await self._is_stored(key, header):
            return
        try:
            await self._store.put(key, item.path, if_absent=state.creates_only)
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
        if header.start is not None:
            return
        now_s = self._parts.clock.monotonic_s()
        reason, oldest_s = self._reasons.pop(item.seq, ("left from the run before", now_s))
        self._parts.report(
            Flushed(
                database=str(self._settings.path),
                bookmark=str(self.durable),
                seq=item.seq,
                transactions=footer.txid_after - header.txid_before,
                object_bytes=item.size_bytes,
                lag_s=now_s - oldest_s,
                reason=reason,
            )
        )
