"""The place where a restore puts a database: who uses it, who owns it, and what lies beside it.

A file is *live* when any process holds one of SQLite's locks on it (https://sqlite.org/walformat.html,
https://sqlite.org/src/file/src/os_unix.c):

    database   bytes 0x40000000 to 0x400001ff: pending, reserved and shared locks; a connection in WAL mode holds a
               shared one as long as it is open
    -shm       bytes 120 to 128: the lock slots of the WAL, and the one that every connection holds

They are asked for in two ways. /proc/locks tells the processes, and opens nothing. F_OFD_GETLK asks the kernel, also
about processes of other containers, and takes nothing; but closing the descriptor that it needs drops every POSIX
lock that this very process has on the file, so it is not used when /proc/locks shows one of ours.

A connection in a rollback-journal mode holds no lock between transactions: there, nobody can tell that it is open.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import apsw

from walrep.core.units import LOCK_BYTE
from walrep.disk.atomic import fsync_directory, temporary_path
from walrep.errors import RestoreMismatch, SpoolError, TargetExists

__all__ = [
    "SIDECARS",
    "Check",
    "adopt_ownership",
    "check_integrity",
    "live_processes",
    "refuse_existing",
    "refuse_live",
    "without_sidecars",
]

Check = Literal["none", "quick", "full"]

SIDECARS = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database, by the end of the name."""

_DATABASE_LOCKS = (LOCK_BYTE, 512)
_SHM_LOCKS = (120, 9)
_FLOCK = struct.Struct("hhqqi4x")
_LOCKS_FIELDS_MIN = 8
_NEW_FILE_MODE = 0o666
_DEFAULT_UMASK = 0o022
_CACHE_KIB = 64 << 10
_MMAP_BYTES_MAX = 1 << 40
_FINDINGS_MAX = 5


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse a target that exists, or that something of an earlier database lies beside, unless `force`.

    Raises:
        TargetExists: it does, or the path is something other than a file.

    """
    if path.exists() and not path.is_file():
        raise TargetExists("the target is not a file", detail=str(path), hint="name a file in it")
    if force:
        return
    names = [str(each) for each in (path, *_sidecars(path)) if os.path.lexists(each)]
    if names:
        raise TargetExists(
            "the target exists", detail=", ".join(names), hint="add --force to replace it, or name another file"
        )


def refuse_live(path: Path) -> None:
    """Refuse a target that a process has open, whatever was forced.

    Raises:
        TargetExists: somebody holds one of SQLite's locks on it.

    """
    pids = live_processes(path)
    if pids is None:
        return
    who = "process " + ", ".join(str(pid) for pid in pids) if pids else "a process that is not visible from here"
    raise TargetExists(
        "the target is in use",
        detail=f"{path} is open in {who}",
        hint="stop the app and its walrep first, or restore to another file",
    )


def live_processes(path: Path, *, locks: Path = Path("/proc/locks")) -> list[int] | None:
    """Return who holds SQLite's locks on the database; an empty list if somebody unknown does, None if nobody."""
    watched = [(path, _DATABASE_LOCKS), (path.with_name(path.name + "-shm"), _SHM_LOCKS)]
    table = ""
    with suppress(OSError):
        table = locks.read_text()
    pids: set[int] = set()
    for each, (start, length) in watched:
        with suppress(FileNotFoundError):
            pids |= _holders(table, each.stat().st_ino, start, start + length - 1)
    if pids:
        # Locks of a file description, or of another container, come without a process.
        return sorted(pid for pid in pids if pid > 0)
    if any(_is_locked(each, start, length) for each, (start, length) in watched):
        return []
    return None


def adopt_ownership(temporary: Path, target: Path) -> tuple[str, ...]:
    """Give a new file the mode and the owner of the target, or of a file newly created beside it; return notices."""
    try:
        facts = target.stat()
        mode, whose = stat.S_IMODE(facts.st_mode), "the replaced file"
    except FileNotFoundError:
        facts = target.parent.stat()
        mode, whose = _NEW_FILE_MODE & ~_umask(), "its directory"
    notices: tuple[str, ...] = ()
    mine = temporary.stat()
    if (mine.st_uid, mine.st_gid) != (facts.st_uid, facts.st_gid):
        try:
            os.chown(temporary, facts.st_uid, facts.st_gid)
        except PermissionError:
            notices = (f"the file does not belong to user {facts.st_uid} and group {facts.st_gid}, as {whose} does",)
    # After chown, which may clear bits of the mode.
    temporary.chmod(mode)
    return notices


