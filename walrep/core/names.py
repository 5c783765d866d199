"""The keys of a replica's objects: the only place that builds or parses one.

    replica                                                       the replica object
    segments/<seq>                                                one sequence, across timelines
    segments/<seq>-<nonce>                                        where the store has no create-only PUT
    probe/<nonce>                                                 written at a start, to learn what the store does
    packs/<timeline>/<first txid>-<last txid>-<first time>-<last time>-<first seq>-<last seq>
                                                                  what many segments held; times are when the first
                                                                  and the last transaction were seen
    snapshots/<timeline>/<txid>-<time>-<seq>-full                 a whole database; <time> is UTC, 20261121T093000123Z
    snapshots/<timeline>/<txid>-<time>-<seq>-diff-<full timeline>-<full txid>
                                                                  the pages in which it differs from a full snapshot,
                                                                  of this timeline or of an earlier one
    pins/<name>/<bookmark>                                        a position that a person keeps under a name
    pruned/<time>                                                 what retention has deleted until then

Sorting keys sorts segments by sequence number, and a timeline's packs and snapshots by transaction.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec

from walrep.core.units import Position, Seq, TimelineId, Txid, format_seq, format_txid, parse_bookmark, timeline_number
from walrep.errors import UsageError, check

__all__ = [
    "PACKS_PREFIX",
    "PINS_PREFIX",
    "PROBE_PREFIX",
    "PRUNED_PREFIX",
    "REPLICA_KEY",
    "SEGMENTS_PREFIX",
    "SNAPSHOTS_PREFIX",
    "TIME_MS_MAX",
    "FullName",
    "PackName",
    "PinName",
    "SegmentName",
    "SnapshotName",
    "check_pin_name",
    "pack_key",
    "parse_pack_key",
    "parse_pin_key",
    "parse_pruned_key",
    "parse_segment_key",
    "parse_segment_name",
    "parse_snapshot_key",
    "pin_key",
    "pruned_key",
    "segment_key",
    "snapshot_key",
]

REPLICA_KEY = "replica"
SEGMENTS_PREFIX = "segments/"
PACKS_PREFIX = "packs/"
SNAPSHOTS_PREFIX = "snapshots/"
PROBE_PREFIX = "probe/"
PINS_PREFIX = "pins/"
PRUNED_PREFIX = "pruned/"

TIME_MS_MAX = 253_402_300_799_999
"""The last time that a key can tell, at the end of the year 9999; the first is that of 1970."""

_SEGMENT = re.compile(r"segments/(\d{16})(?:-([0-9a-f]{16}))?", re.ASCII)
_PACK = re.compile(
    r"packs/(\d{5}-[0-9a-f]{8})/(\d{16})-(\d{16})-(\d{8}T\d{9}Z)-(\d{8}T\d{9}Z)-(\d{16})-(\d{16})", re.ASCII
)
_SNAPSHOT = re.compile(
    r"snapshots/(\d{5}-[0-9a-f]{8})/(\d{16})-(\d{8}T\d{9}Z)-(\d{16})"
    r"-(?:full|diff-(\d{5}-[0-9a-f]{8})-(\d{16}))",
    re.ASCII,
)
_PRUNED = re.compile(r"pruned/\d{8}T\d{9}Z", re.ASCII)
_PIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SegmentName(msgspec.Struct, frozen=True, order=True):
    """What the key of a segment tells; the nonce is empty where a create-only PUT keeps writers apart."""

    seq: Seq
    nonce: str = ""


class PackName(msgspec.Struct, frozen=True, kw_only=True):
    """What the key of a pack tells: its transactions, when the first and the last were seen, its segments' numbers."""

    timeline: TimelineId
    first_txid: Txid
    last_txid: Txid
    first_seen_ms: int
    last_seen_ms: int
    first_seq: Seq
    last_seq: Seq

    @property
    def txid_before(self) -> Txid:
        """The transaction that it continues."""
        return Txid(self.first_txid - 1)

    @property
    def txid_after(self) -> Txid:
        """Its last transaction."""
        return self.last_txid


class FullName(msgspec.Struct, frozen=True, order=True):
    """Where a full snapshot stands, as those that lean on it name it."""

    timeline: TimelineId
    txid: Txid


class SnapshotName(msgspec.Struct, frozen=True, kw_only=True):
    """What the key of a snapshot tells. `full`, of a differential one: the full one under it."""

    timeline: TimelineId
    txid: Txid
    seen_ms: int
    seq: Seq
    full: FullName | None = None

    @property
    def as_full(self) -> FullName:
        """How those name it that lean on it."""
        return FullName(self.timeline, self.txid)


class PinName(msgspec.Struct, frozen=True):
    """What the key of a pin tells: everything."""

    name: str
    position: Position


def segment_key(seq: int, nonce: str = "") -> str:
    """Return the key of a segment; with the writer's nonce where the store has no create-only PUT."""
    return f"{SEGMENTS_PREFIX}{format_seq(seq)}-{nonce}" if nonce else f"{SEGMENTS_PREFIX}{format_seq(seq)}"


