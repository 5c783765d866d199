"""Hints that something in a directory appeared, vanished or was replaced, from the kernel's inotify.

Only created, moved and deleted are asked for: the writes to a busy -wal would cost most of a core. Events are hints;
whoever waits looks for itself, and also now and then without one.

One descriptor, which the event loop reads, serves all directories: a library that takes a thread and an inotify
instance for each directory took 200 threads for 100 idle databases, and a user has 128 instances.

The records are described in inotify(7): i32 watch, u32 mask, u32 cookie, u32 length, then a name padded with zeros.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

__all__ = ["DirectoryWatcher", "Watcher"]

_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_OVERFLOW = 0x4000
_ONLY_DIRECTORIES = 0x01000000
_MASK = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLY_DIRECTORIES
_RECORD = struct.Struct("iIII")
_READ_BYTES = 64 << 10


class Watcher(Protocol):
    """Gives hints that something in a directory came or went."""

    def watch(self, directory: Path, names: frozenset[str], event: asyncio.Event) -> AbstractContextManager[bool]:
        """Set `event`, while the context lasts, when an entry of `directory` with one of these names comes or goes.

        The context tells whether hints can be expected at all.
        """
        ...

    def close(self) -> None:
        """End all hints."""
        ...


class _Waiter(msgspec.Struct, frozen=True, eq=False):
    """Who waits for which names of a directory."""

    names: frozenset[str]
    event: asyncio.Event


class DirectoryWatcher:
    """One inotify descriptor for all directories, begun with the first; to be used by one event loop."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._waiters: dict[int, list[_Waiter]] = {}
        """By inotify's number of the directory, which is the same for every name that it has."""

    @contextmanager
    def watch(self, directory: Path, names: frozenset[str], event: asyncio.Event) -> Iterator[bool]:
        """Set `event` when an entry of `directory` with one of these names comes or goes.

        A directory that does not exist, or a machine that is out of watches or has no inotify, is no error: there are
        no hints then.
        """
        watch = self._add(directory)
        if watch is None:
            yield False
            return
        waiter = _Waiter(names, event)
        self._waiters.setdefault(watch, []).append(waiter)
        try:
            yield True
        finally:
            self._remove(watch, waiter)

    def close(self) -> None:
        """Close the descriptor; nobody watches any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _add(self, directory: Path) -> int | None:
        try:
            if self._descriptor is None:
                self._descriptor = _inotify_init()
            watch = _inotify_add_watch(self._descriptor, directory)
        except (OSError, AttributeError):
            # AttributeError: a C library without inotify.
            return None
        if not self._waiters:
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        return watch

    def _remove(self, watch: int, waiter: _Waiter) -> None:
        waiters = self._waiters[watch]
        waiters.remove(waiter)
        if waiters:
            return
        del self._waiters[watch]
        if self._descriptor is None:
            return
        # No error that matters: the kernel drops the watch itself when the directory is removed.
        _libc().inotify_rm_watch(self._descriptor, watch)
        if not self._waiters:
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def _read(self) -> None:
        if self._descriptor is None:
            return
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            watch, mask, _cookie, length = _RECORD.unpack_from(data, offset)
            offset += _RECORD.size
            name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
            offset += length
            self._hint(watch, name, is_lost=bool(mask & _OVERFLOW))

    def _hint(self, watch: int, name: str, *, is_lost: bool) -> None:
        """Wake who waits for a name; everybody, where the kernel had more events than it keeps."""
        for number, waiters in self._waiters.items():
            for waiter in waiters:
                if is_lost or (number == watch and name in waiter.names):
                    waiter.event.set()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _inotify_init() -> int:
    return _checked(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def _inotify_add_watch(descriptor: int, directory: Path) -> int:
    return _checked(_libc().inotify_add_watch(descriptor, os.fsencode(directory), ctypes.c_uint32(_MASK)))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
