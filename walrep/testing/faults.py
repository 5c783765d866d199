"""A store that fails on demand, by a plan that a seed or a list determines.

| kind | what it does | what it strikes |
| --- | --- | --- |
| `error` | raises, before the effect of a call or after it | all |
| `slow` | waits, before the effect of a call or after it | all |
| `cut` | breaks off half-way, and raises: nothing appears, half of a listing came, half of the keys are deleted | all |
| `short` | returns the first half as if it were all | get |
| `rot` | returns it with one bit changed | get |
| `stale` | lists what there was a while ago: what was put since is missing, what was deleted is there | list |
| `skew` | tells times of another clock | head, list |

It must not know what is stored. What happened is recorded, so that a test can tell that its fault struck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Literal, Protocol

import msgspec

from walrep.clock import Clock, SystemClock
from walrep.errors import ObjectNotFound, StoreUnavailable
from walrep.store.base import ObjectInfo, Store

__all__ = [
    "KINDS",
    "Call",
    "Fault",
    "FaultPlan",
    "FaultyStore",
    "Kind",
    "Past",
    "RandomFaults",
    "ScriptedFaults",
    "Verb",
    "When",
]

Verb = Literal["put", "get", "head", "list", "delete"]
When = Literal["before", "after"]
Kind = Literal["error", "slow", "cut", "short", "rot", "stale", "skew"]

_ALL: frozenset[Verb] = frozenset({"put", "get", "head", "list", "delete"})
KINDS: Mapping[Kind, frozenset[Verb]] = {
    "error": _ALL,
    "slow": _ALL,
    "cut": _ALL,
    "short": frozenset({"get"}),
    "rot": frozenset({"get"}),
    "stale": frozenset({"list"}),
    "skew": frozenset({"head", "list"}),
}
"""What each kind strikes; others pass it by."""

_SYSTEM_CLOCK = SystemClock()


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("the store did not answer", detail="injected")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call; `number` counts the calls of its verb, from 1.

    The key of a list is its prefix, that of a delete the first of its keys. `is_range`: a get of a part.
    """

    verb: Verb
    key: str
    number: int
    is_range: bool = False


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What strikes calls of `verb` (None: any): see the module for its kinds.

    It strikes the call with this number, counted by verb, and so many in a row; where `always`, every later one too. A
    list that fails after its effect breaks off behind its first object. `seconds`: how slow, how long ago, or how far
    the other clock is ahead.
    """

    verb: Verb | None = None
    number: int = 1
    times: int = 1
    always: bool = False
    kind: Kind = "error"
    when: When = "before"
    seconds: float = 0.0
    error: Callable[[], BaseException] = _unavailable

    def strikes(self, call: Call) -> bool:
        """Say whether it strikes this call."""
        if self.verb not in (None, call.verb) or call.number < self.number:
            return False
        return self.always or call.number < self.number + self.times


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
        return next((fault for fault in self._faults if fault.strikes(call)), None)


class RandomFaults:
    """Faults drawn from a seed: each call meets one of them with this probability."""

    def __init__(self, seed: int, probability: float, faults: Sequence[Fault] = (Fault(), Fault(when="after"))) -> None:
        self._random = Random(seed)  # noqa: S311 - a seed has to replay it
        self._probability = probability
        self._faults = faults

    def fault_for(self, call: Call) -> Fault | None:
        """Draw what strikes this call; every call draws twice, so that a run is told by its seed and its calls."""
        del call
        strikes, fault = self._random.random() < self._probability, self._random.choice(self._faults)
        return fault if strikes else None


class Past:
    """What was changed through a store, and when: so that a listing can be an old one."""

    def __init__(self) -> None:
        self._changes: list[tuple[float, str, ObjectInfo | None]] = []

    def note(self, at_s: float, key: str, before: ObjectInfo | None) -> None:
        """Note that an object is about to be put or deleted; `before` is what stood there."""
        self._changes.append((at_s, key, before))

    def undo(self, listed: Mapping[str, ObjectInfo], since_s: float) -> dict[str, ObjectInfo]:
        """Return a listing as it was then."""
        found = dict(listed)
        for at_s, key, before in reversed(self._changes):
            if at_s <= since_s:
                break
            if before is None:
                found.pop(key, None)
            else:
                found[key] = before
        return found


class FaultyStore:
    """A store whose calls fail as planned; `struck` is the record of those that did.

    Give it the `Past` of all that share the objects, and a clock, where listings are to be stale.
    """

    def __init__(
        self, store: Store, plan: FaultPlan, *, clock: Clock = _SYSTEM_CLOCK, past: Past | None = None
    ) -> None:
        self.struck: list[tuple[Call, Fault]] = []
        self._store = store
        self._plan = plan
        self.clock = clock
        self._past = past
        self._numbers: Counter[Verb] = Counter()

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`."""
        strike = self._plan_call("put", key)
        await strike.before()
        strike.cut()
        await self._remember([key])
        await self._store.put(key, source, if_absent=if_absent)
        await strike.after()

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`."""
        strike = self._plan_call("get", key, is_range=start > 0 or length is not None)
        await strike.before()
        data = await self._store.get(key, start=start, length=length)
        strike.cut()
        await strike.after()
        return strike.spoil(data)

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object."""
        strike = self._plan_call("head", key)
        await strike.before()
        strike.cut()
        found = await self._store.head(key)
        await strike.after()
        return strike.shift(found)

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`."""
        strike = self._plan_call("list", prefix)
        await strike.before()
        found = {info.key: info async for info in self._store.list(prefix)}
        if self._past is not None:
            found = strike.age(found, self._past, prefix)
        listed = sorted(key for key in found if key > start_after)[:limit]
        for number, key in enumerate(listed):
            if number == len(listed) // 2:
                strike.cut()
            yield strike.shift(found[key])
            strike.break_off()
        strike.cut()
        await strike.after()

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        strike = self._plan_call("delete", keys[0] if keys else "")
        await strike.before()
        await self._remember(keys)
        await self._store.delete(strike.half_of(keys))
        strike.cut()
        await strike.after()

    async def aclose(self) -> None:
        """Close the store; this never fails."""
        await self._store.aclose()

    def _plan_call(self, verb: Verb, key: str, *, is_range: bool = False) -> _Strike:
        self._numbers[verb] += 1
        call = Call(verb=verb, key=key, number=self._numbers[verb], is_range=is_range)
        fault = self._plan.fault_for(call)
        return _Strike(call, fault if fault is not None and verb in KINDS[fault.kind] else None, self)

    async def _remember(self, keys: Sequence[str]) -> None:
        """Note what stands under keys that are about to change."""
        if self._past is None:
            return
        for key in keys:
            before = None
            with suppress(ObjectNotFound):
                before = await self._store.head(key)
            self._past.note(self.clock.monotonic_s(), key, before)


class _Strike:
    """What happens to one call; nothing, where no fault is given."""

    def __init__(self, call: Call, fault: Fault | None, store: FaultyStore) -> None:
        self._call, self._fault = call, fault
        self._struck, self._clock = store.struck, store.clock

    async def before(self) -> None:
        """Do what comes before the effect."""
        await self._come("before")

    async def after(self) -> None:
        """Do what comes after the effect."""
        await self._come("after")

    def break_off(self) -> None:
        """Fail behind a part of the effect."""
        if (fault := self._of("error")) is not None and fault.when == "after":
            self._raise(fault)

    def cut(self) -> None:
        """Break off, half-way."""
        if (fault := self._of("cut")) is not None:
            self._raise(fault)

    def half_of(self, keys: Sequence[str]) -> Sequence[str]:
        """Return what is reached before the call is cut."""
        return keys if self._of("cut") is None else keys[: len(keys) // 2]

    def spoil(self, data: bytes) -> bytes:
        """Return what arrives of what was read."""
        if data and self._of("short") is not None:
            self._note()
            return data[: len(data) // 2]
        if data and self._of("rot") is not None:
            self._note()
            bit = Random(f"{self._call.key} {self._call.number}").randrange(8 * len(data))  # noqa: S311 - replayed
            rotten = bytearray(data)
            rotten[bit // 8] ^= 1 << bit % 8
            return bytes(rotten)
        return data

    def shift(self, info: ObjectInfo) -> ObjectInfo:
        """Return what the store knows, by another clock."""
        if (fault := self._of("skew")) is None:
            return info
        self._note()
        return msgspec.structs.replace(info, modified_ms=info.modified_ms + int(fault.seconds * 1000))

    def age(self, found: dict[str, ObjectInfo], past: Past, prefix: str) -> dict[str, ObjectInfo]:
        """Return a listing as it was a while ago."""
        if (fault := self._of("stale")) is None:
            return found
        then = past.undo(found, self._clock.monotonic_s() - fault.seconds)
        then = {key: info for key, info in then.items() if key.startswith(prefix)}
        if then != found:
            self._note()
        return then

    def _of(self, kind: Kind) -> Fault | None:
        return self._fault if self._fault is not None and self._fault.kind == kind else None

    async def _come(self, when: When) -> None:
        fault = self._fault
        if fault is None or fault.when != when:
            return
        if fault.kind == "error":
            self._raise(fault)
        if fault.kind == "slow":
            self._note()
            await self._clock.sleep(fault.seconds)

    def _raise(self, fault: Fault) -> None:
        self._note()
        raise fault.error()

    def _note(self) -> None:
        if self._fault is not None:
            self._struck.append((self._call, self._fault))
