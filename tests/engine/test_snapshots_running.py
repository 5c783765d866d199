"""Snapshots beside protection: what fails in one is told and costs nothing else, and nothing waits for one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec
import pytest

from tests.engine.daily import DAILY, FULL, begin_days, check_whole, flush, kinds, names, next_day, restored
from tests.engine.protection import App, Protection
from walrep.clock import Clock, SystemClock
from walrep.core.events import Alarm, Detached, Resumed, RetryScheduled, SnapshotWritten, StoreBack, TimelineBegan
from walrep.core.names import parse_segment_key, parse_snapshot_key
from walrep.core.snapshots import SnapshotPolicy
from walrep.core.target import AtTxid
from walrep.core.units import Txid
from walrep.disk.spool import Spool
from walrep.engine.asking import SnapshotRequest, ask_for_snapshot
from walrep.engine.watcher import DirectoryWatcher
from walrep.engine.workers import Workers, start_threads
from walrep.errors import SpoolError, StoreUnavailable
from walrep.store.memory import MemoryStore

P = ParamSpec("P")
T = TypeVar("T")


@pytest.fixture(autouse=True)
def daily(protection: Protection) -> None:
    begin_days(protection)


# -- kinds and starts --------------------------------------------------------------------------------------------------


async def begin_a_daily_one(app: App, protection: Protection, held: HeldSnapshots) -> None:
    """Wait for the base, and until the next day's snapshot is on its way to the store."""
    await protection.until(SnapshotWritten)
    await flush(app, protection)
    next_day(protection)
    await held.begun()


async def test_a_restart_goes_on_with_the_full_one_that_is_remembered(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    app.commit(100)
    for _ in range(2):
        async with protection.running():
            await protection.until(SnapshotWritten if not protection.objects else Resumed)
            await flush(app, protection)
            next_day(protection)
            await flush(app, protection)
            await protection.until(SnapshotWritten, lambda event: event.kind == "differential")
    assert kinds(protection) == ["full", "on 0", "on 0"]
    (protection.settings.state_dir / "full").unlink()
    async with protection.running():
        await protection.until(Resumed)
        next_day(protection)
        await flush(app, protection)
        await protection.until(SnapshotWritten)
    last = names(protection)[-1].txid
    assert kinds(protection) == ["full", "on 0", "on 0", "full"]
    async with protection.running():
        await protection.until(Resumed)
        next_day(protection)
        await flush(app, protection)
        await protection.until(SnapshotWritten)
    assert kinds(protection)[-1] == f"on {last}"
    assert all(each.object_bytes < 20_000 for each in protection.of(SnapshotWritten))
    await check_whole(app, protection, tmp_path)


async def test_none_is_made_where_nothing_was_committed(app: App, protection: Protection) -> None:
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection)
        next_day(protection)
        await protection.until_count(SnapshotWritten, 2)
        for _ in range(5):
            next_day(protection)
            answer = await ask_for_snapshot(protection.settings.state_dir, SnapshotRequest(), SystemClock())
            assert not answer.made
    assert kinds(protection) == ["full", "on 0"]
    assert protection.of(Alarm) == []


async def test_segments_are_put_in_order_beside_snapshots(app: App, protection: Protection) -> None:
    """INV-17: the segment that a snapshot ends goes before what is sealed behind it."""
    protection.change(snapshots=SnapshotPolicy(at_s=0, day_ms=20, look_s=0.001))
    async with protection.running():
        await protection.until(SnapshotWritten)
        while len(protection.of(SnapshotWritten)) < 8:
            await asyncio.to_thread(app.commit, 5)
    puts = [call.key for call in protection.faults.calls if call.verb == "put"]
    numbers = [number for key in puts if (number := parse_segment_key(key)) is not None]
    assert len(numbers) > 6
    assert numbers == sorted(numbers)
    assert protection.ended_with() is None


