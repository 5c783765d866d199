"""Two overlapping read transactions that keep committed frames from being discarded before they are captured.

INV-01  At every instant while a database is attached at least one keeper (an open read transaction) is held, or a lock
        of ours on a read mark stands in for it (INV-18), and it ends only after the next keeper has begun and every
        frame committed up to that moment has been captured.
INV-02  Nothing is ever written to the database by these connections.

Two connections take turns: `holder` has the keeper, `free` runs checkpoints and begins the next keeper. What to do
when is decided in `walrep.core.checkpoint`; this class only does it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import apsw

from walrep.core.checkpoint import KeeperView
from walrep.core.wal import WalIndex
from walrep.errors import DatabaseBusy, DatabaseInUse, NotADatabase, NotWalMode, UsageError, check
from walrep.sqlite.walfile import WalFiles

__all__ = ["Keeper", "check_engine", "engine_version"]

_ENGINE_FLOOR = (3, 51, 3)


def engine_version() -> str:
    """Return the version of the SQLite that apsw brings."""
    return apsw.sqlite_lib_version()


def check_engine() -> None:
    """Refuse to run on an SQLite with the WAL-reset bug; raises `UsageError`."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < _ENGINE_FLOOR:
        raise UsageError(
            f"apsw brings SQLite {apsw.sqlite_lib_version()}, which can corrupt databases (the WAL-reset bug)",
            hint="install apsw 3.53 or later",
        )


class Keeper:
    """The keeper of one database, and the checkpoints that its free connection runs.

    When it is made a lock of ours stands in for it; a hand-over ends that.
    """

    def __init__(self, path: Path, *, enable_wal: bool = False) -> None:
        # A link is followed once: one that is switched meanwhile would give the connections one database, and the
        # descriptors another.
        file = path.resolve()
        connections: list[apsw.Connection] = []
        try:
            connections.extend(_connect(file, enable_wal=enable_wal) for _ in range(2))
            self.holder, self.free = connections
            self.files = WalFiles(path, file)
            try:
                # Where the log goes on must be found out while it cannot be restarted. A keeper would not do: on a log
                # that is all copied it goes to READ-LOCK 0, and the next write begins anew over frames that nobody
                # has captured yet.
                self._stand_in: int | None = _stand_in(self.files)
                self._salts = self.files.index().salts
            except BaseException:
                self.files.close()
                raise
        except BaseException:
            for connection in connections:
                connection.close()
            raise
        self._max_frame = -1
        self._settled = False
        self._before_next: WalIndex | None = None
        """The index read just before the next keeper began; None unless two are held."""

    @property
    def view(self) -> KeeperView:
        """What decisions need to know of the keeper."""
        return KeeperView(self._salts, self._max_frame, self._settled)

    @property
    def overlapping(self) -> bool:
        """Whether two keepers are held: the next one has begun, the previous one has not ended."""
        return self._before_next is not None

    @property
    def aside(self) -> bool:
        """Whether a lock of ours stands in for the keeper."""
        return self._stand_in is not None

    def step_aside(self, attempt: int) -> bool:
        """End the keeper while a lock of ours forbids a restart of the log; False if no read mark is free for it.

        A hand-over ends this. INV-18: until everything committed by then is captured, checkpoints may copy frames that
        are not, so that the database file proves nothing about pages.
        """
        check(not self.overlapping and not self.aside, "the keeper proper is held")
        self._stand_in = self.files.lock_read_mark(attempt)
        if self._stand_in is None:
            return False
        self.holder.execute("rollback")
        return True

    def begin_next(self) -> None:
        """Begin the next keeper on the free connection; the previous one is still held."""
        check(not self.overlapping, "a hand-over is under way")
        # The index is read before the keeper begins. If a restart comes between, its salts differ from those at the
        # next tick, which takes the keeper to be on READ-LOCK 0 and probes; the other way round would skip the probe.
        # And only what was all backfilled before can have sent the keeper to READ-LOCK 0.
        before = self.files.index()
        _begin(self.free)
        self._before_next = before

    def end_previous(self) -> None:
        """End the previous keeper. Everything committed when the next one began must be captured. INV-01."""
        check(self.overlapping, "no hand-over is under way")
        if self._stand_in is not None:
            self.files.unlock_read_mark(self._stand_in)
            self._stand_in = None
        else:
            self.holder.execute("rollback")
        self.holder, self.free = self.free, self.holder
        self._take_next()

    def passive(self) -> int | None:
        """Run a PASSIVE checkpoint; return how many frames are backfilled, None if the lock was not free."""
        return _passive(self.free)

    def lock_writers(self, wait_s: float) -> bool:
        """Begin a keeper that also holds the write lock, on the free connection; False if it was not free in time."""
        check(not self.overlapping, "a hand-over is under way")
        self.free.set_busy_timeout(int(wait_s * 1000))
        try:
            self.free.execute("begin immediate")
        except apsw.BusyError:
            return False
        finally:
            self.free.set_busy_timeout(0)
        return True

    def release_reader(self) -> None:
        """End the keeper proper; the one that holds the write lock protects what is captured."""
        self.holder.execute("rollback")

    def passive_under_lock(self) -> int | None:
        """Run a PASSIVE checkpoint on the connection that has no transaction while the other holds the write lock."""
        return _passive(self.holder)

    def begin_under_lock(self) -> None:
        """Begin the keeper anew; while the write lock is held and all is backfilled it goes to READ-LOCK 0."""
        before = self.files.index()
        _begin(self.holder)
        self._before_next = before

    def unlock_writers(self) -> None:
        """Let writers go on; everything committed is captured."""
        self.free.execute("rollback")
        self._take_next()

    def abandon_write_lock(self) -> bool:
        """Let writers go on with nothing done; say whether the keeper proper is still held."""
        if self.free.in_transaction:
            self.free.execute("rollback")
        return self.holder.in_transaction

    def recover_index(self) -> None:
        """Read once, so that SQLite repairs a wal-index that a dead writer left half-written."""
        with suppress(apsw.Error):
            _read(self.free)

    def close(self, *, remove_wal: bool) -> None:
        """Let the database go.

        With `remove_wal`, if this is the last connection and everything is backfilled, SQLite removes the WAL.
        """
        for connection in (self.free, self.holder):
            if connection.in_transaction:
                connection.execute("rollback")
        for connection in (self.free, self.holder):
            if remove_wal:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            connection.close()
        self.files.close()

    def _take_next(self) -> None:
        before = self._before_next
        if before is not None:
            self._salts = before.salts
            self._max_frame = before.max_frame
            self._settled = before.max_frame > 0 and before.backlog == 0
        self._before_next = None


