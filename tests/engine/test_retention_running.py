"""Retention beside a database that is written: old timelines go, restores go on, and so does the writer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.engine.protection import App, Protection
from walrep.core.compaction import CompactionPolicy
from walrep.core.events import Alarm, Flushed, Packed, Pruned, Resumed, SnapshotWritten
from walrep.core.names import SnapshotName, parse_segment_key, segment_key, snapshot_key
from walrep.core.objects import Writer
from walrep.core.retention import RetentionPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.core.target import Latest
from walrep.core.units import parse_bookmark
from walrep.engine.fetch import read_history
from walrep.engine.janitor import Janitor
from walrep.engine.restorer import RestoreRequest, restore
from walrep.errors import AccessDenied
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryObject, MemoryStore

DAY = 86_400_000
SHORT = RetentionPolicy(window_s=1.0, grace_s=0.0, snapshots_min=0)
SCALED = CompactionPolicy(spans_ms=(1000, 4000), settle_ms=50, grace_ms=300)


@pytest.fixture(autouse=True)
def one_clock(protection: Protection) -> None:
    """Let the store's clock be the machine's, wherever a test sets that."""

    class AheadStore(MemoryStore):
        def __init__(self, objects: dict[str, MemoryObject]) -> None:
            super().__init__(objects, protection.clock)

    protection.kind = AheadStore


async def flush(app: App, protection: Protection, count: int) -> None:
    for _ in range(count):
        flushed = len(protection.of(Flushed))
        app.commit(1)
        await protection.until_count(Flushed, flushed + 1)


async def leave_a_timeline(app: App, protection: Protection) -> None:
    """Leave a timeline behind; the next run has lost its state, and takes the replica over."""
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection, 3)
    shutil.rmtree(protection.settings.state_dir)
    protection.change(take_over=True)
    # Most of it is new then, so that the base of the next timeline leans on nothing of this one.
    app.commit(40)


def janitor(protection: Protection) -> Janitor:
    writer = Writer(nonce="0123456789abcdef")
    return Janitor(protection.store(), clock=protection.clock, runner=InlineRunner(), writer=writer)


async def check_restores(app: App, protection: Protection, tmp_path: Path) -> None:
    app.close()
    history = await read_history(protection.store(), InlineRunner())
    assert [each.kind for each in history.problems] == []
    request = RestoreRequest(output=tmp_path / "restored.db", target=Latest(), check="full")
    await restore(protection.store(), request, clock=protection.clock, runner=InlineRunner())
    assert request.output.read_bytes() == app.path.read_bytes()


async def test_an_old_timeline_goes_when_the_day_is_over_though_nobody_writes(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    # Nothing of the new timeline leans on the old one.
    protection.change(retention=SHORT, snapshots=SnapshotPolicy(changed_share_max=0.0))
    protection.compaction = SCALED
    await leave_a_timeline(app, protection)
    now_ms = protection.clock.now_ms()
    # The old timeline is a day old, whatever the hour is; and midnight comes behind everything that is to be there by
    # then, also on a slow machine.
    protection.clock.ahead_ms = (now_ms // DAY + 2) * DAY - now_ms - 8000
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection, 2)
        event = await protection.until(Pruned)
    assert protection.ended_with() is None
    assert protection.of(Alarm) == []
    # The base, and at least the opening and a pack or two segments.
    assert event.objects >= 3
    assert event.object_bytes > 0
    assert len(protection.keys("pruned/")) == 1
    (timeline,) = (await read_history(protection.store(), InlineRunner())).timelines
    assert timeline.number == 2
    await check_restores(app, protection, tmp_path)


async def test_a_prune_elsewhere_does_not_stop_the_packing(app: App, protection: Protection, tmp_path: Path) -> None:
    """What the compactor knows is gone: it looks again, and packs what is there."""
    protection.compaction = CompactionPolicy(spans_ms=(DAY,), settle_ms=0)
    protection.change(retention=None)
    await leave_a_timeline(app, protection)
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection, 2)
        protection.clock.ahead_ms = 2 * DAY
        outcome = await janitor(protection).run({}, SHORT, yes=False)
        assert len(outcome.deleted) >= 4
        await flush(app, protection, 1)
        await protection.until(Alarm, lambda event: event.key == "compaction")
        await flush(app, protection, 1)
        await protection.until(Packed)
    assert protection.ended_with() is None
    await check_restores(app, protection, tmp_path)


async def test_a_writer_that_may_not_delete_says_so_and_loses_nothing(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    # A pack that is made now is young, whatever it holds.
    protection.compaction = CompactionPolicy(spans_ms=(1000 * DAY,))
    await leave_a_timeline(app, protection)
    protection.change(retention=SHORT)
    protection.faults.denied = {"delete": AccessDenied("deleting is not allowed")}
    before = set(protection.keys("s"))
    async with protection.running():
        await protection.until(SnapshotWritten)
        protection.clock.ahead_ms = 2 * DAY
        await flush(app, protection, 1)
        alarm = await protection.until(Alarm, lambda event: event.key == "may-not-delete")
    assert "walrep prune" in alarm.hint
    assert before <= set(protection.objects)
    assert protection.of(Pruned) == []
    assert protection.ended_with() is None
    await check_restores(app, protection, tmp_path)


async def test_a_damaged_record_is_told_and_the_writer_goes_on(app: App, protection: Protection) -> None:
    await leave_a_timeline(app, protection)
    protection.change(retention=SHORT)
    protection.objects["pruned/20200101T000000000Z"] = MemoryObject(b"{", 0)
    async with protection.running():
        await protection.until(SnapshotWritten)
        alarm = await protection.until(Alarm, lambda event: event.key == "prune-refused")
        await flush(app, protection, 1)
    assert "record of a prune" in alarm.message
    assert protection.of(Pruned) == []
    assert protection.ended_with() is None


async def test_a_writer_resumes_though_all_but_its_newest_segment_has_expired(app: App, protection: Protection) -> None:
    """INV-24: a snapshot of that very position makes it superfluous for every restore."""
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection, 3)
    durable = parse_bookmark(protection.of(Flushed)[-1].bookmark)
    numbers = [number for key in protection.keys("segments/") if (number := parse_segment_key(key)) is not None]
    newest = max(numbers)
    name = SnapshotName(timeline=durable.timeline, txid=durable.txid, seen_ms=protection.clock.now_ms(), seq=newest)
    store = protection.store()
    await store.put(snapshot_key(name), b"whatever it holds")
    protection.clock.ahead_ms = 2 * DAY
    outcome = await janitor(protection).run({}, SHORT, yes=False)
    assert len(outcome.deleted) >= 3
    assert protection.keys("segments/") == [segment_key(min(numbers)), segment_key(newest)]
    async with protection.running():
        await protection.until(Resumed)
        await flush(app, protection, 1)
    assert protection.ended_with() is None
