"""What carries out blocking work for the engine: threads in the product, the event loop itself in virtual time."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor

import msgspec

from walrep.clock import Clock
from walrep.engine.captures import Captures, CaptureThread, Sweeps
from walrep.engine.watcher import DirectoryWatcher, Watcher
from walrep.runner import Runner, ThreadRunner

__all__ = ["Workers", "start_threads"]


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """Who does what may not be done on the event loop; `worker` does its calls one after the other."""

    captures: Captures
    watcher: Watcher
    worker: Executor
    runner: Runner

    def close(self) -> None:
        """Wait for what is under way, and end."""
        self.captures.close()
        self.worker.shutdown(wait=True)
        self.runner.close()
        self.watcher.close()


def start_threads(clock: Clock, sweeps: Sweeps | None = None) -> Workers:
    """Start the threads of one supervisor; `sweeps` are for its capture thread, at the usual pace unless given."""
    return Workers(
        captures=CaptureThread(clock, sweeps),
        watcher=DirectoryWatcher(),
        worker=ThreadPoolExecutor(1, thread_name_prefix="walrep-spool"),
        runner=ThreadRunner(2, "walrep-io"),
    )
