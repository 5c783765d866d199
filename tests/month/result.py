"""One scenario from its first transaction to the last restore, and what is promised of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from tests.month.ledger import Day
from tests.month.planned import plan_days
from tests.month.scenarios import Scenario
from tests.month.verify import Restored, Verifier
from tests.month.world import COMPACTION, Outcome, World
from walrep.clock import SystemClock
from walrep.core.history import History
from walrep.engine.fetch import ReplicaReader
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.store.observe import RequestCounts

__all__ = ["Result", "Verdict", "amplification", "judge", "run_scenario"]

MIDNIGHT_MAX = 100
LIVE_MAX = 320
AMPLIFICATION_MAX = 3.2


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario came to. `tail` is behind the last day; `planned` go on from the last day that was run.

    `starts`: what starts of walrep within the days asked of the store; it is part of the days, too. `seconds` are of
    the CPU in virtual time, and real ones in real time.
    """

    name: str
    about: str
    seed: int
    commit_count: int
    start: Day
    days: list[Day]
    tail: Day
    planned: list[Day]
    starts: list[RequestCounts]
    restored: Restored
    alarms: list[str]
    seconds: dict[str, float]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A promise, what became of it, and the limit."""

    what: str
    value: float
    limit: float

    @property
    def is_met(self) -> bool:
        """Whether it was kept."""
        return self.value <= self.limit


def run_scenario(scenario: Scenario, folder: Path, *, seed: int, restores: int, until: int) -> Result:
    """Run a scenario, plan the days behind it to day `until`, and restore what was noted; `folder` is empty.

    Raises:
        ExceptionGroup: protection ended.
        WalrepError: something cannot be restored.

    """
    moments = [time.process_time()]
    outcome = World(folder, scenario, seed=seed, sample_count=restores).run()
    moments.append(time.process_time())
    planned: list[Day] = []
    if scenario.days < until:
        planned = plan_days(scenario, outcome, asyncio.run(_read_history(outcome.settled)), until=until)
    moments.append(time.process_time())
    restored = asyncio.run(_restore(outcome, folder))
    moments.append(time.process_time())
    took = [after - before for before, after in pairwise(moments)]
    return Result(
        name=scenario.name,
        about=scenario.about,
        seed=seed,
        commit_count=outcome.commit_count,
        start=outcome.start,
        days=outcome.days,
        tail=outcome.tail,
        planned=planned,
        starts=outcome.starts,
        restored=restored,
        alarms=outcome.alarms,
        seconds=dict(zip(("run", "plan", "restore"), took, strict=True)),
    )


def judge(result: Result) -> list[Verdict]:
    """Compare a result with what is promised."""
    run = [*result.days, result.tail]
    every = [*run, *result.planned]
    midnights = [day.live_midnight for day in every if day.live_midnight is not None]
    downloaded = sum(day.requests.bytes_down for day in run) - sum(each.bytes_down for each in result.starts)
    verdicts = [
        Verdict(what="live objects at midnight, grace excluded", value=max(midnights, default=0), limit=MIDNIGHT_MAX),
        Verdict(what="live objects at any moment", value=max(day.live_max for day in every), limit=LIVE_MAX),
        Verdict(what="bytes downloaded but for starts", value=downloaded, limit=0),
        Verdict(what="restores that differ", value=len(result.restored.wrong), limit=0),
        Verdict(what="alarms", value=len(result.alarms), limit=0),
    ]
    if not result.commit_count:
        most = max(_request_count(day.requests) for day in run)
        verdicts.append(Verdict(what="requests a day", value=most, limit=0))
    for kind, days in (("run", run), ("planned", result.planned)):
        if any(day.segment_bytes for day in days):
            what = f"bytes up for each byte of segments, no snapshots, {kind}"
            verdicts.append(Verdict(what=what, value=amplification(days), limit=AMPLIFICATION_MAX))
    return verdicts


def amplification(days: Sequence[Day]) -> float:
    """Return how many bytes went up, snapshots left out, for each byte of segments."""
    segments = sum(day.segment_bytes for day in days)
    return (segments + sum(day.pack_bytes for day in days)) / segments if segments else 0.0


def _request_count(counts: RequestCounts) -> int:
    return counts.put + counts.get + counts.head + counts.list + counts.delete_requests


async def _read_history(objects: dict[str, MemoryObject]) -> History:
    reader = ReplicaReader(MemoryStore(objects), InlineRunner())
    try:
        return await reader.history()
    finally:
        reader.close()


async def _restore(outcome: Outcome, folder: Path) -> Restored:
    verifier = Verifier(
        MemoryStore(outcome.objects),
        folder,
        clock=SystemClock(),
        runner=InlineRunner(),
        quarter_ms=COMPACTION.spans_ms[0],
    )
    return await verifier.run(outcome.noted)
