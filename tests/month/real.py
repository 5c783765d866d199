"""The same in real time: the engine with its threads, a writer in a process of its own, a real S3 server.

Intervals are those of the product divided by 30: a quarter of an hour lasts 30 s. A day is cut to ten of these, so that
a quarter of an hour of real time sees three ends of days.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec

from tests.month.ledger import Day, KeptStore, Ledger, lasting
from tests.month.result import Result
from tests.month.verify import Noted, Restored, Verifier
from tests.store.servers import ROOT, S3Server, running
from walrep import app
from walrep.clock import SystemClock
from walrep.core.compaction import CompactionPolicy
from walrep.core.events import Alarm, Event, Failed, RetryScheduled, SnapshotWritten
from walrep.core.flush import FlushPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.engine.parts import OpenedStore
from walrep.engine.settings import DatabaseSettings, ReplicateSettings
from walrep.engine.supervisor import Supervisor, new_writer
from walrep.errors import WalrepError
from walrep.runner import ThreadRunner
from walrep.store.observe import RequestCounts
from walrep.store.retry import RetryPolicy
from walrep.store.s3_url import S3Access
from walrep.store.url import StoreUrl, parse_url

__all__ = ["run_real"]

SCALE = 30
RATE = float(SCALE)
QUARTER_MS = 15 * 60 * 1000 // SCALE
COMPACTION = CompactionPolicy(
    spans_ms=(QUARTER_MS, 10 * QUARTER_MS), settle_ms=30_000 // SCALE, grace_ms=10 * 60 * 1000 // SCALE
)
FLUSH = FlushPolicy(rpo_s=10 / SCALE, first_commit_s=1 / SCALE)
SNAPSHOTS = SnapshotPolicy(day_ms=COMPACTION.spans_ms[-1], look_s=1.0)
PACKED_S = COMPACTION.settle_ms / 1000 + FLUSH.rpo_s + 3.0
"""So long behind midnight the night's packing is done. What is not scaled takes up to three seconds: making and storing
a pack, and the second for which the engine waits at least before it looks again."""

STORE_THREADS = 4
_READY_S = 60.0
_START_S = 2.0


def run_real(folder: Path, *, seed: int, seconds: float, restores: int) -> Result:
    """Write for so long, then restore `restores` transactions that were drawn before, and those at the ends.

    Raises:
        ExceptionGroup: protection ended.
        WalrepError: something cannot be restored.

    """
    (folder / "server").mkdir()
    with running("ministack", folder / "server") as server:
        return asyncio.run(_Real(folder, server, seed).run(seconds, restores))


class _Writer:
    """The app's process."""

    def __init__(self, path: Path, seed: int, count: int, samples: int) -> None:
        arguments = map(str, (path, seed, count, RATE, samples))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.month.writer", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def answer(self) -> dict[str, Any]:
        """Wait for what it tells next."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        told: dict[str, Any] = json.loads(line)
        return told

    def go_on(self) -> None:
        """Let it do the next thing."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class _Real:
    """One run."""

    def __init__(self, folder: Path, server: S3Server, seed: int) -> None:
        self._folder = folder
        self._url = parse_url(server.url("month"))
        self._seed = seed
        self._clock = SystemClock()
        self._ledger = Ledger(RequestCounts)
        self._begun, self._stop = asyncio.Event(), asyncio.Event()
        self._timeline = ""
        self._alarms: list[str] = []
        self._days: list[Day] = []

    async def run(self, seconds: float, restores: int) -> Result:
        """Do everything."""
        began_s, path, count = self._clock.monotonic_s(), self._folder / "app.db", int(seconds * RATE)
        writer = _Writer(path, self._seed, count, restores)
        try:
            base = (await writer.answer())["base"]
            start, digests = await self._protect(path, writer)
        finally:
            writer.close()
        tail = self._ledger.close_day("end")
        ran_s = self._clock.monotonic_s()
        noted = [Noted(self._timeline, int(number), digest) for number, digest in digests.items()]
        restored = await self._restore([Noted(self._timeline, 0, base), *noted])
        took = {"run": ran_s - began_s, "restore": self._clock.monotonic_s() - ran_s}
        return Result(
            name="real-s3",
            about=f"{RATE:g} a second for {seconds:g} s, intervals divided by {SCALE}, ministack",
            seed=self._seed,
            commit_count=count,
            start=start,
            days=self._days,
            tail=tail,
            planned=[],
            starts=[],
            restored=restored,
            alarms=self._alarms,
            seconds=took,
        )

    async def _protect(self, path: Path, writer: _Writer) -> tuple[Day, dict[str, str]]:
        """Return what the start took, and what the writer told behind its last transaction."""
        async with self._stores() as stores, asyncio.TaskGroup() as group:
            protection = group.create_task(self._supervisor(path, stores).run(self._stop))
            async with asyncio.timeout(_READY_S):
                await self._begun.wait()
            # Packing reads what is there once the base is.
            await self._clock.sleep(_START_S)
            start = self._ledger.close_day("start")
            books = group.create_task(self._keep_books())
            writer.go_on()
            digests = await writer.answer()
            books.cancel()
            self._stop.set()
            await protection
            await self._compare(stores)
        return start, digests

    async def _keep_books(self) -> None:
        day_ms = COMPACTION.spans_ms[-1]
        while True:
            await self._clock.sleep((day_ms - self._clock.now_ms() % day_ms) / 1000)
            self._days.append(self._ledger.close_day(f"day {len(self._days) + 1}"))
            await self._clock.sleep(PACKED_S)
            self._days[-1] = msgspec.structs.replace(self._days[-1], live_midnight=lasting(self._ledger.live))

    async def _compare(self, stores: app.Stores) -> None:
        """Compare the books with what the bucket holds."""
        store = stores.open(self._url, _ignore).store
        listed = {info.key: info.size_bytes async for info in store.list("")}
        if listed != self._ledger.live:
            self._alarms.append(f"the bucket does not hold what the books say: {len(listed)} objects")

    async def _restore(self, noted: list[Noted]) -> Restored:
        runner = ThreadRunner(2, "month-restore")
        try:
            async with self._stores() as stores:
                store = stores.open(self._url, _ignore).store
                verifier = Verifier(store, self._folder, clock=self._clock, runner=runner, quarter_ms=QUARTER_MS)
                return await verifier.run(noted)
        finally:
            runner.close()

    def _stores(self) -> AbstractAsyncContextManager[app.Stores]:
        return app.open_stores(STORE_THREADS, self._clock, {}, S3Access(), RetryPolicy())

    def _supervisor(self, path: Path, stores: app.Stores) -> Supervisor:
        def open_store(url: StoreUrl, notify: Callable[[WalrepError, float], None]) -> OpenedStore:
            opened = stores.open(url, notify)
            self._ledger.counts = opened.counts
            return msgspec.structs.replace(opened, store=KeptStore(opened.store, self._ledger))

        database = DatabaseSettings(
            path=path, url=self._url, state_dir=self._folder / "state", flush=FLUSH, snapshots=SNAPSHOTS
        )
        return Supervisor(
            ReplicateSettings(databases=(database,), compaction=COMPACTION),
            open_store=open_store,
            clock=self._clock,
            report=self._report,
            new_writer=new_writer,
        )

    def _report(self, event: Event) -> None:
        if isinstance(event, SnapshotWritten):
            self._timeline = event.timeline
            self._begun.set()
        elif isinstance(event, Alarm | Failed | RetryScheduled):
            self._alarms.append(str(event))


def _ignore(_error: WalrepError, _delay_s: float) -> None:
    pass
