"""Begin a timeline: its opening segment, its base, and the moment from which every transaction is kept."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial

import msgspec

from walrep.core.events import TimelineBegan
from walrep.core.objects import SnapshotHeader, TimelineStart
from walrep.core.units import Checksum, Seq, Txid, make_timeline_id
from walrep.disk.outbox import OutboxItem
from walrep.disk.spool import BASE_PART, Spool
from walrep.engine.parts import EngineParts
from walrep.engine.settings import DatabaseSettings
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler
from walrep.sqlite.base import BaseCopy
from walrep.sqlite.capture import Capture

__all__ = ["begin_timeline", "state_changes"]

_SWEEP_S = 0.02


async def begin_timeline(
    parts: EngineParts,
    settings: DatabaseSettings,
    capture: Capture,
    shipper: Shipper,
    spooler: Spooler,
    ending: tuple[str, asyncio.Event],
) -> bool:
    """Make a base while the app writes, and go over to encoding at the very position at which it is valid.

    `ending` is the reason for the new timeline, and an event that abandons it. Return False if it was abandoned. The
    timeline is opened when most of its base is on the disk: what cannot be copied costs no segment and no request.
    """
    reason, abandoned = ending
    spool = spooler.spool
    state = spool.state
    header = SnapshotHeader(
        replica=state.replica,
        timeline=make_timeline_id(state.timeline_number + 1, state.writer.nonce),
        writer=state.writer,
        created_ms=parts.clock.now_ms(),
        page_size=capture.files.page_size,
    )
    base = await parts.runner.run(
        partial(BaseCopy, capture.reader, spool.directory.path / BASE_PART, header, spool.room)
    )
    try:
        if not await _copy(parts, base, abandoned):
            return False
        shipper.add(await _open_timeline(parts, settings, shipper, header, spool, reason))
        item = await _complete(parts, capture, spooler, base, abandoned)
        if item is not None:
            shipper.add(item)
        return item is not None
    finally:
        # Once it is complete it is elsewhere, and this does nothing.
        await parts.captures.run(base.abandon)


async def _copy(parts: EngineParts, base: BaseCopy, abandoned: asyncio.Event) -> bool:
    """Copy the file while the app writes; False if that was abandoned."""
    while not abandoned.is_set() and not await parts.captures.run(base.begin):
        await parts.clock.sleep(_SWEEP_S)
    while not abandoned.is_set() and await parts.runner.run(base.copy_slice):
        pass
    if not abandoned.is_set():
        await parts.runner.run(base.sync)
    return not abandoned.is_set()


async def _open_timeline(
    parts: EngineParts,
    settings: DatabaseSettings,
    shipper: Shipper,
    header: SnapshotHeader,
    spool: Spool,
    reason: str,
) -> OutboxItem:
    state = spool.state
    parent = state.restored or state.position() or state.parent
    start = TimelineStart(reason=reason, parent=parent, looked_ms=state.looked_ms or None)
    now_ms = parts.clock.now_ms()
    item = await shipper.on_worker(partial(spool.open_timeline, header.timeline, start, header.page_size, now_ms))
    parts.report(
        TimelineBegan(
            database=str(settings.path),
            timeline=header.timeline,
            reason=reason,
            parent=None if parent is None else str(parent),
        )
    )
    return item


async def _complete(
    parts: EngineParts, capture: Capture, spooler: Spooler, base: BaseCopy, abandoned: asyncio.Event
) -> OutboxItem | None:
    while not abandoned.is_set():
        published = await parts.captures.run(partial(_finish_if_ready, capture, spooler, base))
        if published is not None:
            return await asyncio.wrap_future(published)
        if base.is_held_up:
            await parts.clock.sleep(_SWEEP_S)
    return None


def _finish_if_ready(capture: Capture, spooler: Spooler, base: BaseCopy) -> Future[OutboxItem] | None:
    """Between two ticks: if the base is complete, let encoding begin at this very position."""
    spool = spooler.spool
    if not base.overlay(Seq(spool.state.next_seq - 1)) or base.footer is None:
        return None
    changes = state_changes(capture, base)
    hashes = capture.reader.encoder.hashes.to_bytes()
    # The worker makes the base durable before it sees the first chunk: calls are done in order.
    published = spooler.begin_with(partial(_publish, spool, base, changes, hashes))
    capture.reader.sink = spooler
    return published


def _publish(spool: Spool, base: BaseCopy, changes: dict[str, object], hashes: bytes) -> OutboxItem:
    base.close()
    # Of the state as it is now: it may have changed since the base was complete, which INV-20 rests on.
    return spool.begin_timeline(base.path, msgspec.structs.replace(spool.state, **changes), hashes)


def state_changes(capture: Capture, base: BaseCopy) -> dict[str, object]:
    """Return what a complete base changes in the state. On the capture thread, at the position of the base."""
    footer, header = base.footer, base.header
    return {
        "timeline": header.timeline,
        "parent": None,
        "restored": None,
        "page_size": header.page_size,
        "txid": Txid(0),
        "checksum": Checksum(footer.checksum if footer else 0),
        "page_count": footer.page_count if footer else 0,
        "mark": capture.reader.mark,
        "inode": capture.files.inode,
        "wal_inode": capture.files.wal_inode,
        "looked_ms": capture.reader.looked_ms,
        "clean_end": capture.idle_end(),
        "boot_id": capture.clock.boot_id(),
        "snapshot_txid": Txid(0),
        "snapshot_ms": footer.seen_ms if footer else 0,
        "log_bytes": 0,
    }
