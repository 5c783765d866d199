"""What a restore needs: from what a replica holds and a target to a snapshot, what goes on top, and the transaction.

`plan_restore` is called with what is known; while that is not enough it returns `Needs` instead of a plan: the records
of a segment or two, the index of a pack or one of its chunks, or the ends of a snapshot. The caller reads them and
calls again.

Which timeline, when none is named: `latest` and a transaction mean the newest, the one with the highest number. If it
is not restorable, they fail rather than give older data. A time means the timeline that was the current one then. Two
timelines with one number, and two writers at work at once (both possible where a store has no create-only PUT), have to
be told apart by the person who asks, until a take-over decides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import msgspec

from walrep.core.copies import own_timeline, refuse_shared
from walrep.core.history import Coverage, History, Pack, Snapshot, Timeline
from walrep.core.moments import UNKNOWABLE, find_moment, list_moments, straddling
from walrep.core.records import Known, Needs, SnapshotEnds
from walrep.core.rivals import rivals_of
from walrep.core.slices import PART_BYTES, WHOLE_BYTES_MAX, Slice, State, plan_slices, split_parts, state_at
from walrep.core.target import AtBookmark, AtTime, AtTxid, Latest, Target, format_duration, format_time
from walrep.core.units import Checksum, Position, Txid
from walrep.errors import TargetAmbiguous, TargetNotFound, UsageError

__all__ = [
    "PART_BYTES",
    "WHOLE_BYTES_MAX",
    "Known",
    "Needs",
    "RestorePlan",
    "SnapshotEnds",
    "describe_ranges",
    "plan_restore",
    "select_timeline",
    "split_parts",
]

_UNREADABLE = frozenset(("damaged-segment", "foreign-segment"))


class RestorePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What will be restored, and from what. `requests` and `download_bytes`: what executing it still has to get.

    `under` is the full snapshot under a differential one.
    """

    position: Position
    seen_ms: int
    page_size: int
    page_count: int
    peak_bytes: int
    snapshot: Snapshot
    under: Snapshot | None
    slices: tuple[Slice, ...]
    requests: int
    download_bytes: int
    reasons: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots to load, one on top of the other."""
        return (self.snapshot,) if self.under is None else (self.under, self.snapshot)


def plan_restore(
    history: History, known: Known, target: Target, *, timeline: str | None, nearest_before: bool, now_ms: int
) -> RestorePlan | Needs:
    """Decide what to restore and from what; `timeline` is a full id or a number, None to choose by the target.

    Raises:
        TargetNotFound: the replica does not hold the target.
        TargetAmbiguous: the record does not tell which of two is meant.
        UsageError: the target and `timeline` contradict each other.

    """
    if not history.timelines:
        raise TargetNotFound("the replica is empty", hint="start `walrep replicate` for this database first")
    match target:
        case AtTime(ms=ms):
            return _plan_time(history, known, (ms, now_ms), timeline, nearest_before=nearest_before)
        case AtBookmark(position=position):
            return _plan_bookmark(history, known, position, timeline)
        case AtTxid(txid=txid):
            if timeline is None:
                _refuse_rivals(history, now_ms)
            chosen = select_timeline(history, timeline)
            if (needs := refuse_shared(chosen, known)) is not None:
                return needs
            _refuse_beyond(history, chosen, txid)
            reasons = (f"transaction {txid} was asked for", _timeline_reason(chosen, timeline))
            return _plan(chosen, known, txid, reasons, ())
        case Latest():
            if timeline is None:
                _refuse_rivals(history, now_ms)
            chosen = select_timeline(history, timeline)
            if (needs := refuse_shared(chosen, known)) is not None:
                return needs
            _refuse_unfinished(history, chosen)
            reasons = ("the newest transaction was asked for", _timeline_reason(chosen, timeline))
            age_ms = max(0, now_ms - chosen.ranges[-1].last_seen_ms)
            notice = f"the newest stored transaction was seen {format_duration(age_ms)} ago; {UNKNOWABLE}"
            return _plan(chosen, known, chosen.tip_txid, reasons, (notice,))


def select_timeline(history: History, text: str | None) -> Timeline:
    """Return the timeline that `text` names by id or number; the newest for None.

    Raises:
        TargetNotFound: there is none.
        TargetAmbiguous: two have that number.

    """
    if text is None:
        number = max(each.number for each in history.timelines)
        found = [each for each in history.timelines if each.number == number]
    elif text.isascii() and text.isdigit():
        found = [each for each in history.timelines if each.number == int(text)]
    else:
        found = [each for each in history.timelines if each.id == text]
    if not found:
        known = ", ".join(each.id for each in history.timelines)
        raise TargetNotFound("no such timeline", detail=str(text), hint=f"the replica has {known}")
    if len(found) > 1:
        _refuse_twins(found)
    return found[0]


def describe_ranges(timelines: Sequence[Timeline]) -> str:
    """Return what is restorable, for the message of an error."""
    lines = [
        f"timeline {timeline.id}: transactions {each.first_txid} to {each.last_txid}, "
        f"{format_time(each.first_seen_ms)} to {format_time(each.last_seen_ms)}"
        for timeline in timelines
        for each in timeline.ranges
    ]
    return "restorable is " + "; ".join(lines) if lines else "nothing is restorable yet"


def _plan_time(
    history: History, known: Known, times: tuple[int, int], timeline: str | None, *, nearest_before: bool
) -> RestorePlan | Needs:
    ms, now_ms = times
    if ms > now_ms:
        raise TargetNotFound(
            "the target is in the future",
            detail=f"{format_time(ms)} is {format_duration(ms - now_ms)} after now",
            hint="leave the target out to restore the newest transaction",
        )
    if timeline is None:
        _refuse_rivals(history, ms)
        timelines = history.timelines
        for each in timelines:
            twins = [other for other in timelines if other.number == each.number]
            if len(twins) > 1 and ms >= min(twin.begin_ms for twin in twins):
                _refuse_twins(twins)
    else:
        timelines = (select_timeline(history, timeline),)
    missing = straddling(timelines, ms, known)
    if missing != Needs():
        return missing
    moments = list_moments(timelines, known)
    try:
        found, _accepted = find_moment(moments, ms, nearest_before=True)
    except TargetNotFound as error:
        raise TargetNotFound(error.message, detail=error.detail, hint=describe_ranges(timelines)) from None
    chosen = next(each for each in timelines if each.id == found.timeline)
    if (needs := refuse_shared(chosen, known)) is not None:
        return needs
    if found.txid == chosen.readable_txid:
        # Before it is called one of two that may be meant: it may be neither.
        _refuse_lost(history, timelines, chosen)
    found, notices = find_moment(moments, ms, nearest_before=nearest_before)
    if found.txid == chosen.readable_txid and ms > found.seen_ms and not nearest_before:
        _refuse_unfinished(history, chosen)
    reasons = (
        f"transaction {found.txid} is the last one seen by {format_time(ms)}",
        _timeline_reason(chosen, timeline) if timeline else f"timeline {chosen.id} was the current one then",
    )
    return _plan(chosen, known, found.txid, reasons, notices)


def _plan_bookmark(history: History, known: Known, position: Position, timeline: str | None) -> RestorePlan | Needs:
    chosen = select_timeline(history, position.timeline)
    if timeline is not None and select_timeline(history, timeline).id != chosen.id:
        raise UsageError("the bookmark is of another timeline", detail=f"{position} and --timeline {timeline}")
    _refuse_beyond(history, chosen, position.txid)
    own = own_timeline(chosen, known, position)
    if isinstance(own, Needs):
        return own
    plan = _plan(own, known, position.txid, ("a bookmark was given, and its checksum is the recorded one",), ())
    if isinstance(plan, RestorePlan) and plan.position != position:
        raise TargetNotFound(
            "the replica's record contradicts the bookmark",
            detail=f"{position} was asked for, {plan.position} is recorded",
            hint="the bookmark is of another database, or mistyped",
        )
    return plan


def _plan(
    timeline: Timeline, known: Known, txid: Txid, reasons: tuple[str, ...], notices: tuple[str, ...]
) -> RestorePlan | Needs:
    """Plan the restore of a transaction that is in one of the timeline's ranges."""
    coverages = [each for each in timeline.coverages if each.first_txid <= txid <= each.last_txid]
    for coverage in sorted(coverages, key=lambda each: (each.first_txid, each.snapshot.name.seq), reverse=True):
        slices = plan_slices(coverage, txid, known)
        if isinstance(slices, Needs):
            return slices
        if slices is not None:
            state = state_at(timeline, coverage, txid, known)
            if isinstance(state, Needs):
                return state
            position = Position(timeline.id, txid, Checksum(state.checksum))
            return _plan_of(coverage, slices, (position, state), reasons, notices)
        notices += (
            f"{coverage.snapshot.key} is of no use here: it was taken within a chunk of {coverage.links[0].key}",
        )
    raise TargetNotFound(
        f"transaction {txid} of timeline {timeline.id} is not restorable",
        detail="; ".join(notices),
        hint="it can be reached only from a snapshot that was taken where no chunk begins",
    )


