"""The log is kept short without waking for nothing, and without alarms that mean nothing."""

from __future__ import annotations

from pathlib import Path

import apsw

from tests.sqlite.live import LiveDatabase


def test_a_database_that_rests_since_before_its_base_comes_to_rest(tmp_path: Path) -> None:
    """What the base holds never reaches the sink: the keeper must not wait for it until the next commit."""
    live = LiveDatabase(tmp_path / "app.db")
    live.app.execute("insert into t(k, v) values(1, randomblob(2000))")
    live.tick()
    live.begin()
    for _ in range(5):
        live.tick(0.6)
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
