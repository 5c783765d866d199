"""The one capture thread: it sweeps all attached databases, and runs what must not overlap with a sweep.

The thread looks at a database every 10 ms while it is in a hurry, and else every 200 ms. One sweep over a thousand idle
ones is a thousand reads of 136 bytes.
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
from walrep.core.checkpoint import Urgency
from walrep.sqlite.failures import database_error, map_database_errors

__all__ = ["CaptureThread", "Captures", "DatabaseCaptures", "SweepPolicy", "Sweepable", "Sweeps"]

T = TypeVar("T")

_TIMER_S = 1e-4
"""Timers may be early by so much."""


class SweepPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often to look at a database, in seconds.

    `hurry_wait_s` apart for `hurry_s` after it was in a hurry; else by `waits`: quiet for at least so long, look so far
    apart, and use at most this share of one core for all that are looked at so. `wait_max_s` bounds what that share
    stretches: a gap of more than 2 s between two looks makes times ambiguous (`walrep.core.moments`).
    """

    hurry_wait_s: float = 0.01
    hurry_s: float = 0.25
    waits: tuple[tuple[float, float, float], ...] = ((0.0, 0.2, 0.1), (10.0, 0.2, 0.005))
    wait_max_s: float = 1.5


class Sweepable(Protocol):
    """Something with a tick."""

    def tick(self) -> Urgency:
        """Do what there is to do; return how soon to look again."""
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


class _Swept(msgspec.Struct):
    """A unit, what to call when it fails, when it was last in a hurry, and when something last happened to it."""

    unit: Sweepable
    failed: Callable[[Exception], None]
    hurry_s: float
    active_s: float


class _Ring(msgspec.Struct):
    """The units that are looked at equally often, all at once, and when next."""

    wait_s: float
    share: float
    next_s: float
    units: dict[Sweepable, _Swept]


class Sweeps:
    """The units that are swept, each as often as it asks for; all calls come from one thread.

    A thousand idle databases must not be looked at every 10 ms because one is busy, so units are kept in rings: one for
    those in a hurry, and one for each wait of the policy.
    """

    def __init__(self, clock: Clock, policy: SweepPolicy | None = None) -> None:
        self._clock = clock
        self._policy = policy or SweepPolicy()
        self._rings = [_Ring(self._policy.hurry_wait_s, 1.0, 0.0, {})]
        self._rings += [_Ring(wait_s, share, 0.0, {}) for _quiet_s, wait_s, share in self._policy.waits]

    @property
    def has_units(self) -> bool:
        """Whether there is anything to sweep."""
        return any(ring.units for ring in self._rings)

    def add(self, unit: Sweepable, failed: Callable[[Exception], None]) -> None:
        """Begin to sweep a unit; `failed` is called once if its tick raises."""
        now_s = self._clock.monotonic_s()
        self._put(_Swept(unit, failed, now_s, now_s), now_s)

    def remove(self, unit: Sweepable) -> None:
        """Stop sweeping a unit."""
        for ring in self._rings:
            ring.units.pop(unit, None)

    def note_activity(self) -> None:
        """Look at every unit at the next sweep, and often again."""
        now_s = self._clock.monotonic_s()
        swept = [each for ring in self._rings for each in ring.units.values()]
        for ring in self._rings:
            ring.units.clear()
        for each in swept:
            each.hurry_s = each.active_s = now_s
            self._put(each, now_s)
        self._rings[0].next_s = now_s

    def sweep(self) -> None:
        """Let every unit look whose turn it is."""
        due_s = self._clock.monotonic_s() + _TIMER_S
        for ring in self._rings:
            if ring.units and ring.next_s <= due_s:
                self._sweep_ring(ring)

    def wait_s(self) -> float:
        """Return how long to wait before the next sweep."""
        next_s = min((ring.next_s for ring in self._rings if ring.units), default=0.0)
        return max(0.0, next_s - self._clock.monotonic_s())

    def _sweep_ring(self, ring: _Ring) -> None:
        began_s = self._clock.monotonic_s()
        moved: list[_Swept] = []
        for each in list(ring.units.values()):
            try:
                urgency = each.unit.tick()
            except Exception as error:  # noqa: BLE001  one database's failure must not end the others' protection
                self.remove(each.unit)
                each.failed(error)
                continue
            if urgency is not Urgency.QUIET:
                each.active_s = began_s
                each.hurry_s = began_s if urgency is Urgency.HURRY else each.hurry_s
            if self._ring_of(each, began_s) is not ring:
                moved.append(each)
        now_s = self._clock.monotonic_s()
        stretched_s = min((now_s - began_s) / ring.share, self._policy.wait_max_s)
        ring.next_s = now_s + max(ring.wait_s, stretched_s)
        for each in moved:
            if ring.units.pop(each.unit, None) is not None:
                self._put(each, now_s)

    def _put(self, swept: _Swept, now_s: float) -> None:
        ring = self._ring_of(swept, now_s)
        if not ring.units:
            ring.next_s = now_s + ring.wait_s
        ring.units[swept.unit] = swept

    def _ring_of(self, swept: _Swept, now_s: float) -> _Ring:
        if now_s - swept.hurry_s <= self._policy.hurry_s:
            return self._rings[0]
        quiet_s = now_s - swept.active_s
        at = [n for n, (least_s, *_rest) in enumerate(self._policy.waits) if quiet_s >= least_s]
        return self._rings[1 + at[-1]]


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
        while True:
            wait_s = self._sweeps.wait_s()
            try:
                # Calls do not put a sweep off: one that is due comes first, however many calls are queued.
                item = self._calls.get(timeout=wait_s) if self._sweeps.has_units else self._calls.get()
            except queue.Empty:
                item = _SWEEP
            if item is None:
                return
            if item is not _SWEEP:
                _answer(*item)
            if item is _SWEEP or wait_s <= 0:
                self._sweeps.sweep()
