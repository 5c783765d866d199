"""Random histories of a replica, with the truth beside them: what was committed when, and what can be restored.

The truth is told by sets of numbers and by trying everything, so that it is no second copy of what it judges.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise

import msgspec
from hypothesis import strategies as st

from walrep.core.holding import Holding, Log, Pin, Point, Snapshot
from walrep.core.units import Seq, TimelineId, Txid

__all__ = ["DAY", "HOUR", "T0", "History", "histories", "without"]

HOUR = 3_600_000
DAY = 24 * HOUR
T0 = 1_767_225_600_000
"""2026-01-01, a Thursday."""

_STEPS = [0, HOUR, 8 * HOUR, DAY, 2 * DAY, 9 * DAY, 40 * DAY, -HOUR]
_EVENTS = ["commit", "commit", "commit", "seal", "full", "differential"]


class History(msgspec.Struct, frozen=True):
    """What a replica holds; `seen` tells when every position had been seen, in the order of timelines."""

    holding: Holding
    seen: dict[tuple[TimelineId, int], int]
    left: dict[TimelineId, Point | None]
    end_ms: int

    def best_start(self, keys: Collection[str], timeline: TimelineId, txid: int) -> tuple[int, ...] | None:
        """Return the newest of all snapshots from which these objects lead to a position; None: it cannot be had.

        A snapshot of the parent counts less than any of the timeline's own.
        """
        logs = [each for each in self.holding.logs if each.key in keys and each.timeline == timeline]
        logged = {number for each in logs for number in range(each.first_txid, each.last_txid + 1)}
        full = {each.key for each in self.holding.snapshots if each.key in keys and each.kind == "full"}
        starts: list[tuple[int, ...]] = [
            (each.txid,)
            for each in self.holding.snapshots
            if each.key in keys and each.timeline == timeline and (each.key in full or each.base_key in full)
        ]
        left = self.left[timeline] if any(each.is_opening for each in logs) else None
        under = self.best_start(keys, left.timeline, left.txid) if left else None
        starts += [(-1, *under)] if under is not None else []
        return max(
            (each for each in starts if logged >= set(range(max(0, each[0]) + 1, txid + 1)) and each[0] <= txid),
            default=None,
        )

    def restorable(self, keys: Collection[str], timeline: TimelineId, txid: int) -> bool:
        """Return whether a position can be had from these objects, by whatever way."""
        return self.best_start(keys, timeline, txid) is not None

    def all_restorable(self, keys: Collection[str]) -> set[tuple[TimelineId, int]]:
        """Return all positions that can be had."""
        return {(timeline, txid) for timeline, txid in self.seen if self.restorable(keys, timeline, txid)}

    def keys(self) -> set[str]:
        """Return the keys of all objects."""
        return set(self.holding.sizes())

    def stood_at(self, ms: int) -> Iterator[tuple[TimelineId, int]]:
        """Yield the position at a moment, as `walrep.core.moments` reads a record, both if the moment came twice."""
        moments = list(self.seen.items())
        cut = next((index for index, (_position, seen_ms) in enumerate(moments) if seen_ms > ms), len(moments))
        yield from (position for position, _seen_ms in moments[max(0, cut - 1) : cut])
        yield from [position for position, seen_ms in moments[cut:] if seen_ms <= ms][-1:]


def without(holding: Holding, keys: Collection[str]) -> Holding:
    """Return what a replica holds after these objects were deleted."""
    return msgspec.structs.replace(
        holding,
        logs=[each for each in holding.logs if each.key not in keys],
        snapshots=[each for each in holding.snapshots if each.key not in keys],
        others={key: size for key, size in holding.others.items() if key not in keys},
    )


class _Builder:
    def __init__(self) -> None:
        self.now_ms = T0
        self.seq = 0
        self.logs: list[Log] = []
        self.packs: list[Log] = []
        self.snapshots: list[Snapshot] = []
        self.seen: dict[tuple[TimelineId, int], int] = {}
        self.left: dict[TimelineId, Point | None] = {}
        self.timeline = TimelineId("")
        self.txid = 0
        self.sealed = 0

    @property
    def latest_ms(self) -> int:
        """When the last of all things was seen."""
        return max(*self.seen.values(), *(each.seen_ms for each in self.snapshots), T0)

    def begin(self, number: int, left: Point | None, *, fence: bool) -> None:
        self.timeline = TimelineId(f"{number:05d}-{len(self.left):08x}")
        self.left[self.timeline] = left
        self.txid = self.sealed = 0
        self.seen[self.timeline, 0] = self.now_ms
        self.add_log(1, 0, left=left, is_opening=True, is_fence=fence)

    def add_log(self, first: int, last: int, *, left: Point | None, is_opening: bool, is_fence: bool) -> None:
        self.seq += 1
        seen = [self.seen[self.timeline, txid] for txid in range(first, last + 1)] or [self.now_ms]
        self.logs.append(
            Log(
                key=f"segments/{self.seq:03d}",
                timeline=self.timeline,
                first_txid=Txid(first),
                last_txid=Txid(last),
                first_seen_ms=min(seen),
                last_seen_ms=max(seen),
                first_seq=Seq(self.seq),
                last_seq=Seq(self.seq),
                is_fence=is_fence,
                is_opening=is_opening,
                left=left,
                size_bytes=10,
            )
        )

    def commit(self) -> None:
        self.txid += 1
        self.seen[self.timeline, self.txid] = self.now_ms

    def seal(self) -> None:
        if self.txid > self.sealed:
            self.add_log(self.sealed + 1, self.txid, left=None, is_opening=False, is_fence=False)
            self.sealed = self.txid

    def snapshot(self, *, differential: bool) -> None:
        """Add a snapshot; a differential one against the newest full one of whatever timeline, if there is any."""
        self.seal()
        base = next((each.key for each in reversed(self.snapshots) if each.kind == "full"), "")
        kind = "differential" if differential and base else "full"
        self.snapshots.append(
            Snapshot(
                key=f"snapshots/{self.timeline}/{len(self.snapshots):03d}-{kind}",
                timeline=self.timeline,
                txid=Txid(self.txid),
                seen_ms=self.now_ms,
                seq=Seq(self.seq),
                kind="differential" if kind == "differential" else "full",
                base_key=base if kind == "differential" else "",
                size_bytes=100,
            )
        )
        if self.txid == 0:
            self.seen[self.timeline, 0] = min(
                each.seen_ms for each in self.snapshots if each.timeline == self.timeline and each.txid == 0
            )

    def pack(self, begin: int, count: int, *, replaced: int) -> None:
        """Add a pack of some logs that continue one another; delete the first `replaced` of them."""
        logs = [each for each in self.logs if not each.is_opening][begin : begin + count]
        if len(logs) < 2 or any(
            (after.timeline, after.first_txid) != (before.timeline, before.last_txid + 1)
            for before, after in pairwise(logs)
        ):
            return
        pack = msgspec.structs.replace(
            logs[0],
            key=f"packs/{logs[0].timeline}/{len(self.packs):03d}",
            last_txid=logs[-1].last_txid,
            first_seen_ms=min(each.first_seen_ms for each in logs),
            last_seen_ms=max(each.last_seen_ms for each in logs),
            last_seq=logs[-1].last_seq,
        )
        gone = {each.key for each in logs[:replaced]}
        self.logs = [each for each in self.logs if each.key not in gone] + [pack]
        self.packs.append(pack)


@st.composite
def histories(draw: st.DrawFn, *, damaged: bool = False, plain: bool = False) -> History:
    """Draw a history of one to three timelines.

    `damaged`: some objects are missing. `plain`: there are no packs beside what they replace, every timeline has a
    base, and no two snapshots are of one position.
    """
    builder = _Builder()
    number = 0
    for _timeline in range(draw(st.integers(1, 3))):
        earlier = list(builder.seen)
        left = None
        if draw(st.booleans()) and earlier:
            timeline, txid = draw(st.sampled_from(earlier))
            left = Point(timeline, Txid(txid))
        twin = draw(st.integers(0, 7)) == 0 and number > 0
        number += not twin
        if draw(st.integers(0, 4)) == 0 and earlier:
            builder.now_ms = builder.seen[draw(st.sampled_from(earlier))]
        if left is not None and number == int(left.timeline[:5]):
            left = None
        builder.begin(number, left, fence=len(builder.left) > 1 and draw(st.booleans()))
        builder.now_ms += draw(st.sampled_from(_STEPS))
        if draw(st.booleans()) or plain:
            builder.snapshot(differential=draw(st.booleans()))
        for event in draw(st.lists(st.sampled_from(_EVENTS), max_size=12)):
            builder.now_ms += draw(st.sampled_from(_STEPS))
            match event:
                case "commit":
                    builder.commit()
                case "seal":
                    builder.seal()
                case _ if builder.txid > builder.snapshots[-1].txid if plain else True:
                    builder.snapshot(differential=event == "differential")
                case _:
                    pass
        builder.seal()
    for _pack in range(0 if plain else draw(st.integers(0, 3))):
        count = draw(st.integers(2, 4))
        builder.pack(draw(st.integers(0, 9)), count, replaced=draw(st.integers(0, count)))
    everything = [log.key for log in builder.logs] + [snapshot.key for snapshot in builder.snapshots]
    lost = draw(st.sets(st.sampled_from(everything), max_size=3)) if damaged else set[str]()
    pins = [
        Pin(name=f"pin-{index}", point=Point(timeline, Txid(txid)))
        for index, (timeline, txid) in enumerate(draw(st.lists(st.sampled_from(list(builder.seen)), max_size=2)))
    ]
    holding = Holding(
        snapshots=builder.snapshots, logs=builder.logs, pins=pins, others={"replica": 1, "what/is-this": 7}
    )
    return History(without(holding, lost), builder.seen, builder.left, builder.latest_ms)
