"""A snapshot of a live database waits for what it must, and gives up what does not get on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sqlite.live import LiveDatabase
from tests.sqlite.snapshotting import Snapshots, begin_log_anew, copy_all, overwrite
from walrep.disk.room import DiskRoom
from walrep.errors import SnapshotFailed, SpoolError, SpoolFull


def test_a_page_that_stays_wrong_is_told_and_never_taken(live: LiveDatabase, snapshots: Snapshots) -> None:
    """Something other than SQLite wrote the file. Capture goes on, and so do restores from what is stored."""
    begin_log_anew(live)
    before = overwrite(live.path, 9 * 4096, b"\xa5" * 4096)
    copy = snapshots.new()
    assert copy.begin()
    copy_all(copy)
    for _ in range(20):
        assert not copy.overlay()
        assert copy.is_held_up
        copy.write_overlay()
        live.tick(1.0)
    live.clock.advance(15.0)
    with pytest.raises(SnapshotFailed, match="page 10 of the database file is not what was captured"):
        copy.overlay()
    copy.abandon()
    overwrite(live.path, 9 * 4096, before)
    snapshots.make()
    assert snapshots.restored(1, check="full") == live.expected[1]


def test_it_waits_for_what_is_not_captured_yet(live: LiveDatabase, snapshots: Snapshots) -> None:
    """Where the queue in front of the spool is full."""
    sink = live.sink
    assert sink is not None
    sink.room = 0
    live.commit("update t set v = randomblob(1500) where id < 10")
    copy = snapshots.new()
    assert not copy.begin()
    sink.room = 1 << 30
    assert copy.begin()
    copy_all(copy)
    sink.room = 0
    live.commit("update t set v = randomblob(1500) where id < 20")
    assert not copy.overlay()
    assert copy.is_held_up
    sink.room = 1 << 30
    snapshots.complete(copy)
    assert snapshots.restored(2) == live.expected[2]


@pytest.mark.parametrize("began", [False, True])
def test_it_gives_up_where_the_app_commits_faster_than_is_captured(
    live: LiveDatabase, snapshots: Snapshots, *, began: bool
) -> None:
    sink = live.sink
    assert sink is not None
    copy = snapshots.new()
    assert not began or copy.begin()
    sink.room = 0
    live.commit("update t set v = randomblob(1500) where id < 10")
    step = copy.overlay if began else copy.begin
    assert not step()
    live.clock.advance(31.0)
    with pytest.raises(SnapshotFailed, match="commits faster"):
        step()
    copy.abandon()


def test_it_gives_up_where_the_app_changes_pages_faster_than_they_are_copied(
    live: LiveDatabase, snapshots: Snapshots
) -> None:
    """No round ever reads more than its bound, so that the sweeps of all databases never wait for long."""
    copy = snapshots.new()
    assert copy.begin()
    copy_all(copy)
    for _ in range(30):
        live.app.execute("update t set v = randomblob(1500)")
        assert not copy.overlay()
        assert not copy.is_held_up
        assert len(copy._read) == 512
        copy.write_overlay()
        live.tick(1.0)
    live.app.execute("update t set v = randomblob(1500)")
    live.clock.advance(10.0)
    with pytest.raises(SnapshotFailed, match="changes pages faster"):
        copy.overlay()
    copy.abandon()


def test_a_round_of_large_pages_is_bounded_in_bytes(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db", page_size=65536)
    live.app.execute("insert into t(k, v) values(1, randomblob(8000000))")
    live.begin()
    snapshots = Snapshots(live)
    copy = snapshots.new()
    assert copy.begin()
    rounds = 0
    while not copy.overlay():
        rounds += 1
        assert sum(len(page) for _pgno, page in copy._read) == 2 << 20
        copy.write_overlay()
    assert rounds >= 3
    snapshots.store(copy)
    assert snapshots.restored(0, check="full") == live.expected[0]
    live.close()


def test_it_waits_while_a_lock_stands_in_for_the_keeper(live: LiveDatabase, snapshots: Snapshots) -> None:
    """INV-18: what is in the file may be newer than what is captured."""
    copy = snapshots.new()
    live.capture.reader.is_guarded = False
    assert not copy.begin()
    live.capture.reader.is_guarded = True
    assert copy.begin()
    live.capture.reader.is_guarded = False
    assert not copy.overlay()
    assert copy.is_held_up
    copy.abandon()


def test_it_waits_while_the_index_is_unreadable(live: LiveDatabase, snapshots: Snapshots) -> None:
    """A writer of the app was stopped while it published a commit: for capture to deal with, and no error of ours."""
    copy = snapshots.new()
    shm = live.path.with_name("app.db-shm")
    before = overwrite(shm, 8, b"\xff\xff\xff\xff")
    assert not copy.begin()
    overwrite(shm, 8, before)
    assert copy.begin()
    overwrite(shm, 8, b"\xff\xff\xff\xff")
    assert not copy.overlay()
    assert copy.is_held_up
    overwrite(shm, 8, before)
    copy_all(copy)
    snapshots.complete(copy)
    assert snapshots.restored(0) == live.expected[0]


def test_a_disk_that_is_almost_full_is_left_alone(live: LiveDatabase, snapshots: Snapshots) -> None:
    """A snapshot leaves twice the reserve, so that the journal beside it is never at its end on that account."""
    begin_log_anew(live)
    reserve = 10 << 20
    free = [2 * reserve + (4 << 20), 1 << 40]
    room = DiskRoom(live.path.parent, reserve, lambda _path: (free[0], free[1]))
    copy = snapshots.new(room=room)
    assert copy.begin()
    assert copy.copy_slice()
    free[0] = 2 * reserve - 1
    with pytest.raises(SpoolFull):
        copy_all(copy)
    assert room.allows(1)
    copy.abandon()
    assert not copy.path.exists()


def test_a_database_file_that_cannot_be_read_fails_the_snapshot_only(live: LiveDatabase, snapshots: Snapshots) -> None:
    begin_log_anew(live)
    copy = snapshots.new()
    assert copy.begin()
    held, live.capture.files.db_fd = live.capture.files.db_fd, -1
    with pytest.raises(SpoolError, match="read the database"):
        copy.copy_slice()
    with pytest.raises(SpoolError, match="read the database"):
        copy.overlay()
    live.capture.files.db_fd = held
    copy.abandon()
