"""walrep in a process of its own, which tells its numbers when asked: `report` or `stop` on stdin, JSON on stdout.

It is the Supervisor with the store, the event loop, the threads and the settings of `walrep replicate`. Two places are
observed: the requests of the stores, and the sweeps of the capture thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import SystemRandom

import msgspec
import uvloop

from walrep.clock import Clock, SystemClock
from walrep.core.events import Alarm, Event, Failed, SnapshotWritten
from walrep.engine.captures import Sweepable, Sweeps
from walrep.engine.parts import OpenedStore
from walrep.engine.settings import DatabaseSettings, ReplicateSettings
from walrep.engine.supervisor import Supervisor, new_writer
from walrep.engine.workers import start_threads
from walrep.errors import WalrepError
from walrep.runner import ThreadRunner
from walrep.sqlite.capture import Capture
from walrep.store.local import LocalStore
from walrep.store.observe import ObservedStore
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.store.url import FileUrl, StoreUrl

STORE_THREADS = 4


class ObservedSweeps(Sweeps):
    """Sweeps that remember what was swept, and how long it took."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.captures: list[Capture] = []
        self.count = 0
        self.longest_s = 0.0

    def add(self, unit: Sweepable, failed: Callable[[Exception], None]) -> None:
        if isinstance(unit, Capture) and unit not in self.captures:
            self.captures.append(unit)
        super().add(unit, failed)

    def sweep(self) -> None:
        began = time.perf_counter()
        super().sweep()
        self.count += 1
        self.longest_s = max(self.longest_s, time.perf_counter() - began)


@dataclasses.dataclass
class Observed:
    """What the process tells."""

    sweeps: ObservedSweeps
    stores: list[ObservedStore] = dataclasses.field(default_factory=list)
    snapshots: int = 0
    alarms: list[str] = dataclasses.field(default_factory=list)

    def requests(self) -> int:
        """Return how many requests the stores were sent."""
        totals = [store.counts for store in self.stores]
        return sum(c.put + c.get + c.head + c.list + c.delete_requests for c in totals)

    def report(self) -> dict[str, object]:
        """Return the numbers of now."""
        captures = self.sweeps.captures
        return {
            "cpu_s": time.process_time(),
            "threads_cpu_s": _thread_seconds(),
            "monotonic_s": time.monotonic(),
            "captures": [
                {**msgspec.to_builtins(each.counts), **msgspec.to_builtins(each.reader.counts)} for each in captures
            ],
            "transactions": sum(each.reader.encoder.txid for each in captures),
            "encoder": [msgspec.to_builtins(each.reader.encoder.counts) for each in captures],
            "sweeps": self.sweeps.count,
            "sweep_longest_s": self.sweeps.longest_s,
            "requests": self.requests(),
            "alarms": self.alarms,
            "rss_bytes": _status_bytes("VmRSS"),
            "rss_peak_bytes": _status_bytes("VmHWM"),
            "wakeups": _wakeups(),
            "modules": sorted(name for name in sys.modules if name.partition(".")[0] not in {"walrep", "benchmarks"}),
        }


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/self/status has no {field}")


def _wakeups() -> int:
    """Return how often the threads of this process went to sleep and woke up."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        # A thread may end between being listed and being read.
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches:"):
                    total += int(line.split()[1])
    return total


def _thread_seconds() -> dict[str, float]:
    seconds: dict[str, float] = {}
    for thread in threading.enumerate():
        if thread.ident is not None:
            clock = time.pthread_getcpuclockid(thread.ident)
            seconds[thread.name] = round(time.clock_gettime(clock), 4)
    return seconds


async def replicate(folder: Path, databases: list[Path]) -> None:
    """Protect the databases until `stop` comes, or stdin ends."""
    clock, runner, observed, stop = (
        SystemClock(),
        ThreadRunner(STORE_THREADS, "walrep-store"),
        Observed(ObservedSweeps(SystemClock())),
        asyncio.Event(),
    )

    def tell(answer: dict[str, object]) -> None:
        print(json.dumps(answer), flush=True)

    def report(event: Event) -> None:
        if isinstance(event, SnapshotWritten):
            observed.snapshots += 1
            if observed.snapshots == len(databases):
                tell({"ready": True})
        elif isinstance(event, Alarm | Failed):
            observed.alarms.append(event.message)

    def open_store(url: StoreUrl, notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        counted = ObservedStore(LocalStore(folder / Path(str(url)).name, runner, clock), clock)
        observed.stores.append(counted)
        store = RetryingStore(counted, clock, RetryPolicy(), SystemRandom(), notify)
        return OpenedStore(store=store, upload_p95_s=counted.upload_p95_s, counts=lambda: counted.counts)

    def on_input() -> None:
        for line in os.read(0, 4096).splitlines() or [b'{"do": "stop"}']:
            if json.loads(line)["do"] == "stop":
                asyncio.get_running_loop().remove_reader(0)
                stop.set()
            else:
                tell(observed.report())

    settings = ReplicateSettings(
        databases=tuple(
            DatabaseSettings(path=path, url=FileUrl(path=folder / path.name), state_dir=folder / f"{path.name}.state")
            for path in databases
        )
    )
    asyncio.get_running_loop().add_reader(0, on_input)
    supervisor = Supervisor(
        settings,
        open_store=open_store,
        clock=clock,
        report=report,
        new_writer=new_writer,
        start_workers=partial(start_threads, sweeps=observed.sweeps),
    )
    await supervisor.run(stop)
    tell(observed.report())
    runner.close()


def main() -> None:
    """Run with arguments: a folder for replicas and state, databases."""
    folder, *databases = map(Path, sys.argv[1:])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(replicate(folder, databases))


if __name__ == "__main__":
    main()
