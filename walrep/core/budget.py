"""How many PUTs a day may cost, and what that does to the RPO: pure counting and pacing.

A day is one of UTC, by the clock of this machine. A budget of N is kept for different things, in this order:

    opening   what a timeline begins with, its first segment and its base, with the full snapshot under that if it waits
              still, and the requests that a store is proved with before anything is protected: without them nothing is
              restorable, so they never wait
    upkeep    packs, snapshots and records of retention, which may take whatever is left of N
    segments  what is left when the upkeep of the rest of the day is set aside

The upkeep is 12 a day for the day's pack, the snapshot, the record and some starts; a pack for each quarter of an hour
that is left; and what waits already because it failed. What needs more than is left waits for the next day, at the
beginning of which it goes first. A pack replaces two objects at least, so there are never more packs
than half the segments.

Segments are spread over the day: as long as more is left than an even use would have left by now, the RPO is the one
that was asked for. Otherwise they go at the pace that lasts until midnight: what is left of the day, divided by what is
left for segments. So a database that commits all day is written at that pace, and one that rests in between gets back
what it has saved. An hour's share is there to begin a day with.

    INV-32  On no day more PUTs are sent than the budget has, except for an opening, and for what would otherwise end a
            timeline because the outbox is almost full; each such day is told. A request counts before it is sent, and
            what is on its way at midnight counts on both days.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf
from typing import Literal

import msgspec

from walrep.core.names import PROBE_PREFIX, REPLICA_KEY, SEGMENTS_PREFIX, parse_snapshot_key
from walrep.core.target import format_duration

__all__ = [
    "DAY_MS",
    "PUTS_PER_DAY_MIN",
    "SEGMENTS_PER_DAY_MIN",
    "UPKEEP_PUTS_PER_DAY",
    "BudgetFacts",
    "BudgetPolicy",
    "DaySpent",
    "Pace",
    "PutKind",
    "PutPlan",
    "day_of",
    "kind_of",
    "note_day",
    "plan_pace",
    "plan_put",
    "reserve_day",
    "rpo_under",
    "segments_possible",
    "spent_on",
]

DAY_MS = 24 * 60 * 60 * 1000
_DAY_S = DAY_MS / 1000
_QUARTER_S = 900.0

UPKEEP_PUTS_PER_DAY = 12
"""For the day's pack, a snapshot, the record of retention, and some starts."""

SEGMENTS_PER_DAY_MIN = 24
"""A budget that is too small for a segment an hour is refused."""

PUTS_PER_DAY_MIN = SEGMENTS_PER_DAY_MIN + SEGMENTS_PER_DAY_MIN // 2 + UPKEEP_PUTS_PER_DAY
"""The smallest budget: a segment an hour, a pack for two of them, and the upkeep."""

_EASED_COUNT_MIN = 4.0
_EASED_SHARE = 1 / 48
"""So far ahead of an even use, half an hour of it, the RPO is the one that was asked for again; told earlier, it would
come and go with each segment and each pack."""

_AGAIN_S = 60.0
_AGAIN_S_MAX = 3600.0
_DAYS_KEPT = 8

PutKind = Literal["opening", "proof", "segment", "upkeep"]


class BudgetPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a day (UTC) may cost. None: no limit; `upload_bytes_per_day_warn` is only told, once a day."""

    puts_per_day_max: int | None = None
    upload_bytes_per_day_warn: int | None = None


class DaySpent(msgspec.Struct, frozen=True):
    """What was sent on a day, counted in days since 1970; `is_warned`: it was told that the bytes are too many."""

    day: int
    put_count: int = 0
    upload_bytes: int = 0
    is_warned: bool = False


class BudgetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when something may be sent. `now_s`, `last_s`: monotonic, and when a segment was sent last.

    `spent_count`: of today. `claims`: what upkeep waits for, each. `is_pressed`: outbox or disk are almost full.
    `is_stopping`: what is captured is being made durable for the last time.
    """

    puts_max: int
    now_ms: int
    now_s: float
    last_s: float
    spent_count: int
    claims: tuple[int, ...] = ()
    is_pressed: bool = False
    is_stopping: bool = False

    @property
    def left_count(self) -> int:
        """What is left of today; less than nothing when more was sent."""
        return self.puts_max - self.spent_count

    @property
    def segments_count(self) -> int:
        """How many segments may still be sent today, when what upkeep waits for and can have today is set aside."""
        claimed_count = sum(each for each in self.claims if each <= self.left_count)
        return segments_possible(self.left_count - claimed_count, _remaining_s(self.now_ms))


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """When the next segment may go, `not_before_s` on the monotonic clock (-inf: nothing holds it up), and how often.

    `is_eased`: so much is left that the RPO that was asked for can be kept for a while.
    """

    not_before_s: float
    interval_s: float
    is_eased: bool
    reason: str


class PutPlan(msgspec.Struct, frozen=True, kw_only=True):
    """In how many seconds something may be sent, as far as is known now (0: at once; inf: on no day), and why.

    `is_over`: it goes beyond the budget.
    """

    wait_s: float
    reason: str
    is_over: bool = False


def day_of(now_ms: int) -> int:
    """Return the day, counted from 1970, UTC."""
    return now_ms // DAY_MS


def spent_on(days: Sequence[DaySpent], day: int) -> DaySpent:
    """Return what was sent on a day, as far as is known."""
    return next((each for each in days if each.day == day), DaySpent(day))


def note_day(days: Sequence[DaySpent], spent: DaySpent) -> tuple[DaySpent, ...]:
    """Return the days with this one as the last; a clock that is set back finds what it had counted. INV-32."""
    others = [each for each in days if each.day != spent.day]
    return (*others[1 - _DAYS_KEPT :], spent)


