"""What breaks while a database is protected ends neither the protection of it nor a stop, and costs few objects."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engine.held import HeldWorker
from tests.engine.protection import App, Protection
from tests.engine.shipment import images_in
from walrep.clock import SystemClock
from walrep.core.events import Alarm, Attached, Detached, Event, Flushed, SnapshotWritten, Stopping, TimelineBegan
from walrep.core.flush import FlushPolicy

_BIG = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.set_busy_timeout(5000)
connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
connection.execute(
    "insert into t(v) with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) "
    "select randomblob(2000) from n"
)
"""
"""One transaction of 40 MB, more than the queue to the worker takes."""


@pytest.fixture
def held(protection: Protection) -> HeldWorker:
    worker = HeldWorker()
    protection.start_workers = worker.start
    return worker


def commit_big(path: Path) -> None:
    subprocess.run([sys.executable, "-c", _BIG, path], check=True)


def put_in_the_way(folder: Path) -> None:
    """Replace a folder by a file; something may be moved into it meanwhile."""
    while not folder.is_file():
        with suppress(OSError):
            shutil.rmtree(folder)
            folder.write_text("in the way")


def put_folder(file: Path) -> None:
    """Replace a file by a folder, so that nothing can be renamed to it."""
    file.unlink()
    file.mkdir()


def is_ended(event: Alarm) -> bool:
    return event.key == "timeline-ended"


