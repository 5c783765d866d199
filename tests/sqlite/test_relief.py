"""The log is kept short without waking for nothing, and without alarms that mean nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from tests.sqlite.live import LONG_S, LiveDatabase, held_lock
from walrep.core.units import Seq


def test_a_database_that_rests_since_before_its_base_comes_to_rest(tmp_path: Path) -> None:
    """What the base holds never reaches the sink: the keeper must not wait for it until the next commit."""
    live = LiveDatabase(tmp_path / "app.db")
    live.app.execute("insert into t(k, v) values(1, randomblob(2000))")
    live.tick()
    live.begin()
    for _ in range(5):
        live.tick(LONG_S)
    assert not live.capture.keeper.overlapping
    assert live.capture.files.index().backlog == 0
    assert not live.capture.tick()
    live.commit("insert into t(k) values(2)")
    live.tick()
    assert live.sink is not None
    assert live.sink.images == live.expected
    live.close()


def test_the_previous_keeper_is_held_until_what_was_put_is_spooled(tmp_path: Path) -> None:
    """INV-12, also for the first frames after a base that held some."""
    live = LiveDatabase(tmp_path / "app.db")
    live.app.execute("insert into t(k, v) values(1, randomblob(2000))")
    live.tick()
    sink = live.begin()
    live.tick()
    sink.lagging = True
    live.commit("insert into t(k) values(2)")
    live.tick()
    live.tick()
    assert live.capture.keeper.overlapping
    sink.catch_up()
    live.tick()
    handed_over = not live.capture.keeper.overlapping
    assert handed_over
    live.close()


def test_a_reader_of_a_log_that_is_not_long_raises_no_alarm(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    live.begin()
    reader = apsw.Connection(str(live.path))
    live.commit("insert into t(k) values(0)")
    reader.execute("begin")
    reader.execute("select count(*) from t").fetchall()
    for n in range(600):
        live.app.execute("insert into t(k, v) values(?, zeroblob(3000))", (n,))
    live.capture.reader.sink = None
    for _ in range(20):
        live.tick(0.3)
    assert live.capture.files.index().max_frame > live.capture.policy.wal_frames_max
    assert live.capture.counts.starved
    assert not live.alarms
    assert live.capture.counts.write_locks == 0
    reader.close()
    live.close()


@pytest.mark.parametrize("round_number", range(4))
def test_a_blocking_checkpoint_gets_the_read_mark_that_our_keeper_took_while_it_waited(
    tmp_path: Path, round_number: int
) -> None:
    """It waits for a mark and not for what the mark says: no hand-over would ever free it (INV-18)."""
    live = LiveDatabase(tmp_path / "app.db")
    checkpoint = BlockingCheckpoint(live.path)
    live.begin()
    for _ in range(4):
        live.tick(LONG_S)
    # The keeper is on READ-LOCK 0, so that the reader gets the first mark, and our next keeper the second.
    live.commit("insert into t(k) values(?)", round_number)
    reader = apsw.Connection(str(live.path))
    reader.execute("begin")
    reader.execute("select count(*) from t").fetchall()
    live.commit("insert into t(k) values(1)")
    live.tick()
    # Nobody reads after this one: no mark is at the end of the log.
    live.app.execute("insert into t(k) values(1)")
    checkpoint.start()
    # By now it looks every 100 ms only: when the reader ends, our keeper is the first to take its mark.
    assert not checkpoint.done.wait(0.3)
    reader.execute("rollback")
    for _ in range(100):
        live.tick(0.05)
        if checkpoint.done.wait(0.02):
            break
    assert checkpoint.done.is_set()
    assert checkpoint.error is None
    live.expected.append(live.image())
    live.commit("insert into t(k) values(2)")
    live.tick()
    assert live.sink is not None
    assert live.sink.images == live.expected
    reader.close()
    live.close()


CHECKPOINTER_THAT_WRITES = """
import apsw, fcntl, os, sys
app = apsw.Connection(sys.argv[1])
app.pragma("wal_autocheckpoint", 0)
app.execute("select count(*) from t").fetchall()
shm = os.open(sys.argv[1] + "-shm", os.O_RDWR)
fcntl.lockf(shm, fcntl.LOCK_EX, 1, 121)
for _line in sys.stdin:
    if app.in_transaction:
        app.execute("commit")
    app.execute("begin immediate")
    app.execute("insert into t(k) values(1)")
    print("writing", flush=True)
"""


def test_read_lock_0_is_not_left_while_another_thread_of_the_checkpointer_writes(tmp_path: Path) -> None:
    """INV-05: one process has both locks at every look; that something is committed tells that nobody waits for us."""
    live = LiveDatabase(tmp_path / "app.db")
    live.begin()
    live.commit("insert into t(k) values(1)")
    for _ in range(4):
        live.tick(LONG_S)
    before = live.capture.keeper.view
    with subprocess.Popen(
        [sys.executable, "-c", CHECKPOINTER_THAT_WRITES, live.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(20):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "writing\n"
            for _look in range(2):
                live.tick(0.06)
        assert live.capture.keeper.view == before
        assert live.capture.counts.probe_waits > 20
        process.stdin.close()
    live.tick()
    assert live.capture.keeper.view != before
    live.close()


def step_aside(live: LiveDatabase) -> None:
    """Have capture step aside for a checkpoint that waits."""
    live.commit("insert into t(k) values(1)")
    live.tick()
    with held_lock(live.path, 121, 120):
        for _ in range(10):
            live.tick(0.05)
        assert live.capture.keeper.aside


def test_the_log_is_not_restarted_while_a_lock_stands_in_for_the_keeper(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    for n in range(20):
        live.app.execute("insert into t(id, k, v) values(?, ?, randomblob(3900))", (100 + n, n))
    live.app.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    live.begin()
    live.tick(LONG_S)
    step_aside(live)
    salts = live.capture.files.index().salts
    # The checkpoint that waited was killed: now anybody may write, and copy what is written.
    for n in range(5):
        live.commit("update t set v = randomblob(3900) where id = ?", 100 + n)
        live.app.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        assert live.capture.files.index().backlog == 0
        assert not live.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert live.capture.files.index().salts == salts
    for n in range(10):
        live.tick()
        live.commit("update t set k = ?", n)
    live.tick()
    assert not live.capture.keeper.aside
    assert live.capture.reader.encoder.counts.mismatches
    assert live.sink is not None
    assert live.sink.images == live.expected
    assert live.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
    live.close()


def test_a_base_is_not_finished_while_nothing_limits_what_checkpoints_copy(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    base = live.new_base()
    step_aside(live)
    assert not base.begin()
    live.tick()
    assert base.begin()
    while base.copy_slice():
        pass
    step_aside(live)
    live.app.execute("insert into t(k) values(7)")
    live.app.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    assert not base.overlay(Seq(1))
    assert base.is_held_up
    live.tick()
    assert not live.capture.keeper.aside
    sink = live.end_base(base)
    assert sink.images == live.expected
    live.close()


class BlockingCheckpoint:
    """A TRUNCATE of another thread, which waits for readers as long as it takes."""

    def __init__(self, path: Path) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None
        self._connection = apsw.Connection(str(path))
        self._connection.set_busy_timeout(60_000)
        # A connection that has never read checkpoints nothing.
        self._connection.execute("select count(*) from t").fetchall()

    def start(self) -> None:
        """Begin to wait."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.Error as error:
            self.error = error
        finally:
            self._connection.close()
            self.done.set()