def reserve_day(days: Sequence[DaySpent], day: int, put_count: int) -> tuple[DaySpent, ...]:
    """Return the days, of which this one has so many PUTs at least: what is on its way may arrive on it. INV-32."""
    known = spent_on(days, day)
    if known.put_count >= put_count:
        return tuple(days)
    others = (each for each in days if each.day != day)
    return (msgspec.structs.replace(known, put_count=put_count), *others)


def kind_of(key: str, *, is_protected: bool, openings: frozenset[str] | set[str]) -> PutKind:
    """Say what an object is for; `openings` are segments that open a timeline, and snapshots on which a base leans."""
    if key in openings:
        return "opening"
    if key.startswith(SEGMENTS_PREFIX):
        return "segment"
    if key == REPLICA_KEY or key.startswith(PROBE_PREFIX):
        return "proof" if is_protected else "opening"
    name = parse_snapshot_key(key)
    return "opening" if name is not None and name.txid == 0 else "upkeep"


def segments_possible(left_count: int, remaining_s: float) -> int:
    """Return how many segments so many PUTs are enough for, with the upkeep of the rest of the day."""
    free_count = left_count - UPKEEP_PUTS_PER_DAY
    # One more: the pack of the quarter before may still have to be made.
    quarter_count = ceil(remaining_s / _QUARTER_S) + 1
    return max(0, free_count * 2 // 3, free_count - quarter_count)


def rpo_under(puts_max: int, rpo_s: float, commit_count: float, active_s: float) -> float:
    """Return the RPO that a budget means on a day with so many commits, evenly spread over so many seconds."""
    segment_count = segments_possible(puts_max, _DAY_S)
    if min(commit_count, active_s / rpo_s) <= segment_count:
        return rpo_s
    return active_s / segment_count


def plan_pace(facts: BudgetFacts) -> Pace:
    """Decide when the next segment may be sent."""
    remaining_s = _remaining_s(facts.now_ms)
    segment_count = facts.segments_count
    daily_count = segments_possible(facts.puts_max, _DAY_S)
    even_count = daily_count * (1 - 1 / SEGMENTS_PER_DAY_MIN) * remaining_s / _DAY_S
    ahead_count = segment_count - even_count
    interval_s = remaining_s / segment_count if segment_count else remaining_s
    not_before_s = -inf if segment_count and ahead_count >= 1 else facts.last_s + interval_s
    if not segment_count:
        not_before_s = facts.now_s + remaining_s
    told = f"budget: {facts.puts_max} PUTs a day, {max(0, facts.left_count)} left until 00:00 UTC"
    shown = format_duration(round(interval_s) * 1000)
    return Pace(
        not_before_s=not_before_s,
        interval_s=interval_s,
        is_eased=ahead_count >= max(_EASED_COUNT_MIN, daily_count * _EASED_SHARE),
        reason=f"{told} -> a segment each {shown}" if segment_count else f"{told} -> the next segment then",
    )


def plan_put(kind: PutKind, put_count: int, facts: BudgetFacts, tried: tuple[int, float]) -> PutPlan:
    """Decide when an object may be sent that takes so many requests.

    `tried`: how often the same object was sent before, in vain, and when last, on the monotonic clock.
    """
    again_s = _again_s(facts, tried)
    if kind == "opening":
        return _plan_opening(put_count, facts, again_s)
    left_count = facts.left_count
    if kind == "upkeep":
        if put_count > facts.puts_max - SEGMENTS_PER_DAY_MIN:
            return PutPlan(wait_s=inf, reason="it takes more than a day has")
        if put_count <= left_count:
            return PutPlan(wait_s=again_s, reason="upkeep")
        return PutPlan(wait_s=_remaining_s(facts.now_ms), reason="the budget of the day is spent")
    wait_s = _segment_wait_s(kind, put_count, facts, again_s)
    if wait_s and facts.is_pressed:
        is_over = put_count > left_count
        return PutPlan(wait_s=again_s if is_over else 0.0, reason="the outbox is almost full", is_over=is_over)
    return PutPlan(wait_s=wait_s, reason=plan_pace(facts).reason)


def _plan_opening(put_count: int, facts: BudgetFacts, again_s: float) -> PutPlan:
    is_over = put_count > facts.left_count
    # What failed is sent again as often as a segment may be; beyond the budget seldom.
    wait_s = again_s if is_over or not plan_pace(facts).is_eased else 0.0
    return PutPlan(wait_s=wait_s, reason="a timeline begins", is_over=is_over)


def _segment_wait_s(kind: PutKind, put_count: int, facts: BudgetFacts, again_s: float) -> float:
    remaining_s = _remaining_s(facts.now_ms)
    if put_count > facts.left_count:
        return remaining_s
    if facts.is_stopping:
        # What was set aside for upkeep, too: a stop that leaves nothing behind is worth more than a pack.
        return 0.0
    if kind == "proof":
        return again_s
    if put_count > facts.segments_count:
        return remaining_s
    return max(0.0, plan_pace(facts).not_before_s - facts.now_s)


def _again_s(facts: BudgetFacts, tried: tuple[int, float]) -> float:
    """Return how long to wait before the same object is sent again: an outage must not eat what a day has."""
    count, last_s = tried
    if not count:
        return 0.0
    pause_s = min(_AGAIN_S_MAX, _AGAIN_S * 2.0 ** min(count - 1, 16))
    return max(0.0, last_s + pause_s - facts.now_s)


def _remaining_s(now_ms: int) -> float:
    return (DAY_MS - now_ms % DAY_MS) / 1000
