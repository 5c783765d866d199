"""Packs made beside a database that is written: nothing is lost, little is left, and nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.engine.protection import App, OverwritingStore, Protection
from tests.engine.shipment import images_in
from walrep.core.compaction import CompactionPolicy
from walrep.core.events import (
    Alarm,
    Attached,
    Flushed,
    Packed,
    Removed,
    Resumed,
    RetryScheduled,
    SnapshotWritten,
    StoreBack,
)
from walrep.core.names import segment_key
from walrep.core.objects import Writer
from walrep.core.target import AtTxid, Latest
from walrep.core.units import Txid, parse_bookmark
from walrep.disk.room import DiskRoom
from walrep.engine.compactor import Compactor, Workplace
from walrep.errors import AccessDenied, ReplicaConflict, SpoolFull, StoreUnavailable
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.clock import SimClock
from walrep.testing.faults import Fault
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import memory_store

T = TypeVar("T")

SCALED = CompactionPolicy(spans_ms=(1000, 4000), settle_ms=50, grace_ms=300)


@pytest.fixture(autouse=True)
def scaled(protection: Protection) -> None:
    """Let a quarter of an hour last a second."""
    protection.compaction = SCALED


async def write_and_wait(app: App, protection: Protection, packs: int) -> None:
    """Commit until so many packs were made in this run."""
    await protection.until(Attached)
    while len(protection.of(Packed)) < packs:
        flushed = len(protection.of(Flushed))
        app.commit(1)
        await protection.until_count(Flushed, flushed + 1)


async def restored_images(protection: Protection, tmp_path: Path, timeline: str | None = None) -> list[bytes]:
    """Return every state, by the slow replay, and make sure that the plan of a restore holds them all."""
    folder = tmp_path / "store"
    shutil.rmtree(folder, ignore_errors=True)
    images = images_in(protection.store(), folder)
    newest = (await protection.plan(Latest(), timeline)).position.txid
    assert newest + 1 == len(images)
    for txid in range(0, newest + 1, 7):
        assert (await protection.plan(AtTxid(txid=Txid(txid)), timeline)).position.txid == txid
    return images


async def test_segments_become_packs_and_packs_larger_ones_and_what_they_replace_goes(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    async with protection.running():
        await protection.until(SnapshotWritten)
        await write_and_wait(app, protection, 6)
        await protection.until(Removed)
    assert protection.ended_with() is None
    assert not protection.of(Alarm)
    made = [event.key for event in protection.of(Packed)]
    assert all(event.downloaded_bytes == 0 for event in protection.of(Packed))
    held = protection.keys("packs/")
    # A larger pack has replaced some of them.
    assert set(held) < set(made)
    segments = protection.keys("segments/")
    assert len(segments) < len(protection.of(Flushed))
    app.close()
    assert (await restored_images(protection, tmp_path))[-1] == app.path.read_bytes()
    # The segment that opens the timeline stays, and the newest, which a start looks for.
    assert segments[0].endswith("1")
    stored = [event.seq for event in protection.of(Flushed)]
    assert segments[-1].endswith(str(max(stored)))


async def test_a_start_goes_on_where_packs_were_left(app: App, protection: Protection, tmp_path: Path) -> None:
    """Also without its cache: then what is missing is read from the store, once, and counted."""
    async with protection.running():
        await protection.until(SnapshotWritten)
        await write_and_wait(app, protection, 2)
    shutil.rmtree(protection.settings.state_dir / "cache")
    async with protection.running():
        await write_and_wait(app, protection, 3)
        await protection.until(Removed)
    assert protection.ended_with() is None
    assert any(event.downloaded_bytes for event in protection.of(Packed))
    assert protection.events
    app.close()
    assert (await restored_images(protection, tmp_path))[-1] == app.path.read_bytes()


@pytest.mark.parametrize("verb", ["put", "head", "delete"])
async def test_whatever_fails_once_is_done_again(app: App, protection: Protection, tmp_path: Path, verb: str) -> None:
    """Before the effect and after it; the segments that a pack replaces are there until it is known to be stored."""
    async with protection.running():
        await protection.until(SnapshotWritten)
        await write_and_wait(app, protection, 1)
        calls = sum(call.verb == verb for call in protection.faults.calls)
        lost = StoreUnavailable("the answer was lost")
        for number, when in ((calls + 1, "before"), (calls + 2, "after")):
            protection.faults.faults.append(
                Fault(verb=verb, number=number, when=when, error=lambda: lost)  # type: ignore[arg-type]
            )
        await write_and_wait(app, protection, 4)
        await protection.until(Removed)
    assert protection.ended_with() is None
    app.close()
    assert (await restored_images(protection, tmp_path))[-1] == app.path.read_bytes()


async def test_a_writer_that_may_not_delete_says_so_once_and_goes_on(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    protection.faults.denied = {"delete": AccessDenied("deleting is not allowed")}
    async with protection.running():
        await protection.until(SnapshotWritten)
        await write_and_wait(app, protection, 3)
        alarm = await protection.until(Alarm, lambda event: event.key == "may-not-delete")
        await write_and_wait(app, protection, 5)
    assert "walrep compact" in alarm.hint
    # It is not asked again for every segment that follows.
    assert sum(call.verb == "delete" and "probe" not in call.key for call in protection.faults.calls) == 1
    assert protection.ended_with() is None
    assert not protection.of(Removed)
    app.close()
    assert (await restored_images(protection, tmp_path))[-1] == app.path.read_bytes()


@pytest.mark.parametrize("kind", [MemoryStore, OverwritingStore])
async def test_a_writer_that_slept_across_takeover_packs_and_deletions_stops_and_nothing_is_lost(
    tmp_path: Path, kind: type[MemoryStore]
) -> None:
    """INV-19: what the other one has folded and deleted since leaves the fence where it was."""
    hosts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        host = Protection(tmp_path / name)
        host.host, host.kind, host.rival_check_s = f"host-{name}", kind, 0.0
        hosts.append(host)
    sleeper, taker = hosts
    taker.objects, taker.compaction = sleeper.objects, SCALED
    taker.change(take_over=True)
    one, two = App(sleeper.settings.path), App(taker.settings.path)
    async with sleeper.running():
        await sleeper.commit_and_flush(one, 3)
        sleeper.faults.down = StoreUnavailable("asleep")
        one.commit(2)
        async with taker.running():
            await taker.until(SnapshotWritten)
            await write_and_wait(two, taker, 4)
            await taker.until(Removed)
            sleeper.faults.down = None
            refused = await sleeper.until_ended()
        assert isinstance(refused, ReplicaConflict)
        assert "on host-two" in refused.detail
    assert taker.ended_with() is None
    one.close()
    two.close()
    assert (await restored_images(taker, tmp_path, "2"))[-1] == taker.settings.path.read_bytes()
    durable = max(parse_bookmark(event.bookmark).txid for event in sleeper.of(Flushed))
    assert (await sleeper.plan(Latest(), "1")).position.txid >= durable >= 1


async def test_a_writer_that_was_shut_out_while_it_was_stopped_is_told_who_took_over(tmp_path: Path) -> None:
    """INV-24: what it stored last is there, though all that it stored is packed; so it is not told of a loss."""
    hosts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        host = Protection(tmp_path / name)
        host.host = f"host-{name}"
        hosts.append(host)
    stopped, taker = hosts
    taker.objects, taker.compaction = stopped.objects, SCALED
    taker.change(take_over=True)
    one, two = App(stopped.settings.path), App(taker.settings.path)
    async with stopped.running():
        await stopped.until(SnapshotWritten)
        for _ in range(3):
            flushed = len(stopped.of(Flushed))
            one.commit(1)
            await stopped.until_count(Flushed, flushed + 1)
    own = [segment_key(event.seq) for event in stopped.of(Flushed)]
    async with taker.running():
        await taker.until(SnapshotWritten)
        two.commit(1)
        while any(key in taker.objects for key in own[1:-1]):
            removed = len(taker.of(Removed))
            await taker.until_count(Removed, removed + 1)
    assert own[-1] in taker.objects
    async with stopped.running():
        refused = await stopped.until_ended()
    one.close()
    two.close()
    assert isinstance(refused, ReplicaConflict)
    assert "took this replica over" in refused.message
    assert "on host-two" in refused.detail


async def test_the_newest_segment_stays_for_the_next_start(app: App, protection: Protection) -> None:
    """INV-24: everything else of its window was packed and is gone, and nobody has written since."""
    async with protection.running():
        await protection.until(SnapshotWritten)
        for _ in range(4):
            flushed = len(protection.of(Flushed))
            app.commit(1)
            await protection.until_count(Flushed, flushed + 1)
        await protection.until(Removed)
        newest = segment_key(max(event.seq for event in protection.of(Flushed)))
    assert newest in protection.objects
    # A start that packs and deletes, too, with nothing written: it knows the segment by its key only.
    async with protection.running():
        await protection.until(Resumed)
        while len(protection.keys("segments/")) > 2:
            await protection.until(Removed)
    assert newest in protection.objects
    async with protection.running():
        await protection.until(Resumed)
        app.commit(1)
        await protection.until(Flushed)
    assert protection.ended_with() is None


async def test_a_damaged_pack_of_an_earlier_run_is_told_and_made_again(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """While what it replaces is still there: nothing is deleted for a pack that cannot be read."""
    protection.compaction = CompactionPolicy(spans_ms=(1000, 4000), settle_ms=50, grace_ms=3_600_000)
    async with protection.running():
        await protection.until(SnapshotWritten)
        await write_and_wait(app, protection, 1)
    (key,) = protection.keys("packs/")[:1]
    found = protection.objects[key]
    middle = len(found.data) // 2
    damaged = found.data[:middle] + bytes([found.data[middle] ^ 1]) + found.data[middle + 1 :]
    protection.objects[key] = MemoryObject(damaged, found.modified_ms)
    async with protection.running():
        alarm = await protection.until(Alarm, lambda event: event.key == "damaged-pack")
        await protection.until(Packed, lambda event: event.key == key)
    assert key in alarm.message
    assert protection.objects[key].data != damaged
    app.close()
    assert (await restored_images(protection, tmp_path))[-1] == app.path.read_bytes()


class CountingRunner(InlineRunner):
    """Counts what it is given."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self, call: Callable[[], T]) -> T:
        """Count, and run."""
        self.count += 1
        return await super().run(call)


