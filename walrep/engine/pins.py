"""Positions that a person keeps under a name: retention deletes nothing that they need."""

from __future__ import annotations

import msgspec

from walrep.clock import Clock
from walrep.core.names import PINS_PREFIX, PinName, check_pin_name, parse_pin_key, pin_key
from walrep.core.restore import RestorePlan
from walrep.core.target import AtBookmark, depends_on_end
from walrep.core.units import Position
from walrep.engine.fetch import ReplicaReader
from walrep.engine.planning import Wanted, plan_wanted
from walrep.errors import TargetNotFound, UsageError
from walrep.runner import Runner
from walrep.store.base import Store

__all__ = ["KeepOutcome", "find_pin", "keep", "unkeep"]


class KeepOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A position that is kept, when it was seen, and whether it was not kept under this name before."""

    name: str
    position: Position
    seen_ms: int
    is_new: bool


async def keep(store: Store, name: str, wanted: Wanted, *, clock: Clock, runner: Runner) -> KeepOutcome:
    """Keep a position under a name; the same one twice changes nothing.

    Raises:
        UsageError: the name cannot be one, or another position has it.
        TargetNotFound: the replica does not hold the target, or not any more.
        TargetAmbiguous: the target means one of two transactions.
        StoreError: the store failed.

    """
    check_pin_name(name)
    reader = ReplicaReader(store, runner)

    async def plan(what: Wanted) -> RestorePlan:
        history = await reader.settled_history(to_the_end=depends_on_end(what.target, what.timeline))
        planned = await plan_wanted(reader, history, what, clock.now_ms())
        needed = [each.key for each in planned.snapshots] + [each.key for each in planned.slices]
        if not history.leaving.isdisjoint(needed):
            raise TargetNotFound(
                "the position is not kept any more",
                detail=f"{planned.position}: retention is deleting what it needs",
                hint="choose another one, of `walrep list`, when `walrep prune` is over",
            )
        return planned

    try:
        found = await plan(wanted)
        held = await _pins(store, name)
        if any(pin.position != found.position for pin in held):
            raise UsageError(
                "another position is kept under this name",
                detail=f"{name}: {', '.join(str(pin.position) for pin in held)}",
                hint="choose another name, or let it go first with `walrep unkeep`",
            )
        if not held:
            key = pin_key(PinName(name, found.position))
            await store.put(key, b"")
            try:
                # Somebody may be pruning who did not see the pin. Then there was a record before the pin was stored.
                await plan(Wanted(target=AtBookmark(found.position)))
            except TargetNotFound:
                await store.delete([key])
                raise
    finally:
        reader.close()
    return KeepOutcome(name=name, position=found.position, seen_ms=found.seen_ms, is_new=not held)


async def unkeep(store: Store, name: str) -> tuple[Position, ...]:
    """Let go what is kept under a name, and return what that was.

    Raises:
        TargetNotFound: nothing is kept under this name.
        StoreError: the store failed.

    """
    held = await _pins(store, check_pin_name(name))
    if not held:
        raise await _not_kept(store, name)
    await store.delete([pin_key(pin) for pin in held])
    return tuple(pin.position for pin in held)


async def find_pin(store: Store, name: str) -> Position:
    """Return the position that is kept under a name.

    Raises:
        TargetNotFound: nothing is kept under this name.
        UsageError: two positions are, because two people kept them at once.
        StoreError: the store failed.

    """
    held = await _pins(store, check_pin_name(name))
    if not held:
        raise await _not_kept(store, name)
    if len(held) > 1:
        raise UsageError(
            "two positions are kept under this name",
            detail=f"{name}: {' and '.join(str(pin.position) for pin in held)}",
            hint="give the one that is meant as --bookmark",
        )
    return held[0].position


async def _pins(store: Store, name: str = "") -> list[PinName]:
    prefix = f"{PINS_PREFIX}{name}/" if name else PINS_PREFIX
    found = [parse_pin_key(info.key) async for info in store.list(prefix)]
    return [pin for pin in found if pin is not None]


async def _not_kept(store: Store, name: str) -> TargetNotFound:
    names = ", ".join(dict.fromkeys(pin.name for pin in await _pins(store)))
    return TargetNotFound(
        "nothing is kept under this name", detail=name, hint=f"there is {names}" if names else "nothing is kept at all"
    )
