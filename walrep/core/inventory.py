"""From a listing to what retention decides on.

The keys of packs, snapshots and pins tell what they are; segments are known from their headers and footers. What is not
known is none of retention's business, and stays; but a segment beside a pack that replaces it, which compaction deletes
unless it is its writer's newest (INV-24), goes when the pack goes. Other unknown segments are to be read first: what
another writer has stored since may rest on what looks old.

A key tells when the first and the last transaction were seen; as a clock can step between the two, the later one counts
for both ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from walrep.core.holding import Holding, Log, Pin, Point, Snapshot
from walrep.core.lineage import newest_segments
from walrep.core.links import replacing
from walrep.core.names import (
    FullName,
    PackName,
    SnapshotName,
    parse_pack_key,
    parse_pin_key,
    parse_segment_name,
    parse_snapshot_key,
)
from walrep.core.snapshots import full_under
from walrep.core.stored import SegmentFact
from walrep.core.units import Txid

__all__ = ["Listed", "take_inventory", "unknown_segments"]

_NEWEST = "it holds the newest segment, which the next start looks for"


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One object of a listing; `stored_ms` is what the store says."""

    key: str
    size_bytes: int
    stored_ms: int


def take_inventory(listing: Iterable[Listed], segments: Mapping[str, SegmentFact]) -> Holding:
    """Return what a replica holds; `segments` are those that are known, by key."""
    logs: list[Log] = []
    snapshots: list[Snapshot] = []
    pins: list[Pin] = []
    others: dict[str, int] = {}
    kept: dict[str, str] = {}
    listing = list(listing)
    full: dict[FullName, list[_Full]] = defaultdict(list)
    for each in listing:
        if (name := parse_snapshot_key(each.key)) is not None and name.full is None:
            full[name.as_full].append(_Full(each.key, name))
    for each in listing:
        if (fact := segments.get(each.key)) is not None:
            logs.append(_log_of_segment(each, fact))
        elif (pack := parse_pack_key(each.key)) is not None:
            logs.append(_log_of_pack(each, pack))
        elif (snapshot := parse_snapshot_key(each.key)) is not None:
            snapshots.append(_snapshot(each, snapshot, _key_under(snapshot, full)))
        else:
            others[each.key] = each.size_bytes
            if (pin := parse_pin_key(each.key)) is not None:
                pins.append(Pin(name=pin.name, point=Point(pin.position.timeline, pin.position.txid)))
                kept[each.key] = "a person keeps a position by this name"
    beside = {key: packs for key, packs in _packs_of(listing, segments).items() if packs}
    reserved = dict.fromkeys(sorted(newest_segments(logs)), _NEWEST) | kept
    return Holding(logs=logs, snapshots=snapshots, pins=pins, others=others, beside=beside, reserved=reserved)


def unknown_segments(listing: Iterable[Listed], segments: Mapping[str, SegmentFact]) -> frozenset[str]:
    """Return the keys of segments that are not known, and that no pack replaces."""
    return frozenset(key for key, packs in _packs_of(listing, segments).items() if not packs)


def _packs_of(listing: Iterable[Listed], segments: Mapping[str, SegmentFact]) -> dict[str, tuple[str, ...]]:
    """Return the keys of the segments that are not known, each with those of the packs that replace it."""
    keys = {each.key for each in listing}
    names = {key: name for key in keys - segments.keys() if (name := parse_segment_name(key)) is not None}
    packs = [(key, pack) for key in sorted(keys) if names and (pack := parse_pack_key(key)) is not None]
    return {
        segment: tuple(key for key, pack in packs if replacing(name, [pack]) is not None)
        for segment, name in names.items()
    }


def _log_of_segment(listed: Listed, fact: SegmentFact) -> Log:
    return Log(
        key=listed.key,
        timeline=fact.timeline,
        first_txid=Txid(fact.txid_before + 1),
        last_txid=fact.txid_after,
        first_seen_ms=fact.seen_ms[0],
        last_seen_ms=fact.seen_ms[1],
        first_seq=fact.seq,
        last_seq=fact.seq,
        size_bytes=listed.size_bytes,
        is_fence=fact.is_fence,
        is_opening=fact.is_opening,
        left=Point(fact.left.timeline, fact.left.txid) if fact.left else None,
        stored_ms=listed.stored_ms,
    )


def _log_of_pack(listed: Listed, name: PackName) -> Log:
    return Log(
        key=listed.key,
        timeline=name.timeline,
        first_txid=name.first_txid,
        last_txid=name.last_txid,
        first_seen_ms=min(name.first_seen_ms, name.last_seen_ms),
        last_seen_ms=max(name.first_seen_ms, name.last_seen_ms),
        first_seq=name.first_seq,
        last_seq=name.last_seq,
        size_bytes=listed.size_bytes,
        stored_ms=listed.stored_ms,
    )


def _snapshot(listed: Listed, name: SnapshotName, under: str | None) -> Snapshot:
    return Snapshot(
        key=listed.key,
        timeline=name.timeline,
        txid=name.txid,
        seen_ms=name.seen_ms,
        seq=name.seq,
        size_bytes=listed.size_bytes,
        kind="full" if under is None else "differential",
        base_key=under or "",
        stored_ms=listed.stored_ms,
    )


class _Full(msgspec.Struct, frozen=True):
    key: str
    name: SnapshotName


def _key_under(name: SnapshotName, full: Mapping[FullName, Sequence[_Full]]) -> str | None:
    """Return the key of the full snapshot under a differential one, empty if there is none; None for a full one."""
    if name.full is None:
        return None
    under = full_under(name.seq, full.get(name.full, ()))
    return "" if under is None else under.key
