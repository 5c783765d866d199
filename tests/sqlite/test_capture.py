"""Capture of a live database, byte for byte at every transaction, whatever the app does in between."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest

from tests.sqlite.live import LONG_S, LiveDatabase, held_lock
from walrep.core.encoder import ChunkJob
from walrep.core.state import CaptureMark
from walrep.core.wal import frame_offset, parse_wal_header
from walrep.core.walsum import checksum_words
from walrep.errors import CaptureBroken, DatabaseReplaced

PASSIVE, FULL = apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_FULL
RESTART, TRUNCATE = apsw.SQLITE_CHECKPOINT_RESTART, apsw.SQLITE_CHECKPOINT_TRUNCATE


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveDatabase]:
    database = LiveDatabase(tmp_path / "app.db")
    yield database
    database.close()


def overlaps(live: LiveDatabase) -> bool:
    """Whether two keepers are held."""
    return live.capture.keeper.overlapping


def append_to_wal(path: Path, content: bytes, offset: int) -> None:
    """Write into the -wal as a program that died half-way, or an old engine, leaves it."""
    with open(f"{path}-wal", "r+b") as wal:
        wal.seek(offset)
        wal.write(content)


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 16384, 65536])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_transaction_is_the_database_at_that_moment(tmp_path: Path, page_size: int, seed: int) -> None:
    dice = random.Random(f"{page_size}-{seed}")
    live = LiveDatabase(tmp_path / "app.db", page_size=page_size, auto_vacuum=dice.choice([0, 1, 2]))
    sink = live.begin()
    checkpoints = 0
    for _ in range(150):
        live.write_randomly(dice)
        for _ in range(dice.choice([0, 0, 0, 1, 2, 4])):
            live.tick(dice.choice([0.01, LONG_S]))
        if dice.random() < 0.15:
            checkpoints += live.checkpoint(dice.choice([PASSIVE, FULL, RESTART, TRUNCATE]))
    live.tick()
    assert checkpoints > 0
    assert live.capture.reader.counts.generations > 1
    assert live.capture.reader.encoder.counts.mismatches == 0
    assert live.capture.reader.encoder.txid == len(live.expected) - 1
    assert sink.images == live.expected
    live.close()


def test_a_ghost_commit_in_the_file_is_not_captured(live: LiveDatabase) -> None:
    """A frame with a commit flag and a valid checksum that the wal-index does not count was never committed."""
    sink = live.begin()
    live.commit("insert into t(k) values(1)")
    live.tick()
    index = live.capture.files.index()
    header = parse_wal_header(live.capture.files.raw_index() and os.pread(live.capture.files.wal_fd, 32, 0))
    assert header is not None
    page = bytes(4096)
    words = np.frombuffer((1).to_bytes(4, "big") + index.page_count.to_bytes(4, "big") + page, "<u4").tolist()
    checksum = checksum_words(words, *index.checksum)
    ghost = np.array([1, index.page_count, *header.salts, *checksum], ">u4").tobytes() + page
    append_to_wal(live.path, ghost, frame_offset(index.max_frame + 1, 4096))
    live.tick()
    live.tick(LONG_S)
    assert sink.images == live.expected
    live.commit("insert into t(k) values(2)")
    live.tick()
    assert sink.images == live.expected


def test_rolled_back_frames_are_not_captured(live: LiveDatabase) -> None:
    """A transaction that spilled frames to the WAL and rolled back leaves valid frames that nobody committed."""
    sink = live.begin()
    live.app.pragma("cache_size", 2)
    live.commit("insert into t(k) values(1)")
    before = os.path.getsize(f"{live.path}-wal")
    live.app.execute("begin")
    for _ in range(60):
        live.app.execute("insert into t(v) values(randomblob(3000))")
    live.tick()
    live.app.execute("rollback")
    live.tick()
    assert os.path.getsize(f"{live.path}-wal") > before
    live.commit("insert into t(k) values(2)")
    live.tick()
    assert sink.images == live.expected


def test_a_frame_changed_behind_the_back_of_sqlite_ends_capture(live: LiveDatabase) -> None:
    """A committed frame whose page number is not the one in the wal-index is refused, not shipped."""
    live.begin()
    live.commit("insert into t(k) values(1)")
    last = live.capture.files.index().max_frame
    append_to_wal(live.path, (77).to_bytes(4, "big"), frame_offset(last, 4096))
    with pytest.raises(CaptureBroken):
        live.tick()


def test_a_file_changed_behind_the_back_of_sqlite_ends_capture(live: LiveDatabase) -> None:
    """A pre-image that is not the page that the hash array knows is never used, and ends the timeline."""
    live.commit("create table u(k int)")
    live.commit("insert into t(id, k) values(1, 1)")
    for _ in range(4):
        live.tick(LONG_S)
    live.commit("insert into u values(1)")
    live.begin()
    with live.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\x0d" + os.urandom(64))
    live.app.execute("begin immediate")
    live.app.execute("update t set k = k + 1 where id = 1")
    live.app.execute("commit")
    with pytest.raises(CaptureBroken):
        live.tick()
    assert live.capture.reader.encoder.counts.mismatches == 1


def test_the_app_can_truncate_the_wal_between_ticks(live: LiveDatabase) -> None:
    sink = live.begin()
    truncated = 0
    for n in range(30):
        live.commit("insert into t(k) values(?)", n)
        live.tick()
        live.checkpoint(PASSIVE)
        live.tick()
        truncated += live.checkpoint(TRUNCATE)
    live.tick()
    assert truncated >= 25
    assert sink.images == live.expected


def test_nothing_is_lost_when_the_wal_restarts_before_the_next_look(live: LiveDatabase) -> None:
    """All is copied, the keeper is on READ-LOCK 0, and the app restarts the WAL and goes on between two ticks."""
    sink = live.begin()
    live.commit("insert into t(k) values(1)")
    for _ in range(4):
        live.tick(LONG_S)
    generations = live.capture.reader.counts.generations
    for n in range(10):
        live.commit("insert into t(k) values(?)", n)
        live.checkpoint(TRUNCATE)
    live.tick()
    assert live.capture.reader.counts.generations == generations + 1
    assert sink.images == live.expected


def test_read_lock_0_is_left_at_the_tick_after_a_restart(live: LiveDatabase) -> None:
    live.begin()
    live.commit("insert into t(k) values(1)")
    for _ in range(4):
        live.tick(LONG_S)
    live.commit("insert into t(k) values(2)")
    assert live.capture.keeper.view.salts != live.capture.files.index().salts
    live.tick()
    assert live.capture.keeper.view.salts == live.capture.files.index().salts
    live.checkpoint(PASSIVE)
    assert live.capture.files.index().backfilled > 0


def test_read_lock_0_is_not_left_while_a_checkpointer_may_be_in_flight(live: LiveDatabase) -> None:
    """A checkpointer that holds the checkpoint lock may have read the header before the restart (WAL-reset bug)."""
    live.begin()
    live.commit("insert into t(k) values(1)")
    for _ in range(4):
        live.tick(LONG_S)
    before = live.capture.keeper.view
    live.commit("insert into t(k) values(2)")
    with held_lock(live.path, 121):
        live.tick()
        for _ in range(5):
            live.tick(5.0)
        assert live.capture.keeper.view == before
        assert live.capture.counts.probe_waits >= 2
    live.tick()
    assert live.capture.keeper.view != before


def test_a_blocking_checkpoint_that_waits_for_us_is_let_through_after_a_grace(live: LiveDatabase) -> None:
    live.begin()
    live.commit("insert into t(k) values(1)")
    for _ in range(4):
        live.tick(LONG_S)
    before = live.capture.keeper.view
    live.commit("insert into t(k) values(2)")
    with held_lock(live.path, 121, 120):
        live.tick(0.2)
        live.tick(0.2)
        assert live.capture.keeper.view == before
        live.tick(0.03)
        live.tick(0.03)
        assert live.capture.keeper.view != before


def test_the_previous_keeper_stays_until_the_spool_has_everything(live: LiveDatabase) -> None:
    """INV-12: a keeper is let go only when what it protects is in the spool."""
    sink = live.begin()
    sink.lagging = True
    live.commit("insert into t(k) values(1)")
    live.tick()
    live.tick()
    assert overlaps(live)
    live.checkpoint(TRUNCATE)
    sink.catch_up()
    live.tick()
    assert not overlaps(live)
    assert sink.images == live.expected


def test_capture_stops_where_the_queue_is_full_and_the_log_keeps_the_rest(live: LiveDatabase) -> None:
    sink = live.begin()
    sink.room = 0
    for n in range(20):
        live.commit("insert into t(k) values(?)", n)
        live.tick()
        live.checkpoint(TRUNCATE)
    assert len(sink.images) == 1
    sink.room = 1 << 30
    live.tick()
    assert sink.images == live.expected


def test_a_replaced_file_is_noticed_and_the_old_log_is_captured_first(live: LiveDatabase) -> None:
    sink = live.begin()
    live.commit("insert into t(k) values(1)")
    other = live.path.with_name("other.db")
    other.write_bytes(b"another database")
    other.rename(live.path)
    with pytest.raises(DatabaseReplaced):
        live.tick(1.0)
    assert sink.images[-1] == live.expected[-1]
    assert live.path.read_bytes() == b"another database"


WRITER = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.set_busy_timeout(5000)
connection.pragma("synchronous", "normal")
print("ready", flush=True)
while True:
    connection.execute("insert into t(v) values(zeroblob(2000))")
"""


