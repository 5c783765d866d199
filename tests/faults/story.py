"""One story: two acts in which the store fails, and a third in which it does not.

    act 1    23:20 to 23:54 UTC: the base, segments, packs of a quarter of an hour; people keep, restore, list
    act 2    after a stop: midnight and a day; packs of both spans, what they replace, snapshots, retention
    act 3    the fault is over: walrep is started once more, and stopped

A walrep that ends with an error in an act is started again after a minute, as a service manager does.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from random import Random

import msgspec

from tests.crash.life import BEGIN_MS, END_S, RETENTION, SCRIPT, AppPipe, Life, Place, Step
from tests.faults.cases import Case, CasePlan
from walrep.core.compaction import CompactionPolicy
from walrep.core.events import Detached, Event, Failed, Flushed, SnapshotWritten
from walrep.core.objects import Writer
from walrep.core.target import AtBookmark, AtTxid, Latest, Target
from walrep.core.units import Position, Txid, parse_bookmark
from walrep.disk.room import DiskRoom
from walrep.engine.compactor import Compactor, Workplace
from walrep.engine.fetch import read_history
from walrep.engine.janitor import Janitor
from walrep.engine.pins import keep, unkeep
from walrep.engine.planning import Wanted
from walrep.engine.restorer import RestoreRequest, restore
from walrep.errors import WalrepError
from walrep.runner import InlineRunner
from walrep.store.base import Store
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.testing.clock import SimClock
from walrep.testing.faults import FaultyStore, Past

__all__ = ["At", "Durable", "Reading", "Story"]

At = tuple[str, int]
"""A timeline and a transaction."""

_AGAIN_S = 60.0
_SETTLE_S = 900.0
_PIN = "kept"
_SOMEBODY = Writer(nonce="c" * 16, host="somebody", pid=1)
_COMMANDS = RetryPolicy(put_deadline_s=60.0)
"""As `walrep.app` has it for a command."""


class Durable(msgspec.Struct, frozen=True):
    """A position that was reported durable, and what the store held at that moment."""

    at: At
    objects: dict[str, MemoryObject]


class Reading(msgspec.Struct, frozen=True):
    """What somebody asked for, what was durable before, and the digest and position that came, or the error."""

    what: str
    durable: At | None
    at: At | None = None
    digest: str = ""
    error: str = ""


class Story:
    """A story in a folder; `readings`, `durable` and `ends` tell what was seen of it."""

    def __init__(self, place: Place, app: AppPipe, case: Case, kind: type[MemoryStore]) -> None:
        self.clock = SimClock(BEGIN_MS)
        self.plan = CasePlan(case, self.clock)
        self.objects: dict[str, MemoryObject] = {}
        self.durable: list[Durable] = []
        self.readings: list[Reading] = []
        self.failures: list[Failed] = []
        self.detached: Detached | None = None
        self.kept: Position | None = None
        self.struck: list[str] = []
        self._place, self._app, self._kind = place, app, kind
        self._past = Past()
        self._dice = Random(str(case))
        self._lives = 0

    def run(self) -> None:
        """Live it."""
        self.clock.run(self._run())

    def store(self) -> MemoryStore:
        """Return the store itself."""
        return self._kind(self.objects, self.clock)

    async def _run(self) -> None:
        steps = list(enumerate(SCRIPT))
        await self._act(steps[:7], 2000.0, _ACT_1)
        await self._act(steps[7:], END_S, _ACT_2)
        self.plan.is_over = True
        await self._act([], END_S + _SETTLE_S, ())

    async def _act(self, steps: list[tuple[int, Step]], end_s: float, people: tuple[tuple[float, str], ...]) -> None:
        stop, self._life = asyncio.Event(), self._new_life()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._protect(stop))
            for at_s, what in people:
                group.create_task(self._read(at_s, what))
            for number, step in steps:
                await self._until(step.at_s)
                self._life.do(self._app, number, step)
            await self._until(end_s)
            stop.set()
        self._life.close()

    async def _until(self, at_s: float) -> None:
        await self._life.until(at_s)

    async def _protect(self, stop: asyncio.Event) -> None:
        while True:
            try:
                await self._life.supervisor().run(stop)
            except WalrepError:
                if stop.is_set():
                    return
                await self.clock.sleep(_AGAIN_S)
                self._life.close()
                self._life = self._new_life()
            else:
                return

    def _new_life(self) -> Life:
        self._lives += 1
        return Life(self._place, self.clock, number=self._lives, new_store=self._faulty, heard=self._hear)

    def _faulty(self) -> Store:
        return FaultyStore(self.store(), self.plan, clock=self.clock, past=self._past)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Flushed):
            position = parse_bookmark(event.bookmark)
            self.durable.append(Durable((position.timeline, position.txid), dict(self.objects)))
        elif isinstance(event, SnapshotWritten):
            self.durable.append(Durable((event.timeline, event.txid), dict(self.objects)))
        elif isinstance(event, Failed):
            self.failures.append(event)
        elif isinstance(event, Detached):
            self.detached = event
            if event.position is not None:
                position = parse_bookmark(event.position)
                self.durable.append(Durable((position.timeline, position.txid), dict(self.objects)))

    # -- people -----------------------------------------------------------------------------------------------------

    async def _read(self, at_s: float, what: str) -> None:
        await self._until(at_s)
        durable = max((each.at for each in self.durable), default=None)
        reading = Reading(what, durable)
        try:
            self.readings.append(await _PEOPLE[what](self, reading))
        except WalrepError as error:
            self.readings.append(msgspec.structs.replace(reading, error=f"{type(error).__name__}: {error}"))

    def _asked(self) -> Store:
        return RetryingStore(self._faulty(), self.clock, _COMMANDS, self._dice, lambda _error, _delay_s: None)

    async def _restore(self, reading: Reading, target: Target, timeline: str | None = None) -> Reading:
        output = self._place.folder / f"asked-{len(self.readings)}.db"
        request = RestoreRequest(output=output, target=target, timeline=timeline, check="none")
        outcome = await restore(self._asked(), request, clock=self.clock, runner=InlineRunner())
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        output.unlink()
        return msgspec.structs.replace(reading, at=(outcome.plan.position.timeline, outcome.txid), digest=digest)

    async def latest(self, reading: Reading) -> Reading:
        """Restore the newest transaction."""
        return await self._restore(reading, Latest())

    async def some(self, reading: Reading) -> Reading:
        """Restore a transaction that is durable, of the last hour or so."""
        if reading.durable is None:
            return reading
        timeline, newest = reading.durable
        txid = self._dice.randint(max(0, newest - 2), newest)
        return await self._restore(msgspec.structs.replace(reading, what=f"some {txid}"), AtTxid(Txid(txid)), timeline)

    async def keep(self, reading: Reading) -> Reading:
        """Keep the newest transaction."""
        wanted = Wanted(target=Latest())
        kept = await keep(self._asked(), _PIN, wanted, clock=self.clock, runner=InlineRunner())
        self.kept = kept.position
        return msgspec.structs.replace(reading, at=(kept.position.timeline, kept.position.txid))

    async def kept_one(self, reading: Reading) -> Reading:
        """Restore what is kept."""
        return reading if self.kept is None else await self._restore(reading, AtBookmark(self.kept))

    async def list(self, reading: Reading) -> Reading:
        """List what there is, and what is wrong with it."""
        history = await read_history(self._asked(), InlineRunner())
        problems = "; ".join(f"{each.kind} {each.message}" for each in history.problems)
        return msgspec.structs.replace(reading, error=problems and f"problems: {problems}")

    async def compact(self, reading: Reading) -> Reading:
        """Pack what there is to pack, beside walrep."""
        folder = self._place.folder / "compacting"
        folder.mkdir(exist_ok=True)
        compactor = Compactor(
            self._asked(),
            Workplace(folder, folder, DiskRoom(folder, 0)),
            clock=self.clock,
            runner=InlineRunner(),
            writer=_SOMEBODY,
            policy=CompactionPolicy(),
        )
        await compactor.load()
        await compactor.run(None)
        return reading

    async def prune(self, reading: Reading) -> Reading:
        """Delete what retention does not keep, beside walrep."""
        janitor = Janitor(self._asked(), clock=self.clock, runner=InlineRunner(), writer=_SOMEBODY)
        await janitor.run({}, RETENTION, yes=True)
        return reading

    async def unkeep(self, reading: Reading) -> Reading:
        """Let go what is kept."""
        if self.kept is not None:
            # Whatever comes of it, nothing promises it any more.
            self.kept = None
            await unkeep(self._asked(), _PIN)
        return reading


_PEOPLE: dict[str, Callable[[Story, Reading], Awaitable[Reading]]] = {
    "latest": Story.latest,
    "some": Story.some,
    "keep": Story.keep,
    "kept": Story.kept_one,
    "list": Story.list,
    "unkeep": Story.unkeep,
    "compact": Story.compact,
    "prune": Story.prune,
}
_ACT_1 = ((1300.0, "keep"), (1350.0, "latest"), (1400.0, "some"), (1700.0, "list"), (1800.0, "latest"))
_ACT_2 = (
    (2405.0, "latest"),
    (2410.0, "some"),
    (3900.0, "latest"),
    (4100.0, "compact"),
    (6700.0, "some"),
    (45_000.0, "kept"),
    (50_000.0, "unkeep"),
    (80_100.0, "latest"),
    (86_500.0, "keep"),
    (86_600.0, "list"),
    (88_000.0, "some"),
    # Walrep itself prunes at midnight, which is a second before.
    (88_801.0, "prune"),
    (88_810.0, "compact"),
    (89_000.0, "kept"),
    (89_050.0, "latest"),
)
