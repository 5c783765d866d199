"""One database under protection, with real threads and files: the app is a child process, the store in memory."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TypeVar

import msgspec

from tests.engine.shipment import RecordedFaults
from walrep.clock import Clock, SystemClock
from walrep.core.backoff import BackoffPolicy
from walrep.core.compaction import CompactionPolicy
from walrep.core.events import Event, Flushed, SnapshotWritten
from walrep.core.flush import FlushPolicy
from walrep.core.objects import Writer
from walrep.core.restore import RestorePlan
from walrep.core.target import Target
from walrep.engine.fetch import ReplicaReader
from walrep.engine.parts import OpenedStore
from walrep.engine.planning import Wanted, plan_wanted
from walrep.engine.settings import DatabaseSettings, ReplicateSettings, SpoolLimits
from walrep.engine.supervisor import Supervisor
from walrep.engine.workers import Workers, start_threads
from walrep.errors import WalrepError
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.store.observe import RequestCounts
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.store.url import FileUrl, StoreUrl
from walrep.testing.faults import FaultyStore

__all__ = ["App", "OverwritingStore", "Protection", "two_protections"]

E = TypeVar("E", bound=Event)

_APP = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.pragma("journal_mode", "wal")
connection.set_busy_timeout(5000)
connection.execute("create table if not exists t(id integer primary key, v blob)")
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "change":
        connection.execute("update t set v = randomblob(2000) where id = 1")
        print("done", flush=True)
        continue
    if line.strip().isalpha():
        connection.execute("pragma wal_checkpoint(" + line.strip() + ")").fetchall()
        print("done", flush=True)
        continue
    for _ in range(int(line)):
        connection.execute("insert into t(v) values(randomblob(2000))")
    print("done", flush=True)
connection.close()
"""
_PATIENCE_S = 10.0


class App:
    """An app in a process of its own, with one connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = subprocess.Popen(
            [sys.executable, "-c", _APP, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("ready")

    def commit(self, count: int) -> None:
        """Commit so many transactions."""
        self._tell(str(count))

    def change(self) -> None:
        """Commit a transaction that changes a row in its place, and neither grows the database nor its schema."""
        self._tell("change")

    def checkpoint(self, mode: str) -> None:
        """Run a checkpoint."""
        self._tell(mode)

    def close(self) -> None:
        """Close the connection and end."""
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word


class OverwritingStore(MemoryStore):
    """A store that ignores the condition of a create-only PUT, as Garage and rclone do."""

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, whatever is there."""
        del if_absent
        await super().put(key, source)


