"""When an app commits, over days of virtual time: pure, and the same for the same seed.

A scenario begins on a Monday at midnight, UTC, if not told otherwise. `days` is how many days end while it lasts, and
`tail_s` how long it goes on behind the last midnight, so that segments, packs of a quarter of an hour and packs of days
are all there at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import msgspec

from walrep.core.budget import BudgetPolicy

__all__ = ["BEGIN_MS", "DAY_MS", "HOUR_S", "MINUTE_S", "SCENARIOS", "Commit", "Scenario", "every", "never"]

BEGIN_MS = 1_803_859_200_000
"""Monday, 1 March 2027, 00:00 UTC."""

MINUTE_S = 60.0
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S
DAY_MS = 24 * 3600 * 1000


class Commit(msgspec.Struct, frozen=True):
    """One transaction: seconds after the beginning, and how many rows it changes."""

    at_s: float
    rows: int = 1


Writing = Callable[[Random, float], Iterator[Commit]]
"""Yields the commits, in order, until so many seconds have passed."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What an app does; `break_s` is when walrep is stopped for a while, so that a new timeline begins."""

    name: str
    about: str
    writing: Writing
    days: int = 3
    tail_s: float = 22 * MINUTE_S
    break_s: float | None = None
    weekdays_only: bool = False
    begin_ms: int = BEGIN_MS
    budget: BudgetPolicy = BudgetPolicy()

    def midnight_ms(self, number: int) -> int:
        """Return when day `number`, from 1, ends, on the wall clock."""
        return (self.begin_ms // DAY_MS + number) * DAY_MS

    @property
    def end_s(self) -> float:
        """When it is over."""
        return (self.midnight_ms(self.days) - self.begin_ms) / 1000 + self.tail_s

    def commits(self, seed: int) -> list[Commit]:
        """Return all commits."""
        return list(self.writing(Random(seed), self.end_s))


def every(interval_s: float) -> Writing:
    """Commit about so often, never stopping; the moment within the first half of each interval is random."""

    def writing(dice: Random, end_s: float) -> Iterator[Commit]:
        for number in range(int(end_s / interval_s)):
            yield Commit((number + dice.random() / 2) * interval_s)

    return writing


def never(_dice: Random, _end_s: float) -> Iterator[Commit]:
    """Commit nothing."""
    return iter(())


def in_office_hours(dice: Random, end_s: float) -> Iterator[Commit]:
    """Commit from 8 to 18 o'clock, about every two seconds, as people do: at random."""
    at_s = 8 * HOUR_S
    while at_s < end_s:
        if at_s % DAY_S < 18 * HOUR_S:
            yield Commit(at_s)
            at_s += dice.expovariate(0.5)
        else:
            at_s = (at_s // DAY_S + 1) * DAY_S + 8 * HOUR_S


def in_bursts(dice: Random, end_s: float) -> Iterator[Commit]:
    """Commit 400 small transactions within 20 s once an hour, and ten that change every row at 2:30 each night."""
    for hour in range(int(end_s / HOUR_S) + 1):
        if hour % 24 == 2:
            yield from (Commit(hour * HOUR_S + HOUR_S / 2 + 2 * number, rows=1000) for number in range(10))
        # Behind what the night's batch takes, so that all is in order.
        begin_s = (hour + dice.uniform(0.55, 0.9)) * HOUR_S
        yield from (Commit(begin_s + number / 20) for number in range(400) if begin_s + number / 20 < end_s)


SCENARIOS = {
    each.name: each
    for each in (
        Scenario(name="idle-30d", about="nothing is committed", writing=never, days=30),
        Scenario(name="1-per-minute-30d", about="one transaction a minute", writing=every(MINUTE_S), days=30),
        Scenario(name="1-per-second-3d", about="one transaction a second", writing=every(1.0)),
        Scenario(
            name="office-hours",
            about="one every two seconds from 8 to 18 o'clock, Monday to Friday; walrep is down on Tuesday at noon",
            writing=in_office_hours,
            tail_s=10 * HOUR_S + 7 * MINUTE_S,
            break_s=DAY_S + 12 * HOUR_S,
            weekdays_only=True,
        ),
        Scenario(
            name="bursts",
            about="400 within 20 s each hour, 10 that change every row at night; walrep is down on Tuesday at noon",
            writing=in_bursts,
            tail_s=58 * MINUTE_S,
            break_s=DAY_S + 12 * HOUR_S,
        ),
    )
}
