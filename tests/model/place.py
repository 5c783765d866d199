"""The store of the model: in memory, in the test's process, with faults and in any weather."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from random import Random
from typing import Any, Literal, TypeVar

import msgspec

from tests.engine.protection import OverwritingStore
from walrep.core.budget import day_of
from walrep.errors import AccessDenied, StoreMissing, StoreUnavailable, WalrepError
from walrep.store.base import ObjectInfo, Store
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.clock import SimClock
from walrep.testing.faults import Call, Fault, FaultyStore, When

__all__ = ["Place", "Weather", "finish"]

T = TypeVar("T")

Weather = Literal["fair", "down", "denied", "gone", "flaky", "slow"]

_DELAYS_S: dict[Weather, tuple[float, float]] = {"slow": (1.0, 20.0), "down": (0.0, 10.0), "flaky": (0.0, 2.0)}
_ANSWER_S = (0.0, 0.05)


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits for something")


class Place:
    """What stands in the store, and how it answers."""

    def __init__(self, seed: int, clock: SimClock, *, creates_only: bool) -> None:
        self.objects: dict[str, MemoryObject] = {}
        self.clock = clock
        self.weather: Weather = "fair"
        self.faults: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.puts_by_day: Counter[int] = Counter()
        self.kill_in: int | None = None
        """Walrep is killed at so many requests from now: before the effect where the number is even, else behind it."""
        self._next: Fault | None = None
        self._dice = Random(seed)
        self._kind = MemoryStore if creates_only else OverwritingStore

    def store(self) -> Store:
        """Return the store itself, without faults."""
        return self._kind(self.objects, self.clock)

    def strike_next(self, when: When) -> None:
        """Let the next request fail once."""
        self._next = Fault(when=when, error=_unavailable)

    def fault_for(self, call: Call) -> Fault | None:
        """Return what strikes this call."""
        fault, self._next = self._next, None
        if self.weather == "down":
            fault = Fault(verb=call.verb, number=call.number, error=_unavailable)
        elif self.weather == "denied":
            fault = Fault(verb=call.verb, number=call.number, error=_denied)
        elif self.weather == "gone":
            fault = Fault(verb=call.verb, number=call.number, error=_gone)
        elif self.weather == "flaky" and self._dice.random() < 0.4:
            when: When = self._dice.choice(("before", "after"))
            fault = Fault(verb=call.verb, number=call.number, when=when, error=_unavailable)
        if fault is not None:
            self.faults[f"{self.weather} {call.verb} {fault.when}"] += 1
        return fault

    def answer(self, verb: str, arguments: list[Any]) -> tuple[float, tuple[str, str, str] | None, object] | None:
        """Do a request; return the seconds until the answer, an error, and a value. None: walrep is killed in it."""
        self.requests[verb] += 1
        if verb == "put":
            self.puts_by_day[day_of(self.clock.now_ms())] += 1
        dies = False
        if self.kill_in is not None:
            self.kill_in -= 1
            dies = self.kill_in <= 0
        if dies and self._dice.random() < 0.5:
            return None
        delay_s = self._dice.uniform(*_DELAYS_S.get(self.weather, _ANSWER_S))
        try:
            value = finish(self._perform(verb, arguments))
        except WalrepError as error:
            answered: tuple[float, tuple[str, str, str] | None, object] = (
                delay_s,
                (type(error).__name__, error.message, error.detail),
                None,
            )
        else:
            answered = (delay_s, None, value)
        return None if dies else answered

    async def _perform(self, verb: str, arguments: list[Any]) -> object:
        store = FaultyStore(self.store(), self)
        if verb == "put":
            key, data, if_absent = arguments
            await store.put(key, data, if_absent=if_absent)
            return None
        if verb == "get":
            key, start, length = arguments
            return await store.get(key, start=start, length=length)
        if verb == "head":
            return _plain(await store.head(*arguments))
        if verb == "list":
            prefix, start_after, limit = arguments
            return [_plain(each) async for each in store.list(prefix, start_after=start_after, limit=limit)]
        await store.delete(*arguments)
        return None


def _plain(info: ObjectInfo) -> object:
    return msgspec.to_builtins(info)


def _unavailable() -> WalrepError:
    return StoreUnavailable("the store did not answer", detail="injected")


def _denied() -> WalrepError:
    return AccessDenied("the store denies access", detail="injected")


def _gone() -> WalrepError:
    return StoreMissing("there is no such bucket", detail="injected")
