"""The one capture thread: it sweeps all attached databases, and runs what must not overlap with a sweep.

The thread looks every 10 ms while something is going on, and less often the longer nothing is. One sweep over a
thousand idle databases is a thousand reads of 136 bytes.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from walrep.clock import Clock
from walrep.sqlite.failures import database_error, map_database_errors

__all__ = ["CaptureThread", "Captures", "DatabaseCaptures", "SweepPolicy", "Sweepable", "Sweeps"]

T = TypeVar("T")


class SweepPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often to look: (quiet for at least so many seconds, wait so many seconds), in order."""

    waits: tuple[tuple[float, float], ...] = ((0.0, 0.01), (1.0, 0.05), (10.0, 0.2))


class Sweepable(Protocol):
    """Something with a tick."""

    def tick(self) -> bool:
        """Do what there is to do; return whether anything is going on."""
        ...


class Captures(Protocol):
    """Sweeps databases, and runs calls that must not overlap with a sweep."""

    async def run(self, call: Callable[[], T], *, discard: Callable[[T], None] | None = None) -> T:
        """Run `call` between two sweeps; `discard` gets the result if nobody waits for it any more."""
        ...

    def add(self, unit: Sweepable, failed: Callable[[Exception], None]) -> None:
        """Begin to sweep a unit; `failed` is called once if its tick raises. Within `run` only."""
        ...

    def remove(self, unit: Sweepable) -> None:
        """Stop sweeping a unit. Within `run` only."""
        ...

    def close(self) -> None:
        """End the sweeps."""
        ...


class DatabaseCaptures:
    """The captures as one database uses them: what SQLite or the system refuses is an error of this database."""

    def __init__(self, captures: Captures, path: Path) -> None:
        self._captures = captures
        self._path = path

    async def run(self, call: Callable[[], T], *, discard: Callable[[T], None] | None = None) -> T:
        """Run `call` between two sweeps; raises `DatabaseError` for what is refused."""
        return await self._captures.run(partial(self._call, call), discard=discard)

    def add(self, unit: Sweepable, failed: Callable[[Exception], None]) -> None:
        """Begin to sweep a unit; `failed` is called once if its tick raises."""
        self._captures.add(unit, lambda error: failed(database_error(error, self._path)))

    def remove(self, unit: Sweepable) -> None:
        """Stop sweeping a unit."""
        self._captures.remove(unit)

    def close(self) -> None:
        """End the sweeps, of all databases."""
        self._captures.close()

    def _call(self, call: Callable[[], T]) -> T:
        with map_database_errors(self._path):
            return call()


class Sweeps:
    """The units that are swept, and when to look next; all calls come from one thread."""

    def __init__(self, clock: Clock, policy: SweepPolicy | None = None) -> None:
        self._clock = clock
        self._policy = policy or SweepPolicy()
        self._units: dict[Sweepable, Callable[[Exception], None]] = {}
        self._active_s = clock.monotonic_s()

    @property
    def has_units(self) -> bool:
        """Whether there is anything to sweep."""
        return bool(self._units)

    def add(self, unit: Sweepable, failed: Callable[[Exception], None]) -> None:
        """Begin to sweep a unit; `failed` is called once if its tick raises."""
        self._units[unit] = failed
        self.note_activity()

    def remove(self, unit: Sweepable) -> None:
        """Stop sweeping a unit."""
        self._units.pop(unit, None)

    def note_activity(self) -> None:
        """Look often again."""
        self._active_s = self._clock.monotonic_s()

    def sweep(self) -> None:
        """Let every unit look once."""
        active = False
        for unit, failed in list(self._units.items()):
            try:
                active = unit.tick() or active
            except Exception as error:  # noqa: BLE001  one database's failure must not end the others' protection
                del self._units[unit]
                failed(error)
        if active:
            self.note_activity()

    def wait_s(self) -> float:
        """Return how long to wait between two sweeps now."""
        quiet_s = self._clock.monotonic_s() - self._active_s
        return [wait for least, wait in self._policy.waits if quiet_s >= least][-1]


def _discard(discard: Callable[[T], None], future: Future[T]) -> None:
    if not future.cancelled() and future.exception() is None:
        discard(future.result())


def _answer(call: Callable[[], Any], future: Future[Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  the caller gets it, whatever it is
            future.set_exception(error)


_SWEEP: tuple[Callable[[], Any], Future[Any]] = (lambda: None, Future())


class CaptureThread:
    """Owns the thread; `run` executes a call between two sweeps and returns its result."""

    def __init__(self, clock: Clock, sweeps: Sweeps | None = None) -> None:
        self._clock = clock
        self._sweeps = Sweeps(clock) if sweeps is None else sweeps
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="walrep-capture", daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T], *, discard: Callable[[T], None] | None = None) -> T:
        """Run `call` on the capture thread, between two sweeps.

        `discard` gets the result if whoever waits for it is cancelled before it is there.
        """
        future: Future[T] = Future()
        self._calls.put((call, future))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if discard is not None:
                future.add_done_callback(partial(_discard, discard))
            raise

    def add(self, unit: Sweepable, failed: Callable[[Exception], None]) -> None:
        """Begin to sweep a unit; `failed` is called once, on this thread, if its tick raises. On the thread only."""
        self._sweeps.add(unit, failed)

    def remove(self, unit: Sweepable) -> None:
        """Stop sweeping a unit. On the thread only."""
        self._sweeps.remove(unit)

    def close(self) -> None:
        """End the thread after the calls that were queued before."""
        self._calls.put(None)
        self._thread.join()

    def _loop(self) -> None:
        swept_s = self._clock.monotonic_s()
        while True:
            wait_s = swept_s + self._sweeps.wait_s() - self._clock.monotonic_s()
            try:
                # Calls do not put a sweep off: one that is due comes first, however many calls are queued.
                item = self._calls.get(timeout=max(wait_s, 0)) if self._sweeps.has_units else self._calls.get()
            except queue.Empty:
                item = _SWEEP
            if item is None:
                return
            if item is not _SWEEP:
                _answer(*item)
            if item is _SWEEP or wait_s <= 0:
                self._sweeps.sweep()
                swept_s = self._clock.monotonic_s()
