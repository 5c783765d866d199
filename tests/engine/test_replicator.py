"""One database from start to stop, with threads, files and an app in a process of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.engine.protection import App, Protection
from tests.engine.shipment import images_in
from walrep.core.events import Alarm, Attached, Detached, Flushed, Resumed, SnapshotWritten, TimelineBegan
from walrep.core.lineage import ACTIVE_MS
from walrep.core.units import parse_bookmark
from walrep.disk.peek import parse_segment_header
from walrep.errors import NotDurable, ReplicaConflict, StoreUnavailable


def txid_of(bookmark: str) -> int:
    return parse_bookmark(bookmark).txid


async def test_every_transaction_is_shipped_and_a_stop_leaves_everything_durable(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    app.commit(5)
    async with protection.running():
        await protection.commit_and_flush(app, 30)
        app.commit(30)
    (detached,) = protection.of(Detached)
    assert protection.ended_with() is None
    assert detached.durable
    app.close()
    images = images_in(protection.store(), tmp_path / "store")
    assert images[-1] == app.path.read_bytes()
    assert detached.position is not None
    assert txid_of(detached.position) == len(images) - 1
    assert len(images) - 1 == 60


async def test_a_stop_while_nobody_writes_leaves_no_log_and_a_restart_resumes_without_a_snapshot(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    async with protection.running():
        await protection.commit_and_flush(app, 3)
    assert protection.of(Detached)[0].clean
    async with protection.running():
        await protection.until(Resumed)
        app.commit(3)
        await protection.until(Flushed)
    assert protection.of(TimelineBegan) == []
    assert len(protection.keys("snapshots/")) == 1
    app.close()
    assert not app.path.with_name("app.db-wal").exists()
    async with protection.running():
        assert (await protection.until(Resumed)).txid == 6
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


async def test_a_host_without_state_is_refused_and_may_begin_a_new_timeline_if_told_to(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    async with protection.running():
        await protection.commit_and_flush(app, 2)
    before = dict(protection.objects)
    shutil.rmtree(protection.settings.state_dir)
    async with protection.running():
        assert isinstance(await protection.until_ended(), ReplicaConflict)
    assert protection.objects == before
    protection.change(new_timeline=True)
    async with protection.running():
        refused = await protection.until_ended()
    assert "another walrep wrote to this replica" in refused.message
    assert "--take-over" in refused.hint
    assert protection.objects == before
    protection.clock.ahead_ms = ACTIVE_MS
    async with protection.running():
        assert (await protection.until(TimelineBegan)).timeline.startswith("00002-")
        await protection.commit_and_flush(app, 2)
    assert before.items() <= protection.objects.items()
    fence = parse_segment_header(
        protection.objects[protection.keys("segments/")[sum(key.startswith("segments/") for key in before)]].data
    )
    assert fence.fence
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


async def test_an_old_writer_is_refused_after_a_takeover(app: App, protection: Protection, tmp_path: Path) -> None:
    """INV-19: what the new writer stored under the next number is met at the old one's next start."""
    async with protection.running():
        await protection.commit_and_flush(app, 2)
    old = protection.settings.state_dir
    protection.change(take_over=True, state_dir=tmp_path / "other")
    async with protection.running():
        await protection.commit_and_flush(app, 1)
    protection.change(take_over=False, state_dir=old)
    async with protection.running():
        refused = await protection.until_ended()
    assert isinstance(refused, ReplicaConflict)
    assert "--take-over" in refused.hint


async def test_a_replaced_database_begins_a_new_timeline(app: App, protection: Protection, tmp_path: Path) -> None:
    """What the old file had is shipped to its end; nothing is written into the new one. INV-02"""
    fresh = App(tmp_path / "new.db")
    fresh.commit(7)
    fresh.close()
    async with protection.running():
        await protection.commit_and_flush(app, 4)
        app.close()
        content = (tmp_path / "new.db").read_bytes()
        for name in ("app.db-wal", "app.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "new.db").rename(app.path)
        second = await protection.until(TimelineBegan, lambda event: event.timeline.startswith("00002-"))
        await protection.until_count(SnapshotWritten, 2)
    assert second.parent is not None
    assert second.parent.startswith("00001-")
    assert protection.of(Alarm)[0].key == "timeline-ended"
    assert app.path.read_bytes() == content
    assert images_in(protection.store(), tmp_path / "store")[-1] == content


@pytest.mark.slow
async def test_a_full_outbox_ends_the_timeline_loudly_and_it_goes_on_when_there_is_room(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """No more is captured than there is room for; the log keeps the rest, and continuity is proven again."""
    protection.limit_outbox(150_000)
    async with protection.running():
        await protection.commit_and_flush(app, 5)
        protection.faults.down = StoreUnavailable("the store is down")
        app.commit(300)
        alarm = await protection.until(Alarm, lambda event: event.key == "timeline-ended")
        assert "outbox" in alarm.message
        assert "outbox-limit" in alarm.hint
        app.commit(10)
        protection.faults.down = None
        await protection.until_count(Attached, 2)
        app.commit(10)
        await protection.until(Flushed, lambda event: txid_of(event.bookmark) == 325)
    assert protection.of(Resumed)
    assert protection.ended_with() is None
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


async def test_a_stop_during_an_outage_says_what_is_not_durable_and_the_next_start_ships_it(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    protection.deadline_s = 0.3
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        protection.faults.down = StoreUnavailable("the store is down")
        app.commit(20)
    assert type(protection.ended_with()) is NotDurable
    assert protection.of(Detached)[0].durable is False
    protection.faults.down = None
    protection.deadline_s = 10.0
    async with protection.running():
        await protection.until(Resumed)
    assert protection.ended_with() is None
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()