async def test_a_pack_is_not_parsed_on_the_event_loop_when_it_is_read_back(tmp_path: Path) -> None:
    """8 MiB of it take longer than a tick of the capture."""
    builder = HistoryBuilder(512)
    builder.begin({1: bytes(512)}, 1000)
    for txid in range(4):
        builder.commit([(1, bytes([txid]) * 512)], 1, 2000 + txid)
        builder.seal()
    key = builder.pack(builder.packable()[:3], keep=True)
    runner, clock = CountingRunner(), SimClock()
    place = Workplace(tmp_path, tmp_path, DiskRoom(tmp_path, 0))
    compactor = Compactor(
        memory_store(builder.objects),
        place,
        clock=clock,
        runner=runner,
        writer=builder.writer,
        policy=CompactionPolicy(spans_ms=(1 << 50,), grace_ms=1 << 50),
    )
    await compactor.load()
    (pack,) = compactor.plan(None).unverified
    before = runner.count
    done = await compactor.run(None)
    assert (pack.key, done.downloaded_bytes) == (key, len(builder.objects[key]))
    assert (done.packs, done.deleted, done.damaged) == ((), (), ())
    assert runner.count == before + 1
    assert compactor.plan(None).unverified == ()


async def test_a_disk_that_fails_the_packing_does_not_end_the_protection(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    async with protection.running():
        await protection.commit_and_flush(app, 1)
    work = protection.settings.state_dir / "packing"
    shutil.rmtree(work, ignore_errors=True)
    work.write_text("a file where a folder should be")
    async with protection.running():
        await protection.until(Alarm, lambda event: event.key == "compaction")
        for _ in range(3):
            flushed = len(protection.of(Flushed))
            app.commit(1)
            await protection.until_count(Flushed, flushed + 1)
    assert protection.ended_with() is None
    assert len(protection.of(Alarm)) == 1
    app.close()
    assert (await restored_images(protection, tmp_path))[-1] == app.path.read_bytes()


async def test_a_local_copy_that_cannot_be_read_does_not_end_the_protection(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    protection.compaction = CompactionPolicy()
    async with protection.running():
        await protection.until(SnapshotWritten)
        for _ in range(4):
            flushed = len(protection.of(Flushed))
            app.commit(1)
            await protection.until_count(Flushed, flushed + 1)
    for copy in (protection.settings.state_dir / "cache").iterdir():
        copy.unlink()
        copy.mkdir()
    protection.compaction = SCALED
    async with protection.running():
        await protection.until(Alarm, lambda event: event.key == "compaction")
        app.commit(1)
        await protection.until(Flushed)
    assert protection.ended_with() is None
    app.close()
    assert (await restored_images(protection, tmp_path))[-1] == app.path.read_bytes()


async def test_an_outage_that_only_packing_met_is_told_to_be_over(app: App, protection: Protection) -> None:
    """Also when nothing is uploaded afterwards."""
    protection.faults.faults = [Fault(verb="delete", number=2)]
    async with protection.running():
        await protection.until(SnapshotWritten)
        await write_and_wait(app, protection, 1)
        await protection.until(RetryScheduled)
        await protection.until(StoreBack)
        await protection.until(Removed)
    assert protection.ended_with() is None


async def test_a_pack_does_not_take_the_room_that_is_left_to_others(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """The app's disk is not filled; nothing is stored, and nothing deleted."""
    protection.compaction = CompactionPolicy()
    async with protection.running():
        await protection.until(SnapshotWritten)
        for _ in range(4):
            flushed = len(protection.of(Flushed))
            app.commit(1)
            await protection.until_count(Flushed, flushed + 1)
    before = dict(protection.objects)
    free = 1 << 40
    room = DiskRoom(tmp_path, 1 << 30, space=lambda _folder: (free, 1 << 40))
    place = Workplace(tmp_path / "cache", tmp_path / "work", room)
    place.cache.mkdir()
    place.work.mkdir()
    protection.clock.ahead_ms = 24 * 3600 * 1000
    compactor = Compactor(
        protection.store(),
        place,
        clock=protection.clock,
        runner=InlineRunner(),
        writer=Writer(nonce="0123456789abcdef"),
        policy=CompactionPolicy(),
    )
    await compactor.load()
    free = 1 << 30
    with pytest.raises(SpoolFull):
        await compactor.run(None)
    assert protection.objects == before
    free = 1 << 40
    assert (await compactor.run(None)).packs