class AheadClock(SystemClock):
    """The machine's clock, set ahead."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        """Return the time that it shows."""
        return super().now_ms() + self.ahead_ms


class Protection:
    """A database, its store and its settings; `running` protects it for a while."""

    def __init__(self, folder: Path) -> None:
        self.faults = RecordedFaults()
        self.objects: dict[str, MemoryObject] = {}
        self.events: list[Event] = []
        self.error: WalrepError | None = None
        self.settings = DatabaseSettings(
            path=folder / "app.db",
            url=FileUrl(path=Path("/memory")),
            state_dir=folder / "state",
            flush=FlushPolicy(rpo_s=0.2, first_commit_s=0.02, segment_bytes_max=50_000),
        )
        self.deadline_s = 10.0
        self.clock = AheadClock()
        self.kind: type[MemoryStore] = MemoryStore
        self.host = "host"
        self.rival_check_s = 900.0
        self.compaction = CompactionPolicy()
        self.start_workers: Callable[[Clock], Workers] = start_threads
        self.on_event: Callable[[Event], object] = lambda _event: None
        """Called where the engine tells something, before it goes on."""
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def change(self, **changes: object) -> None:
        """Change settings of the database."""
        self.settings = msgspec.structs.replace(self.settings, **changes)

    def limit_outbox(self, outbox_bytes_max: int) -> None:
        """Give the outbox so much room."""
        self.change(spool=SpoolLimits(outbox_bytes_max=outbox_bytes_max))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Protect the database while the body runs, then stop; `error` is what protection ended with."""
        self.events, self.error, self._changed = [], None, asyncio.Event()
        self._loop = asyncio.get_running_loop()
        stop = self._stop = asyncio.Event()
        settings = ReplicateSettings(
            databases=(self.settings,),
            shutdown_deadline_s=self.deadline_s,
            rival_check_s=self.rival_check_s,
            compaction=self.compaction,
        )
        supervisor = Supervisor(
            settings,
            open_store=self._open,
            clock=self.clock,
            report=self._report,
            new_writer=self._new_writer,
            start_workers=self.start_workers,
        )

        async def protect() -> None:
            try:
                await supervisor.run(stop)
            except WalrepError as error:
                self.error = error
            self._changed.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(protect())
            try:
                yield
            finally:
                stop.set()

    def quit(self) -> None:
        """Ask for a stop, while the body goes on."""
        self._stop.set()

    async def until(self, kind: type[E], holds: Callable[[E], bool] = lambda _event: True) -> E:
        """Wait for an event of a kind for which something holds, from the start of this run on."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and holds(event):
                        return event
                self._changed.clear()
                await self._changed.wait()

    async def commit_and_flush(self, app: App, count: int) -> None:
        """Once the timeline has its base, commit so many transactions, and wait until one of them is durable."""
        await self.until(SnapshotWritten)
        app.commit(count)
        await self.until(Flushed)

    async def until_count(self, kind: type[E], count: int) -> None:
        """Wait until there were so many events of a kind in this run."""
        await self.until(kind, lambda _event: len(self.of(kind)) >= count)

    async def until_ended(self) -> WalrepError:
        """Wait until protection ended with an error, and return it."""
        async with asyncio.timeout(_PATIENCE_S):
            while self.error is None:
                self._changed.clear()
                await self._changed.wait()
        return self.error

    def ended_with(self) -> WalrepError | None:
        """Return the error with which protection ended, if it did."""
        return self.error

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of a kind of this run."""
        return [event for event in self.events if isinstance(event, kind)]

    def keys(self, prefix: str) -> list[str]:
        """Return the keys in the store."""
        return sorted(key for key in self.objects if key.startswith(prefix))

    def store(self) -> MemoryStore:
        """Return the store itself."""
        return self.kind(self.objects)

    async def plan(self, target: Target, timeline: str | None = None) -> RestorePlan:
        """Plan a restore."""
        reader = ReplicaReader(self.store(), InlineRunner())
        try:
            wanted = Wanted(target=target, timeline=timeline)
            return await plan_wanted(reader, await reader.history(), wanted, self.clock.now_ms())
        finally:
            reader.close()

    def _new_writer(self) -> Writer:
        return Writer(nonce=secrets.token_hex(8), host=self.host, pid=7)

    def _open(self, _url: StoreUrl, notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        backoff = BackoffPolicy(first_delay_s=0.01, delay_s_max=0.05)
        policy = RetryPolicy(backoff=backoff, deadline_s=0.05)
        faulty = FaultyStore(self.store(), self.faults)
        retrying = RetryingStore(faulty, SystemClock(), policy, Random(1), notify)
        return OpenedStore(store=retrying, upload_p95_s=lambda: 0.0, counts=RequestCounts)

    def _report(self, event: Event) -> None:
        """Note an event; some are told by the capture thread."""

        def note() -> None:
            self.events.append(event)
            self._changed.set()

        self.on_event(event)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(note)


def two_protections(folder: Path, kind: type[MemoryStore]) -> tuple[Protection, Protection]:
    """Return two hosts with a database each, and one replica."""
    hosts = []
    for name in ("one", "two"):
        place = folder / name
        place.mkdir()
        host = Protection(place)
        host.kind, host.host, host.rival_check_s = kind, f"host-{name}", 0.0
        hosts.append(host)
    first, second = hosts
    second.objects = first.objects
    second.change(take_over=True)
    return first, second
