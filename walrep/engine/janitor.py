"""Retention: look at what a replica holds, have it decided what is not needed any more, and delete that.

What to delete is `walrep.core.retention`'s decision, and whether it looks right too. Each step can be the last one
before a kill: the record of what is gone stands in the store before anything goes, and what is still there is planned
for again by the next run.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from walrep.clock import Clock
from walrep.core.holding import Holding
from walrep.core.inventory import Listed, take_inventory
from walrep.core.names import PINS_PREFIX, parse_pin_key, parse_pruned_key, pruned_key
from walrep.core.objects import Writer
from walrep.core.prunings import PruneRecord, decode_record, encode_record, next_record
from walrep.core.retention import (
    RetentionPlan,
    RetentionPolicy,
    plan_retention,
    refuse_clocks_apart,
    refuse_unusual,
)
from walrep.core.stored import SegmentFact, stored_from
from walrep.engine.fetch import ReplicaReader
from walrep.errors import AccessDenied, ObjectNotFound, PruneRefused
from walrep.runner import Runner
from walrep.store.base import Store

__all__ = ["Janitor", "PruneOutcome", "Pruning"]

_ATTEMPTS_MAX = 3


class Pruning(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica holds, what is to be deleted of it, and what is known of the runs before."""

    holding: Holding
    plan: RetentionPlan
    last: PruneRecord | None
    records: tuple[str, ...]


class PruneOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did; `holding` is what there was, or what is left of it, None if that is not known."""

    holding: Holding | None = None
    deleted: tuple[str, ...] = ()
    delete_bytes: int = 0
    may_not_delete: bool = False


class Janitor:
    """Applies a retention policy to one replica."""

    def __init__(self, store: Store, *, clock: Clock, writer: Writer) -> None:
        self._store = store
        self._clock = clock
        self._writer = writer

    async def known_segments(self, runner: Runner) -> dict[str, SegmentFact]:
        """Return what the replica's segments say of themselves, by key, for who has not written them.

        Raises:
            StoreError: the store failed, or there is no replica.

        """
        reader = ReplicaReader(self._store, runner)
        try:
            history = await reader.history()
        finally:
            reader.close()
        if not history.timelines:
            raise ObjectNotFound("there is no replica here", hint="check the URL; it is the one of `walrep replicate`")
        return {each.key: each for each in stored_from(history).segments}

    async def plan(self, segments: Mapping[str, SegmentFact], policy: RetentionPolicy) -> Pruning:
        """Return what is to be deleted; `segments` are those of which it is known what they hold. One LIST, one GET.

        Raises:
            StoreError: the store failed.
            CorruptObject: the record of the last run is damaged.

        """
        listing = [
            Listed(key=info.key, size_bytes=info.size_bytes, stored_ms=info.modified_ms)
            async for info in self._store.list("")
        ]
        records = tuple(each.key for each in listing if parse_pruned_key(each.key) is not None)
        holding = take_inventory(listing, segments)
        return Pruning(
            holding=holding,
            plan=plan_retention(holding, policy, self._clock.now_ms()),
            last=decode_record(await self._store.get(records[-1])) if records else None,
            records=records,
        )

    async def run(self, segments: Mapping[str, SegmentFact], policy: RetentionPolicy, *, yes: bool) -> PruneOutcome:
        """Delete what is not needed; `yes`: a person has seen the plan and agreed, however much it is.

        Raises:
            PruneRefused: it does not look right: a clock that is wrong, or many more objects than usual.
            StoreError: the store failed; what is done is done.
            CorruptObject: the record of the last run is damaged.

        """
        for _ in range(_ATTEMPTS_MAX):
            pruning = await self.plan(segments, policy)
            if not pruning.plan.deletions:
                return PruneOutcome(holding=pruning.holding)
            refuse_unusual(pruning.plan.delete_count, pruning.last.counts if pruning.last else (), yes=yes)
            record = await self._announce(pruning)
            if await self._has_the_same_pins(pruning):
                return await self._delete(pruning)
            await self._withdraw(record)
        raise PruneRefused("positions are kept faster than a plan can be made", hint="try again")

    async def _announce(self, pruning: Pruning) -> str:
        """Store the record of what will be gone (INV-26); it tells the store's time, too."""
        now_ms = self._clock.now_ms()
        record = next_record(pruning.last, pruning.holding, pruning.plan, now_ms=now_ms, by=self._writer)
        # Of two records the newer one is the greater key: also when a clock was set back in between.
        last_ms = max((parse_pruned_key(key) or 0 for key in pruning.records), default=0)
        key = pruned_key(max(now_ms, last_ms + 1))
        await self._store.put(key, encode_record(record))
        try:
            refuse_clocks_apart(now_ms=self._clock.now_ms(), store_ms=(await self._store.head(key)).modified_ms)
        except PruneRefused:
            await self._withdraw(key)
            raise
        return key

    async def _withdraw(self, key: str) -> None:
        with suppress(AccessDenied):
            await self._store.delete([key])

    async def _has_the_same_pins(self, pruning: Pruning) -> bool:
        """Say whether nobody has kept or let go a position since the plan was made."""
        found = [info.key async for info in self._store.list(PINS_PREFIX)]
        return {key for key in found if parse_pin_key(key)} == {
            key for key in pruning.holding.others if parse_pin_key(key)
        }

    async def _delete(self, pruning: Pruning) -> PruneOutcome:
        try:
            await self._store.delete([*pruning.plan.deletions, *pruning.records])
        except AccessDenied:
            return PruneOutcome(may_not_delete=True)
        return PruneOutcome(deleted=pruning.plan.deletions, delete_bytes=pruning.plan.delete_bytes)
