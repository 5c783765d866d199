"""A store in a folder: `file://`. One object is one file, its key the path below the folder.

An object is written to `.tmp` in the folder, synced, and then renamed to its key, or linked to it where it must not
exist yet; so the folder and everything below it has to be one file system, with hard links. A folder is not an
object: an empty one is invisible, and it is removed when its last object is deleted. A folder that is missing
altogether is an empty store, and the first `put` makes it. Files and folders are private to the user who made them,
because a replica holds the whole database.

Limits that a bucket does not have: a key cannot also be the folder of other keys; and symbolic links below the folder
are refused, never followed, so that no key leads out of it.

Deletes are not synced: one that a power cut undoes is planned again.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from walrep.clock import Clock, SystemClock
from walrep.disk.atomic import (
    FILE_CALLS,
    FileCalls,
    append_to,
    fsync_directory,
    publish,
    publish_new,
    remove_temporaries,
    temporary_path,
    write_new,
)
from walrep.errors import ObjectNotFound, PreconditionFailed, check
from walrep.runner import Runner
from walrep.store.base import ObjectInfo
from walrep.store.keys import RESERVED_PART, check_key, check_prefix, check_range, is_part, may_hold
from walrep.store.local_errors import link_refused, local_error
from walrep.store.rate import UploadRate
from walrep.store.source import source_slices

__all__ = ["STALE_TEMPORARY_MS", "LocalStore"]

T = TypeVar("T")

STALE_TEMPORARY_MS = 24 * 3600 * 1000
"""How old an unfinished object is before it counts as left behind by a writer that was killed."""

_FOLDER_MODE = 0o700
_SLICE_BYTES = 1 << 20
_LIST_BATCH_COUNT = 1000
_SYSTEM_CLOCK = SystemClock()


class LocalStore:
    """The objects below one folder. Blocking work goes through the runner, which its owner closes.

    With a `rate`, objects are written as fast as that, a slice at a time.
    """

    def __init__(
        self,
        root: Path,
        runner: Runner,
        clock: Clock = _SYSTEM_CLOCK,
        calls: FileCalls = FILE_CALLS,
        rate: UploadRate | None = None,
    ) -> None:
        self._root = root.absolute()
        self._temporaries = self._root / RESERVED_PART
        self._runner = runner
        self._clock = clock
        self._calls = calls
        self._rate = rate
        self._is_closed = False
        # Guards the three below. Held only while folders are made or removed, never while an object is written.
        self._folders_lock = threading.Lock()
        self._durable_folders: set[Path] = set()
        self._puts_in_flight_count = 0
        self._is_prepared = False

    def held_bytes(self, size_bytes: int) -> int:
        """Return how much of a file of this size is in memory at once while it is stored."""
        return min(size_bytes, _SLICE_BYTES)

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`.

        Raises:
            PreconditionFailed: `if_absent`, and the key exists.
            AccessDenied: the operating system denied it.
            StoreUnavailable: the disk is full or failed.
            SpoolError: the source file cannot be read.

        """
        self._check_open()
        check_key(key)
        if self._rate is None:
            await self._runner.run(lambda: self._put(key, source, if_absent=if_absent))
        else:
            await self._put_slowly(self._rate, key, source, if_absent=if_absent)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`.

        Raises:
            ObjectNotFound: no object has the key.
            AccessDenied: the operating system denied it.

        """
        self._check_open()
        check_key(key)
        check_range(start, length)
        return await self._runner.run(lambda: self._get(key, start, length))

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object.

        Raises:
            ObjectNotFound: no object has the key.
            AccessDenied: the operating system denied it.

        """
        self._check_open()
        check_key(key)
        return await self._runner.run(lambda: self._head(key))

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`, in the order of their bytes.

        At most `limit` of them. The names of one folder at a time are in memory.

        Raises:
            AccessDenied: the operating system denied it, or a symbolic link stands among the objects.

        """
        self._check_open()
        check_prefix(prefix)
        walk = islice(self._walk(prefix[: prefix.rfind("/") + 1], prefix, start_after), limit)

        def next_batch() -> tuple[ObjectInfo, ...]:
            with self._mapped("list", prefix or "/"):
                return tuple(islice(walk, _LIST_BATCH_COUNT))

        while batch := await self._runner.run(next_batch):
            for info in batch:
                yield info

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects; one that does not exist is no error.

        Raises:
            AccessDenied: the operating system denied it; objects before it in the sequence are deleted.

        """
        self._check_open()
        for key in keys:
            check_key(key)
        await self._runner.run(lambda: self._delete(keys))

    async def aclose(self) -> None:
        """End the use of this store."""
        self._is_closed = True

    def _check_open(self) -> None:
        check(not self._is_closed, "a store is used after it was closed")

    def _put(self, key: str, source: bytes | Path, *, if_absent: bool) -> None:
        with self._mapped("put", key):
            temporary = self._begin_put(key)
            try:
                slices = (source,) if isinstance(source, bytes) else source_slices(source, _SLICE_BYTES)
                write_new(temporary, slices, self._calls)
                self._end_put(key, temporary, if_absent=if_absent)
            finally:
                # Gone already, unless something failed; and a failure here must not hide that one.
                with suppress(OSError):
                    self._calls.unlink(temporary)

    async def _put_slowly(self, rate: UploadRate, key: str, source: bytes | Path, *, if_absent: bool) -> None:
        """Do the same in steps, with a turn on the line before each slice: no thread waits for one."""
        slices = source_slices(source, rate.slice_bytes)

        async def step(call: Callable[[], T]) -> T:
            def mapped() -> T:
                with self._mapped("put", key):
                    return call()

            return await self._runner.run(mapped)

        temporary = await step(partial(self._begin_put, key))
        try:
            await step(partial(write_new, temporary, (), self._calls))
            while part := await step(partial(next, slices, b"")):
                await rate.take(len(part))
                await step(partial(append_to, temporary, part, self._calls))
            await step(partial(self._end_put, key, temporary, if_absent=if_absent))
        finally:
            # The source is closed with its last reference, which may be a thread's that reads on, for nobody.
            with suppress(OSError):
                self._calls.unlink(temporary)

    def _begin_put(self, key: str) -> Path:
        self._path(key)
        self._prepare()
        return temporary_path(self._temporaries, "put")

    def _end_put(self, key: str, temporary: Path, *, if_absent: bool) -> None:
        final = self._root / key
        try:
            with self._folders_of(final):
                (publish_new if if_absent else publish)(temporary, final, self._calls)
        except FileExistsError as error:
            if if_absent and final.is_file():
                raise PreconditionFailed("the object exists already", detail=key) from error
            raise

    def _get(self, key: str, start: int, length: int | None) -> bytes:
        with self._mapped("get", key, is_lookup=True):
            # Without NONBLOCK, a pipe in the place of an object would block for ever.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = self._calls.open(self._path(key), flags, 0)
            try:
                status = os.fstat(descriptor)
                _check_is_object(status, key)
                end = status.st_size if length is None else min(status.st_size, start + length)
                return _read_range(descriptor, start, end)
            finally:
                os.close(descriptor)

    def _head(self, key: str) -> ObjectInfo:
        with self._mapped("head", key, is_lookup=True):
            status = os.lstat(self._path(key))
            _check_is_object(status, key)
            return _info(key, status)

    def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(ObjectNotFound), self._mapped("delete", key, is_lookup=True):
                path = self._path(key)
                self._calls.unlink(path)
                self._remove_empty_folders(path.parent)

    def _walk(self, folder: str, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        """Yield from a folder ("" or ending in a slash) and the folders below, in the order of keys."""
        try:
            path = self._path(folder.rstrip("/"))
            names = _scan(path)
        except (FileNotFoundError, NotADirectoryError):
            if self._is_unusable():
                raise
            return
        for name in names:
            key = folder + name
            if key.endswith("/"):
                if key != f"{RESERVED_PART}/" and may_hold(key, prefix, start_after):
                    yield from self._walk(key, prefix, start_after)
            elif key.endswith("@"):
                # Passing over it in silence could hide half a replica.
                if may_hold(key[:-1] + "/", prefix, start_after):
                    raise link_refused(path / name[:-1])
            elif key.startswith(prefix) and key > start_after:
                # What was deleted since the folder was read is not listed.
                with suppress(FileNotFoundError):
                    yield _info(key, os.lstat(path / name))

    def _path(self, key: str) -> Path:
        """Return the path of a key, having looked that no symbolic link leads away from it."""
        path = self._root
        for part in key.split("/"):
            path = path / part
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                break
            # The folder itself may be a link: whoever set it up chose so, and "" names it.
            if part and stat.S_ISLNK(mode):
                raise link_refused(path)
        return self._root / key

    def _prepare(self) -> None:
        """Make what every `put` needs; the first one also clears away what killed writers left."""
        with self._folders_lock:
            if not self._is_prepared:
                self._make_root()
            with suppress(FileExistsError):
                self._calls.mkdir(self._temporaries, _FOLDER_MODE)
            if not self._is_prepared:
                before_ms = self._clock.now_ms() - STALE_TEMPORARY_MS
                remove_temporaries(self._temporaries, modified_before_ms=before_ms)
                # From here on a folder that goes missing is an unmounted disk, and must not be made anew.
                self._is_prepared = True

    def _make_root(self) -> None:
        missing = [path for path in (self._root, *self._root.parents) if not os.path.lexists(path)]
        for path in reversed(missing):
            with suppress(FileExistsError):
                self._calls.mkdir(path, _FOLDER_MODE)
        # Also what was there: a writer may have made it that was killed before its sync. Whoever made a folder in one
        # that walrep may not read has to have seen to it.
        for path in reversed(missing or [self._root]):
            with suppress(PermissionError):
                fsync_directory(path.parent, self._calls)

    @contextmanager
    def _folders_of(self, final: Path) -> Iterator[None]:
        """Make the folders above an object, durably, and keep them from being removed meanwhile."""
        with self._folders_lock:
            self._puts_in_flight_count += 1
        try:
            with self._folders_lock:
                for folder in reversed(final.parents):
                    if self._root in folder.parents:
                        self._make_folder(folder)
            yield
        finally:
            with self._folders_lock:
                self._puts_in_flight_count -= 1

    def _make_folder(self, folder: Path) -> None:
        with suppress(FileExistsError):
            self._calls.mkdir(folder, _FOLDER_MODE)
            self._durable_folders.discard(folder)
        # A folder that was there may have been made by a writer that was killed before its sync.
        if folder not in self._durable_folders:
            fsync_directory(folder.parent, self._calls)
            self._durable_folders.add(folder)

    def _remove_empty_folders(self, folder: Path) -> None:
        with self._folders_lock:
            if self._puts_in_flight_count:
                return
            # The first that is not empty ends it, as does whatever else the operating system has against it.
            with suppress(OSError):
                while self._root in folder.parents:
                    self._durable_folders.discard(folder)
                    folder.rmdir()
                    folder = folder.parent

    def _is_unusable(self) -> bool:
        """Tell a root that cannot be a folder from one that is missing, which is an empty store."""
        try:
            return not stat.S_ISDIR(self._root.stat().st_mode)
        except FileNotFoundError:
            return False
        except OSError:
            return True

    @contextmanager
    def _mapped(self, verb: str, key: str, *, is_lookup: bool = False) -> Iterator[None]:
        """Raise what the operating system refused as an error of the store: the one place that does."""
        try:
            yield
        except OSError as error:
            is_missing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
            if is_lookup and is_missing and not self._is_unusable():
                raise ObjectNotFound("no such object", detail=key) from error
            raise local_error(error, f"cannot {verb} {key}", self._root) from error


def _read_range(descriptor: int, start: int, end: int) -> bytes:
    parts = []
    while start < end and (part := os.pread(descriptor, end - start, start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _scan(path: Path) -> tuple[str, ...]:
    """Return the names in a folder that can be part of a key, in the order of keys.

    A folder has a slash behind its name, since its keys sort so; a symbolic link an `@`, which no key contains.
    """
    names = []
    with os.scandir(path) as entries:
        for entry in entries:
            if not is_part(entry.name):
                continue
            if entry.is_symlink():
                names.append(f"{entry.name}@")
            elif entry.is_dir():
                names.append(f"{entry.name}/")
            elif entry.is_file():
                names.append(entry.name)
    return tuple(sorted(names))


def _check_is_object(status: os.stat_result, key: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ObjectNotFound("no such object", detail=key)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key=key, size_bytes=status.st_size, modified_ms=status.st_mtime_ns // 1_000_000)
