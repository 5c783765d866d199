"""Which transaction stood at a moment. Commit times are observed, not written by SQLite.

Each transaction stores when it was seen, and when walrep had looked before and not seen it. At T the database was at
the last transaction with seen <= T, unless

- T lies between the look and the sighting of the next transaction, and these are more than 2 s apart (walrep was
  stopped, or slow): that transaction may have been committed before T or after;
- a transaction seen after T is followed by one seen at or before T: the clock stepped, and T came twice.

Both are *ambiguous*. A timeline begins when its base was seen; where it does not tell when walrep had last looked
before that, the sighting of the transaction before stands for it.

A footer tells of a segment or pack its first and its last transaction and the bounds of when all were seen, which is
enough unless T falls between the two, or the clock stepped within it; only then is its own record needed. That of a
pack is its index first, whose rows tell the same of each chunk, and then the chunks of which the same holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec
import numpy as np

from walrep.core.chunk import Commit
from walrep.core.history import Link, Pack, Segment, Timeline
from walrep.core.index import IndexRow, PackIndex
from walrep.core.objects import SegmentFooter
from walrep.core.records import Known, Needs, PackChunk
from walrep.core.target import format_duration, format_time
from walrep.core.units import TimelineId, Txid
from walrep.errors import TargetAmbiguous, TargetNotFound

__all__ = ["GAP_MS_MAX", "UNKNOWABLE", "Moment", "find_moment", "list_moments", "straddling"]

GAP_MS_MAX = 2000
"""A longer time between two looks makes a target within it ambiguous."""

UNKNOWABLE = "the replica cannot tell what was committed after it and not yet stored"

_GAP_UNKNOWN_MS = 0xFFFF_FFFF

_Seen = tuple[int, int, int | None]
"""Transaction, when it was seen, when walrep had looked before (None: not recorded)."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """When the state after a transaction had been seen; `looked_ms` None: not recorded."""

    timeline: TimelineId
    txid: Txid
    seen_ms: int
    looked_ms: int | None
    restorable: bool

    def __str__(self) -> str:
        return f"transaction {self.txid} of timeline {self.timeline}, seen {format_time(self.seen_ms)}"


def straddling(timelines: Sequence[Timeline], ms: int, known: Known) -> Needs:
    """Return what may hold transactions on both sides of `ms` and whose record is not known yet."""
    segments: list[Segment] = []
    packs: list[Pack] = []
    chunks: list[PackChunk] = []
    for link in (link for timeline in timelines for link in timeline.chain if link.transaction_count > 1):
        if isinstance(link, Segment):
            if link.key not in known.commits and _straddles(link.footer, ms):
                segments.append(link)
        elif link.key in known.indexes:
            chunks += [each for each in _straddling_chunks(link, known.indexes[link.key], ms) if not each.is_in(known)]
        elif _straddles(link.footer, ms):
            packs.append(link)
    return Needs(segments=tuple(segments), packs=tuple(packs), chunks=tuple(chunks))


def list_moments(timelines: Sequence[Timeline], known: Known) -> list[Moment]:
    """Return the moments of the timelines, one timeline after the other, each in the order of transactions.

    Of a segment, chunk or pack whose record is not known, only the first and the last transaction.
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


def _straddles(footer: SegmentFooter, ms: int) -> bool:
    in_order = (footer.first_seen_ms, footer.last_seen_ms) == (footer.earliest_seen_ms, footer.latest_seen_ms)
    return not in_order or footer.first_seen_ms <= ms < footer.last_seen_ms


def _straddling_chunks(pack: Pack, index: PackIndex, ms: int) -> Iterator[PackChunk]:
    rows = index.rows
    first, last = rows["first_seen_ms"], rows["last_seen_ms"]
    stepped = (first != rows["earliest_seen_ms"]) | (last != rows["latest_seen_ms"])
    several = rows["txid_after"] - rows["txid_before"] > 1
    for number in np.flatnonzero(several & (stepped | ((first <= ms) & (ms < last)))).tolist():
        row = index.row(number)
        yield PackChunk(pack, number, row.offset, row.block_bytes)


def _timeline_moments(timeline: Timeline, known: Known) -> list[Moment]:
    seen: list[_Seen] = [(0, timeline.begin_ms, timeline.looked_ms)]
    seen += [(each.first_txid, each.first_seen_ms, None) for each in timeline.ranges if each.first_txid]
    for link in timeline.chain:
        seen += _link_moments(link, known)
    # Of a transaction and a snapshot at it, the transaction knows better when it was seen: it sorts last.
    seen.sort(key=lambda each: (each[0], each[2] is not None))
    latest = [list(group)[-1] for _txid, group in groupby(seen, key=lambda each: each[0])]
    return [
        Moment(
            timeline=timeline.id,
            txid=Txid(txid),
            seen_ms=seen_ms,
            looked_ms=looked_ms,
            restorable=any(each.first_txid <= txid <= each.last_txid for each in timeline.ranges),
        )
        for txid, seen_ms, looked_ms in latest
    ]


def _link_moments(link: Link, known: Known) -> Iterator[_Seen]:
    index = known.indexes.get(link.key)
    if index is None:
        commits = known.commits.get(link.key)
        yield from _stretch_moments(link.header.txid_before, link.footer.txid_after, link.footer, commits)
        return
    for number in range(len(index)):
        row = index.row(number)
        yield from _stretch_moments(row.txid_before, row.txid_after, row, known.chunks.get((link.key, number)))


def _stretch_moments(
    txid_before: int, txid_after: int, times: SegmentFooter | IndexRow, commits: Sequence[Commit] | None
) -> Iterator[_Seen]:
    """Yield the moments of consecutive transactions: all if their record is known, else the first and the last."""
    first = txid_before + 1
    if commits is not None:
        for txid, commit in enumerate(commits, first):
            yield txid, commit.seen_ms, _looked(commit.looked_ms, commit.seen_ms)
        return
    if txid_after >= first:
        yield first, times.first_seen_ms, _looked(times.first_looked_ms, times.first_seen_ms)
    if txid_after > first:
        # The look before the last transaction is only in the record; nobody asks for it unless the time straddles.
        yield txid_after, times.last_seen_ms, times.last_seen_ms


def _looked(looked_ms: int, seen_ms: int) -> int | None:
    """Return when walrep had looked; None where the record only says that it was long before."""
    return looked_ms if seen_ms - looked_ms < _GAP_UNKNOWN_MS else None
