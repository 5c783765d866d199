"""What the operating system and SQLite refuse, as errors of the one database that they concern.

Foreign exceptions are mapped once, where the engine calls: `map_database_errors` around what it calls here, and
`database_error` for what a tick raised. What is a bug of ours stays what it is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from walrep.errors import DatabaseBusy, DatabaseMissing, DatabaseUnreadable, NotADatabase

__all__ = ["database_error", "map_database_errors"]

_PASSES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ENOLCK})
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})
_HINTS = {
    errno.EACCES: "let the user that walrep runs as read and write the database, its -wal, its -shm and their folder",
    errno.EPERM: "let the user that walrep runs as read and write the database, its -wal, its -shm and their folder",
    errno.EIO: "the disk reports an error; look in the kernel log before anything else",
    errno.EMFILE: "raise the hard limit of open files (ulimit -Hn): a database takes ten and more",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
    errno.ENOENT: "it vanished while it was looked at; check the path",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
}
_HINT = "check the disk, the path and who may use it"


@contextmanager
def map_database_errors(path: Path) -> Iterator[None]:
    """Raise what the operating system or SQLite refuses as an error of the database at `path`.

    Raises:
        DatabaseBusy: it passes by itself, or when something else lets go.
        DatabaseMissing: a file, or a part of the path, is not there.
        NotADatabase: SQLite calls the file corrupt, or no database.
        DatabaseUnreadable: everything else.

    """
    try:
        yield
    except (OSError, apsw.Error) as error:
        mapped = database_error(error, path)
        if mapped is error:
            raise
        raise mapped from error


def database_error(error: Exception, path: Path) -> Exception:
    """Return what the operating system or SQLite raised as an error of the database; any other is returned itself."""
    if isinstance(error, OSError):
        return _of_the_system(error, path)
    # Only what SQLite itself returned has a result; apsw also says so when it is used wrongly, which is a bug.
    if isinstance(error, apsw.Error) and hasattr(error, "extendedresult"):
        return _of_sqlite(error, path)
    return error


def _of_the_system(error: OSError, path: Path) -> DatabaseBusy | DatabaseMissing | DatabaseUnreadable:
    code = error.errno or 0
    detail = f"{error.filename or path}: {os.strerror(code) if code else error}"
    hint = _HINTS.get(code, _HINT)
    if code in _GONE:
        return DatabaseMissing("the database is not there any more", detail=detail, hint=hint)
    if code in _PASSES:
        return DatabaseBusy("the system cannot take up the database now", detail=detail, hint=hint)
    return DatabaseUnreadable("the files of the database cannot be used", detail=detail, hint=hint)


def _of_sqlite(error: apsw.Error, path: Path) -> DatabaseBusy | NotADatabase | DatabaseUnreadable:
    detail = f"{path}: {error}"
    if isinstance(error, apsw.BusyError | apsw.LockedError | apsw.NoMemError | apsw.ProtocolError):
        return DatabaseBusy("SQLite could not do it now", detail=detail)
    if isinstance(error, apsw.NotADBError | apsw.CorruptError):
        return NotADatabase(
            "SQLite does not accept the database", detail=detail, hint="check it with `pragma integrity_check`"
        )
    return DatabaseUnreadable("SQLite cannot use the database", detail=detail, hint=_HINT)