def replace_database(app: App, tmp_path: Path) -> App:
    """Put another database with one table in the place of the app's, behind its back; return the app of that one."""
    other = App(tmp_path / "other.db")
    other.commit(3)
    other.checkpoint("TRUNCATE")
    other.close()
    app.close()
    for name in ("app.db-wal", "app.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "other.db").rename(app.path)
    return App(app.path)


async def test_a_log_that_stays_broken_is_looked_at_ever_less_often_and_costs_no_object(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """The -wal was removed under the app, which goes on writing to what no other process sees."""
    clock, seen_s = SystemClock(), []

    def note(event: Event) -> None:
        if isinstance(event, Attached):
            seen_s.append(clock.monotonic_s())

    protection.on_event = note
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        app.checkpoint("TRUNCATE")
        (tmp_path / "app.db-wal").unlink()
        app.change()
        await protection.until_count(Attached, 4)
        first, second = seen_s[-2] - seen_s[-3], seen_s[-1] - seen_s[-2]
        assert second > first > 0.5
        assert len(protection.of(TimelineBegan)) == len(protection.keys("snapshots/")) == 1
        alarms = [event.message for event in protection.of(Alarm) if is_ended(event)]
        assert len(alarms) == len(set(alarms)) < len(protection.of(Attached))
    assert protection.ended_with() is None


async def test_a_base_that_cannot_be_made_opens_no_timeline(app: App, protection: Protection, tmp_path: Path) -> None:
    part = protection.settings.state_dir / "base.part"
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        part.mkdir()
        before = protection.keys("segments/")
        app = replace_database(app, tmp_path)
        await protection.until(Alarm, lambda event: "base.part" in event.message)
        assert len(protection.of(TimelineBegan)) == 1
        assert protection.keys("segments/") == before
        part.rmdir()
        await protection.until_count(SnapshotWritten, 2)
        app.commit(1)
    assert protection.of(TimelineBegan)[1].reason.startswith("the ")
    assert protection.ended_with() is None
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


async def test_a_base_that_cannot_be_published_while_the_app_commits_is_made_again(
    app: App, protection: Protection, held: HeldWorker, tmp_path: Path
) -> None:
    """What was captured behind it belongs to no timeline, and is not shipped as part of any."""
    pages = protection.settings.state_dir / "pages"

    def hold(event: Event) -> None:
        if isinstance(event, TimelineBegan) and event.timeline.startswith("00002-"):
            held.hold()
            put_folder(pages)

    protection.on_event = hold
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        app = replace_database(app, tmp_path)
        await protection.until_count(TimelineBegan, 2)
        # The base is to be published; then a transaction is captured behind it.
        await held.until_waiting(1)
        app.commit(1)
        await held.until_waiting(2)
        held.release()
        await protection.until(Alarm, lambda event: "pages" in event.message)
        pages.rmdir()
        await protection.until_count(SnapshotWritten, 2)
        app.commit(1)
    assert protection.ended_with() is None
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


@pytest.mark.parametrize("is_known", [False, True], ids=["at a new timeline", "at a resume"])
async def test_a_checkpoint_of_the_app_does_not_wait_for_the_worker_at_a_start(
    app: App, protection: Protection, held: HeldWorker, *, is_known: bool
) -> None:
    """INV-18: the lock that stands in for the keeper is looked after from the moment that the database is attached."""
    app.commit(3)
    if is_known:
        async with protection.running():
            await protection.until(SnapshotWritten)
            app.commit(3)
            await protection.until(Flushed)
    protection.on_event = lambda event: held.hold() if isinstance(event, Attached) else None
    async with protection.running():
        await protection.until(Attached)
        # The app's busy timeout is 5 s.
        async with asyncio.timeout(3.0):
            await asyncio.to_thread(app.checkpoint, "TRUNCATE")
        held.release()
        await protection.until(SnapshotWritten if not is_known else Event)
    assert protection.ended_with() is None


async def test_a_stop_ends_when_capture_breaks_within_a_large_transaction(
    app: App, protection: Protection, held: HeldWorker, tmp_path: Path
) -> None:
    """Half of it is captured, and the rest never will be: what waits for its end is answered."""
    protection.deadline_s = 60.0
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        held.hold()
        await asyncio.to_thread(commit_big, app.path)
        await held.until_waiting(2)
        with (tmp_path / "app.db-wal").open("r+b") as log:
            log.seek(-(24 + 4096), 2)
            log.write(bytes(24 + 4096))
        protection.quit()
        await protection.until(Stopping)
        held.release()
        await protection.until(Detached)
    assert any(is_ended(alarm) for alarm in protection.of(Alarm))


async def test_a_stop_does_not_wait_longer_than_the_deadline_for_the_end_of_a_transaction(
    app: App, protection: Protection, held: HeldWorker
) -> None:
    protection.deadline_s = 0.3
    # Nothing else is sealed meanwhile.
    protection.change(flush=FlushPolicy(rpo_s=60.0, first_commit_s=0.02))
    async with protection.running():
        await protection.commit_and_flush(app, 1)
        held.hold()
        await asyncio.to_thread(commit_big, app.path)
        # 2 MiB each; then the queue is full, and no more is captured.
        await held.until_waiting(8)
        protection.quit()
        await protection.until(Stopping)
        # It was asked to seal at the end of the transaction; now it is asked to seal whatever there is.
        await held.until_waiting(held.waiting_count + 1)
        held.release()
        await protection.until(Detached)


async def test_a_database_whose_folder_cannot_be_reached_is_waited_for(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """A file stands in the place of the folder: that is neither a missing nor a replaced database."""
    place, away = tmp_path / "place", tmp_path / "away"
    place.mkdir()
    inner = App(place / "inner.db")
    protection.change(path=place / "inner.db")
    async with protection.running():
        await protection.commit_and_flush(inner, 2)
        place.rename(away)
        place.write_text("in the way")
        await protection.until(Alarm, lambda event: event.key == "waiting")
        inner.commit(1)
        assert protection.ended_with() is None
        place.unlink()
        away.rename(place)
        await protection.until_count(Attached, 2)
        inner.commit(1)
        await protection.until_count(Flushed, 2)
    assert protection.ended_with() is None
    inner.close()
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == (place / "inner.db").read_bytes()


async def test_a_cache_that_is_removed_does_not_end_the_protection(app: App, protection: Protection) -> None:
    cache = protection.settings.state_dir / "cache"
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        put_in_the_way(cache)
        app.commit(1)
        await protection.until_count(Flushed, 2)
        app.commit(1)
    assert protection.ended_with() is None
    assert protection.of(Detached)[0].durable


async def test_a_spool_that_fails_in_the_first_timeline_is_waited_for(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """As it is later: only before anything was captured does it end the protection."""
    path = protection.settings.state_dir / "state.json"
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        content = path.read_bytes()
        put_folder(path)
        app.commit(1)
        await protection.until(Alarm, is_ended)
        app.commit(1)
        path.rmdir()
        path.write_bytes(content)
        await protection.until_count(Attached, 2)
        app.commit(1)
    assert protection.ended_with() is None
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


async def test_a_timeline_that_ended_is_not_taken_up_again_at_the_next_start(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """Its end is noted before the next base is begun, which a kill may interrupt."""
    part, names = protection.settings.state_dir / "base.part", ("app.db", "app.db-wal", "app.db-shm")
    away = tmp_path / "away"
    away.mkdir()
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        part.mkdir()
        for name in names:
            (tmp_path / name).rename(away / name)
        other = App(app.path)
        await protection.until(Alarm, lambda event: "base.part" in event.message)
    other.close()
    part.rmdir()
    for name in names:
        (away / name).replace(tmp_path / name)
    async with protection.running():
        began = await protection.until(TimelineBegan)
    assert began.timeline.startswith("00002-")
    assert protection.ended_with() is None
