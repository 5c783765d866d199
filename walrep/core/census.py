"""The objects of a listing, each put where it belongs or reported.

A pack's key tells its range also when the pack is damaged. A segment that a readable pack replaces need not be read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from walrep.core.links import Damage, Pack, Segment, SegmentEnds, Spare, replacing
from walrep.core.names import (
    PROBE_PREFIX,
    REPLICA_KEY,
    PackName,
    PinName,
    SegmentName,
    SnapshotName,
    pack_key,
    parse_pack_key,
    parse_pin_key,
    parse_pruned_key,
    parse_segment_name,
    parse_snapshot_key,
    segment_key,
)
from walrep.core.objects import PackFooter
from walrep.core.pack import pack_name
from walrep.core.units import Seq, SeqRange, TimelineId
from walrep.errors import StoreUnavailable

__all__ = [
    "Census",
    "Parts",
    "Problem",
    "ProblemKind",
    "Snapshot",
    "listing_lags",
    "next_segment",
    "segments_to_read",
    "take_census",
]

ProblemKind = Literal[
    "unknown-key",
    "damaged-segment",
    "foreign-segment",
    "missing-segment",
    "damaged-pack",
    "foreign-pack",
    "broken-chain",
    "unused-object",
    "missing-start",
    "missing-base",
    "misplaced-snapshot",
    "parent-mismatch",
    "rival-writers",
    "lost-pin",
    "orphan-snapshot",
    "damaged-record",
]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be; `timeline` is empty when it concerns none."""

    kind: ProblemKind
    message: str
    timeline: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot object, as its key tells."""

    key: str
    size_bytes: int
    name: SnapshotName


class Parts(msgspec.Struct):
    """The objects of one timeline, in the order of their keys; `pack_names` also of packs that are damaged."""

    segments: list[Segment] = []
    packs: list[Pack] = []
    pack_names: list[PackName] = []
    spares: list[Spare] = []
    snapshots: list[Snapshot] = []


class Census:
    """What a listing holds, by timeline; `replica` is the identity that the replica object, or the first link, tells.

    `unreadable` are the numbers of segments that are damaged, or of another replica.
    """

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.timelines: defaultdict[TimelineId, Parts] = defaultdict(Parts)
        self.problems: list[Problem] = []
        self.unreadable: list[Seq] = []
        self.pins: list[PinName] = []

    def add_pack(self, key: str, size_bytes: int, name: PackName, footer: PackFooter | Damage | None) -> None:
        """Take in a pack; its footer is None if it was not read."""
        parts = self.timelines[name.timeline]
        parts.pack_names.append(name)
        if not isinstance(footer, PackFooter):
            message = footer.message if footer else "its footer was not read"
            self._report("damaged-pack", f"{key}: {message}", name.timeline)
        elif pack_name(footer) != name:
            self._report("damaged-pack", f"{key} says of itself that it is another one", name.timeline)
        elif self.replica and footer.header.replica != self.replica:
            self._report("foreign-pack", f"{key} belongs to replica {footer.header.replica}", name.timeline)
        else:
            pack = Pack(key=key, name=name, size_bytes=size_bytes, header=footer.header, footer=footer)
            parts.packs.append(pack)
            self.replica = self.replica or footer.header.replica

    def add_segment(self, key: str, size_bytes: int, name: SegmentName, ends: SegmentEnds | Damage | None) -> None:
        """Take in a segment, after all packs; its ends are None if they were not read."""
        pack = replacing(name, self._readable_packs()) if ends is None else None
        if pack is not None:
            spare = Spare(key=key, size_bytes=size_bytes, replaced_by=pack_key(pack))
            self.timelines[pack.timeline].spares.append(spare)
        elif not isinstance(ends, SegmentEnds):
            message = ends.message if ends else "its header and footer were not read"
            self._refuse(name, "damaged-segment", f"{key}: {message}")
        elif ends.header.seq != name.seq:
            message = f"{key} says of itself that it is segment {ends.header.seq}"
            self._refuse(name, "damaged-segment", message, ends.header.timeline)
        elif _is_contradictory(ends):
            message = f"{key}: its header and its footer contradict each other"
            self._refuse(name, "damaged-segment", message, ends.header.timeline)
        elif self.replica and ends.header.replica != self.replica:
            message = f"{key} belongs to replica {ends.header.replica}"
            self._refuse(name, "foreign-segment", message, ends.header.timeline)
        else:
            segment = Segment(key=key, seq=name.seq, size_bytes=size_bytes, header=ends.header, footer=ends.footer)
            self.timelines[ends.header.timeline].segments.append(segment)
            self.replica = self.replica or ends.header.replica

    def add_other(self, key: str, size_bytes: int) -> None:
        """Take in what is neither."""
        name = parse_snapshot_key(key)
        if name is not None:
            self.timelines[name.timeline].snapshots.append(Snapshot(key=key, size_bytes=size_bytes, name=name))
        elif (pin := parse_pin_key(key)) is not None:
            self.pins.append(pin)
        elif key != REPLICA_KEY and parse_pruned_key(key) is None and not key.startswith(PROBE_PREFIX):
            self._report("unknown-key", f"{key} is not an object of a replica")

    def report_missing(self, segments: list[SegmentName], gone: Sequence[SeqRange]) -> None:
        """Report the numbers between the first and the last of these that nothing has, and that are not gone."""
        spans = [*gone, *((name.seq, name.seq) for name in segments)]
        spans += [(name.first_seq, name.last_seq) for parts in self.timelines.values() for name in parts.pack_names]
        spans.sort()
        reached = spans[0][1] if spans else Seq(0)
        for first, last in spans:
            if first > reached + 1:
                one = first == reached + 2
                text = f"segment {first - 1} is" if one else f"segments {reached + 1} to {first - 1} are"
                self._report("missing-segment", f"{text} missing")
            reached = max(reached, last)

    def _readable_packs(self) -> Iterator[PackName]:
        return (pack.name for parts in self.timelines.values() for pack in parts.packs)

    def _refuse(self, name: SegmentName, kind: ProblemKind, message: str, timeline: str = "") -> None:
        self.unreadable.append(name.seq)
        self._report(kind, message, timeline)

    def _report(self, kind: ProblemKind, message: str, timeline: str = "") -> None:
        self.problems.append(Problem(kind=kind, message=message, timeline=timeline))


def segments_to_read(
    sizes: Mapping[str, int], packs: Mapping[str, PackFooter | Damage], problems: Sequence[Problem] = ()
) -> frozenset[str]:
    """Return the keys of the segments whose ends a history needs, from a listing and the footers of its packs.

    These are all but those that a readable pack replaces, until the history of these has `problems` that the others may
    solve: then it is all of them. Nothing but a stray object is beyond doubt no such problem.
    """
    segments = {key: name for key in sizes if (name := parse_segment_name(key)) is not None}
    if any(problem.kind != "unknown-key" for problem in problems):
        return frozenset(segments)
    readable = [pack_name(footer) for footer in packs.values() if isinstance(footer, PackFooter)]
    return frozenset(key for key, name in segments.items() if replacing(name, readable) is None)


def next_segment(keys: Iterable[str]) -> tuple[str, str]:
    """Return the last key of a segment in a listing, empty if there is none, and the key of the one that follows it.

    The newest segment of each writer is never deleted (INV-24): the one that follows is not there, or was not listed.
    """
    last = max(((name, key) for key in keys if (name := parse_segment_name(key)) is not None), default=None)
    if last is None:
        return "", segment_key(Seq(1))
    name, key = last
    return key, segment_key(Seq(name.seq + 1), name.nonce)


def listing_lags(key: str) -> StoreUnavailable:
    """Return the error for an object that is there, and that a listing lacks. INV-33."""
    return StoreUnavailable(
        "the store does not list an object that is there",
        detail=key,
        hint="its listings lag behind, so that what is newest is not known: try again later, or restore a bookmark",
    )


def take_census(
    sizes: Mapping[str, int],
    segments: Mapping[str, SegmentEnds | Damage],
    packs: Mapping[str, PackFooter | Damage],
    replica: str,
    gone: Sequence[SeqRange] = (),
) -> Census:
    """Sort a listing (keys and sizes), with the ends of its segments and the footers of its packs.

    `replica` is the identity that the replica object tells, empty if it is not known. `gone`: what retention deleted.
    """
    census = Census(replica)
    pack_names = {key: name for key in sorted(sizes) if (name := parse_pack_key(key)) is not None}
    for key, name in pack_names.items():
        census.add_pack(key, sizes[key], name, packs.get(key))
    segment_names = []
    for key in sorted(sizes.keys() - pack_names.keys()):
        segment = parse_segment_name(key)
        if segment is None:
            census.add_other(key, sizes[key])
        else:
            segment_names.append(segment)
            census.add_segment(key, sizes[key], segment, segments.get(key))
    census.report_missing(segment_names, gone)
    return census


def _is_contradictory(ends: SegmentEnds) -> bool:
    before, after = ends.header.txid_before, ends.footer.txid_after
    return after < before or (ends.header.start is not None and after != before)
