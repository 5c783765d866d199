"""How often databases are looked at, and that one that fails does not keep the others from being looked at."""

from __future__ import annotations

from itertools import pairwise

from walrep.engine.captures import SweepPolicy
from walrep.runner import InlineRunner
from walrep.testing.clock import SimClock
from walrep.testing.virtual import InlineExecutor, LoopCaptures


class Unit:
    """Notes when it was looked at; something is going on until `busy_until_s`."""

    def __init__(self, clock: SimClock, *, busy_until_s: float = 0.0) -> None:
        self.looked_s: list[float] = []
        self.broken: Exception | None = None
        self._clock = clock
        self._busy_until_s = busy_until_s

    def tick(self) -> bool:
        if self.broken is not None:
            raise self.broken
        self.looked_s.append(round(self._clock.monotonic_s(), 3))
        return self._clock.monotonic_s() < self._busy_until_s


def fail(error: Exception) -> None:
    raise AssertionError(error)


def test_sweeps_follow_one_another_the_less_often_the_longer_it_is_quiet() -> None:
    clock = SimClock()
    captures = LoopCaptures(clock, SweepPolicy())
    unit = Unit(clock, busy_until_s=2.0)

    async def main() -> None:
        await captures.run(lambda: captures.add(unit, fail))
        await clock.sleep(20.105)
        captures.sweep_now()
        await clock.sleep(0.1)
        captures.close()
        await clock.sleep(10.0)

    clock.run(main())
    waits = [round(after - before, 3) for before, after in pairwise(unit.looked_s)]
    assert unit.looked_s[0] == 0.01
    assert waits[:298] == [0.01] * 298
    assert set(waits[305:475]) == {0.05}
    assert set(waits[485:510]) == {0.2}
    # Looked at once when told to, and often again; not at all when it was closed.
    assert [each for each in unit.looked_s if each > 20.1][:3] == [20.105, 20.115, 20.125]
    assert unit.looked_s[-1] <= 20.205


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
        assert len(sound.looked_s) == seen > 40

    clock.run(main())
    assert told == [broken.broken]


async def test_what_an_inline_call_raises_is_its_future_s() -> None:
    error = OSError("full")

    def raise_it() -> None:
        raise error

    assert InlineExecutor().submit(raise_it).exception() is error
    assert await InlineRunner().run(lambda: 7) == InlineExecutor().submit(lambda: 7).result()
