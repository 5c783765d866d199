"""What the operating system and SQLite refuse is an error of the database, and a bug stays one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import apsw
import pytest

from walrep.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseMissing,
    DatabaseUnreadable,
    NotADatabase,
    SpoolError,
    WalrepError,
)
from walrep.sqlite.failures import database_error, map_database_errors
from walrep.sqlite.preflight import check_database_file

PATH = Path("/data/app.db")

SQLITE_ERRORS = sorted(
    (
        kind
        for kind in vars(apsw).values()
        if isinstance(kind, type) and issubclass(kind, apsw.Error) and kind is not apsw.Error
    ),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("code", sorted(errno.errorcode), ids=lambda code: errno.errorcode[code])
def test_every_refusal_of_the_system_is_an_error_of_the_database(code: int) -> None:
    with pytest.raises(DatabaseError) as refused, map_database_errors(PATH):
        raise OSError(code, os.strerror(code))
    assert str(PATH) in refused.value.detail
    assert os.strerror(code) in refused.value.detail
    assert refused.value.hint


def test_what_passes_is_tried_again_and_what_somebody_must_mend_is_not_at_a_start() -> None:
    assert isinstance(database_error(OSError(errno.EMFILE, ""), PATH), DatabaseBusy)
    assert isinstance(database_error(OSError(errno.ENOTDIR, ""), PATH), DatabaseMissing)
    for code in (errno.EACCES, errno.EIO, errno.ELOOP):
        error = database_error(OSError(code, ""), PATH)
        assert isinstance(error, DatabaseUnreadable)
        assert (error.transient, error.mendable) == (False, True)


@pytest.mark.parametrize("kind", SQLITE_ERRORS, ids=lambda kind: kind.__name__)
def test_every_result_of_sqlite_is_an_error_of_the_database_and_misuse_is_a_bug(kind: type[apsw.Error]) -> None:
    is_result = any(kind is type(apsw.exception_for(code)) for code in range(1, 27))
    error = kind("text")
    if is_result:
        vars(error)["extendedresult"] = 1
    assert isinstance(database_error(error, PATH), WalrepError) == is_result


def test_what_sqlite_itself_raises_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "app.db").write_bytes(b"no database at all, however long it may be" * 100)
    connection = apsw.Connection(str(tmp_path / "app.db"))
    with pytest.raises(NotADatabase), map_database_errors(tmp_path / "app.db"):
        connection.execute("select * from sqlite_schema")
    connection.close()
    with pytest.raises(apsw.ConnectionClosedError), map_database_errors(tmp_path):
        connection.execute("select 1")


def test_an_unreadable_path_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DatabaseUnreadable) as refused:
        check_database_file(tmp_path / "loop", mountinfo="", enable_wal=False)
    assert str(tmp_path / "loop") in refused.value.detail
    assert refused.value.exit_code == 3


def test_nothing_else_is_touched() -> None:
    with pytest.raises(SpoolError), map_database_errors(PATH):
        raise SpoolError("the spool failed")
    with pytest.raises(ZeroDivisionError), map_database_errors(PATH):
        _ = 1 / 0