def _plan_of(
    coverage: Coverage,
    slices: tuple[Slice, ...],
    target: tuple[Position, State],
    reasons: tuple[str, ...],
    notices: tuple[str, ...],
) -> RestorePlan:
    position, state = target
    snapshot, under = coverage.snapshot, coverage.under
    stored = [each.size_bytes for each in (under, snapshot) if each is not None]
    # What the plan itself had to read is kept, but for the snapshot.
    parts = [part for each in slices for part in each.parts_to_get()]
    packs = sum(isinstance(each.link, Pack) for each in slices)
    counts = ((packs, "pack"), (len(slices) - packs, "segment"))
    what = [f"{count} {name}{'s' * (count != 1)}" for count, name in counts if count]
    leans = ""
    if under is not None:
        leans = f", which leans on that of transaction {under.name.txid}"
        leans += f" of timeline {under.name.timeline}" if under.name.timeline != position.timeline else ""
    on_top = f"{position.txid - snapshot.name.txid} transactions in {' and '.join(what) or 'no segments'}"
    return RestorePlan(
        position=position,
        seen_ms=state.seen_ms,
        page_size=state.page_size,
        page_count=state.page_count,
        peak_bytes=state.page_size * max([state.page_count, *(each.state_before[2] for each in slices)]),
        snapshot=snapshot,
        under=under,
        slices=slices,
        requests=sum(len(split_parts(each)) for each in stored) + len(parts),
        download_bytes=sum(stored) + sum(length for _start, length in parts),
        reasons=(
            *reasons,
            f"the newest snapshot before it is of transaction {snapshot.name.txid}{leans}; on top, {on_top}",
        ),
        notices=notices,
    )


