"""Days under a budget of PUTs, through the real engine in virtual time. INV-32."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.month.scenarios import BEGIN_MS, HOUR_S, Commit, Scenario, every
from tests.month.world import Outcome, World
from walrep.core.budget import BudgetPolicy, segments_possible
from walrep.core.events import RpoRestored, RpoWidened
from walrep.disk.spent import load_days

PUTS_MAX = 500
EVENING_S = 12 * HOUR_S


def bursts(dice: Random, end_s: float) -> Iterator[Commit]:
    """Commit every 5 s for five hours, then now and then until midnight, and every 5 s again behind it."""
    at_s = 0.0
    while at_s < end_s:
        yield Commit(at_s)
        busy = at_s < 5 * HOUR_S or at_s > EVENING_S
        at_s += 5.0 if busy else dice.uniform(600, 1800)


BURSTS = Scenario(
    name="bursts",
    about="five busy hours, seven quiet ones, midnight, and a busy one with a break of walrep",
    writing=bursts,
    days=1,
    tail_s=1.5 * HOUR_S,
    break_s=EVENING_S + HOUR_S / 2,
    begin_ms=BEGIN_MS - int(EVENING_S * 1000),
    budget=BudgetPolicy(puts_per_day_max=PUTS_MAX),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: hours of virtual time are thousands of real syncs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="walrep-test-") as made:
        yield Path(made)


def live(folder: Path, scenario: Scenario) -> Outcome:
    return World(folder, scenario, seed=3, sample_count=3).run()


def test_a_burst_stays_within_the_budget_and_tells_the_rpo_in_force(folder: Path) -> None:
    outcome = live(folder, BURSTS)
    (day,) = outcome.days
    asked = day.requests.put + outcome.start.requests.put
    assert asked <= PUTS_MAX
    # An hour and a half: the packs of the night, a snapshot, two starts and a timeline are in it.
    assert outcome.tail.requests.put <= PUTS_MAX / 8
    assert outcome.alarms == []
    # Five hours have a good part of what twelve hours may use: more than an even share.
    assert asked > PUTS_MAX / 4
    widened, restored, *again = outcome.rpo
    assert isinstance(widened, RpoWidened)
    assert widened.reason.startswith("budget: 500 PUTs a day, ")
    assert " left until 00:00 UTC -> a segment each " in widened.reason
    assert isinstance(restored, RpoRestored)
    assert 4 * HOUR_S < restored.seconds < 7 * HOUR_S
    assert [type(each) for each in again][:1] == [RpoWidened]
    assert max(each.rpo_s for each in outcome.flushed) == pytest.approx(
        max(each.lag_s for each in outcome.flushed), rel=0.1
    )
    assert max(each.lag_s for each in outcome.flushed) < 2 * 86_400 / segments_possible(PUTS_MAX, 86_400)
    assert min(each.rpo_s for each in outcome.flushed) == 10.0
    # Packs were made all the same.
    assert [key for key in outcome.settled if key.startswith("packs/")] != []
    kept = load_days(folder / "state")
    assert [each.put_count for each in kept] == [asked, outcome.tail.requests.put]


def test_too_many_bytes_are_told_once_a_day(folder: Path) -> None:
    scenario = Scenario(
        name="midnight",
        about="two hours across midnight",
        writing=every(60.0),
        days=1,
        tail_s=HOUR_S,
        begin_ms=BEGIN_MS - int(HOUR_S * 1000),
        budget=BudgetPolicy(upload_bytes_per_day_warn=20_000),
    )
    outcome = live(folder, scenario)
    told = [each for each in outcome.alarms if "bytes were uploaded today, more than 20000" in each]
    assert len(told) == len(outcome.alarms) == 2
