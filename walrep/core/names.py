"""The keys of a replica's objects: the only place that builds or parses one.

    replica                                                       the replica object
    segments/<seq>                                                one sequence, across timelines
    segments/<seq>-<nonce>                                        where the store has no create-only PUT
    probe/<nonce>                                                 written at a start, to learn what the store does
    snapshots/<timeline>/<txid>-<time>-<seq>-full                 a whole database; <time> is UTC, 20261121T093000123Z

Sorting keys sorts segments by sequence number, and a timeline's snapshots by transaction.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec

from walrep.core.units import Seq, TimelineId, Txid, format_seq, format_txid

__all__ = [
    "PROBE_PREFIX",
    "REPLICA_KEY",
    "SEGMENTS_PREFIX",
    "SNAPSHOTS_PREFIX",
    "SegmentName",
    "SnapshotName",
    "parse_segment_key",
    "parse_segment_name",
    "parse_snapshot_key",
    "segment_key",
    "snapshot_key",
]

REPLICA_KEY = "replica"
SEGMENTS_PREFIX = "segments/"
SNAPSHOTS_PREFIX = "snapshots/"
PROBE_PREFIX = "probe/"

_SEGMENT = re.compile(r"segments/(\d{16})(?:-([0-9a-f]{16}))?", re.ASCII)
_SNAPSHOT = re.compile(r"snapshots/(\d{5}-[0-9a-f]{8})/(\d{16})-(\d{8}T\d{9}Z)-(\d{16})-full", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SegmentName(msgspec.Struct, frozen=True, order=True):
    """What the key of a segment tells; the nonce is empty where a create-only PUT keeps writers apart."""

    seq: Seq
    nonce: str = ""


class SnapshotName(msgspec.Struct, frozen=True, kw_only=True):
    """What the key of a snapshot tells."""

    timeline: TimelineId
    txid: Txid
    seen_ms: int
    seq: Seq


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


def snapshot_key(name: SnapshotName) -> str:
    """Return the key of a snapshot."""
    when = _EPOCH + timedelta(milliseconds=name.seen_ms)
    stamp = f"{when:%Y%m%dT%H%M%S}{when.microsecond // 1000:03d}Z"
    return f"{SNAPSHOTS_PREFIX}{name.timeline}/{format_txid(name.txid)}-{stamp}-{format_seq(name.seq)}-full"


def parse_snapshot_key(key: str) -> SnapshotName | None:
    """Return what the key of a snapshot tells; None if it is not one."""
    match = _SNAPSHOT.fullmatch(key)
    if match is None:
        return None
    timeline, txid, stamp, seq = match.groups()
    try:
        seconds = datetime.strptime(stamp[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    seen_ms = (seconds - _EPOCH) // timedelta(milliseconds=1) + int(stamp[15:18])
    return SnapshotName(timeline=TimelineId(timeline), txid=Txid(int(txid)), seen_ms=seen_ms, seq=Seq(int(seq)))
