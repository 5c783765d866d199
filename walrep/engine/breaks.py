"""After a break: tell it once for each reason, wait as `walrep.core.breaks` decides, and say how to go on."""

from __future__ import annotations

import asyncio
from functools import partial

from walrep.core.breaks import Break, BreakKind, NextStep, SpoolFacts, count_break, has_room, plan_after_break
from walrep.core.events import Alarm
from walrep.disk.spool import Spool
from walrep.engine.parts import EngineParts
from walrep.engine.settings import DatabaseSettings
from walrep.engine.waiting import wait_for_event
from walrep.errors import (
    CaptureBroken,
    DatabaseError,
    DatabaseReplaced,
    SpoolError,
    SpoolFull,
    WalrepError,
)

__all__ = ["Breaks"]

_LOOK_AGAIN_S = 2.0


class Breaks:
    """The breaks in a row of one database's capture."""

    def __init__(self, parts: EngineParts, settings: DatabaseSettings) -> None:
        self.protected = False
        """Whether anything was captured in this run, into a timeline with its base."""
        self._parts = parts
        self._settings = settings
        self._count = 0
        self._told: set[str] = set()
        self._captures_since_s: float | None = None

    def begin(self) -> None:
        """Note that the database is about to be taken up."""
        self._captures_since_s = None

    def captures(self) -> None:
        """Note that transactions are captured from now on."""
        self.protected = True
        self._captures_since_s = self._parts.clock.monotonic_s()

    @property
    def had_base(self) -> bool:
        """Whether what was taken up last came so far that transactions were captured."""
        return self._captures_since_s is not None

    async def after(self, error: Exception, spool: Spool, stop: asyncio.Event) -> str | None:
        """Wait until it is worth another try, or for `stop`.

        Return the reason for a new timeline, or None where the one before may turn out to go on.

        Raises:
            Exception: the error itself, where there is no other try.

        """
        if not isinstance(error, WalrepError):
            raise error
        broke = self._count_break(error)
        facts = partial(self._facts, spool, error.room_bytes if isinstance(error, SpoolFull) else 0)
        plan = plan_after_break(broke, await self._parts.runner.run(facts))
        if plan.step is NextStep.STOP:
            raise error
        self._tell(error)
        await wait_for_event(stop, plan.wait_s)
        while plan.needs_room and not stop.is_set() and not has_room(await self._parts.runner.run(facts)):
            await wait_for_event(stop, _LOOK_AGAIN_S)
        return plan.reason if plan.step is NextStep.NEW_TIMELINE else None

    def _count_break(self, error: WalrepError) -> Break:
        since_s = self._captures_since_s
        lasted_s = 0.0 if since_s is None else self._parts.clock.monotonic_s() - since_s
        self._count = count_break(self._count, lasted_s)
        return Break(
            kind=_kind(error),
            message=str(error),
            count=self._count,
            protected=self.protected,
            had_base=self.had_base,
        )

    def _facts(self, spool: Spool, room_bytes: int) -> SpoolFacts:
        try:
            disk_has_room = spool.room.allows(room_bytes)
        except SpoolError:
            # The state directory is not to be had now: there is no use in another try.
            disk_has_room = False
        return SpoolFacts(
            in_transaction=spool.in_transaction,
            sealed_bytes=spool.sealed_bytes,
            outbox_bytes_max=self._settings.spool.outbox_bytes_max,
            disk_has_room=disk_has_room,
        )

    def _tell(self, error: WalrepError) -> None:
        if self._count == 1:
            self._told.clear()
        if str(error) in self._told:
            return
        self._told.add(str(error))
        self._parts.report(
            Alarm(
                database=str(self._settings.path),
                key="timeline-ended",
                message=f"capture ended: {error}",
                hint=error.hint,
            )
        )


def _kind(error: WalrepError) -> BreakKind:
    if isinstance(error, CaptureBroken | DatabaseReplaced):
        return BreakKind.LOG
    if isinstance(error, SpoolFull):
        return BreakKind.NO_ROOM
    if isinstance(error, DatabaseError):
        return BreakKind.DATABASE
    return BreakKind.SPOOL
