"""Files that are there whole or not at all, also after a power cut.

The order is the whole point: the content is synced before the name points at it, and the directory after. A rename
that reaches the disk before its content leaves an empty file under a good name; a rename that was never synced may
not have happened. The calls to the operating system are passed in as `FileCalls`, so that a test sees their order.

This module must not know what the bytes mean. It raises `OSError`; whoever calls it says with a context manager what
that means: `map_os_errors` for local state, the store's own for a folder store.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from walrep.errors import SpoolError, SpoolFull

__all__ = [
    "FILE_CALLS",
    "FileCalls",
    "append_to",
    "fsync_directory",
    "map_os_errors",
    "publish",
    "publish_new",
    "remove_temporaries",
    "temporary_path",
    "write_atomic",
    "write_new",
]

_TEMPORARY_SUFFIX = ".tmp"
_FILE_MODE = 0o600
_DISK_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_NO_DIRECTORY_SYNC = frozenset((errno.EINVAL, errno.ENOTSUP))
_HINTS = {
    errno.EACCES: "let the user that walrep runs as write there",
    errno.EPERM: "let the user that walrep runs as write there",
    errno.EROFS: "the file system is mounted read-only; look for disk errors in the kernel log",
    errno.EIO: "the disk reports an error; look in the kernel log before anything else",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOENT: "the directory is gone; is its file system mounted?",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
    errno.EFBIG: "raise the limit of file size (ulimit -f)",
}


class FileCalls(msgspec.Struct, frozen=True, kw_only=True):
    """The calls to the operating system that make a file durable; a test passes recording or failing ones."""

    open: Callable[[Path, int, int], int] = os.open
    write: Callable[[int, bytes | memoryview], int] = os.write
    pwritev: Callable[[int, Sequence[bytes | memoryview], int], int] = os.pwritev
    truncate: Callable[[int, int], None] = os.ftruncate
    fsync: Callable[[int], None] = os.fsync
    fdatasync: Callable[[int], None] = os.fdatasync
    rename: Callable[[Path, Path], None] = os.replace
    link: Callable[[Path, Path], None] = os.link
    unlink: Callable[[Path], None] = os.unlink
    mkdir: Callable[[Path, int], None] = os.mkdir


FILE_CALLS = FileCalls()


def write_atomic(path: Path, data: bytes, calls: FileCalls = FILE_CALLS) -> None:
    """Replace the content of `path`, or create it: after a crash it holds the old bytes or the new, never a mix.

    Raises:
        OSError: the file may hold the old bytes or the new; no temporary file is left.

    """
    temporary = temporary_path(path.parent, f".{path.name}")
    write_new(temporary, (data,), calls)
    try:
        publish(temporary, path, calls)
    except BaseException:
        with suppress(OSError):
            calls.unlink(temporary)
        raise


def publish(temporary: Path, final: Path, calls: FileCalls = FILE_CALLS) -> None:
    """Give a complete file its final name, durably, in place of what had the name before.

    Both paths are on one file system.

    Raises:
        OSError: the file is under one of the two names, whole; the caller removes the temporary one.

    """
    _fsync_file(temporary, calls)
    calls.rename(temporary, final)
    fsync_directory(final.parent, calls)


def publish_new(temporary: Path, final: Path, calls: FileCalls = FILE_CALLS) -> None:
    """Give a complete file a final name that nothing has yet, durably; the temporary name is gone in every outcome.

    Both paths are on one file system, which has hard links.

    Raises:
        FileExistsError: something has the final name; it is as it was.
        OSError: the file is under its final name, whole, or gone.

    """
    try:
        _fsync_file(temporary, calls)
        calls.link(temporary, final)
    finally:
        # A failure to remove the temporary name must not hide what happened to the final one.
        with suppress(OSError):
            calls.unlink(temporary)
    fsync_directory(final.parent, calls)


def fsync_directory(path: Path, calls: FileCalls = FILE_CALLS) -> None:
    """Make the names in a directory durable."""
    descriptor = calls.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
    try:
        calls.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not know the call; there the server decides how durable a name is.
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_new(path: Path, slices: Iterable[bytes | memoryview], calls: FileCalls = FILE_CALLS) -> None:
    """Create a file that only its owner may read, with these bytes; not yet durable.

    Raises:
        FileExistsError: the file exists; it is as it was.
        OSError: the file was not written, and was removed again.

    """
    descriptor = calls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    try:
        for part in slices:
            rest = memoryview(part).cast("B")
            while rest:
                rest = rest[calls.write(descriptor, rest) :]
    except BaseException:
        with suppress(OSError):
            calls.unlink(path)
        raise
    finally:
        os.close(descriptor)


def append_to(path: Path, data: bytes, calls: FileCalls = FILE_CALLS) -> None:
    """Write more bytes at the end of a file that nobody else uses; not yet durable.

    Raises:
        OSError: some of them may be written.

    """
    descriptor = calls.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[calls.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def temporary_path(directory: Path, name: str) -> Path:
    """Return a path in `directory` that nobody else uses and that `remove_temporaries` knows."""
    return directory / f"{name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}"


def remove_temporaries(directory: Path, *, modified_before_ms: int) -> int:
    """Remove what killed writers left in `directory`, if last modified before then; return how many files."""
    removed_count = 0
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            # Another process may clean up the same directory: what it removed first is not missed.
            with suppress(FileNotFoundError):
                if (
                    entry.name.endswith(_TEMPORARY_SUFFIX)
                    and entry.is_file(follow_symlinks=False)
                    and entry.stat(follow_symlinks=False).st_mtime_ns // 1_000_000 < modified_before_ms
                ):
                    Path(entry.path).unlink()
                    removed_count += 1
    return removed_count


@contextmanager
def map_os_errors(what: str) -> Iterator[None]:
    """Raise what the operating system refused as an error of local state; `what` completes "cannot …".

    Raises:
        SpoolFull: the disk, or the quota on it, is full.
        SpoolError: every other `OSError`.

    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        detail = f"{error.filename}: {reason}" if error.filename else reason
        if error.errno in _DISK_FULL:
            raise SpoolFull(f"cannot {what}", detail=detail, hint="make room on the disk") from error
        hint = _HINTS.get(error.errno or 0, "check the disk and who may write there")
        raise SpoolError(f"cannot {what}", detail=detail, hint=hint) from error


def _fsync_file(path: Path, calls: FileCalls) -> None:
    descriptor = calls.open(path, os.O_RDONLY | os.O_CLOEXEC, 0)
    try:
        calls.fsync(descriptor)
    finally:
        os.close(descriptor)
