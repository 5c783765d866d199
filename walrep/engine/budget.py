"""The budget of one database: what it sends is counted on disk before it is sent, and waits for its turn.

When something may be sent is decided by `walrep.core.budget`; this module waits, counts and tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf, isinf

import msgspec

from walrep.core.budget import (
    BudgetFacts,
    DaySpent,
    Pace,
    PutKind,
    PutPlan,
    day_of,
    kind_of,
    note_day,
    plan_pace,
    plan_put,
    reserve_day,
    spent_on,
)
from walrep.core.events import Alarm, AlarmKey
from walrep.disk.room import DiskRoom
from walrep.disk.spent import load_days, save_days
from walrep.disk.spool import Spool
from walrep.engine.parts import EngineParts, OpenedStore
from walrep.engine.settings import DatabaseSettings
from walrep.errors import SpoolError, StoreError, check

__all__ = ["Budget", "open_metered"]

_LOOK_S = 2.0
"""So often it is looked whether the outbox has filled up while something waits for its turn."""

_AHEAD_COUNT = 8
"""So many requests are counted on disk before they are sent: a kill loses as many at most."""

_UNLIMITED = 1 << 60
_PRESSED_SHARE = 0.75


async def open_metered(
    parts: EngineParts, settings: DatabaseSettings, opened: OpenedStore, stopping: asyncio.Event
) -> OpenedStore:
    """Give a store its budget, where there is one; `stopping` is set when the database is to be let go.

    Raises:
        SpoolError: what was sent before cannot be read.

    """
    policy = settings.budget
    if policy.puts_per_day_max is None and policy.upload_bytes_per_day_warn is None:
        return opened
    check(opened.metered is not None, "a budget needs a store with a meter")
    days = await parts.runner.run(partial(load_days, settings.state_dir))
    budget = Budget(parts, settings, days, stopping)
    if opened.metered is not None:
        opened.metered.meter = budget
    return msgspec.structs.replace(opened, budget=budget)


class Budget:
    """Counts what one database sends, and holds back what there is no room for; a `PutMeter`."""

    def __init__(
        self, parts: EngineParts, settings: DatabaseSettings, days: tuple[DaySpent, ...], stopping: asyncio.Event
    ) -> None:
        self.openings: set[str] = set()
        """Keys of segments that open a timeline, and of full snapshots on which its base leans: they never wait."""
        self._parts = parts
        self._settings = settings
        self._puts_max = settings.budget.puts_per_day_max or _UNLIMITED
        self._days = days
        self._stopping = stopping
        self._spent = spent_on(days, day_of(parts.clock.now_ms()))
        self._kept_count = self._spent.put_count
        """What the disk says of today; never less than what was sent."""
        self._kept_next_count = 0
        """What it says of the day that follows, on which what is being sent may arrive."""
        self._saving = asyncio.Lock()
        self._sending_count = 0
        self._claims: dict[str, int] = {}
        self._tried: dict[str, tuple[int, float]] = {}
        self._last_s = parts.clock.monotonic_s()
        self._spool: Spool | None = None
        self._room: DiskRoom | None = None
        self._told: set[tuple[AlarmKey, int]] = set()

    def watch(self, spool: Spool) -> None:
        """Look at this spool from now on: what would end a timeline beats the budget."""
        self._spool, self._room = spool, spool.new_room()

    def pace(self) -> Pace | None:
        """Return when the next segment may be sent; None without a limit."""
        return None if self._puts_max == _UNLIMITED else plan_pace(self._facts())

    @asynccontextmanager
    async def sending(self, key: str, put_count: int, size_bytes: int) -> AsyncIterator[None]:
        """Wait until so many requests may be sent for an object, and count them; they are sent within the context.

        Raises:
            StoreError: no day has room for it.

        """
        kind = kind_of(key, is_protected=self._spool is not None, openings=self.openings)
        plan = await self._turn(kind, key, put_count)
        self._count(kind, key, put_count)
        self._sending_count += put_count
        try:
            if plan.is_over:
                self._tell_exceeded(plan)
            await self._keep()
            yield
            self._tried.pop(key, None)
            self.openings.discard(key)
            await self._count_bytes(size_bytes)
        finally:
            self._sending_count -= put_count

    def again(self) -> bool:
        """Count one request more, under a limit only if the disk has counted it already; say whether it may be sent."""
        self._begin_day()
        if self._puts_max != _UNLIMITED and self._spent.put_count >= self._kept_count:
            return False
        self._spent = msgspec.structs.replace(self._spent, put_count=self._spent.put_count + 1)
        return True

    async def aclose(self) -> None:
        """Keep the exact numbers."""
        # Nothing is sent any more, so nothing has to be set aside.
        await self._save(0)

    async def _turn(self, kind: PutKind, key: str, put_count: int) -> PutPlan:
        if self._puts_max == _UNLIMITED:
            return PutPlan(wait_s=0.0, reason="there is no limit")
        try:
            while True:
                plan = plan_put(kind, put_count, await self._facts_now(key), self._tried.get(key, (0, -inf)))
                if not plan.wait_s:
                    return plan
                if isinf(plan.wait_s):
                    raise StoreError(
                        "an upload takes more requests than the budget of a day has",
                        detail=f"{key}: {put_count} of {self._puts_max}",
                        hint="raise puts-per-day-max; until then it waits in the state directory",
                    )
                if kind == "upkeep":
                    self._claims[key] = put_count
                await self._parts.clock.sleep(min(plan.wait_s, _LOOK_S))
        finally:
            self._claims.pop(key, None)

    def _count(self, kind: PutKind, key: str, put_count: int) -> None:
        """Count what is about to be sent, before anybody else is asked. INV-32."""
        self._begin_day()
        now_s = self._parts.clock.monotonic_s()
        self._spent = msgspec.structs.replace(self._spent, put_count=self._spent.put_count + put_count)
        self._tried[key] = self._tried.get(key, (0, now_s))[0] + 1, now_s
        if kind == "segment":
            self._last_s = now_s

    async def _keep(self) -> None:
        """Have the disk say at least what is sent, and some more."""
        if self._spent.put_count > self._kept_count or self._sending_count > self._kept_next_count:
            await self._save(_AHEAD_COUNT)

    async def _save(self, ahead_count: int) -> None:
        # A disk that takes no number must not keep from the store what would free it.
        async with self._saving:
            spent = self._spent
            kept_count = min(spent.put_count + ahead_count, max(spent.put_count, self._puts_max))
            spent = msgspec.structs.replace(spent, put_count=kept_count)
            self._days = note_day(self._days, spent)
            next_count = self._sending_count + ahead_count if self._sending_count else 0
            days = reserve_day(self._days, spent.day + 1, next_count)
            with suppress(SpoolError):
                await self._parts.runner.run(partial(save_days, self._settings.state_dir, days))
                if spent.day == self._spent.day:
                    self._kept_count, self._kept_next_count = kept_count, next_count

    async def _count_bytes(self, size_bytes: int) -> None:
        limit_bytes, spent = self._settings.budget.upload_bytes_per_day_warn, self._spent
        self._spent = spent = msgspec.structs.replace(spent, upload_bytes=spent.upload_bytes + size_bytes)
        if limit_bytes is None or spent.is_warned or spent.upload_bytes <= limit_bytes:
            return
        self._spent = msgspec.structs.replace(spent, is_warned=True)
        self._alarm(
            "upload-bytes",
            f"{spent.upload_bytes} bytes were uploaded today, more than {limit_bytes}",
            "nothing is held back; look at what writes so much, or raise upload-bytes-per-day-warn",
        )
        await self._save(_AHEAD_COUNT)

    async def _facts_now(self, key: str) -> BudgetFacts:
        is_pressed = self._spool is not None and await self._parts.runner.run(self._is_pressed)
        return self._facts(key, is_pressed=is_pressed)

    def _facts(self, key: str = "", *, is_pressed: bool = False) -> BudgetFacts:
        """Return what is known; what waits under this key does not stand in its own way."""
        self._begin_day()
        clock = self._parts.clock
        return BudgetFacts(
            puts_max=self._puts_max,
            now_ms=clock.now_ms(),
            now_s=clock.monotonic_s(),
            last_s=self._last_s,
            spent_count=self._spent.put_count,
            claims=tuple(count for waiting, count in self._claims.items() if waiting != key),
            is_pressed=is_pressed,
            is_stopping=self._stopping.is_set(),
        )

    def _begin_day(self) -> None:
        day = day_of(self._parts.clock.now_ms())
        if day != self._spent.day:
            before_day, self._days = self._spent.day, note_day(self._days, self._spent)
            before = spent_on(self._days, day)
            # What is on its way now may arrive on either day. INV-32
            self._spent = msgspec.structs.replace(before, put_count=before.put_count + self._sending_count)
            is_next = day == before_day + 1
            self._kept_count = max(before.put_count, self._kept_next_count if is_next else 0)
            self._kept_next_count = 0

    def _is_pressed(self) -> bool:
        """Say whether the outbox, or the disk, has little room left."""
        if self._spool is None or self._room is None:
            return False
        share = self._spool.outbox_bytes / self._settings.spool.outbox_bytes_max
        return share >= _PRESSED_SHARE or not self._room.allows(self._settings.flush.segment_bytes_max)

    def _tell_exceeded(self, plan: PutPlan) -> None:
        self._alarm(
            "puts-exceeded",
            f"more PUTs than the {self._puts_max} of a day: {plan.reason}",
            "raise puts-per-day-max, or find out why so much is stored",
        )

    def _alarm(self, key: AlarmKey, message: str, hint: str) -> None:
        """Report a condition, once a day."""
        if (key, self._spent.day) not in self._told:
            self._told.add((key, self._spent.day))
            self._parts.report(Alarm(database=str(self._settings.path), key=key, message=message, hint=hint))
