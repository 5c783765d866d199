"""Retention: look at what a replica holds, have it decided what is not needed any more, and delete that.

What to delete is `walrep.core.retention`'s decision, and whether it looks right too. Each step can be the last one
before a kill: the record of what is gone stands in the store before anything goes, and what is still there is planned
for again by the next run. Others may be at work meanwhile: who keeps a position stores it, and then looks whether a
record tells that it is leaving; here the record is stored, and then what is kept is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from walrep.clock import Clock
from walrep.core.holding import Holding
from walrep.core.inventory import Listed, take_inventory, unknown_segments
from walrep.core.names import PINS_PREFIX, REPLICA_KEY, parse_pin_key, parse_pruned_key, pruned_key
from walrep.core.objects import Writer
from walrep.core.prunings import (
    PruneRecord,
    decode_record,
    encode_record,
    is_anything_leaving,
    is_under_way,
    join_records,
    next_record,
)
from walrep.core.retention import (
    RetentionPlan,
    RetentionPolicy,
    plan_retention,
    refuse_clocks_apart,
    refuse_unusual,
)
from walrep.core.stored import SegmentFact, stored_from
from walrep.engine.apply import naming
from walrep.engine.fetch import read_history
from walrep.errors import AccessDenied, ObjectNotFound, PruneRefused
from walrep.runner import Runner
from walrep.store.base import Store

__all__ = ["Janitor", "PruneOutcome", "Pruning"]

_ATTEMPTS_MAX = 3


class Pruning(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica holds, what is to be deleted of it, and what the records of the runs before tell together.

    `records` are their keys, `newest_ms` the time in the greatest key of any record.
    """

    holding: Holding
    plan: RetentionPlan
    last: PruneRecord | None
    records: tuple[str, ...]
    newest_ms: int

    @property
    def is_due(self) -> bool:
        """Whether there is something to delete, or the records call something gone that is there and stays."""
        return bool(self.plan.deletions) or is_anything_leaving(self.last, self.holding)


class PruneOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did; `holding` is what there was, or what is left of it, None if that is not known."""

    holding: Holding | None = None
    deleted: tuple[str, ...] = ()
    delete_bytes: int = 0
    may_not_delete: bool = False


class _Announced(msgspec.Struct, frozen=True):
    """A record that was stored, and what stood under its key before."""

    key: str
    before: PruneRecord | None


class Janitor:
    """Applies a retention policy to one replica."""

    def __init__(self, store: Store, *, clock: Clock, runner: Runner, writer: Writer) -> None:
        self._store = store
        self._clock = clock
        self._runner = runner
        self._writer = writer
        self._unreadable: frozenset[str] = frozenset()
        """Segments that are not to be known from what they say of themselves."""

    async def plan(self, segments: Mapping[str, SegmentFact], policy: RetentionPolicy) -> Pruning:
        """Return what is to be deleted; `segments` are those of which it is known what they hold.

        One LIST and a GET; where there are others, too, what it takes to read the replica's history.

        Raises:
            StoreError: the store failed, or there is no replica.
            CorruptObject: a record of a run before is damaged.

        """
        listing = [
            Listed(key=info.key, size_bytes=info.size_bytes, stored_ms=info.modified_ms)
            async for info in self._store.list("")
        ]
        if unknown_segments(listing, segments) - self._unreadable:
            segments = {**await self._read_segments(), **segments}
            self._unreadable = unknown_segments(listing, segments)
        holding = take_inventory(listing, segments)
        if not (holding.logs or holding.snapshots or REPLICA_KEY in holding.others):
            raise ObjectNotFound("there is no replica here", hint="check the URL; it is the one of `walrep replicate`")
        records = await self._records_before(listing)
        return Pruning(
            holding=holding,
            plan=plan_retention(holding, policy, self._clock.now_ms()),
            last=join_records([*records.values()]),
            records=tuple(records),
            newest_ms=max((parse_pruned_key(each.key) or 0 for each in listing), default=0),
        )

    async def run(self, segments: Mapping[str, SegmentFact], policy: RetentionPolicy, *, yes: bool) -> PruneOutcome:
        """Delete what is not needed; `yes`: a person has seen the plan and agreed, however much it is.

        Raises:
            PruneRefused: it does not look right: a clock that is wrong, or many more objects than usual.
            StoreError: the store failed, or there is no replica; what is done is done.
            CorruptObject: a record of a run before is damaged.

        """
        for _ in range(_ATTEMPTS_MAX):
            pruning = await self.plan(segments, policy)
            if not pruning.is_due:
                return PruneOutcome(holding=pruning.holding)
            refuse_unusual(pruning.plan.delete_count, pruning.last.counts if pruning.last else (), yes=yes)
            announced = await self._announce(pruning)
            if await self._has_the_same_pins(pruning):
                return await self._delete(pruning, announced.key)
            await self._withdraw(announced)
        raise PruneRefused("positions are kept faster than a plan can be made", hint="try again")

    async def _records_before(self, listing: Sequence[Listed]) -> dict[str, PruneRecord]:
        """Return the records of runs that are over, by key."""
        records: dict[str, PruneRecord] = {}
        now_ms, nonce = self._clock.now_ms(), self._writer.nonce
        for each in (each for each in listing if parse_pruned_key(each.key) is not None):
            data = await self._store.get(each.key)
            with naming(each.key):
                record = decode_record(data)
            if not is_under_way(record, stored_ms=each.stored_ms, now_ms=now_ms, nonce=nonce):
                records[each.key] = record
        return records

    async def _read_segments(self) -> dict[str, SegmentFact]:
        history = await read_history(self._store, self._runner)
        return {each.key: each for each in stored_from(history).segments}

    async def _announce(self, pruning: Pruning) -> _Announced:
        """Store the record of what will be gone (INV-26); it tells the store's time, too."""
        now_ms, last = self._clock.now_ms(), pruning.last
        record = next_record(last, pruning.holding, pruning.plan, now_ms=now_ms, by=self._writer)
        # Of two records the newer one is the greater key: also when a clock was set back in between.
        announced = _Announced(pruned_key(max(now_ms, pruning.newest_ms + 1)), None)
        if last is not None and last.by.nonce == self._writer.nonce and is_anything_leaving(last, pruning.holding):
            # However often a run is tried again, it leaves one record.
            announced = _Announced(pruning.records[-1], last)
        await self._store.put(announced.key, encode_record(record))
        try:
            stored_ms = (await self._store.head(announced.key)).modified_ms
            refuse_clocks_apart(now_ms=self._clock.now_ms(), store_ms=stored_ms)
        except PruneRefused:
            await self._withdraw(announced)
            raise
        return announced

    async def _withdraw(self, announced: _Announced) -> None:
        if announced.before is not None:
            await self._store.put(announced.key, encode_record(announced.before))
            return
        with suppress(AccessDenied):
            await self._store.delete([announced.key])

    async def _has_the_same_pins(self, pruning: Pruning) -> bool:
        """Say whether nobody has kept or let go a position since the plan was made."""
        found = [info.key async for info in self._store.list(PINS_PREFIX)]
        return {key for key in found if parse_pin_key(key)} == {
            key for key in pruning.holding.others if parse_pin_key(key)
        }

    async def _delete(self, pruning: Pruning, record: str) -> PruneOutcome:
        *steps, last = pruning.plan.steps or ((),)
        try:
            for step in steps:
                await self._store.delete(step)
            await self._store.delete([*last, *(key for key in pruning.records if key != record)])
        except AccessDenied:
            return PruneOutcome(may_not_delete=True)
        deleted = pruning.plan.deletions
        return PruneOutcome(
            holding=None if deleted else pruning.holding, deleted=deleted, delete_bytes=pruning.plan.delete_bytes
        )
