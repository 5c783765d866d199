"""What a replica keeps and what may be deleted: pure, from what it holds, the policy and the present.

A policy asks for **points**: positions that stay restorable, as far as they are.

    window     every position that stood at some moment of the window, in every timeline: also the one that stood when
               the window began, and the last of a timeline that the next one followed within the window
    newest     the last position of every timeline that none has followed yet, however old
    pins       exactly the positions that a person named
    calendar   beyond the window: the last snapshot of each of the newest N days, weeks (ISO), months and years, UTC,
               that have one there; of two timelines in one of them the younger counts
    minimum    the newest N snapshots, however old: a machine that was off for a year must not come back to nothing
    lean       the newest full snapshot: a differential one that leans on it may be under way to the store

What they need (`walrep.core.holding`) is kept, INV-25. So are fences, for as long as there is the replica; what is
reserved for another purpose; the opening of a timeline for as long as anything of it is kept or no timeline is younger;
and everything that is neither a log nor a snapshot. What compaction has replaced is compaction's to delete: here a pack
and the segments in it count alike, and one of which no more is known than that goes with the pack.

How old an object is, three clocks may tell: the writer's, at the first and at the last transaction, and the store's,
when it was stored. Nothing is deleted that one of them calls young.

The rest is deleted **in the order of the plan**: segments beside their packs; logs from the newest down, of the
youngest timeline first; differential snapshots; full ones; openings of timelines of which nothing is left. Hence, after
any number of deletions: every point is restorable; no log is left without what it rests on, and no differential without
its full, unless it was so before; and a plan made then ends where this one ends, because nothing that a rule looks at
is ever deleted by it.
A DELETE of many keys has no order; one that was cut off endangers no point either, but may leave logs that rest on
nothing until the next run. What opens a timeline goes in a step of its own, so that nothing is left without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from statistics import fmean

import msgspec

from walrep.core.holding import (
    HeldTimeline,
    Holding,
    Pin,
    Points,
    Snapshot,
    Survey,
    is_restorable,
    needs_of_points,
    needs_of_snapshot,
    survey_holding,
)
from walrep.core.snapshots import newest_full
from walrep.core.target import format_duration, format_time
from walrep.core.units import Txid, timeline_number
from walrep.errors import PruneRefused

__all__ = [
    "CLOCKS_APART_MS_MAX",
    "UNREMARKABLE_COUNT",
    "UNUSUAL_FACTOR",
    "RetentionPlan",
    "RetentionPolicy",
    "Verdict",
    "is_anything_expired",
    "plan_retention",
    "refuse_clocks_apart",
    "refuse_unusual",
]

CLOCKS_APART_MS_MAX = 5 * 60 * 1000
"""With clocks further apart nothing is deleted: what is old is judged by one of them."""

UNUSUAL_FACTOR = 3
"""A run that would delete more than so many times the usual number is refused."""

UNREMARKABLE_COUNT = 10
"""A run that deletes at most so many objects is never refused: a few days' pause makes that of two a day."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OTHER = "not a log and not a snapshot of this replica"


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stays restorable.

    `window_s`: any transaction of that long. `daily`, `weekly`, `monthly`, `yearly`: how many calendar points beyond.
    `snapshots_min`: how many snapshots stay however old they are. `grace_s`: by so much the window is longer than what
    is promised, so that a restore that was planned at its edge finds what it needs.
    """

    window_s: float = 30 * 86_400.0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    snapshots_min: int = 2
    grace_s: float = 3600.0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one object, and why."""

    key: str
    size_bytes: int
    keep: bool
    reason: str


class RetentionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict on every object, in the order of keys, and the keys to delete, in the order in which to delete them.

    `steps` are those keys, each step to be done when the one before is.
    `points` are what the rest is kept for. `expired_ms`: the beginning of the window, less the grace. `notices`: what a
    person should know, such as a pin that cannot be restored.
    """

    verdicts: tuple[Verdict, ...]
    steps: tuple[tuple[str, ...], ...]
    points: tuple[Points, ...]
    notices: tuple[str, ...]
    expired_ms: int
    keep_count: int
    keep_bytes: int
    delete_count: int
    delete_bytes: int

    @property
    def deletions(self) -> tuple[str, ...]:
        """The keys to delete."""
        return tuple(chain.from_iterable(self.steps))


def plan_retention(holding: Holding, policy: RetentionPolicy, now_ms: int) -> RetentionPlan:
    """Decide what of a replica is kept and what is deleted; `now_ms` is since 1970 UTC."""
    sizes, survey = holding.sizes(), survey_holding(holding)
    expired_ms = now_ms - round(1000 * (policy.window_s + policy.grace_s))
    points = [*_window_points(survey, expired_ms), *_pinned_points(survey, holding.pins)]
    snapshots = [*_calendar_snapshots(survey, policy, expired_ms), *_newest_snapshots(survey, policy.snapshots_min)]
    snapshots += _newest_full(survey)
    needs = chain(
        ((log.key, "a fence stays as long as the replica") for log in holding.logs if log.is_fence),
        holding.reserved.items(),
        *(needs_of_points(survey, each) for each in points),
        *(needs_of_snapshot(survey, snapshot, reason) for snapshot, reason in snapshots),
        ((key, _OTHER) for key in holding.others if key not in holding.beside),
    )
    kept: dict[str, str] = {}
    for key, reason in needs:
        kept.setdefault(key, reason)
    for key, packs in holding.beside.items():
        if not kept.keys().isdisjoint(packs):
            kept.setdefault(key, "a pack that is kept replaces it: compaction decides")
    kept |= _living_openings(survey, kept)
    deletions = _deletions(holding, kept)
    delete_bytes = sum(sizes[key] for key in deletions)
    points += [
        Points(timeline=each.timeline, first_txid=each.txid, last_txid=each.txid, reason=reason)
        for each, reason in snapshots
    ]
    return RetentionPlan(
        verdicts=tuple(
            Verdict(key=key, size_bytes=sizes[key], keep=key in kept, reason=kept.get(key) or deletions[key])
            for key in sorted(sizes)
        ),
        steps=_steps(holding, deletions),
        points=tuple(points),
        notices=tuple(_notices(survey, holding.pins)),
        expired_ms=expired_ms,
        keep_count=len(sizes) - len(deletions),
        keep_bytes=sum(sizes.values()) - delete_bytes,
        delete_count=len(deletions),
        delete_bytes=delete_bytes,
    )


def is_anything_expired(holding: Holding, policy: RetentionPolicy, now_ms: int) -> bool:
    """Say whether a run would delete anything of what a replica held when it was last looked at."""
    return bool(plan_retention(holding, policy, now_ms).deletions)


def refuse_clocks_apart(*, now_ms: int, store_ms: int) -> None:
    """Refuse to delete by a clock that is not the store's.

    `store_ms` is what the store says is now: when it says that it wrote an object that was just written.

    Raises:
        PruneRefused: the clocks are more than five minutes apart.

    """
    if abs(store_ms - now_ms) > CLOCKS_APART_MS_MAX:
        side = "ahead of" if store_ms > now_ms else "behind"
        raise PruneRefused(
            "nothing is deleted while the clocks disagree",
            detail=f"the store's clock is {format_duration(abs(store_ms - now_ms))} {side} this machine's",
            hint="set this machine's clock (NTP), and try again",
        )


def refuse_unusual(delete_count: int, last_counts: Sequence[int], *, yes: bool) -> None:
    """Refuse a run that would delete many more objects than the runs before.

    Usual is the mean of `last_counts`, what the last runs deleted, without those that deleted nothing; where there is
    none, as in a first run, nothing is unusual. `yes`: a person has seen the plan and agreed.

    Raises:
        PruneRefused: the run is unusual.

    """
    counts = [count for count in last_counts if count > 0]
    usual = fmean(counts) if counts else float(delete_count)
    if not yes and delete_count > max(UNREMARKABLE_COUNT, UNUSUAL_FACTOR * usual):
        raise PruneRefused(
            f"{delete_count} objects would be deleted, more than {UNUSUAL_FACTOR} times as many as usual",
            detail=f"the last {len(counts)} runs that deleted something deleted {usual:.1f} on average",
            hint="look at `walrep prune --dry-run`: a clock that was set wrong and a shorter retention look like this. "
            "If it is meant, add --yes",
        )


def _window_points(survey: Survey, expired_ms: int) -> Iterator[Points]:
    """Yield what the window and the rule of the newest ask of each timeline: everything from some position on."""
    for timeline in survey.timelines.values():
        followed_ms = _followed_ms(survey, timeline)
        # Before the first transaction of a log in the window stood the position before it: the window may begin there.
        firsts = [Txid(log.first_txid - 1) for log in timeline.logs if log.newest_ms > expired_ms]
        firsts += [each.txid for each in timeline.snapshots if each.newest_ms > expired_ms]
        reason = f"in the window and its grace, since {format_time(expired_ms)}"
        if followed_ms is None and not firsts:
            reason = f"the newest state of timeline {timeline.id}"
        if followed_ms is None or followed_ms > expired_ms:
            firsts.append(timeline.tip_txid)
        if firsts:
            last = timeline.tip_txid
            yield Points(timeline=timeline.id, first_txid=min(firsts), last_txid=last, reason=reason)


def _followed_ms(survey: Survey, timeline: HeldTimeline) -> int | None:
    """Return when the next timeline of which something is restorable had begun; None: there is none yet.

    Of several that began until then the latest counts. One whose opening is missing follows nothing: when it began is
    not known, and the oldest object that is left of it must not tell, because that one is deleted one day.
    """
    younger = [each for each in survey.timelines.values() if each.number > timeline.number]
    begun = [(each, each.begin_ms) for each in younger if each.begin_ms is not None]
    next_number = min((each.number for each, _begin_ms in begun if each.usable), default=None)
    if next_number is None:
        return None
    return max(begin_ms for each, begin_ms in begun if each.number <= next_number)


def _pinned_points(survey: Survey, pins: Sequence[Pin]) -> Iterator[Points]:
    for pin in pins:
        timeline, txid = pin.point.timeline, pin.point.txid
        if timeline in survey.timelines:
            yield Points(timeline=timeline, first_txid=txid, last_txid=txid, reason=f"pin {pin.name}")


def _notices(survey: Survey, pins: Sequence[Pin]) -> Iterator[str]:
    for pin in pins:
        if not is_restorable(survey, pin.point):
            what = f"transaction {pin.point.txid} of timeline {pin.point.timeline}"
            yield f"pin {pin.name}: {what} is not restorable from what the replica holds"


def _calendar_snapshots(survey: Survey, policy: RetentionPolicy, expired_ms: int) -> Iterator[tuple[Snapshot, str]]:
    """Yield the last snapshot of each of the newest days, weeks, months and years beyond the window."""
    beyond = [each for each in _usable_by_age(survey) if each.newest_ms <= expired_ms]
    rules = (
        (policy.daily, "day", "%Y-%m-%d"),
        (policy.weekly, "week", "%G-W%V"),
        (policy.monthly, "month", "%Y-%m"),
        (policy.yearly, "year", "%Y"),
    )
    for count, word, form in rules:
        last = {(_EPOCH + timedelta(milliseconds=each.seen_ms)).strftime(form): each for each in beyond}
        for label in sorted(last, reverse=True)[:count]:
            yield last[label], f"the last snapshot of {word} {label}"


def _newest_snapshots(survey: Survey, count: int) -> Iterator[tuple[Snapshot, str]]:
    reason = f"one of the newest {count} snapshots, which stay however old they are"
    return ((each, reason) for each in _usable_by_age(survey)[::-1][:count])


def _newest_full(survey: Survey) -> Iterator[tuple[Snapshot, str]]:
    """Yield what a writer leans on that cannot ask the store before, or that is reading it. INV-30."""
    full = (each for timeline in survey.timelines.values() for each in timeline.usable if each.kind == "full")
    return ((each, "the newest full snapshot, on which the next ones lean") for each in newest_full(full))


def _usable_by_age(survey: Survey) -> list[Snapshot]:
    """Return what a restore can use, older timelines first, and of each first what was seen first."""
    return sorted(
        (each for timeline in survey.timelines.values() for each in timeline.usable),
        key=lambda each: (timeline_number(each.timeline), each.seen_ms, each.txid, each.seq, each.key),
    )


def _living_openings(survey: Survey, kept: Mapping[str, str]) -> dict[str, str]:
    """Return the openings to keep that are no fences, and why."""
    newest = max((each.number for each in survey.timelines.values()), default=0)
    return {
        log.key: f"opens timeline {timeline.id}"
        for timeline in survey.timelines.values()
        for log in timeline.logs
        if log.is_opening
        and not log.is_fence
        and (timeline.number == newest or not kept.keys().isdisjoint(_keys(timeline)))
    }


def _keys(timeline: HeldTimeline) -> Iterator[str]:
    yield from (log.key for log in timeline.logs)
    yield from (snapshot.key for snapshot in timeline.snapshots)


def _deletions(holding: Holding, kept: Mapping[str, str]) -> dict[str, str]:
    """Return what is not kept, in the order in which to delete it, and why.

    A log rests on logs that begin before it, whatever overlaps: so the one that begins last goes first.
    """
    logs = [each for each in holding.logs if each.key not in kept]
    logs.sort(key=lambda each: (-timeline_number(each.timeline), each.timeline, -each.first_txid, each.key))
    snapshots = [each for each in holding.snapshots if each.key not in kept]
    snapshots.sort(key=lambda each: (each.kind == "full", timeline_number(each.timeline), each.txid, each.key))
    deletions: dict[str, str] = {}
    for key in sorted(holding.beside.keys() - kept.keys()):
        deletions[key] = "the pack that replaces it is deleted"
    for log in logs:
        if not log.is_opening:
            seen = format_time(log.newest_ms)
            deletions[log.key] = f"its last transaction was seen by {seen}, before the window, and no point needs it"
    for each in snapshots:
        deletions[each.key] = f"stored by {format_time(each.newest_ms)}, before the window, and no point rests on it"
    for log in logs:
        if log.is_opening:
            deletions[log.key] = f"nothing of timeline {log.timeline} is kept, and a younger one goes on"
    return deletions


def _steps(holding: Holding, deletions: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    openings = {log.key for log in holding.logs if log.is_opening}
    steps = (
        tuple(key for key in deletions if key not in openings),
        tuple(key for key in deletions if key in openings),
    )
    return tuple(step for step in steps if step)