def _timeline_reason(timeline: Timeline, asked: str | None) -> str:
    return f"timeline {timeline.id} was asked for" if asked else f"timeline {timeline.id} is the newest"


def _refuse_twins(timelines: Sequence[Timeline]) -> None:
    names = " and ".join(each.id for each in timelines)
    raise TargetAmbiguous(
        f"{len(timelines)} timelines have the number {timelines[0].number}",
        detail=f"{names} were written by different writers at the same time; {describe_ranges(timelines)}",
        hint=f"choose one: --timeline {timelines[0].id}",
    )


def _refuse_rivals(history: History, ms: int) -> None:
    """Refuse to choose between writers that were at work at once, when the newest by then had begun."""
    begun = [each for each in history.lineages if each.begin_ms <= ms]
    newest = begun[-1] if begun else None
    rivals = rivals_of(history.lineages, newest) if newest else ()
    if newest is None or not rivals:
        return
    names = {timeline for writer in (*rivals, newest) for timeline in writer.timelines}
    theirs = [each for each in history.timelines if each.id in names]
    raise TargetAmbiguous(
        f"{len(rivals) + 1} writers were at work at once",
        detail="; ".join(problem.message for problem in history.problems if problem.kind == "rival-writers"),
        hint=f"{describe_ranges(theirs)}. Choose one with --timeline; "
        "to decide it for good, start `walrep replicate --take-over` where the right database is",
    )


