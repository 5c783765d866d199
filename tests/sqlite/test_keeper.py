"""Two keepers overlap: whatever the app does in the very moment of a hand-over, nothing is lost.

The app acts between two statements of the keeper's connection, from SQLite's own tracing of that connection.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw

from tests.sqlite.live import LiveDatabase


def act_before_begin(connection: apsw.Connection, act: Callable[[], None]) -> None:
    """Have the app act once, just before this connection begins a transaction."""

    def trace(_cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        if sql == "begin":
            connection.exec_trace = None
            act()
        return True

    connection.exec_trace = trace


def test_a_keeper_is_held_while_the_next_one_begins(tmp_path: Path) -> None:
    """INV-01: what is committed between the look and the hand-over cannot be discarded."""
    live = LiveDatabase(tmp_path / "app.db")
    sink = live.begin()
    live.commit("insert into t(k) values(1)")
    live.tick()
    truncated: list[bool] = []

    def act() -> None:
        live.commit("insert into t(k) values(3)")
        truncated.append(live.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE))
        live.commit("insert into t(k) values(4)")

    live.commit("insert into t(k) values(2)")
    act_before_begin(live.capture.keeper.free, act)
    live.tick()
    live.tick()
    assert truncated == [False]
    assert sink.images == live.expected
    live.close()


def test_a_keeper_does_not_end_before_what_the_next_one_saw_is_captured(tmp_path: Path) -> None:
    """INV-01: the next keeper lets the app copy frames into the file whose pre-images were not read yet."""
    live = LiveDatabase(tmp_path / "app.db")
    sink = live.begin()
    live.commit("insert into t(k) values(1)")
    live.tick()

    def act() -> None:
        live.commit("insert into t(k) values(3)")
        sink.room = 0

    live.commit("insert into t(k) values(2)")
    act_before_begin(live.capture.keeper.free, act)
    live.tick()
    assert live.capture.keeper.overlapping
    live.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
    sink.room = 1 << 30
    live.tick()
    assert sink.images == live.expected
    assert live.capture.reader.encoder.counts.mismatches == 0
    live.close()
