"""Hints that something in a directory appeared, vanished or was replaced.

Only created, moved and deleted are asked for: the writes to a busy -wal would cost most of a core. Events are hints;
whoever waits looks for itself, and also now and then without one. watchdog takes an inotify instance, of which a user,
who is the app's too, has 128, and a thread for each directory: beyond a few directories at a time there are no hints,
and none where the system has no instance left.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

__all__ = ["DirectoryWatcher", "Watcher"]

# It logs an error whenever an observer is stopped while it waits; without a handler that goes to stderr as text.
logging.getLogger("watchdog").addHandler(logging.NullHandler())

_DIRECTORIES_MAX = 16

_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]


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


class DirectoryWatcher:
    """One observer for all directories, begun with the first; to be used by one event loop."""

    def __init__(self) -> None:
        self._begun: BaseObserver | None = None
        self._is_refused = False
        self._waiting: Counter[ObservedWatch] = Counter()
        """How many wait for hints of each directory."""

    @contextmanager
    def watch(self, directory: Path, names: frozenset[str], event: asyncio.Event) -> Iterator[bool]:
        """Set `event` when an entry of `directory` with one of these names comes or goes.

        A directory that does not exist, or a machine that is out of watches, is no error: there are no hints then.
        """
        observer = self._observer() if directory.is_dir() and self._has_room(directory) else None
        if observer is None:
            yield False
            return
        handler = _Handler(names, event, asyncio.get_running_loop())
        try:
            watched = observer.schedule(handler, str(directory), recursive=False, event_filter=_EVENTS)
        except OSError:
            yield False
            return
        self._waiting[watched] += 1
        try:
            yield True
        finally:
            observer.remove_handler_for_watch(handler, watched)
            self._waiting[watched] -= 1
            if not self._waiting[watched]:
                # With the last who waits, the threads and the descriptor of the directory go.
                del self._waiting[watched]
                observer.unschedule(watched)

    def _observer(self) -> BaseObserver | None:
        """Return the observer, begun; None where the system has no inotify instance left for this user."""
        if self._begun is None and not self._is_refused:
            try:
                observer = Observer()
                observer.start()
            except OSError:
                self._is_refused = True
                return None
            self._begun = observer
        return self._begun

    def _has_room(self, directory: Path) -> bool:
        watched = {watch.path for watch in self._waiting}
        return str(directory) in watched or len(watched) < _DIRECTORIES_MAX

    def close(self) -> None:
        """End the observer."""
        if self._begun is not None:
            self._begun.stop()
            self._begun.join()


class _Handler(FileSystemEventHandler):
    def __init__(self, names: frozenset[str], event: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
        self._names = names
        self._event = event
        self._loop = loop

    def on_any_event(self, event: FileSystemEvent) -> None:
        paths = (str(event.src_path), str(event.dest_path))
        if any(path.rpartition("/")[2] in self._names for path in paths) and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)
