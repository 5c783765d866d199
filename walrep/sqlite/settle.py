"""Have SQLite copy a database's log into its file and remove it, if nobody else has the database open."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from walrep.core.units import LOCK_BYTE
from walrep.errors import DatabaseInUse, NotADatabase
from walrep.sqlite.locks import lock_holders

__all__ = ["settle_database"]

_SHM_LOCKS = (120, 129)


def settle_database(path: Path) -> tuple[list[int], bool]:
    """Open and close the database; return the processes that still hold it, and whether a -wal is left.

    SQLite removes the log when its last connection closes; while others hold the database nothing is done. A link is
    followed: the log lies beside the file that it leads to.

    Raises:
        DatabaseInUse: it is locked.
        NotADatabase: SQLite does not accept it.

    """
    path = path.resolve()
    wal = Path(f"{path}-wal")
    if not wal.exists():
        return [], False
    holders = _holders(path)
    if not holders:
        try:
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                connection.execute("select 1 from sqlite_schema limit 1").fetchall()
            finally:
                connection.close()
        except apsw.BusyError as error:
            raise DatabaseInUse("the database is locked", detail=str(path), hint="stop the app first") from error
        except apsw.Error as error:
            raise NotADatabase("SQLite does not accept the database", detail=f"{path}: {error}") from error
        holders = _holders(path) if wal.exists() else []
    return holders, wal.exists()


def _holders(path: Path) -> list[int]:
    pids: set[int] = set()
    for name, start, stop in ((str(path), LOCK_BYTE, LOCK_BYTE + 512), (f"{path}-shm", *_SHM_LOCKS)):
        try:
            pids.update(lock_holders(os.stat(name), start, stop))
        except FileNotFoundError:
            continue
    return sorted(pids)
