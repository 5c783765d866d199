"""No log of what was replaced lies beside a restored database, also where SQLite could not be asked to remove it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw

from walrep.engine.restorer import RestoreRequest
from walrep.testing.history import HistoryBuilder, image_pages
from walrep.testing.restores import restore_inline


def stale_log(folder: Path) -> bytes:
    """Return the -wal of a database, as a killed app leaves it: one transaction that deletes every row."""
    path = folder / "other.db"
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.execute("create table t(a); insert into t values(1)")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.execute("delete from t")
    log = path.with_name("other.db-wal").read_bytes()
    connection.close()
    path.unlink()
    return log


def restore_over(tmp_path: Path, sidecars: dict[str, bytes]) -> Sequence[object]:
    """Restore a database with one row over a damaged one with these files beside it; return its rows."""
    source = tmp_path / "source.db"
    connection = apsw.Connection(str(source))
    connection.execute("create table t(a); insert into t values(1)")
    connection.close()
    history = HistoryBuilder(4096)
    history.begin(image_pages(source.read_bytes(), 4096), 1000)
    output = tmp_path / "app.db"
    output.write_bytes(b"overwritten by an accident" * 1000)
    for suffix, content in sidecars.items():
        output.with_name(output.name + suffix).write_bytes(content)
    restore_inline(history.objects, RestoreRequest(output=output, force=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.db", "source.db"]
    restored = apsw.Connection(str(output))
    rows = restored.execute("select a from t").fetchall()
    restored.close()
    return rows


def test_the_log_of_a_damaged_database_is_not_replayed_into_the_restored_one(tmp_path: Path) -> None:
    """The target is what needs a restore most: a file that SQLite no longer accepts, its -wal still beside it."""
    log = stale_log(tmp_path)
    assert restore_over(tmp_path, {"-wal": log, "-shm": b"", "-journal": log}) == [(1,)]


def hot_journal(folder: Path) -> bytes:
    """Return the -journal of a killed app, which holds the pages as they were before its transaction."""
    path = folder / "other.db"
    connection = apsw.Connection(str(path))
    connection.execute("create table t(a); insert into t values(2)")
    connection.pragma("cache_size", 1)
    connection.execute("begin; update t set a = 3; create table u(b)")
    connection.cache_flush()
    journal = path.with_name("other.db-journal").read_bytes()
    connection.close()
    path.unlink()
    return journal


def test_a_rollback_journal_is_not_rolled_back_into_the_restored_database(tmp_path: Path) -> None:
    """Without a -wal nobody asks SQLite to settle anything."""
    assert restore_over(tmp_path, {"-journal": hot_journal(tmp_path)}) == [(1,)]
