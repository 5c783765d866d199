"""A store that fails on demand, before or after the effect of a call, by a plan that a seed or a list determines.

It must not know what is stored. What happened is recorded, so that a test can tell that its fault struck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Literal, Protocol, TypeVar

import msgspec

from walrep.errors import StoreUnavailable
from walrep.store.base import ObjectInfo, Store

__all__ = ["Call", "Fault", "FaultPlan", "FaultyStore", "RandomFaults", "ScriptedFaults", "Verb", "When"]

Verb = Literal["put", "get", "head", "list", "delete"]
When = Literal["before", "after"]
T = TypeVar("T")

_WHENS: tuple[When, ...] = ("before", "after")


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("the store did not answer", detail="injected")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call; `number` counts the calls of its verb, from 1.

    The key of a list is its prefix, that of a delete the first of its keys.
    """

    verb: Verb
    key: str
    number: int


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """An error that strikes calls of `verb` (None: any), before their effect or after it.

    It strikes the call with this number, counted by verb; where `always`, every later one too. A list that fails
    after its effect breaks off behind its first object.
    """

    verb: Verb | None = None
    number: int = 1
    when: When = "before"
    always: bool = False
    error: Callable[[], BaseException] = _unavailable


class FaultPlan(Protocol):
    """Decides which calls fail."""

    def fault_for(self, call: Call) -> Fault | None:
        """Return what strikes this call; None lets it pass."""
        ...


class ScriptedFaults:
    """Faults given as data; of two that strike the same call the first counts."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = faults

    def fault_for(self, call: Call) -> Fault | None:
        """Return the fault that strikes this call."""
        for fault in self._faults:
            if fault.verb in (None, call.verb) and (
                call.number == fault.number or (fault.always and call.number > fault.number)
            ):
                return fault
        return None


class RandomFaults:
    """Faults drawn from a seed: each call fails with this probability, before or after its effect."""

    def __init__(self, seed: int, probability: float, error: Callable[[], BaseException] = _unavailable) -> None:
        self._random = Random(seed)  # noqa: S311 - a seed has to replay it
        self._probability = probability
        self._error = error

    def fault_for(self, call: Call) -> Fault | None:
        """Draw what strikes this call; every call draws twice, so that a run is told by its seed and its calls."""
        strikes, when = self._random.random() < self._probability, self._random.choice(_WHENS)
        if not strikes:
            return None
        return Fault(verb=call.verb, number=call.number, when=when, error=self._error)


class FaultyStore:
    """A store whose calls fail as planned; `struck` is the record of those that did."""

    def __init__(self, store: Store, plan: FaultPlan) -> None:
        self.struck: list[tuple[Call, Fault]] = []
        self._store = store
        self._plan = plan
        self._numbers: Counter[Verb] = Counter()

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`."""
        await self._call("put", key, lambda: self._store.put(key, source, if_absent=if_absent))

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`."""
        return await self._call("get", key, lambda: self._store.get(key, start=start, length=length))

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object."""
        return await self._call("head", key, lambda: self._store.head(key))

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`."""
        call, fault = self._plan_call("list", prefix)
        self._strike(call, fault, "before")
        async for info in self._store.list(prefix, start_after=start_after, limit=limit):
            yield info
            self._strike(call, fault, "after")
        self._strike(call, fault, "after")

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        await self._call("delete", keys[0] if keys else "", lambda: self._store.delete(keys))

    async def aclose(self) -> None:
        """Close the store; this never fails."""
        await self._store.aclose()

    async def _call(self, verb: Verb, key: str, effect: Callable[[], Awaitable[T]]) -> T:
        call, fault = self._plan_call(verb, key)
        self._strike(call, fault, "before")
        result = await effect()
        self._strike(call, fault, "after")
        return result

    def _plan_call(self, verb: Verb, key: str) -> tuple[Call, Fault | None]:
        self._numbers[verb] += 1
        call = Call(verb=verb, key=key, number=self._numbers[verb])
        return call, self._plan.fault_for(call)

    def _strike(self, call: Call, fault: Fault | None, when: When) -> None:
        if fault is not None and fault.when == when:
            self.struck.append((call, fault))
            raise fault.error()