@contextmanager
def without_sidecars(path: Path, is_replaced: Callable[[], bool]) -> Iterator[bool]:
    """Have nothing of an earlier database beside the new one when that takes the name; say whether there was anything.

    SQLite pairs a database with the -wal or -journal of its name by the name alone: a crash between the rename and a
    later removal would leave the new database with the old log, and the next connection would replay the one into the
    other. Have SQLite copy the old log into the old database before, if it can: then a crash in between costs nothing.
    Where it could not, because the disk is full, the log is what the old database's last transactions are in: it is put
    back where the new one did not take the name.

    Raises:
        SpoolError: it could not be put back; the message says where it is.

    """
    aside: dict[Path, Path] = {}
    try:
        for each in _sidecars(path):
            away = temporary_path(path.parent, f".{each.name}")
            with suppress(FileNotFoundError):
                os.rename(each, away)
                aside[each] = away
        yield bool(aside)
    except BaseException as error:
        if not is_replaced():
            _put_back(aside, error)
        raise
    finally:
        for away in aside.values():
            with suppress(OSError):
                away.unlink()


def _put_back(aside: dict[Path, Path], error: BaseException) -> None:
    for each, away in [*aside.items()]:
        # What cannot be put back must not be removed, either.
        del aside[each]
        try:
            os.rename(away, each)
        except OSError as failed:
            raise SpoolError(
                "a log of the database that was to be replaced could not be put back",
                detail=f"{away}: {failed.strerror}, after {error}",
                hint=f"before anything opens the database, rename it to {each.name}",
            ) from error
        with suppress(OSError):
            # A disk that fails has failed already: what led here is told.
            fsync_directory(each.parent)


def check_integrity(path: Path, check: Check) -> tuple[str, ...]:
    """Let SQLite check a database that nobody uses, leaving nothing beside it; return notices.

    A check that SQLite cannot do, because the schema needs an extension of the app, is a notice.

    Raises:
        RestoreMismatch: SQLite found a defect.

    """
    if check == "none":
        return ()
    # immutable: no lock, no -wal and no -shm, also where the header says WAL mode.
    uri = f"file:{quote(str(path.absolute()))}?immutable=1"
    pragma = "quick_check" if check == "quick" else "integrity_check"
    try:
        connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            connection.pragma("cache_size", -_CACHE_KIB)
            connection.pragma("mmap_size", _MMAP_BYTES_MAX)
            rows = [str(row[0]) for row in connection.execute(f"pragma {pragma}({_FINDINGS_MAX})")]
        finally:
            connection.close()
    except apsw.SQLError as error:
        return (f"SQLite could not check the database: {error}",)
    except apsw.Error as error:
        rows = [str(error)]
    if rows != ["ok"]:
        raise RestoreMismatch(
            "SQLite finds a defect in the restored database",
            detail="; ".join(rows),
            hint="its bytes are the recorded ones, so the original had it too; "
            "restore an earlier transaction, or add --check none",
        )
    return ()


def _sidecars(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SIDECARS]


def _holders(table: str, inode: int, first: int, last: int) -> set[int]:
    """Return the processes that the text of /proc/locks shows with a lock in this byte range of the file.

    Only the inode is compared: the device that the kernel prints is not st_dev on overlay and btrfs. Two files with
    one inode number and a lock in SQLite's range make a refusal too many, never one too few.
    """
    pids = set()
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < _LOCKS_FIELDS_MIN or fields[1] == "->":
            continue
        kind, pid, file, start, end = fields[1], fields[4], fields[5], fields[6], fields[7]
        if kind not in {"POSIX", "OFDLCK"} or file.rsplit(":", 1)[-1] != str(inode):
            continue
        if int(start) <= last and (end == "EOF" or int(end) >= first):
            pids.add(int(pid))
    return pids


def _is_locked(path: Path, start: int, length: int) -> bool:
    """Ask the kernel whether anybody else holds a lock in this byte range."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """Return the umask; os.umask() would have to change it for a moment, for all threads."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return _DEFAULT_UMASK
