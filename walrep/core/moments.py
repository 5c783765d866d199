"""Which transaction stood at a moment. Commit times are observed, not written by SQLite.

Each transaction stores when it was seen, and when walrep had looked before and not seen it. At T the database was at
the last transaction with seen <= T, unless

- T lies between the look and the sighting of the next transaction, and these are more than 2 s apart (walrep was
  stopped, or slow): that transaction may have been committed before T or after;
- a transaction seen after T is followed by one seen at or before T: the clock stepped, and T came twice.

Both are *ambiguous*. A timeline begins when its base was seen; where it does not tell when walrep had last looked
before that, the sighting of the transaction before stands for it.

A segment's footer tells its first and its last transaction and the bounds of when all were seen, which is enough unless
T falls between the two, or the clock stepped within the segment; only then is its own record needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import msgspec

from walrep.core.chunk import Commit
from walrep.core.history import Segment, Timeline
from walrep.core.target import format_duration, format_time
from walrep.core.units import TimelineId, Txid
from walrep.errors import TargetAmbiguous, TargetNotFound

__all__ = ["GAP_MS_MAX", "UNKNOWABLE", "Moment", "find_moment", "list_moments", "straddling_segments"]

GAP_MS_MAX = 2000
"""A longer time between two looks makes a target within it ambiguous."""

UNKNOWABLE = "the replica cannot tell what was committed after it and not yet stored"

_GAP_UNKNOWN_MS = 0xFFFF_FFFF


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """When the state after a transaction had been seen; `looked_ms` None: not recorded."""

    timeline: TimelineId
    txid: Txid
    seen_ms: int
    looked_ms: int | None
    restorable: bool

    def __str__(self) -> str:
        return f"transaction {self.txid} of timeline {self.timeline}, seen {format_time(self.seen_ms)}"


def straddling_segments(
    timelines: Sequence[Timeline], ms: int, known: Mapping[str, Sequence[Commit]]
) -> tuple[Segment, ...]:
    """Return the segments that may hold transactions on both sides of `ms` and whose record is not known yet."""
    return tuple(
        segment
        for timeline in timelines
        for segment in timeline.segments
        if segment.key not in known and segment.transaction_count > 1 and _straddles(segment, ms)
    )


def list_moments(timelines: Sequence[Timeline], known: Mapping[str, Sequence[Commit]]) -> list[Moment]:
    """Return the moments of the timelines, one timeline after the other, each in the order of transactions.

    Of a segment whose record is not in `known`, only the first and the last transaction.
    """
    return [moment for timeline in timelines for moment in _timeline_moments(timeline, known)]


def find_moment(moments: Sequence[Moment], ms: int, *, nearest_before: bool) -> tuple[Moment, tuple[str, ...]]:
    """Return the last moment at or before `ms`, and notices for whoever asked.

    Raises:
        TargetNotFound: `ms` is before the first, or what stood then is not restorable.
        TargetAmbiguous: the record does not tell which of two; `nearest_before` accepts the earlier one.

    """
    cut = next((index for index, moment in enumerate(moments) if moment.seen_ms > ms), len(moments))
    if cut == 0:
        raise TargetNotFound(
            "the replica does not reach back that far", detail=f"{format_time(ms)} is before {moments[0]}"
        )
    found = moments[cut - 1]
    following = moments[cut] if cut < len(moments) else None
    if not found.restorable:
        raise TargetNotFound("what stood at that time is not restorable", detail=f"at {format_time(ms)} it was {found}")
    again = [moment for moment in moments[cut:] if moment.seen_ms <= ms]
    if again:
        _refuse_ambiguous((found, again[-1]), ms, "the clock was set back, and that time came twice", nearest_before)
        return found, (f"{format_time(ms)} came twice, because the clock was set back; this is the first time",)
    if following is None:
        return found, _after_the_last(found, ms)
    if following.timeline == found.timeline and following.txid > found.txid + 1:
        raise TargetNotFound(
            "transactions around that time are missing",
            detail=f"{format_time(ms)} is between {found} and {following}",
        )
    looked_ms = found.seen_ms if following.looked_ms is None else following.looked_ms
    gap_ms = following.seen_ms - looked_ms
    if ms <= looked_ms or gap_ms <= GAP_MS_MAX:
        return found, ()
    why = f"walrep did not look for {format_duration(gap_ms)} around that time"
    _refuse_ambiguous((found, following), ms, why, nearest_before)
    return found, (f"{why}; {following} may have been committed before {format_time(ms)}",)


def _refuse_ambiguous(candidates: tuple[Moment, Moment], ms: int, why: str, nearest_before: bool) -> None:  # noqa: FBT001
    if nearest_before:
        return
    earlier, later = candidates
    raise TargetAmbiguous(
        why,
        detail=f"{format_time(ms)} may mean {earlier}, or {later}",
        hint="add --nearest-before to take the earlier one, or name the transaction: "
        f"--timeline {earlier.timeline} --txid {earlier.txid}, --timeline {later.timeline} --txid {later.txid}",
    )


def _after_the_last(last: Moment, ms: int) -> tuple[str, ...]:
    if ms == last.seen_ms:
        return ()
    age = format_duration(ms - last.seen_ms)
    return (f"the last stored transaction was seen {age} before the target; {UNKNOWABLE}",)


def _straddles(segment: Segment, ms: int) -> bool:
    footer = segment.footer
    in_order = (footer.first_seen_ms, footer.last_seen_ms) == (footer.earliest_seen_ms, footer.latest_seen_ms)
    return not in_order or footer.first_seen_ms <= ms < footer.last_seen_ms


def _timeline_moments(timeline: Timeline, known: Mapping[str, Sequence[Commit]]) -> list[Moment]:
    seen: list[tuple[Txid, int, int | None]] = [(Txid(0), timeline.begin_ms, timeline.looked_ms)]
    seen += [(each.first_txid, each.first_seen_ms, None) for each in timeline.ranges if each.first_txid]
    for segment in timeline.segments:
        if segment.transaction_count:
            seen += _segment_moments(segment, known.get(segment.key))
    # Of a transaction and a snapshot at it, the transaction knows better when it was seen: it sorts last.
    seen.sort(key=lambda each: (each[0], each[2] is not None))
    latest = [list(group)[-1] for _txid, group in groupby(seen, key=lambda each: each[0])]
    return [
        Moment(
            timeline=timeline.id,
            txid=txid,
            seen_ms=seen_ms,
            looked_ms=looked_ms,
            restorable=any(each.first_txid <= txid <= each.last_txid for each in timeline.ranges),
        )
        for txid, seen_ms, looked_ms in latest
    ]


def _segment_moments(segment: Segment, commits: Sequence[Commit] | None) -> list[tuple[Txid, int, int | None]]:
    first = segment.header.txid_before + 1
    if commits is not None:
        return [
            (Txid(txid), commit.seen_ms, _looked(commit.looked_ms, commit.seen_ms))
            for txid, commit in enumerate(commits, first)
        ]
    footer = segment.footer
    moments = [(Txid(first), footer.first_seen_ms, _looked(footer.first_looked_ms, footer.first_seen_ms))]
    if footer.txid_after > first:
        # The look before the last transaction is only in the record; nobody asks for it unless the time straddles.
        moments.append((footer.txid_after, footer.last_seen_ms, footer.last_seen_ms))
    return moments


def _looked(looked_ms: int, seen_ms: int) -> int | None:
    """Return when walrep had looked; None where the record only says that it was long before."""
    return looked_ms if seen_ms - looked_ms < _GAP_UNKNOWN_MS else None
