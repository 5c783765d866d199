"""Begin a timeline: its opening segment, its base, and the moment from which every transaction is kept."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial

import msgspec

from walrep.core.events import TimelineBegan
from walrep.core.objects import SnapshotHeader, TimelineStart
from walrep.core.state import LocalState
from walrep.core.units import Checksum, Seq, Txid, make_timeline_id
from walrep.disk.outbox import OutboxItem
from walrep.disk.spool import BASE_PART, Spool
from walrep.engine.parts import EngineParts
from walrep.engine.settings import DatabaseSettings
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler
from walrep.sqlite.base import BaseCopy
from walrep.sqlite.capture import Capture

__all__ = ["begin_timeline"]

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

    `ending` is the reason for the new timeline, and an event that abandons it. Return False if it was abandoned.
    """
    reason, abandoned = ending
    spool = spooler.spool
    state = spool.state
    parent = state.restored or state.position() or state.parent
    timeline = make_timeline_id(state.timeline_number + 1, state.writer.nonce)
    start = TimelineStart(reason=reason, parent=parent, looked_ms=state.looked_ms or None)
    page_size, now_ms = capture.files.page_size, parts.clock.now_ms()
    shipper.add(await shipper.on_worker(partial(spool.open_timeline, timeline, start, page_size, now_ms)))
    parts.report(
        TimelineBegan(
            database=str(settings.path),
            timeline=timeline,
            reason=reason,
            parent=None if parent is None else str(parent),
        )
    )
    header = SnapshotHeader(
        replica=state.replica, timeline=timeline, writer=state.writer, created_ms=now_ms, page_size=page_size
    )
    base = BaseCopy(capture.reader, spool.directory.path / BASE_PART, header, spool.room)
    try:
        item = await _make(parts, capture, spooler, base, abandoned)
    except BaseException:
        await parts.captures.run(base.abandon)
        raise
    if item is None:
        await parts.captures.run(base.abandon)
        return False
    shipper.add(item)
    return True


async def _make(
    parts: EngineParts, capture: Capture, spooler: Spooler, base: BaseCopy, abandoned: asyncio.Event
) -> OutboxItem | None:
    while not abandoned.is_set() and not await parts.captures.run(base.begin):
        await parts.clock.sleep(_SWEEP_S)
    while not abandoned.is_set():
        if not await parts.runner.run(base.copy_slice):
            break
    await parts.runner.run(base.sync)
    while not abandoned.is_set():
        published = await parts.captures.run(partial(_finish_if_ready, parts, capture, spooler, base))
        if published is not None:
            return await asyncio.wrap_future(published)
        if base.is_held_up:
            await parts.clock.sleep(_SWEEP_S)
    return None


def _finish_if_ready(
    parts: EngineParts, capture: Capture, spooler: Spooler, base: BaseCopy
) -> Future[OutboxItem] | None:
    """Between two ticks: if the base is complete, let encoding begin at this very position."""
    spool = spooler.spool
    if not base.overlay(Seq(spool.state.next_seq - 1)) or base.footer is None:
        return None
    state = _state_after(spool.state, capture, base)
    hashes = capture.reader.encoder.hashes.to_bytes()
    # The worker makes the base durable before it sees the first chunk: calls are done in order.
    published = parts.worker.submit(_publish, spool, base, state, hashes)
    capture.reader.sink = spooler
    return published


def _publish(spool: Spool, base: BaseCopy, state: LocalState, hashes: bytes) -> OutboxItem:
    base.close()
    return spool.begin_timeline(base.path, state, hashes)


def _state_after(state: LocalState, capture: Capture, base: BaseCopy) -> LocalState:
    footer, header = base.footer, base.header
    return msgspec.structs.replace(
        state,
        timeline=header.timeline,
        parent=None,
        restored=None,
        page_size=header.page_size,
        txid=Txid(0),
        checksum=Checksum(footer.checksum if footer else 0),
        page_count=footer.page_count if footer else 0,
        mark=capture.reader.mark,
        inode=capture.files.inode,
        wal_inode=capture.files.wal_inode,
        looked_ms=capture.reader.looked_ms,
        clean_end=capture.idle_end(),
        boot_id=capture.clock.boot_id(),
        snapshot_txid=Txid(0),
        snapshot_ms=footer.seen_ms if footer else 0,
        log_bytes=0,
    )
