"""Days of protection in virtual time: the real engine, a real SQLite app, a store in memory, and the books of it.

The same seed gives the same objects, byte for byte; only the replica object names the folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from tests.month.ledger import Day, KeptStore, Ledger, difference, lasting
from tests.month.scenarios import Commit, Scenario
from tests.month.verify import Noted
from tests.month.writing import App
from walrep.core.compaction import CompactionPolicy
from walrep.core.events import (
    Alarm,
    Event,
    Failed,
    Flushed,
    Resumed,
    RetryScheduled,
    RpoRestored,
    RpoWidened,
    SnapshotWritten,
)
from walrep.core.flush import FlushPolicy
from walrep.core.objects import Writer
from walrep.engine.captures import SweepPolicy
from walrep.engine.parts import OpenedStore
from walrep.engine.settings import DatabaseSettings, ReplicateSettings
from walrep.engine.supervisor import Supervisor
from walrep.errors import WalrepError
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.store.meter import MeteredStore
from walrep.store.observe import ObservedStore, RequestCounter, RequestCounts
from walrep.store.url import FileUrl, StoreUrl
from walrep.testing.clock import SimClock
from walrep.testing.virtual import VirtualWorkers

__all__ = ["COMPACTION", "FLUSH", "PACKED_S", "SETTLED_S", "Outcome", "Shipped", "World"]

FLUSH, COMPACTION = FlushPolicy(), CompactionPolicy()

PACKED_S = COMPACTION.settle_ms / 1000 + 3 * FLUSH.rpo_s
"""So long behind midnight the night's packing is done."""

SETTLED_S = (COMPACTION.settle_ms + COMPACTION.grace_ms) / 1000 + FLUSH.rpo_s
"""So long behind midnight the grace is over, in which what a day's pack replaces is still there."""

START_S = 60.0
"""A start is over after that; the app writes nothing meanwhile."""

DOWN_S = 300.0
_LAST_COUNT = 12
_PACE = SweepPolicy(hurry_wait_s=0.6, waits=((0.0, 0.6, 1.0), (2.0, 60.0, 1.0)))
"""A few looks at each commit; an idle database is looked at once a minute. See `walrep.testing.virtual`."""


