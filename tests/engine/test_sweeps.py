"""How often databases are looked at, and that one that fails does not keep the others from being looked at."""

from __future__ import annotations

from itertools import pairwise

from walrep.core.checkpoint import Urgency
from walrep.engine.captures import SweepPolicy, Sweeps
from walrep.runner import InlineRunner
from walrep.testing.clock import SimClock
from walrep.testing.virtual import InlineExecutor, LoopCaptures


class Unit:
    """Notes when it was looked at; its urgency is that of the first span that is not over, else quiet."""

    def __init__(self, clock: SimClock, *spans: tuple[float, Urgency], takes_s: float = 0.0) -> None:
        self.looked_s: list[float] = []
        self.broken: Exception | None = None
        self._clock = clock
        self._spans = spans
        self._takes_s = takes_s

    def tick(self) -> Urgency:
        if self.broken is not None:
            raise self.broken
        now_s = self._clock.monotonic_s()
        self.looked_s.append(round(now_s, 3))
        self._clock.advance(self._takes_s)
        return next((urgency for until_s, urgency in self._spans if now_s < until_s), Urgency.QUIET)

    def waits(self, first_s: float, last_s: float) -> set[float]:
        """Return how far apart the looks within a span of time were."""
        within = [each for each in self.looked_s if first_s <= each <= last_s]
        assert len(within) > 1
        return {round(after - before, 3) for before, after in pairwise(within)}


def fail(error: Exception) -> None:
    raise AssertionError(error)


def test_the_less_is_going_on_the_less_often_a_database_is_looked_at() -> None:
    clock = SimClock()
    captures = LoopCaptures(clock, SweepPolicy())
    unit = Unit(clock, (2.0, Urgency.HURRY), (8.0, Urgency.ACTIVE))

    async def main() -> None:
        await captures.run(lambda: captures.add(unit, fail))
        await clock.sleep(30.105)
        captures.sweep_now()
        await clock.sleep(0.1)
        captures.close()
        await clock.sleep(10.0)

    clock.run(main())
    assert unit.looked_s[0] == 0.01
    assert unit.waits(0.0, 2.2) == {0.01}
    assert unit.waits(2.5, 30.1) == {0.2}
    # Looked at once when told to, and often again; not at all when it was closed.
    assert [each for each in unit.looked_s if each > 30.1][:3] == [30.105, 30.115, 30.125]
    assert unit.looked_s[-1] <= 30.205


def test_idle_databases_are_not_looked_at_more_often_because_another_one_is_busy() -> None:
    clock = SimClock()
    captures = LoopCaptures(clock, SweepPolicy())
    busy, idle = Unit(clock, (100.0, Urgency.HURRY)), Unit(clock)

    async def main() -> None:
        await captures.run(lambda: captures.add(busy, fail))
        await captures.run(lambda: captures.add(idle, fail))
        await clock.sleep(30.0)
        captures.close()

    clock.run(main())
    assert busy.waits(0.0, 30.0) == {0.01}
    assert idle.waits(11.0, 30.0) == {0.2}


def test_many_idle_databases_take_half_a_percent_of_a_core_and_are_looked_at_every_two_seconds() -> None:
    """By the time that the looks take, whatever the machine."""
    clock = SimClock()
    sweeps = Sweeps(clock, SweepPolicy())
    slow = [Unit(clock, takes_s=0.000_01) for _ in range(250)]
    for unit in slow:
        sweeps.add(unit, fail)
    _sweep_until(clock, sweeps, 60.0)
    assert slow[0].waits(12.0, 60.0) == {0.502, 0.503}
    for unit in slow:
        sweeps.remove(unit)
    slower = Unit(clock, takes_s=0.5)
    sweeps.add(slower, fail)
    _sweep_until(clock, sweeps, 120.0)
    assert slower.waits(80.0, 120.0) == {2.0}


def _sweep_until(clock: SimClock, sweeps: Sweeps, until_s: float) -> None:
    while clock.monotonic_s() < until_s:
        clock.advance(sweeps.wait_s())
        sweeps.sweep()


def test_a_unit_that_fails_is_told_once_and_the_others_are_looked_at() -> None:
    clock = SimClock()
    captures = LoopCaptures(clock, SweepPolicy())
    sound, broken, told = Unit(clock), Unit(clock), list[Exception]()
    broken.broken = OSError("gone")

    async def main() -> None:
        await captures.run(lambda: captures.add(broken, told.append))
        await captures.run(lambda: captures.add(sound, fail))
        await clock.sleep(0.5)
        await captures.run(lambda: captures.remove(sound))
        seen = len(sound.looked_s)
        await clock.sleep(0.5)
        assert len(sound.looked_s) == seen > 25

    clock.run(main())
    assert told == [broken.broken]


async def test_what_an_inline_call_raises_is_its_future_s() -> None:
    error = OSError("full")

    def raise_it() -> None:
        raise error

    assert InlineExecutor().submit(raise_it).exception() is error
    assert await InlineRunner().run(lambda: 7) == InlineExecutor().submit(lambda: 7).result()
