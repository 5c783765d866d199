"""What a replica holds, as far as a decision about deleting needs it; and what restoring a position needs of that.

A position **needs** the newest usable snapshot of its timeline at or before it, the full one under it if it is
differential, and every log on top until it. Where its timeline has no such snapshot (its base is not stored yet, or it
goes on from its parent's), it needs all logs of the timeline until it, and what the position needs at which the
timeline left its parent. A snapshot is usable if it is full, or its full one is there.

This module must not know keys, nor how a listing is read: every object comes as a struct that says what it is. It must
not know what ought to be kept either (`walrep.core.retention` does).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Literal

import msgspec

from walrep.core.units import Seq, TimelineId, Txid, timeline_number
from walrep.errors import check

__all__ = [
    "HeldTimeline",
    "Holding",
    "Log",
    "Pin",
    "Point",
    "Points",
    "Snapshot",
    "Survey",
    "is_restorable",
    "needs_of_points",
    "needs_of_snapshot",
    "survey_holding",
]


class Point(msgspec.Struct, frozen=True, order=True):
    """The state after `txid` of `timeline`."""

    timeline: TimelineId
    txid: Txid


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """A position that stays restorable until somebody takes the pin out."""

    name: str
    point: Point


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot object; `base_key` names the full one under a differential. `seq`: the newest segment it includes.

    `stored_ms`: when the store says that it was stored; 0 if that is not known.
    """

    key: str
    timeline: TimelineId
    txid: Txid
    seen_ms: int
    seq: Seq
    size_bytes: int
    kind: Literal["full", "differential"] = "full"
    base_key: str = ""
    stored_ms: int = 0

    @property
    def newest_ms(self) -> int:
        """The latest time that any clock gives it: nothing is deleted that one of them calls young."""
        return max(self.seen_ms, self.stored_ms)


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """A segment or a pack: transactions `first_txid` to `last_txid`; `first_txid` is `last_txid + 1` if it has none.

    `first_seen_ms` and `last_seen_ms` are the earliest and the latest at which one of them was seen (a clock can step
    between two); of an opening, when it was made. `left`, of an opening: the position at which the parent was left.
    `stored_ms`: when the store says that it was stored; 0 if that is not known.
    """

    key: str
    timeline: TimelineId
    first_txid: Txid
    last_txid: Txid
    first_seen_ms: int
    last_seen_ms: int
    first_seq: Seq
    last_seq: Seq
    size_bytes: int
    is_fence: bool = False
    is_opening: bool = False
    left: Point | None = None
    stored_ms: int = 0

    @property
    def newest_ms(self) -> int:
        """The latest time that any clock gives it: nothing is deleted that one of them calls young."""
        return max(self.last_seen_ms, self.stored_ms)


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in a replica. `others`: the sizes of all other objects by key, also of those that cannot be read.

    `beside`: of them the segments that packs hold, too, and the keys of these packs. `reserved`: what somebody else
    needs, by key, and what for.
    """

    snapshots: Sequence[Snapshot]
    logs: Sequence[Log]
    pins: Sequence[Pin] = ()
    others: Mapping[str, int] = {}
    beside: Mapping[str, Sequence[str]] = {}
    reserved: Mapping[str, str] = {}

    def sizes(self) -> dict[str, int]:
        """Return the size of every object, in bytes, by key."""
        sizes = {each.key: each.size_bytes for each in self.snapshots}
        sizes |= {each.key: each.size_bytes for each in self.logs}
        sizes |= self.others
        check(len(sizes) == len(self.snapshots) + len(self.logs) + len(self.others), "a key names one object")
        return sizes


class Points(msgspec.Struct, frozen=True, kw_only=True):
    """Positions `first_txid` to `last_txid` of a timeline, and why they are asked for."""

    timeline: TimelineId
    first_txid: Txid
    last_txid: Txid
    reason: str


class HeldTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """What is there of a timeline; snapshots in the order of their positions, `usable` those that a restore can use."""

    id: TimelineId
    number: int
    logs: tuple[Log, ...]
    snapshots: tuple[Snapshot, ...]
    usable: tuple[Snapshot, ...]

    @property
    def opening(self) -> Log | None:
        """The log that opens it, if that is there."""
        return next((log for log in self.logs if log.is_opening), None)

    @property
    def left(self) -> Point | None:
        """Where it left its parent, which has a lower number: damage must not lead round in a circle."""
        left = self.opening.left if self.opening else None
        return left if left and timeline_number(left.timeline) < self.number else None

    @property
    def begin_ms(self) -> int | None:
        """When it became the current one: when its base was seen, or else when it was opened; None: not known."""
        if self.opening is None:
            return None
        base = next((each for each in self.usable if each.txid == 0), None)
        return max(self.opening.newest_ms, base.newest_ms) if base else self.opening.newest_ms

    @property
    def tip_txid(self) -> Txid:
        """Its last position, restorable or not."""
        return max(chain((log.last_txid for log in self.logs), (each.txid for each in self.snapshots)))

    def newest_at(self, txid: int) -> Snapshot | None:
        """Return the newest usable snapshot at or before a position."""
        return next((each for each in reversed(self.usable) if each.txid <= txid), None)


class Survey(msgspec.Struct, frozen=True):
    """The timelines, in the order of their numbers, and all snapshots by key."""

    timelines: Mapping[TimelineId, HeldTimeline]
    snapshots: Mapping[str, Snapshot]


def survey_holding(holding: Holding) -> Survey:
    """Sort what a replica holds by timeline."""
    by_key = {each.key: each for each in holding.snapshots}
    logs: defaultdict[TimelineId, list[Log]] = defaultdict(list)
    snapshots: defaultdict[TimelineId, list[Snapshot]] = defaultdict(list)
    for log in sorted(holding.logs, key=lambda each: (each.first_txid, each.last_txid, each.first_seq, each.key)):
        logs[log.timeline].append(log)
    for snapshot in sorted(holding.snapshots, key=lambda each: (each.txid, each.seq, each.seen_ms, each.key)):
        snapshots[snapshot.timeline].append(snapshot)
    timelines = {
        identity: HeldTimeline(
            id=identity,
            number=timeline_number(identity),
            logs=tuple(logs[identity]),
            snapshots=tuple(snapshots[identity]),
            usable=tuple(each for each in snapshots[identity] if _is_usable(each, by_key)),
        )
        for identity in sorted(logs.keys() | snapshots.keys(), key=lambda each: (timeline_number(each), each))
    }
    return Survey(timelines, by_key)


def is_restorable(survey: Survey, point: Point) -> bool:
    """Return whether everything that a position needs is there, with no transaction missing on the way."""
    timeline = survey.timelines.get(point.timeline)
    if timeline is None:
        return False
    under = timeline.newest_at(point.txid)
    if under is None and (timeline.left is None or not is_restorable(survey, timeline.left)):
        return False
    reached = under.txid if under else Txid(0)
    for log in timeline.logs:
        if log.first_txid <= reached + 1:
            reached = max(reached, log.last_txid)
    return reached >= point.txid


def needs_of_points(survey: Survey, points: Points) -> Iterator[tuple[str, str]]:
    """Yield the keys of what positions of a timeline in the survey need, and why each; a key may come twice."""
    timeline, first, last = survey.timelines[points.timeline], points.first_txid, points.last_txid
    under = timeline.newest_at(first)
    if under is not None:
        yield from needs_of_snapshot(survey, under, f"{points.reason}: begins on top of it")
    for each in timeline.snapshots:
        if first <= each.txid <= last:
            yield from needs_of_snapshot(survey, each, points.reason)
    for log in timeline.logs:
        if _leads(log, under.txid if under else -1, last):
            yield log.key, points.reason if log.last_txid > first else f"{points.reason}: leads up to its beginning"
    left = timeline.left
    if under is None and left is not None and left.timeline in survey.timelines:
        reason = f"timeline {timeline.id} begins there, and has no snapshot of its own yet"
        parent = Points(timeline=left.timeline, first_txid=left.txid, last_txid=left.txid, reason=reason)
        yield from needs_of_points(survey, parent)


def needs_of_snapshot(survey: Survey, snapshot: Snapshot, reason: str) -> Iterator[tuple[str, str]]:
    """Yield the key of a snapshot and that of the full one under it, and why each."""
    yield snapshot.key, reason
    if snapshot.base_key in survey.snapshots:
        yield snapshot.base_key, f"the full snapshot under {snapshot.key}"


def _is_usable(snapshot: Snapshot, by_key: Mapping[str, Snapshot]) -> bool:
    base = snapshot if snapshot.kind == "full" else by_key.get(snapshot.base_key)
    return base is not None and base.kind == "full"


def _leads(log: Log, floor: int, last: int) -> bool:
    """Return whether a log takes part in leading from position `floor` to position `last`."""
    if log.first_txid > log.last_txid:
        return floor <= log.last_txid <= last
    return log.last_txid > floor and log.first_txid <= last
