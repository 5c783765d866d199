"""Virtual time: a test of an hour takes a moment, and a seed replays it.

`SimClock.run` runs a coroutine on an event loop whose clock is the simulated one. When every task waits for time, time
jumps to the next timer; so `asyncio.timeout` and `loop.call_later` are simulated too. Work in threads is not seen, so
time would jump past it: pass an `InlineRunner`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from walrep.errors import check

__all__ = ["SimClock"]

T = TypeVar("T")

_DEADLOCK_S = 10.0
_EPOCH_MS = 1_795_000_000_000


class SimClock:
    """A clock that stands still unless its loop or a test moves it; wall time begins in November 2026."""

    def __init__(self, now_ms: int = _EPOCH_MS) -> None:
        self._wall_ms = now_ms
        self._elapsed_s = 0.0
        self._boot = 1

    def now_ms(self) -> int:
        """Return simulated wall time, ms since 1970 UTC."""
        return self._wall_ms + int(self._elapsed_s * 1000 + 0.5)

    def monotonic_s(self) -> float:
        """Return the simulated seconds since the clock was made."""
        return self._elapsed_s

    def boot_id(self) -> str:
        """Return which boot it is."""
        return f"boot {self._boot}"

    def reboot(self) -> None:
        """Begin another boot."""
        self._boot += 1

    def pause(self, seconds: float) -> None:
        """Let time pass for a thread that would block."""
        self.advance(seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait in simulated time."""
        loop = asyncio.get_running_loop()
        check(isinstance(loop, _SimLoop) and loop.clock is self, "run it with SimClock.run, so that time can move")
        await asyncio.sleep(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        check(seconds >= 0, "monotonic time never steps back")
        self._elapsed_s += seconds

    def step_wall(self, ms: int) -> None:
        """Set wall time forward, or back, without any time passing."""
        self._wall_ms += ms

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end in simulated time and return its result.

        Raises:
            InvariantViolated: every task waits for something that nothing will bring about.

        """
        with asyncio.Runner(loop_factory=lambda: _SimLoop(self)) as runner:
            return runner.run(main)


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class _SimLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        super().__init__(_SimSelector(clock))

    def time(self) -> float:
        return self.clock.monotonic_s()


class _SimSelector(selectors.BaseSelector):
    """Moves the clock where a real selector would wait for a timer."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: int | _HasFileno, events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: int | _HasFileno) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: int | _HasFileno, events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            # No timer is set: only a thread or a socket can bring this on, in real time.
            found = self._real.select(_DEADLOCK_S)
            check(found, "deadlock: every task waits, and no timer is set")
            return found
        found = self._real.select(0)
        if not found and timeout > 0:
            self._clock.advance(timeout)
        return found