class SwallowingSink:
    """A sink that is as fast as writers that never pause."""

    def __init__(self) -> None:
        self.spooled_frames = 0

    def room_bytes(self) -> int:
        return 1 << 30

    def put(self, _jobs: list[ChunkJob], _marks: list[CaptureMark], frames_total: int) -> None:
        self.spooled_frames = frames_total


def test_writers_that_never_pause_are_stopped_only_for_the_tail(live: LiveDatabase) -> None:
    """When the WAL outgrows its limit the write lock is taken, and all is copied: the next write restarts it."""
    live.begin()
    live.capture.reader.sink = SwallowingSink()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(live.path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    generations = live.capture.reader.counts.generations
    try:
        for _ in range(100_000):
            live.tick(0.01)
            if live.capture.counts.write_locks > 1 and live.capture.reader.counts.generations > generations + 1:
                break
    finally:
        writer.kill()
        writer.communicate()
    assert live.capture.counts.write_locks > 1
    assert live.capture.reader.counts.generations > generations + 1
    assert live.capture.reader.encoder.counts.mismatches == 0


def test_a_large_transaction_of_writers_that_pause_takes_no_lock(live: LiveDatabase) -> None:
    """INV-06: what a PASSIVE can copy by itself stops nobody."""
    sink = live.begin()
    sink.keeps_images = False
    for n in range(3):
        live.commit("insert into t(k, v) values(?, zeroblob(8000000))", n)
        for _ in range(5):
            live.tick(LONG_S)
    assert live.capture.counts.write_locks == 0
    assert live.capture.files.index().backlog == 0
    assert sink.image() == live.image()


def test_a_wal_index_that_stays_half_written_for_a_moment_is_waited_for(live: LiveDatabase) -> None:
    """A writer that is stopped between the two copies of the header is legal; only a long time ends capture."""
    sink = live.begin()
    live.commit("insert into t(k) values(1)")
    whole = os.pread(live.capture.files.shm_fd, 136, 0)
    fd = os.open(f"{live.path}-shm", os.O_RDWR)  # closed with the process: closing it now would drop SQLite's locks
    os.pwrite(fd, b"\0" * 8, 4)
    live.tick()
    live.tick(0.5)
    os.pwrite(fd, whole[:48], 0)
    live.tick()
    assert sink.images == live.expected
    os.pwrite(fd, b"\0" * 8, 4)
    live.tick()
    with pytest.raises(CaptureBroken):
        live.tick(11.0)
    os.pwrite(fd, whole[:48], 0)


def test_a_long_reader_raises_an_alarm_and_no_lock_is_taken(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    live.begin()
    reader = apsw.Connection(str(live.path))
    live.commit("insert into t(k) values(0)")
    reader.execute("begin")
    reader.execute("select count(*) from t").fetchall()
    for n in range(2500):
        live.app.execute("insert into t(k, v) values(?, zeroblob(3000))", (n,))
    live.capture.reader.sink = None
    for _ in range(20):
        live.tick(0.3)
    assert "long-reader" in live.alarms
    assert live.capture.counts.write_locks == 0
    reader.close()
    live.close()


def test_a_keeper_at_rest_on_a_read_mark_moves_for_a_blocking_checkpoint_that_waits(live: LiveDatabase) -> None:
    """It sits on one although all is copied, because a checkpointer held READ-LOCK 0 when it began."""
    live.begin()
    live.commit("insert into t(k) values(1)")
    live.tick()
    assert live.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
    with held_lock(live.path, 123):
        live.tick()
    hand_overs = live.capture.counts.hand_overs
    live.tick(LONG_S)
    assert live.capture.counts.hand_overs == hand_overs
    with held_lock(live.path, 121, 120):
        for _ in range(4):
            live.tick(0.05)
    assert live.capture.counts.hand_overs > hand_overs


def test_nobody_waits_for_a_keeper_on_read_lock_0_where_all_is_copied(live: LiveDatabase) -> None:
    live.begin()
    live.commit("insert into t(k) values(1)")
    for _ in range(4):
        live.tick(LONG_S)
    hand_overs = live.capture.counts.hand_overs
    with held_lock(live.path, 121, 120):
        for _ in range(8):
            live.tick(0.05)
    assert live.capture.counts.hand_overs == hand_overs
    assert live.checkpoint(apsw.SQLITE_CHECKPOINT_RESTART)
    assert live.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)


def test_a_short_log_is_left_alone_until_it_was_quiet_for_long(live: LiveDatabase) -> None:
    """Else each commit after a pause begins the log anew, and syncs its header."""
    live.begin()
    salts = set[tuple[int, int]]()
    for n in range(100):
        live.commit(f"insert into t(k) values({n})")
        live.tick()
        live.tick(2.0)
        salts.add(live.capture.files.index().salts)
    assert len(salts) == 1
    assert live.capture.counts.passives == 0
    live.tick(LONG_S)
    assert live.capture.files.index().backlog == 0
