"""What follows when the capture of a timeline has ended by itself: when to try again, and with which timeline.

    what broke                            before the base        after it
    the log, or the file at the path      a new timeline         a new timeline
    SQLite or the system, perhaps for a
    moment                                as before              the same timeline, if the log proves it
    the spool: no room                    as before, with room   the same, as soon as there is room
    the spool: anything else              as before              the same

Where one transaction alone fills the outbox there is no way to go on in the timeline. When nothing was protected in
this run yet, what the spool met ends the protection: the person who has just started walrep is there to mend it.

The first new timeline begins at once. What breaks again and again is tried again at growing intervals, since every new
timeline costs a copy of the database, and every attempt at one may. While the outbox is full there is no such interval:
the less of the log the app has begun anew, the better the timeline goes on.
"""

from __future__ import annotations

import enum

import msgspec

from walrep.core.backoff import BackoffPolicy, backoff_delay_s

__all__ = ["Break", "BreakKind", "BreakPlan", "NextStep", "SpoolFacts", "count_break", "has_room", "plan_after_break"]

_BACKOFF = BackoffPolicy(first_delay_s=1.0, delay_s_max=60.0)
_LOOK_AGAIN_S = 2.0
_STEADY_S = 120.0
"""A capture that lasted so long was well: what breaks it is not the break before."""

_OUTBOX_REST = 0.5
"""After the outbox was full, capture begins again when it is down to this share of its limit."""


class BreakKind(enum.Enum):
    """What broke."""

    LOG = "the log does not continue what was captured, or the file is another one"
    DATABASE = "SQLite or the operating system refuse the database"
    NO_ROOM = "the outbox or the disk is full"
    SPOOL = "local state or disk failed"


class NextStep(enum.Enum):
    """How to go on."""

    STOP = "stop"
    RESUME = "resume"
    NEW_TIMELINE = "new timeline"


class SpoolFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the journal ends within a transaction; what waits for the store; whether the disk has the room needed."""

    in_transaction: bool
    sealed_bytes: int
    outbox_bytes_max: int
    disk_has_room: bool


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """One break: what broke and how the error says it; the how-manieth in a row, from 1.

    `protected`: something was captured in this run, into a timeline with its base. `had_base`: this one had it.
    """

    kind: BreakKind
    message: str
    count: int
    protected: bool
    had_base: bool


class BreakPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to go on, not before `wait_s` have passed, and with `needs_room` not before `has_room` says so.

    `reason` is that of a new timeline.
    """

    step: NextStep
    wait_s: float = 0.0
    needs_room: bool = False
    reason: str = ""


def plan_after_break(broke: Break, spool: SpoolFacts) -> BreakPlan:
    """Decide how to go on after a break."""
    is_spool = broke.kind in (BreakKind.NO_ROOM, BreakKind.SPOOL)
    if is_spool and not broke.protected:
        return BreakPlan(step=NextStep.STOP)
    if broke.kind is BreakKind.LOG:
        return BreakPlan(step=NextStep.NEW_TIMELINE, wait_s=_delay_s(broke.count - 1), reason=broke.message)
    if broke.kind is BreakKind.NO_ROOM and spool.in_transaction and not spool.sealed_bytes:
        reason = "a transaction does not fit into the outbox"
        return BreakPlan(step=NextStep.NEW_TIMELINE, wait_s=_delay_s(broke.count - 1), needs_room=True, reason=reason)
    if broke.kind is BreakKind.NO_ROOM and broke.had_base:
        return BreakPlan(step=NextStep.RESUME, wait_s=_LOOK_AGAIN_S, needs_room=True)
    return BreakPlan(step=NextStep.RESUME, wait_s=_delay_s(broke.count), needs_room=is_spool)


def has_room(spool: SpoolFacts) -> bool:
    """Say whether the spool has room enough to capture again."""
    return spool.disk_has_room and spool.sealed_bytes <= _OUTBOX_REST * spool.outbox_bytes_max


def count_break(count_before: int, lasted_s: float) -> int:
    """Return the how-manieth break in a row this is, after a capture that lasted so long."""
    return 1 if lasted_s >= _STEADY_S else count_before + 1


def _delay_s(failure_count: int) -> float:
    return backoff_delay_s(_BACKOFF, failure_count, 1.0) if failure_count else 0.0