# -- what fails --------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_told_and_the_next_attempt_succeeds(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """Where the snapshot is written there is no room; for the journal there is."""
    part = protection.settings.state_dir / "snapshot.part"
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection)
        part.symlink_to("/dev/full")
        next_day(protection)
        alarm = await protection.until(Alarm)
        assert alarm.key == "snapshot"
        assert "No space left" in alarm.message
        assert alarm.hint
        await flush(app, protection, 2)
        await protection.until_count(SnapshotWritten, 2)
    assert len(protection.of(Alarm)) == 1
    assert not part.is_symlink()
    await check_whole(app, protection, tmp_path)


async def test_a_snapshot_that_is_damaged_before_it_is_stored_is_made_anew(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """And none leans on it."""
    protection.change(snapshots=FULL)
    held = HeldSnapshots(protection)
    async with protection.running():
        await begin_a_daily_one(app, protection, held)
    (waiting,) = (protection.settings.state_dir / "outbox").glob("*.snapshot")
    waiting.write_bytes(waiting.read_bytes()[:-1])
    held.let.set()
    protection.change(snapshots=DAILY)
    async with protection.running():
        alarm = await protection.until(Alarm)
        assert alarm.key == "snapshot"
        next_day(protection)
        await flush(app, protection)
        await protection.until(SnapshotWritten)
    assert kinds(protection) == ["full", "full"]
    assert not list((protection.settings.state_dir / "outbox").iterdir())
    await check_whole(app, protection, tmp_path)


async def test_the_store_refuses_the_snapshot_only(app: App, protection: Protection, tmp_path: Path) -> None:
    """It stays in the outbox, is told, and goes out when the store takes it."""
    refusing = [True]

    class Refusing(MemoryStore):
        async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
            name = parse_snapshot_key(key)
            if name is not None and name.txid > 0 and refusing:
                raise SpoolError("too large for this store")
            await super().put(key, source, if_absent=if_absent)

    protection.kind = Refusing
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection)
        next_day(protection)
        alarm = await protection.until(Alarm)
        assert "a snapshot could not be stored: too large for this store" in alarm.message
        await flush(app, protection, 2)
        refusing.clear()
        await protection.until_count(SnapshotWritten, 2)
    await check_whole(app, protection, tmp_path)


async def test_none_is_made_while_the_store_is_down(app: App, protection: Protection, tmp_path: Path) -> None:
    """An outage ends with segments: when it is over there is one snapshot, of all that was committed by then."""
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection)
        protection.faults.down = StoreUnavailable("the store did not answer")
        app.commit(1)
        await protection.until(RetryScheduled)
        for _ in range(3):
            next_day(protection)
            for _ in range(20):
                app.commit(1)
            assert not list((protection.settings.state_dir / "outbox").glob("*.snapshot"))
        protection.faults.down = None
        await protection.until(StoreBack)
        await protection.until_count(SnapshotWritten, 2)
    assert [int(name.txid) for name in names(protection)] == [0, 62]
    await check_whole(app, protection, tmp_path)


# -- nothing waits -----------------------------------------------------------------------------------------------------


class HeldSnapshots:
    """Lets no snapshot be stored, but for bases, until `let`."""

    def __init__(self, protection: Protection) -> None:
        self.let = asyncio.Event()
        self._begun = asyncio.Event()
        held = self

        class Held(MemoryStore):
            async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
                name = parse_snapshot_key(key)
                if name is not None and name.txid > 0:
                    held._begun.set()
                    await held.let.wait()
                await super().put(key, source, if_absent=if_absent)

        protection.kind = Held

    async def begun(self) -> None:
        """Wait until one is being stored."""
        async with asyncio.timeout(10):
            await self._begun.wait()


