"""What a new timeline uploads: what differs from the last full snapshot, whatever ended the one before."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.engine.daily import begin_days, flush, kinds, names, next_day, restored
from tests.engine.protection import App, OverwritingStore, Protection
from tests.engine.shipment import RecordedFaults
from walrep.clock import SystemClock
from walrep.core.events import Alarm, Flushed, FullRead, Resumed, SnapshotWritten, TimelineBegan
from walrep.core.names import SEGMENTS_PREFIX, parse_snapshot_key
from walrep.core.target import AtBookmark, AtTxid, Latest
from walrep.core.units import Checksum, Position, TimelineId, Txid, parse_bookmark
from walrep.disk.full import load_full
from walrep.engine.asking import SnapshotRequest, ask_for_snapshot
from walrep.engine.fetch import read_history
from walrep.engine.restored import note_restored
from walrep.engine.restorer import RestoreRequest, restore
from walrep.errors import StoreUnavailable
from walrep.runner import InlineRunner
from walrep.store.base import ObjectInfo
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.faults import Call, Fault


async def protect(app: App, protection: Protection) -> None:
    """Protect a database of some 150 pages for the first time."""
    app.commit(250)
    async with protection.running():
        await protection.commit_and_flush(app, 3)
    assert protection.error is None


def live_on(app: App) -> None:
    """Commit, and let the log be begun anew, so that nothing proves that the timeline goes on."""
    for _ in range(2):
        app.change()
        app.checkpoint("truncate")


async def restart(protection: Protection) -> TimelineBegan:
    """Start walrep, which begins another timeline, until its base is stored."""
    async with protection.running():
        began = await protection.until(TimelineBegan)
        await protection.until(SnapshotWritten)
    assert protection.error is None
    return began


async def check_latest(app: App, protection: Protection, folder: Path) -> None:
    app.close()
    assert (await read_history(protection.store(), InlineRunner())).problems == ()
    assert await restored(protection, folder, Latest()) == app.path.read_bytes()


def small(protection: Protection) -> bool:
    written = protection.of(SnapshotWritten)[0]
    return written.kind == "differential" and written.stored_pages <= 5 and written.page_count > 100


async def test_lost_continuity_costs_what_differs(app: App, protection: Protection, tmp_path: Path) -> None:
    await protect(app, protection)
    for _ in range(3):
        live_on(app)
        began = await restart(protection)
        assert began.base == "differential"
        assert "pages differ from the full one of transaction 0 of timeline 00001" in began.base_reason
        assert small(protection)
    assert len(names(protection)) == 4
    await check_latest(app, protection, tmp_path)


async def test_most_of_the_pages_cost_a_full_one(app: App, protection: Protection, tmp_path: Path) -> None:
    """It begins as a differential one, and anew when that is too much; the next one leans on it."""
    await protect(app, protection)
    app.commit(300)
    live_on(app)
    began = await restart(protection)
    assert began.base == "full"
    assert "pages differ" in began.base_reason
    live_on(app)
    began = await restart(protection)
    assert "of timeline 00002" in began.base_reason
    assert small(protection)
    assert kinds(protection) == ["full", "full", "on 0"]
    await check_latest(app, protection, tmp_path)


@pytest.mark.parametrize("keeps_record", [False, True])
async def test_lost_state_costs_a_download_and_what_differs(
    app: App, protection: Protection, tmp_path: Path, *, keeps_record: bool
) -> None:
    """What is remembered of the newest full one is enough; without it that is read."""
    await protect(app, protection)
    live_on(app)
    state_dir = protection.settings.state_dir
    record = (state_dir / "full").read_bytes()
    shutil.rmtree(state_dir)
    if keeps_record:
        state_dir.mkdir()
        (state_dir / "full").write_bytes(record)
    protection.change(take_over=True)
    assert (await restart(protection)).base == "differential"
    assert small(protection)
    sizes = [len(found.data) for key, found in protection.objects.items() if key.endswith("-full")]
    assert [each.read_bytes for each in protection.of(FullRead)] == ([] if keeps_record else sizes)
    assert (state_dir / "full").read_bytes() == record
    await check_latest(app, protection, tmp_path)


class NoSnapshots(RecordedFaults):
    """Fails where a snapshot is read."""

    def fault_for(self, call: Call) -> Fault | None:
        """Return what strikes this call."""
        is_struck = call.verb == "get" and call.key.startswith("snapshots/")
        return Fault(error=lambda: StoreUnavailable("away")) if is_struck else super().fault_for(call)


@pytest.mark.parametrize("how", ["damaged", "cut", "empty", "away"])
async def test_where_the_full_one_cannot_be_read_the_base_is_full(
    app: App, protection: Protection, tmp_path: Path, how: str
) -> None:
    await protect(app, protection)
    shutil.rmtree(protection.settings.state_dir)
    (key,) = [key for key in protection.objects if key.endswith("-full")]
    whole = protection.objects[key].data
    half = len(whole) // 2
    changed = {
        "damaged": whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :],
        "cut": whole[:half],
        "empty": b"",
        "away": whole,
    }
    protection.objects[key] = MemoryObject(changed[how], protection.objects[key].modified_ms)
    if how == "away":
        protection.faults = NoSnapshots()
    protection.change(take_over=True)
    assert (await restart(protection)).base == "full"
    (told,) = protection.of(FullRead)
    assert told.key == key
    assert told.failed
    app.close()
    assert await restored(protection, tmp_path, Latest()) == app.path.read_bytes()


async def test_a_record_of_another_replica_is_not_used(app: App, protection: Protection, tmp_path: Path) -> None:
    await protect(app, protection)
    state_dir = protection.settings.state_dir
    record = load_full(state_dir)
    assert record is not None
    protection.objects.clear()
    protection.change(new_timeline=True)
    began = await restart(protection)
    assert (began.base, began.base_reason) == ("full", "there is no full snapshot of this replica to lean on")
    again = load_full(state_dir)
    assert again is not None
    assert again.snapshot.replica != record.snapshot.replica
    await check_latest(app, protection, tmp_path)


async def restore_in_place(app: App, protection: Protection, target: AtTxid | Latest) -> tuple[App, Position]:
    """Do what `walrep restore --force` does, and start the app again."""
    app.close()
    request = RestoreRequest(output=app.path, target=target, force=True)
    outcome = await restore(protection.store(), request, clock=protection.clock, runner=InlineRunner())
    note_restored(protection.settings.state_dir, parse_bookmark(outcome.bookmark))
    return App(app.path), outcome.plan.position


@pytest.mark.parametrize("target", [Latest(), AtTxid(Txid(1))])
async def test_a_restored_database_goes_on_from_its_position_with_what_differs(
    app: App, protection: Protection, tmp_path: Path, target: AtTxid | Latest
) -> None:
    await protect(app, protection)
    again, position = await restore_in_place(app, protection, target)
    again.change()
    began = await restart(protection)
    assert (began.parent, began.base) == (str(position), "differential")
    assert began.reason == f"the database was restored to {position}"
    assert small(protection)
    await check_latest(again, protection, tmp_path)


async def test_a_restored_timeline_of_another_writer_is_older_than_the_one_that_leaves_it(
    app: App, protection: Protection
) -> None:
    """Two timelines of one number, and of a copied state with one nonce, would be one to a reader."""
    await protect(app, protection)
    app.close()
    note_restored(protection.settings.state_dir, Position(TimelineId("00007-00000000"), Txid(3), Checksum(1)))
    again = App(app.path)
    again.change()
    began = await restart(protection)
    assert began.timeline.startswith("00008-")
    again.close()


async def test_a_base_leans_on_no_timeline_that_began_while_the_replica_was_taken_over(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """Its number is not lower, and a key that says so is no key of a snapshot: nothing would be restorable."""

    class Late(OverwritingStore):
        """Lists the segments that were there before."""

        async def list(
            self, prefix: str, *, start_after: str = "", limit: int | None = None
        ) -> AsyncIterator[ObjectInfo]:
            async for info in super().list(prefix, start_after=start_after, limit=limit):
                if prefix != SEGMENTS_PREFIX or info.key in before:
                    yield info

    protection.kind = OverwritingStore
    await protect(app, protection)
    before = set(protection.objects)
    app.commit(300)
    live_on(app)
    assert (await restart(protection)).base == "full"
    shutil.rmtree(protection.settings.state_dir)
    protection.kind = Late
    protection.change(take_over=True)
    async with protection.running():
        began = await protection.until(TimelineBegan)
        await protection.until(SnapshotWritten)
        await flush(app, protection)
    assert protection.error is None
    assert began.timeline.startswith("00002-")
    app.close()
    target = AtBookmark(parse_bookmark(protection.of(Flushed)[-1].bookmark))
    assert await restored(protection, tmp_path, target) == app.path.read_bytes()
    assert None not in [parse_snapshot_key(key) for key in protection.keys("snapshots/")]


async def test_a_take_over_that_was_stopped_leans_on_no_full_one_that_is_not_the_newest(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """What this host remembers of an earlier time retention may delete: it was about to find out. INV-30"""
    reading = asyncio.Event()

    class Held(MemoryStore):
        async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
            if key.startswith("snapshots/"):
                reading.set()
                await asyncio.Event().wait()
            return await super().get(key, start=start, length=length)

    await protect(app, protection)
    state_dir = protection.settings.state_dir
    record = (state_dir / "full").read_bytes()
    async with protection.running():
        await protection.until(Resumed)
        app.commit(1)
        await protection.until(Flushed)
        await ask_for_snapshot(state_dir, SnapshotRequest(full=True), SystemClock())
    shutil.rmtree(state_dir)
    state_dir.mkdir()
    (state_dir / "full").write_bytes(record)
    protection.kind = Held
    protection.change(take_over=True)
    async with protection.running():
        await reading.wait()
    protection.kind = MemoryStore
    protection.change(take_over=False)
    app.commit(1)
    assert (await restart(protection)).base == "full"
    await check_latest(app, protection, tmp_path)


async def test_the_log_of_a_restored_database_is_not_taken_for_the_one_before(app: App, protection: Protection) -> None:
    """Its inode may be the same, as inodes of removed files are used again."""
    await protect(app, protection)
    again, _position = await restore_in_place(app, protection, Latest())
    state = protection.settings.state_dir / "state.json"
    assert msgspec.json.decode(state.read_bytes())["wal_inode"] == 0
    again.change()
    await restart(protection)
    assert not [each for each in protection.of(Alarm) if each.key == "waiting"]
    again.close()


async def test_where_somebody_deleted_the_full_one_another_timeline_begins_with_one(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """INV-31: the base that leans on it is not stored, and nothing of its timeline is called durable."""
    await protect(app, protection)
    live_on(app)
    (key,) = [key for key in protection.objects if key.endswith("-full")]
    del protection.objects[key]
    async with protection.running():
        await protection.until_count(TimelineBegan, 2)
        await protection.until(SnapshotWritten)
        await flush(app, protection)
    assert protection.error is None
    assert [each.base for each in protection.of(TimelineBegan)] == ["differential", "full"]
    (alarm,) = [each for each in protection.of(Alarm) if each.key == "timeline-ended"]
    assert "the full snapshot on which it leans is not in the store" in alarm.message
    assert kinds(protection) == ["full"]
    assert all(each.bookmark.startswith("00003") for each in protection.of(Flushed))
    app.close()
    assert await restored(protection, tmp_path, Latest()) == app.path.read_bytes()


async def test_daily_ones_of_a_child_lean_on_the_parents_full_one(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """Until it is a week old."""
    begin_days(protection)
    await protect(app, protection)
    live_on(app)
    async with protection.running():
        await protection.until(SnapshotWritten)
        for day in range(8):
            next_day(protection)
            await flush(app, protection)
            await protection.until_count(SnapshotWritten, day + 2)
    assert protection.error is None
    child = [name for name in names(protection) if name.timeline.startswith("00002")]
    assert [name.full.timeline[:5] if name.full else "full" for name in child] == [
        *["00001"] * 7,
        "full",
        "00002",
    ]
    await check_latest(app, protection, tmp_path)
