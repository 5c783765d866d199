"""The engine in virtual time: what threads do in the product the event loop does, in the same order in every run.

    clock = SimClock()
    workers = VirtualWorkers(SweepPolicy(hurry_wait_s=0.6, waits=((0.0, 0.6, 1.0), (5.0, 60.0, 1.0))))
    supervisor = Supervisor(..., clock=clock, start_workers=workers.start)
    clock.run(main())

No thread sweeps every 10 ms: 30 days would be a quarter of a billion sweeps. The app of a test calls `notice` after a
commit, and then sweeps follow at the pace of the policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from walrep.clock import Clock
from walrep.engine.captures import Sweepable, SweepPolicy, Sweeps
from walrep.engine.workers import Workers
from walrep.errors import check
from walrep.runner import InlineRunner

__all__ = ["InlineExecutor", "LoopCaptures", "NoHints", "VirtualWorkers"]

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Does each call at once, in the calling thread."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return the finished future of a call."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  the caller gets it, whatever it is
            future.set_exception(error)
        return future


class LoopCaptures:
    """Sweeps by timers of the event loop that runs when the first unit is added."""

    def __init__(self, clock: Clock, policy: SweepPolicy) -> None:
        self._sweeps = Sweeps(clock, policy)
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, call: Callable[[], T], *, discard: Callable[[T], None] | None = None) -> T:
        """Return what `call` returns; nothing else runs meanwhile, so that there is never anything to discard."""
        del discard
        # Others get their turn first, as they do while a thread works.
        await asyncio.sleep(0)
        return call()

    def add(self, unit: Sweepable, failed: Callable[[Exception], None]) -> None:
        """Begin to sweep a unit; `failed` is called once if its tick raises."""
        self._sweeps.add(unit, failed)
        self._schedule()

    def remove(self, unit: Sweepable) -> None:
        """Stop sweeping a unit."""
        self._sweeps.remove(unit)
        self._schedule()

    def sweep_now(self) -> None:
        """Look at once, and then at the pace that follows activity."""
        self._sweeps.note_activity()
        self._sweep()

    def close(self) -> None:
        """End the sweeps."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._sweeps.sweep()
        self._schedule()

    def _schedule(self) -> None:
        self.close()
        if self._sweeps.has_units:
            self._timer = asyncio.get_running_loop().call_later(self._sweeps.wait_s(), self._sweep)


class NoHints:
    """A watcher that sees nothing, which is allowed: whoever waits for a hint looks for itself now and then."""

    @contextmanager
    def watch(self, directory: Path, names: frozenset[str], event: asyncio.Event) -> Iterator[bool]:
        """Give no hint."""
        del directory, names, event
        yield False

    def close(self) -> None:
        """Do nothing."""


class VirtualWorkers:
    """Starts what a supervisor needs on the event loop, and tells its sweeps of commits."""

    def __init__(self, policy: SweepPolicy) -> None:
        self._policy = policy
        self._captures: LoopCaptures | None = None

    def start(self, clock: Clock) -> Workers:
        """Return the workers of one supervisor."""
        self._captures = LoopCaptures(clock, self._policy)
        return Workers(captures=self._captures, watcher=NoHints(), worker=InlineExecutor(), runner=InlineRunner())

    def notice(self) -> None:
        """Have the newest supervisor look at its databases, as the app has just committed."""
        check(self._captures is not None, "a supervisor was started")
        if self._captures is not None:
            self._captures.sweep_now()
