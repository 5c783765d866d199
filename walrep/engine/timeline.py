"""Begin a timeline: its opening segment, its base, and the moment from which every transaction is kept.

The base holds what differs from the last full snapshot of the replica, as far as one is known here; of which kind it is
decides `walrep.core.snapshots`. How many pages differ is known only when they are read: so it begins as a differential
one, and anew as a full one when these are too many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec

from walrep.core.events import TimelineBegan
from walrep.core.objects import SnapshotHeader, TimelineStart
from walrep.core.snapshots import SnapshotKind, may_lean, plan_kind
from walrep.core.state import LocalState
from walrep.core.units import Checksum, Seq, Txid, make_timeline_id, timeline_number
from walrep.disk.full import load_full
from walrep.disk.kept import open_kept
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
    copied = await _copy(parts, settings, capture, spooler.spool, abandoned)
    if copied is None:
        return False
    try:
        shipper.add(await _open_timeline(parts, settings, shipper, copied, spooler.spool, reason))
        item = await _complete(parts, capture, spooler, copied.base, abandoned)
        if item is not None:
            shipper.add(item)
        return item is not None
    finally:
        # Once it is complete it is elsewhere, and this does nothing.
        await parts.captures.run(copied.base.abandon)


class _Copied(msgspec.Struct, frozen=True):
    """The raw copy of a base, of which kind it is, and why."""

    base: BaseCopy
    kind: SnapshotKind
    why: str


async def _copy(
    parts: EngineParts, settings: DatabaseSettings, capture: Capture, spool: Spool, abandoned: asyncio.Event
) -> _Copied | None:
    """Copy the file while the app writes: what differs from the last full snapshot, or all; None if abandoned."""
    path, state = spool.directory.path, spool.state
    full = await parts.runner.run(partial(load_full, path))
    header = SnapshotHeader(
        replica=state.replica,
        timeline=make_timeline_id(_number_after(state), state.writer.nonce),
        writer=state.writer,
        created_ms=parts.clock.now_ms(),
        page_size=capture.files.page_size,
    )

    if full is not None and not may_lean(full.snapshot, header.timeline):
        full = None

    def decide(differing: int, page_count: int) -> tuple[SnapshotKind, str]:
        return plan_kind(
            full.snapshot if full else None,
            (differing, page_count),
            replica=header.replica,
            page_size=header.page_size,
            now_ms=header.created_ms,
            policy=settings.snapshots,
        )

    new_base = partial(BaseCopy, capture.reader, path / BASE_PART)
    kind, why = decide(0, 0)
    if kind == "differential" and full is not None:
        on_top = msgspec.structs.replace(header, full=full.snapshot.position)
        kept = await parts.runner.run(partial(open_kept, path, full, bytes_max=settings.spool.full_bytes_max))
        base = await parts.runner.run(partial(new_base, on_top, spool.room, full.array(), kept))

        def is_too_much() -> bool:
            nonlocal kind, why
            kind, why = decide(base.differing_pages, base.page_count)
            return kind == "full"

        is_copied = await _copy_file(parts, base, abandoned, is_too_much)
        if is_copied or abandoned.is_set():
            return _Copied(base, kind, why) if is_copied else None
    base = await parts.runner.run(partial(new_base, header, spool.room))
    is_copied = await _copy_file(parts, base, abandoned, lambda: False)
    return _Copied(base, kind, why) if is_copied else None


def _number_after(state: LocalState) -> int:
    """Return the number of the next timeline: the one whose position was restored may be another writer's."""
    restored = 0 if state.restored is None else timeline_number(state.restored.timeline)
    return max(state.timeline_number, restored) + 1


async def _copy_file(
    parts: EngineParts, base: BaseCopy, abandoned: asyncio.Event, is_too_much: Callable[[], bool]
) -> bool:
    """Copy the file while the app writes; False, and nothing is left of it, if that was abandoned or is too much."""
    is_copied = False
    try:
        while not abandoned.is_set() and not await parts.captures.run(base.begin):
            await parts.clock.sleep(_SWEEP_S)
        more = True
        while more and not abandoned.is_set() and not is_too_much():
            more = await parts.runner.run(base.copy_slice)
        if not abandoned.is_set() and not is_too_much():
            await parts.runner.run(base.sync)
            is_copied = not abandoned.is_set()
    finally:
        if not is_copied:
            await parts.captures.run(base.abandon)
    return is_copied


async def _open_timeline(
    parts: EngineParts,
    settings: DatabaseSettings,
    shipper: Shipper,
    copied: _Copied,
    spool: Spool,
    reason: str,
) -> OutboxItem:
    state, header = spool.state, copied.base.header
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
            base=copied.kind,
            base_reason=copied.why,
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
    state = msgspec.structs.replace(spool.state, **changes)
    return spool.begin_timeline(base.path, state, hashes, full=base.header.full is None)


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
