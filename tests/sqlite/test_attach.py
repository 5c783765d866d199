"""How a database is opened and let go: links, descriptors, and what a read transaction costs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.sqlite.live import LONG_S, LiveDatabase
from walrep.errors import DatabaseBusy, DatabaseReplaced
from walrep.sqlite.keeper import Keeper
from walrep.sqlite.settle import settle_database
from walrep.sqlite.walfile import WalFiles


def test_a_database_that_a_link_names_is_captured(tmp_path: Path) -> None:
    """SQLite names the -wal and the -shm after the file to which the link leads."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "app.db")
    live = LiveDatabase(tmp_path / "link.db")
    sink = live.begin()
    live.commit("insert into t(k) values(1)")
    live.tick(1.0)
    assert sink.images == live.expected
    assert sorted(path.name for path in tmp_path.glob("link*")) == ["link.base", "link.db"]
    live.close()


def test_a_link_that_is_switched_is_noticed(tmp_path: Path) -> None:
    for name in ("one.db", "two.db"):
        connection = apsw.Connection(str(tmp_path / name))
        connection.pragma("journal_mode", "wal")
        connection.close()
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "one.db")
    live = LiveDatabase(link)
    live.begin()
    (tmp_path / "new").symlink_to(tmp_path / "two.db")
    (tmp_path / "new").rename(link)
    with pytest.raises(DatabaseReplaced, match="another file"):
        live.tick(1.0)
    live.close()


def test_a_log_is_settled_behind_a_link(tmp_path: Path) -> None:
    """A -wal that `detach` overlooks would be replayed into what takes the database's place."""
    (tmp_path / "real").mkdir()
    path = tmp_path / "real" / "app.db"
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.execute("create table t(x)")
    connection.close()
    wal = Path(f"{path}-wal")
    assert wal.stat().st_size
    (tmp_path / "link.db").symlink_to(path)
    assert settle_database(tmp_path / "link.db") == ([], False)
    assert not wal.exists()


def test_nothing_stays_open_of_a_database_that_cannot_be_attached(tmp_path: Path) -> None:
    """The wal-index is unreadable: the descriptors and the claim are given up for the next attempt."""
    live = LiveDatabase(tmp_path / "app.db")
    live.capture.close(remove_wal=False)
    live.app.execute("insert into t(k) values(1)")
    # Closed with the process: closing it now would drop SQLite's locks.
    shm = os.open(f"{live.path}-shm", os.O_RDWR)
    whole = os.pread(shm, 48, 0)
    os.pwrite(shm, b"\1\2\3\4", 8)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(DatabaseBusy):
        WalFiles(live.path, live.path)
    assert os.listdir("/proc/self/fd") == before
    os.pwrite(shm, whole, 0)
    with live.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    live.app.close()


def tables(connection: apsw.Connection) -> None:
    for number in range(200):
        connection.execute(f"create table t{number}(a, b)")


def frames(connection: apsw.Connection) -> None:
    connection.execute("create table t(x)")
    connection.execute("insert into t values(1)")


def copied(connection: apsw.Connection) -> None:
    frames(connection)
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def nothing(_connection: apsw.Connection) -> None:
    pass


@pytest.mark.parametrize("prepare", [nothing, tables, frames, copied])
def test_a_keeper_holds_a_read_mark_whatever_the_database_has(
    tmp_path: Path, prepare: Callable[[apsw.Connection], None]
) -> None:
    """INV-01: a TRUNCATE of the app cannot discard what is committed after the keeper has begun."""
    app = apsw.Connection(str(tmp_path / "app.db"))
    app.pragma("journal_mode", "wal")
    app.pragma("wal_autocheckpoint", 0)
    prepare(app)
    keeper = Keeper(tmp_path / "app.db")
    keeper.begin_next()
    keeper.end_previous()
    assert keeper.holder.txn_state("main") == apsw.SQLITE_TXN_READ
    app.execute("create table more(x)")
    salts, end = keeper.files.index().salts, keeper.files.index().max_frame
    assert end
    with pytest.raises(apsw.BusyError):
        app.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert (keeper.files.index().salts, keeper.files.index().max_frame) == (salts, end)
    keeper.close(remove_wal=False)
    app.close()


def test_a_schema_that_only_the_app_understands_is_no_hindrance(tmp_path: Path) -> None:
    """A keeper reads no table, so that SQLite has no reason to parse what the app's extensions are needed for."""
    live = LiveDatabase(tmp_path / "app.db")
    sink = live.begin()
    live.app.pragma("writable_schema", "on")
    live.commit("update sqlite_schema set sql = 'create table t(id) of another kind' where name = 't'")
    live.commit("pragma schema_version = 77")
    for _ in range(4):
        live.tick(LONG_S)
    assert live.capture.files.index().backlog == 0
    assert sink.images == live.expected
    live.close()


def test_a_log_that_grew_after_the_last_look_is_left(tmp_path: Path) -> None:
    """The app commits and closes while the state is saved: what was not captured must not be copied and removed."""
    live = LiveDatabase(tmp_path / "app.db")
    live.begin()
    live.commit("insert into t(k) values(1)")
    live.tick()
    assert live.finish() is not None
    live.commit("insert into t(k) values(2)")
    live.app.close()
    live.let_go(remove_wal=True)
    assert os.path.getsize(f"{live.path}-wal") > 0


def test_a_log_that_was_captured_is_removed_with_the_last_connection(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    live.begin()
    live.commit("insert into t(k) values(1)")
    live.tick()
    assert live.finish() is not None
    live.app.close()
    live.let_go(remove_wal=True)
    assert not Path(f"{live.path}-wal").exists()