class Shipped(msgspec.Struct, frozen=True):
    """A segment that was stored: when its first transaction was seen, on the wall clock, and what it held."""

    seen_ms: int
    transactions: int
    size_bytes: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What days of protection left. `starts`: what was asked of the store by starts behind the first.

    `settled` are the objects when the grace behind the last midnight was over, `objects` those at the end.
    """

    start: Day
    days: list[Day]
    tail: Day
    starts: list[RequestCounts]
    shipped: list[Shipped]
    noted: list[Noted]
    alarms: list[str]
    flushed: list[Flushed]
    rpo: list[RpoWidened | RpoRestored]
    settled: dict[str, MemoryObject]
    objects: dict[str, MemoryObject]
    commit_count: int


class World:
    """One scenario in a folder of its own. `sample_count` transactions are noted, drawn before it begins."""

    def __init__(self, folder: Path, scenario: Scenario, *, seed: int, sample_count: int) -> None:
        self.clock = SimClock(scenario.begin_ms - int(START_S * 1000))
        self.objects: dict[str, MemoryObject] = {}
        self._counter = RequestCounter()
        self.ledger = Ledger(lambda: self._counter.counts)
        self._scenario = scenario
        self._folder = folder
        self._dice = Random(seed)
        self._commits = scenario.commits(seed)
        self._chosen = _choose(self._commits, scenario, self._dice, sample_count)
        self._workers = VirtualWorkers(_PACE)
        # Its syncs would only take real time.
        self._app = App(folder / "app.db", seed, synchronous="off")
        self._days: list[Day] = []
        self._settled: dict[str, MemoryObject] = {}
        self._starts: list[RequestCounts] = []
        self._shipped: list[Shipped] = []
        self._noted: list[Noted] = []
        self._alarms: list[str] = []
        self._flushed: list[Flushed] = []
        self._rpo: list[RpoWidened | RpoRestored] = []
        self._begun = asyncio.Event()
        self._stop = asyncio.Event()
        self._timeline = ""
        self._txid = 0

    def run(self) -> Outcome:
        """Live through all of it.

        Raises:
            ExceptionGroup: walrep's protection ended.

        """
        try:
            return self.clock.run(self._run())
        finally:
            self._app.close()

    async def _run(self) -> Outcome:
        async with asyncio.TaskGroup() as group:
            await self._start(group)
            start = self.ledger.close_day("start")
            books = group.create_task(self._keep_books())
            await self._write(group)
            self._stop.set()
            await books
        return Outcome(
            start=start,
            days=self._days,
            tail=self.ledger.close_day("tail"),
            starts=self._starts[1:],
            shipped=self._shipped,
            noted=sorted(self._noted),
            alarms=self._alarms,
            flushed=self._flushed,
            rpo=self._rpo,
            settled=self._settled,
            objects=self.objects,
            commit_count=len(self._commits),
        )

    # -- the app ----------------------------------------------------------------------------------------------------

    async def _write(self, group: asyncio.TaskGroup) -> None:
        break_s = self._scenario.break_s
        for number, commit in enumerate(self._commits):
            if break_s is not None and commit.at_s >= break_s:
                await self._break(group, break_s)
                break_s = None
            await self._until(commit.at_s)
            self._app.commit(commit.rows)
            self._workers.notice()
            self._txid += 1
            if number in self._chosen or self._txid == 1:
                self._note()
        await self._until(self._scenario.end_s)

    async def _break(self, group: asyncio.TaskGroup, at_s: float) -> None:
        """Stop walrep for a while in which the app restarts its log more than once: a new timeline has to begin."""
        await self._until(at_s)
        await self._end()
        for part in range(3):
            self._app.commit(1)
            self._app.restart_log()
            await self._until(at_s + (part + 1) * DOWN_S / 3)
        await self._start(group)

    def _note(self) -> None:
        self._noted.append(Noted(self._timeline, self._txid, self._app.digest()))

    # -- walrep -----------------------------------------------------------------------------------------------------

    async def _start(self, group: asyncio.TaskGroup) -> None:
        before = self.ledger.counts()
        self._begun, self._stop = asyncio.Event(), asyncio.Event()
        until_s = self._elapsed_s() + START_S
        self._walrep = group.create_task(self._supervisor().run(self._stop))
        await self._begun.wait()
        self._txid = 0
        self._note()
        await self._until(until_s)
        self._starts.append(difference(self.ledger.counts(), before))

    async def _end(self) -> None:
        self._stop.set()
        await self._walrep

    def _supervisor(self) -> Supervisor:
        database = DatabaseSettings(
            path=self._app.path,
            url=FileUrl(path=Path("/memory")),
            state_dir=self._folder / "state",
            flush=FLUSH,
            budget=self._scenario.budget,
        )
        return Supervisor(
            ReplicateSettings(databases=(database,), compaction=COMPACTION),
            open_store=self._open,
            clock=self.clock,
            report=self._report,
            new_writer=lambda: Writer(nonce=self._dice.randbytes(8).hex(), host="month", pid=1),
            start_workers=self._workers.start,
        )

    def _open(self, _url: StoreUrl, _notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        kept = KeptStore(MemoryStore(self.objects, self.clock), self.ledger)
        metered = MeteredStore(ObservedStore(kept, self.clock, self._counter))
        return OpenedStore(
            store=metered,
            metered=metered,
            upload_p95_s=self._counter.upload_p95_s,
            counts=self.ledger.counts,
        )

    def _report(self, event: Event) -> None:
        if isinstance(event, SnapshotWritten):
            self._timeline = event.timeline
            self._begun.set()
        elif isinstance(event, Flushed):
            seen_ms = self.clock.now_ms() - int(event.lag_s * 1000)
            self._shipped.append(Shipped(seen_ms, event.transactions, event.object_bytes))
            self._flushed.append(event)
        elif isinstance(event, RpoWidened | RpoRestored):
            self._rpo.append(event)
        elif isinstance(event, Alarm | Failed | RetryScheduled | Resumed):
            self._alarms.append(str(event))

    # -- the books --------------------------------------------------------------------------------------------------

    async def _keep_books(self) -> None:
        for number in range(1, self._scenario.days + 1):
            midnight_s = (self._scenario.midnight_ms(number) - self._scenario.begin_ms) / 1000
            await self._until(midnight_s)
            day = self.ledger.close_day(f"day {number}")
            await self._until(midnight_s + PACKED_S)
            self._days.append(msgspec.structs.replace(day, live_midnight=lasting(self.ledger.live)))
            await self._until(midnight_s + SETTLED_S)
        self._settled = dict(self.objects)

    def _elapsed_s(self) -> float:
        return (self.clock.now_ms() - self._scenario.begin_ms) / 1000

    async def _until(self, at_s: float) -> None:
        await self.clock.sleep(max(0.0, at_s - self._elapsed_s()))


def _choose(commits: list[Commit], scenario: Scenario, dice: Random, count: int) -> frozenset[int]:
    """Draw the numbers of the commits to note: at random, and those at the ends of timelines and of the run."""
    chosen = set(dice.sample(range(len(commits)), min(count, len(commits))))
    chosen |= set(range(len(commits))[-_LAST_COUNT:])
    if scenario.break_s is not None:
        before = sum(each.at_s < scenario.break_s for each in commits)
        chosen |= {before - 2, before - 1}
    return frozenset(chosen)