def _refuse_beyond(history: History, timeline: Timeline, txid: Txid) -> None:
    if any(each.first_txid <= txid <= each.last_txid for each in timeline.ranges):
        return
    elsewhere = [
        other for other in history.timelines if any(each.first_txid <= txid <= each.last_txid for each in other.ranges)
    ]
    hint = f"timeline {elsewhere[-1].id} has one: --timeline {elsewhere[-1].id}" if elsewhere else ""
    raise TargetNotFound(
        f"transaction {txid} of timeline {timeline.id} is not restorable",
        detail=describe_ranges([timeline]),
        hint=hint or "; ".join(problem.message for problem in history.problems[:3]),
    )


def _unreadable_after(history: History, timeline: Timeline) -> bool:
    """Return whether there are damaged segments that may continue the timeline."""
    newest = max((link.last_seq for link in timeline.chain), default=0)
    begins = [each.begin_seq for each in history.timelines if each.begin_seq is not None and each.begin_seq > newest]
    return any(newest < seq < min(begins, default=seq + 1) for seq in history.unreadable)


def _refuse_lost(history: History, timelines: Sequence[Timeline], last: Timeline) -> None:
    """Refuse a time behind the end of a timeline where more is known to have been, whatever was accepted.

    What is gone may have been seen in the very millisecond of the last transaction that is there.
    """
    if last.readable_txid < last.tip_txid or last.tail_missing:
        _refuse_unfinished(history, last)
    following = next((each for each in timelines if each.number > last.number), None)
    if following is not None and following.number > last.number + 1:
        raise TargetNotFound(
            f"what was between timelines {last.id} and {following.id} is not here",
            detail="another timeline may have been the current one then",
            hint=f"to restore the end of the one before, use --timeline {last.id}; {describe_ranges(timelines)}",
        )


def _refuse_unfinished(history: History, timeline: Timeline) -> None:
    """Refuse the end of a timeline where it would silently be older than the newest that was stored."""
    complete = timeline.ranges and timeline.ranges[-1].last_txid == timeline.tip_txid
    if complete and timeline.tail_missing:
        _refuse_cut(history, timeline)
    if complete and not _unreadable_after(history, timeline):
        return
    if complete:
        last = timeline.ranges[-1]
        raise TargetNotFound(
            f"segments of timeline {timeline.id} after transaction {last.last_txid} are not readable",
            detail="; ".join(each.message for each in history.problems if each.kind in _UNREADABLE),
            hint=f"to restore what is readable, add --timeline {timeline.id} --txid {last.last_txid}",
        )
    if timeline.ranges:
        last = timeline.ranges[-1]
        own = {"", timeline.id}
        why = "; ".join(
            each.message for each in history.problems if each.timeline in own or timeline.id in each.message
        )
        raise TargetNotFound(
            f"the newest transaction of timeline {timeline.id}, {timeline.tip_txid}, is not restorable",
            detail=why,
            hint=f"the newest restorable is transaction {last.last_txid}, seen {format_time(last.last_seen_ms)}: "
            f"--timeline {timeline.id} --txid {last.last_txid}",
        )
    older = [each for each in history.timelines if each.ranges and each.number < timeline.number]
    parent = timeline.parent.timeline if timeline.parent else ""
    older.sort(key=lambda each: (each.id == parent, each.number))
    hint = "wait until its first snapshot is stored"
    if older:
        last = older[-1].ranges[-1]
        hint += (
            f", or restore transaction {last.last_txid} of the timeline before, seen {format_time(last.last_seen_ms)}: "
            f"--timeline {older[-1].id}"
        )
    raise TargetNotFound(
        f"timeline {timeline.id} began, but its first snapshot is not complete",
        detail=f"it began at {format_time(timeline.begin_ms)} ({timeline.reason})",
        hint=hint,
    )


def _refuse_cut(history: History, timeline: Timeline) -> NoReturn:
    """Refuse the end of a timeline of which nothing tells how far it went."""
    problems = [each.message for each in history.problems if each.kind == "missing-segment"]
    raise TargetNotFound(
        f"what timeline {timeline.id} ended with is not here any more",
        detail="; ".join(problems) or f"retention deleted it; {describe_ranges([timeline])}",
        hint=f"to restore what is left, add --timeline {timeline.id} --txid {timeline.ranges[-1].last_txid}",
    )