class Looks(ThreadPoolExecutor):
    """The worker, on which it can be seen who looks for snapshots that wait."""

    def __init__(self) -> None:
        super().__init__(1)
        self._count = 0
        self._looked = asyncio.Event()

    def start(self, clock: Clock) -> Workers:
        return msgspec.structs.replace(start_threads(clock), worker=self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self._count += getattr(fn, "__name__", "") == Spool.snapshots.__name__
        self._looked.set()
        return super().submit(fn, *args, **kwargs)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self._count < count:
                self._looked.clear()
                await self._looked.wait()


async def test_one_that_a_base_took_along_is_not_stored_again(app: App, protection: Protection, tmp_path: Path) -> None:
    """The base of the next timeline leans on it, so it goes first; whoever stores what waits finds it gone."""
    app.commit(100)
    protection.change(snapshots=FULL)
    held = HeldSnapshots(protection)
    async with protection.running():
        await begin_a_daily_one(app, protection, held)
    app.commit(1)
    app.checkpoint("truncate")
    app.commit(1)
    app.checkpoint("truncate")
    protection.change(snapshots=DAILY)
    looks = Looks()
    protection.start_workers = looks.start
    async with protection.running():
        began = await protection.until(TimelineBegan)
        assert began.base == "differential"
        await looks.until(2)
        held.let.set()
        await protection.until_count(SnapshotWritten, 2)
        next_day(protection)
        await flush(app, protection)
        await protection.until_count(SnapshotWritten, 3)
    assert protection.of(Alarm) == []
    assert kinds(protection) == ["full", "full", "on 1", "on 1"]
    await check_whole(app, protection, tmp_path)


async def test_neither_segments_nor_a_stop_wait_for_a_snapshot_that_is_being_stored(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """The next start stores it."""
    held = HeldSnapshots(protection)
    async with protection.running():
        await begin_a_daily_one(app, protection, held)
        await flush(app, protection, 3)
    assert protection.ended_with() is None
    assert protection.of(Detached)[0].durable
    assert kinds(protection) == ["full"]
    assert len(list((protection.settings.state_dir / "outbox").iterdir())) == 1
    held.let.set()
    async with protection.running():
        event = await protection.until(SnapshotWritten)
        assert event.kind == "differential"
    assert not list((protection.settings.state_dir / "outbox").iterdir())
    assert await restored(protection, tmp_path, AtTxid(Txid(event.txid)))
    await check_whole(app, protection, tmp_path)


async def test_snapshots_larger_than_the_outbox_end_no_timeline(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    app.commit(300)
    protection.change(snapshots=FULL)
    protection.limit_outbox(60_000)
    held = HeldSnapshots(protection)
    async with protection.running():
        await begin_a_daily_one(app, protection, held)
        await flush(app, protection, 15)
        held.let.set()
        await protection.until_count(SnapshotWritten, 2)
    assert protection.of(Alarm) == []
    assert [event.object_bytes > 300_000 for event in protection.of(SnapshotWritten)] == [True, True]
    assert {name.timeline for name in names(protection)} == {names(protection)[0].timeline}
    await check_whole(app, protection, tmp_path)


def spoil(path: Path, offset: int) -> None:
    """Write over a page of the database behind SQLite's back, as another process."""
    code = "import os, sys; os.pwrite(os.open(sys.argv[1], os.O_WRONLY), os.urandom(4096), int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, str(path), str(offset)], check=True)


async def appears(path: Path) -> None:
    """Wait until there is such a file."""
    watcher, hint = DirectoryWatcher(), asyncio.Event()
    try:
        with watcher.watch(path.parent, frozenset({path.name}), hint):
            async with asyncio.timeout(10):
                while not path.exists():  # noqa: ASYNC240  a look at one name
                    hint.clear()
                    await hint.wait()
    finally:
        watcher.close()


async def test_a_stop_while_one_is_made_ends_at_once_and_leaves_no_file(app: App, protection: Protection) -> None:
    """It is held up by a page that is not what was captured, for half a minute unless it is stopped."""
    app.commit(200)
    # The last to close a database copies the log into it.
    app.close()
    app = App(app.path)
    part = protection.settings.state_dir / "snapshot.part"
    protection.change(snapshots=FULL)
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection)
        spoil(app.path, 40 * 4096)
        next_day(protection)
        await appears(part)
        await flush(app, protection, 2)
        assert part.exists()
        began_s = protection.clock.monotonic_s()
    assert protection.clock.monotonic_s() - began_s < 10
    assert protection.ended_with() is None
    assert not part.exists()
    assert kinds(protection) == ["full"]
    app.close()