def parse_segment_name(key: str) -> SegmentName | None:
    """Return what the key of a segment tells; None if it is not one."""
    match = _SEGMENT.fullmatch(key)
    return SegmentName(Seq(int(match[1])), match[2] or "") if match else None


def parse_segment_key(key: str) -> Seq | None:
    """Return the sequence number that the key of a segment tells; None if it is not one."""
    name = parse_segment_name(key)
    return name.seq if name else None


def pack_key(name: PackName) -> str:
    """Return the key of a pack."""
    txids = f"{format_txid(name.first_txid)}-{format_txid(name.last_txid)}"
    times = f"{_format_stamp(name.first_seen_ms)}-{_format_stamp(name.last_seen_ms)}"
    return f"{PACKS_PREFIX}{name.timeline}/{txids}-{times}-{format_seq(name.first_seq)}-{format_seq(name.last_seq)}"


def parse_pack_key(key: str) -> PackName | None:
    """Return what the key of a pack tells; None if it is not one, or tells of no transaction."""
    match = _PACK.fullmatch(key)
    if match is None:
        return None
    first_seen_ms, last_seen_ms = _parse_stamp(match[4]), _parse_stamp(match[5])
    first_txid, last_txid, first_seq, last_seq = (int(match[group]) for group in (2, 3, 6, 7))
    if first_seen_ms is None or last_seen_ms is None or not 0 < first_txid <= last_txid or first_seq > last_seq:
        return None
    return PackName(
        timeline=TimelineId(match[1]),
        first_txid=Txid(first_txid),
        last_txid=Txid(last_txid),
        first_seen_ms=first_seen_ms,
        last_seen_ms=last_seen_ms,
        first_seq=Seq(first_seq),
        last_seq=Seq(last_seq),
    )


def snapshot_key(name: SnapshotName) -> str:
    """Return the key of a snapshot."""
    check(name.full is None or _is_before(name.full, name), "a snapshot leans on one that was there before")
    place = f"{SNAPSHOTS_PREFIX}{name.timeline}/{format_txid(name.txid)}"
    kind = "full" if name.full is None else f"diff-{name.full.timeline}-{format_txid(name.full.txid)}"
    return f"{place}-{_format_stamp(name.seen_ms)}-{format_seq(name.seq)}-{kind}"


def parse_snapshot_key(key: str) -> SnapshotName | None:
    """Return what the key of a snapshot tells; None if it is not one."""
    match = _SNAPSHOT.fullmatch(key)
    seen_ms = _parse_stamp(match[3]) if match else None
    if match is None or seen_ms is None:
        return None
    timeline, txid, _stamp, seq, full_timeline, full_txid = match.groups()
    full = None if full_txid is None else FullName(TimelineId(full_timeline), Txid(int(full_txid)))
    name = SnapshotName(
        timeline=TimelineId(timeline), txid=Txid(int(txid)), seen_ms=seen_ms, seq=Seq(int(seq)), full=full
    )
    return name if full is None or _is_before(full, name) else None


def _is_before(full: FullName, name: SnapshotName) -> bool:
    """Return whether a full snapshot was there before the one that leans on it."""
    if full.timeline == name.timeline:
        return full.txid < name.txid
    return timeline_number(full.timeline) < timeline_number(name.timeline)


def check_pin_name(name: str) -> str:
    """Return the name of a pin, if it can be one.

    Raises:
        UsageError: it cannot.

    """
    if not _PIN_NAME.fullmatch(name):
        raise UsageError(
            "not a name that a position can be kept under",
            detail=repr(name),
            hint="up to 100 letters, digits, '.', '_' and '-', the first one a letter or a digit",
        )
    return name


def pin_key(pin: PinName) -> str:
    """Return the key of a pin."""
    return f"{PINS_PREFIX}{check_pin_name(pin.name)}/{pin.position}"


def parse_pin_key(key: str) -> PinName | None:
    """Return what the key of a pin tells; None if it is not one."""
    name, slash, bookmark = key.removeprefix(PINS_PREFIX).partition("/")
    if not (key.startswith(PINS_PREFIX) and slash and _PIN_NAME.fullmatch(name)):
        return None
    try:
        pin = PinName(name, parse_bookmark(bookmark))
    except UsageError:
        return None
    return pin if pin_key(pin) == key else None


def pruned_key(now_ms: int) -> str:
    """Return the key of the record of a prune; the order of keys is the order of time."""
    return f"{PRUNED_PREFIX}{_format_stamp(now_ms)}"


def parse_pruned_key(key: str) -> int | None:
    """Return when a prune was recorded, in ms since 1970; None if the key is not of such a record."""
    return _parse_stamp(key.removeprefix(PRUNED_PREFIX)) if _PRUNED.fullmatch(key) else None


def _format_stamp(ms: int) -> str:
    when = _EPOCH + timedelta(milliseconds=ms)
    return f"{when:%Y%m%dT%H%M%S}{when.microsecond // 1000:03d}Z"


def _parse_stamp(stamp: str) -> int | None:
    """Return ms since 1970; None if there is no such time, or it was before."""
    try:
        seconds = datetime.strptime(stamp[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    ms = (seconds - _EPOCH) // timedelta(milliseconds=1) + int(stamp[15:18])
    return ms if ms >= 0 else None
