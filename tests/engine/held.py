"""A spool worker that a test holds, as another database's work does, and that tells how many calls wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import msgspec

from walrep.clock import Clock
from walrep.engine.workers import Workers, start_threads

__all__ = ["HeldWorker"]

P = ParamSpec("P")
T = TypeVar("T")
_PATIENCE_S = 10.0


class HeldWorker:
    """The worker of the newest supervisor: one thread; `hold` keeps it busy until `release`."""

    def __init__(self) -> None:
        self._gate = threading.Event()
        self._changed = threading.Condition()
        self.waiting_count = 0
        """How many calls were submitted since the worker is held."""
        self._worker: _CountingWorker | None = None

    def start(self, clock: Clock) -> Workers:
        """Return the workers of a supervisor, with this one among them."""
        self._worker = _CountingWorker(self._count)
        return msgspec.structs.replace(start_threads(clock), worker=self._worker)

    def hold(self) -> None:
        """Let every call wait from now on."""
        assert self._worker is not None
        self._gate.clear()
        self._worker.submit(self._gate.wait, 3 * _PATIENCE_S)
        self.waiting_count = 0

    def release(self) -> None:
        """Do the calls that wait."""
        self._gate.set()

    async def until_waiting(self, count: int) -> None:
        """Wait until so many calls were submitted since the worker is held."""
        await asyncio.to_thread(self._until_waiting, count)

    def _count(self) -> None:
        with self._changed:
            self.waiting_count += 1
            self._changed.notify_all()

    def _until_waiting(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting_count >= count, _PATIENCE_S)


class _CountingWorker(ThreadPoolExecutor):
    def __init__(self, count: Callable[[], None]) -> None:
        super().__init__(1)
        self._count = count

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self._count()
        return super().submit(fn, *args, **kwargs)