def _connect(path: Path, *, enable_wal: bool) -> apsw.Connection:
    """Open a connection that never writes, never waits and never checkpoints on its own."""
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.CantOpenError as error:
        raise NotADatabase(
            "SQLite cannot open the database",
            detail=f"{path}: {error}",
            hint="walrep needs the permissions of the app: read and write on the database, its -shm and their folder",
        ) from error
    try:
        _prepare(connection, path, enable_wal=enable_wal)
    except BaseException as error:
        connection.close()
        raise _translated(error, path) from error
    return connection


def _prepare(connection: apsw.Connection, path: Path, *, enable_wal: bool) -> None:
    connection.set_busy_timeout(0)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    if enable_wal:
        connection.set_busy_timeout(5000)
        connection.pragma("journal_mode", "wal")
        connection.set_busy_timeout(0)
    for pragma, value in (("wal_autocheckpoint", 0), ("cache_size", 2), ("mmap_size", 0), ("synchronous", "full")):
        connection.pragma(pragma, value)
    if connection.pragma("journal_mode") != "wal":
        raise NotWalMode(
            "the database is not in WAL mode",
            detail=str(path),
            hint="run `pragma journal_mode=wal` in the app, or let walrep do it with --enable-wal",
        )
    # A connection that has never read holds no lock, and its checkpoints do nothing.
    _read(connection)


def _translated(error: BaseException, path: Path) -> BaseException:
    if isinstance(error, apsw.BusyError):
        return DatabaseInUse(
            "another process has locked the database",
            detail=str(path),
            hint="an app with `pragma locking_mode=exclusive`, or one that is switching the journal mode, cannot be "
            "protected; remove that setting",
        )
    if isinstance(error, apsw.NotADBError | apsw.CorruptError):
        return NotADatabase(
            "SQLite does not accept the database",
            detail=f"{path}: {error}",
            hint="it is corrupt or encrypted; check it with `pragma integrity_check`",
        )
    if isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError):
        return NotADatabase(
            "walrep may not write the database's shared memory",
            detail=f"{path}: {error}",
            hint="run walrep as the app's user; read locks live in the -shm file",
        )
    if isinstance(error, apsw.Error):
        return DatabaseBusy("SQLite failed", detail=f"{path}: {error}")
    return error


def _stand_in(files: WalFiles) -> int:
    byte = files.lock_read_mark(0)
    if byte is None:
        raise DatabaseBusy("no read mark of the database can be locked", detail=str(files.path))
    return byte


def _begin(connection: apsw.Connection) -> None:
    connection.execute("begin")
    try:
        _read(connection)
    except apsw.Error:
        connection.execute("rollback")
        raise


def _read(connection: apsw.Connection) -> None:
    # Begins a read transaction, as every statement does that reads. One that names a table would have SQLite parse the
    # whole schema of the app after each change of it: measured 25 ms and 7 MB with 3000 tables, and 0.06 ms this way.
    connection.execute("pragma schema_version").fetchall()


def _passive(connection: apsw.Connection) -> int | None:
    try:
        return connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[1]
    except (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.IOError):
        # A full or failing disk stops the copying, not the capture; the WAL keeps everything.
        return None
