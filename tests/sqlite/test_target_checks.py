"""Who uses a restore's target, who owns it, and what lies beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from errno import EIO
from pathlib import Path

import apsw
import pytest

from walrep.errors import RestoreMismatch, TargetExists
from walrep.sqlite.target import (
    Check,
    adopt_ownership,
    check_integrity,
    live_processes,
    refuse_existing,
    refuse_live,
    without_sidecars,
)

HOLD = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute(sys.argv[2]).fetchall()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(name="database")
def _database(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode=wal").fetchall()
    connection.execute("create table t(a, b); create index i on t(b)")
    with connection:
        connection.executemany("insert into t values(?, ?)", [(n, f"text {n}") for n in range(1000)])
    connection.close()
    return path


def hold(database: Path, sql: str) -> subprocess.Popen[str]:
    """Start a process that has the database open and has run `sql`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database), sql], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("sql", ["select count(*) from t", "begin; select count(*) from t", "begin immediate"])
def test_a_database_that_another_process_has_open_is_live(database: Path, sql: str) -> None:
    with hold(database, sql) as process:
        assert live_processes(database) == [process.pid]
        with pytest.raises(TargetExists) as caught:
            refuse_live(database)
        assert str(process.pid) in caught.value.detail
        # The kernel tells the same where the table of locks cannot be read, without the process.
        assert live_processes(database, locks=Path("/nonexistent")) == []
        process.communicate("")
    assert live_processes(database) is None
    refuse_live(database)


def test_an_open_transaction_in_rollback_mode_is_live(database: Path) -> None:
    connection = apsw.Connection(str(database))
    connection.execute("pragma journal_mode=delete").fetchall()
    connection.close()
    with hold(database, "begin immediate; insert into t values(1, 2)") as process:
        assert live_processes(database) == [process.pid]
        process.communicate("")


def test_asking_takes_no_lock_and_drops_none_of_our_own(database: Path) -> None:
    """Closing any descriptor of a file drops the process's POSIX locks on it: asking must not open it then."""
    connection = apsw.Connection(str(database))
    connection.execute("begin; select count(*) from t").fetchall()
    assert live_processes(database) == [os.getpid()]
    assert live_processes(database) == [os.getpid()]
    connection.execute("commit; insert into t values(1, 2)")
    connection.close()


def test_a_file_that_is_not_there_or_not_open_is_not_live(tmp_path: Path, database: Path) -> None:
    assert live_processes(tmp_path / "missing.db") is None
    assert live_processes(database) is None


@pytest.mark.parametrize("name", ["app.db", "app.db-wal", "app.db-shm", "app.db-journal"])
def test_a_target_with_anything_of_its_name_is_refused_unless_forced(tmp_path: Path, name: str) -> None:
    path = tmp_path / "app.db"
    refuse_existing(path, force=False)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(TargetExists) as caught:
        refuse_existing(path, force=False)
    assert name in caught.value.detail
    refuse_existing(path, force=True)


def test_a_directory_is_refused_also_when_forced(tmp_path: Path) -> None:
    with pytest.raises(TargetExists, match="not a file"):
        refuse_existing(tmp_path, force=True)


@pytest.mark.parametrize("is_replaced", [True, False])
def test_sidecars_are_away_and_come_back_only_where_the_database_stayed(tmp_path: Path, *, is_replaced: bool) -> None:
    names = ("app.db", "app.db-wal", "app.db-shm", "app.db-journal", "app.db-walrep", "other.db-wal")
    for name in names:
        (tmp_path / name).write_text(name)

    def replace() -> None:
        with without_sidecars(tmp_path / "app.db", lambda: is_replaced) as had_some:
            assert had_some
            seen.update(each.name for each in tmp_path.iterdir())
            raise OSError(EIO, "injected")

    seen: set[str] = set()
    with pytest.raises(OSError, match="injected"):
        replace()
    assert seen & set(names) == {"app.db", "app.db-walrep", "other.db-wal"}
    left = ("app.db", "app.db-walrep", "other.db-wal") if is_replaced else names
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {name: name for name in left}


def test_sidecars_are_removed_once_the_database_is_replaced(tmp_path: Path) -> None:
    for name in ("app.db", "app.db-wal", "app.db-journal"):
        (tmp_path / name).write_bytes(b"")
    for expected in (True, False):
        with without_sidecars(tmp_path / "app.db", lambda: True) as had_some:
            assert had_some is expected
    assert [each.name for each in tmp_path.iterdir()] == ["app.db"]


def test_a_replaced_target_keeps_mode_and_owner(tmp_path: Path) -> None:
    target, temporary = tmp_path / "app.db", tmp_path / "new"
    target.write_bytes(b"")
    temporary.write_bytes(b"")
    temporary.chmod(0o600)
    target.chmod(0o664)
    if os.geteuid() == 0:
        os.chown(target, 1234, 4321)
    assert adopt_ownership(temporary, target) == ()
    mine, theirs = temporary.stat(), target.stat()
    assert (mine.st_mode, mine.st_uid, mine.st_gid) == (theirs.st_mode, theirs.st_uid, theirs.st_gid)


def test_a_new_target_has_the_owner_of_its_directory_and_the_mode_of_a_new_file(tmp_path: Path) -> None:
    temporary = tmp_path / "new"
    temporary.write_bytes(b"")
    temporary.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(tmp_path, 1234, 4321)
    usual = tmp_path / "usual"
    usual.touch()
    assert adopt_ownership(temporary, tmp_path / "app.db") == ()
    directory = tmp_path.stat()
    assert (temporary.stat().st_uid, temporary.stat().st_gid) == (directory.st_uid, directory.st_gid)
    assert temporary.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("check", ["none", "quick", "full"])
def test_a_sound_database_passes_and_nothing_is_left_beside_it(tmp_path: Path, database: Path, check: Check) -> None:
    odd = database.rename(tmp_path / "a?b#c %41.db")
    before = odd.read_bytes()
    assert check_integrity(odd, check) == ()
    assert list(tmp_path.iterdir()) == [odd]
    assert odd.read_bytes() == before


@pytest.mark.parametrize("check", ["quick", "full"])
@pytest.mark.parametrize(("start", "stop"), [(0, 16), (4096, 4200), (8192, 12288)])
def test_a_defect_is_found(database: Path, check: Check, start: int, stop: int) -> None:
    data = bytearray(database.read_bytes())
    data[start:stop] = b"\xa5" * (stop - start)
    database.write_bytes(data)
    with pytest.raises(RestoreMismatch) as caught:
        check_integrity(database, check)
    assert caught.value.detail
    assert check_integrity(database, "none") == ()


def test_only_the_full_check_compares_an_index_with_its_table(database: Path) -> None:
    data = database.read_bytes()
    at = data.rindex(b"text 500")
    database.write_bytes(data[:at] + b"text 5x0" + data[at + 8 :])
    assert check_integrity(database, "quick") == ()
    with pytest.raises(RestoreMismatch):
        check_integrity(database, "full")


def test_a_schema_that_needs_an_extension_of_the_app_is_a_notice(database: Path) -> None:
    connection = apsw.Connection(str(database))
    connection.create_collation("app", lambda a, b: (a > b) - (a < b))
    connection.execute("create table u(a text collate app primary key)")
    connection.execute("insert into u values('x'), ('y')")
    connection.close()
    (notice,) = check_integrity(database, "full")
    assert "app" in notice
