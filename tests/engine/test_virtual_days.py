"""Hours and days through the real engine in virtual time; `python -m benchmarks.month` has the month."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.month.result import judge, run_scenario
from tests.month.scenarios import BEGIN_MS, HOUR_S, MINUTE_S, Scenario, every, never
from tests.month.verify import TIERS, Verifier
from tests.month.world import Outcome, World
from walrep.clock import SystemClock
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryStore
from walrep.store.observe import RequestCounts

ACROSS_MIDNIGHT = Scenario(
    name="six hours across midnight",
    about="one transaction each 10 s; walrep is down for five minutes at half past ten",
    writing=every(10.0),
    days=1,
    tail_s=3 * HOUR_S + 7 * MINUTE_S,
    break_s=1.5 * HOUR_S,
    begin_ms=BEGIN_MS - int(3 * HOUR_S) * 1000,
)
BRIEF = Scenario(name="20 minutes", about="one each 10 s", writing=every(10.0), days=0, tail_s=20 * MINUTE_S)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hours of virtual time are thousands of real syncs."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="walrep-test-") as made:
        yield Path(made)


def live(folder: Path, scenario: Scenario, *, seed: int = 7, sample_count: int = 5) -> Outcome:
    folder.mkdir(exist_ok=True)
    return World(folder, scenario, seed=seed, sample_count=sample_count).run()


def test_six_hours_across_midnight_keep_what_is_promised(folder: Path) -> None:
    result = run_scenario(ACROSS_MIDNIGHT, folder, seed=7, restores=20, until=3)
    assert [each for each in judge(result) if not each.is_met] == []
    assert result.restored.count >= 20
    assert [tier for tier in TIERS if not result.restored.by_tier[tier]] == []
    (day,) = result.days
    # 1,050 transactions: where two come within 10 s, the second waits for the next segment.
    assert 525 <= day.created <= 1100
    assert day.live_midnight is not None
    assert day.live_midnight < day.live_max
    assert result.alarms == []
    assert [each.name for each in result.planned] == ["day 2", "day 3"]


def test_an_idle_day_costs_no_request(folder: Path) -> None:
    outcome = live(folder, msgspec.structs.replace(BRIEF, writing=never, days=2))
    assert outcome.start.requests.put > 0
    # On the first day retention may look at what the start has stored, which was behind its look of the day before.
    first, day = outcome.days
    assert first.requests in (RequestCounts(), RequestCounts(list=1))
    assert day.requests == outcome.tail.requests == RequestCounts()
    assert (day.created, day.deleted) == (0, 0)
    # The replica object, the segment that opens the timeline, and its base.
    assert day.live_max == day.live_midnight == 3


def test_the_same_seed_gives_the_same_objects(folder: Path) -> None:
    first, again, other = (
        live(folder / name, BRIEF, seed=seed) for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    # The replica object names the database's path.
    del first.objects["replica"], again.objects["replica"]
    assert first.objects == again.objects
    assert first.noted == again.noted
    assert first.shipped != other.shipped


def test_a_restore_of_something_else_is_noticed(folder: Path) -> None:
    outcome = live(folder, BRIEF)
    one, two, *_ = (each for each in outcome.noted if each.txid)
    swapped = msgspec.structs.replace(one, digest=two.digest)
    verifier = Verifier(
        MemoryStore(outcome.objects), folder, clock=SystemClock(), runner=InlineRunner(), quarter_ms=900_000
    )
    restored = asyncio.run(verifier.run([swapped, two]))
    assert restored.wrong == [f"transaction {one.txid} of timeline {one.timeline}"]
