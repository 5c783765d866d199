"""The records of what retention has deleted, so that nobody takes it for damage; and what is usual.

    {"format": 1, "pruned_ms": ..., "expired_ms": ..., "by": {"nonce": ..., "host": ..., "pid": ...},
     "counts": [2, 2, 3], "gone": [[1, 8640], [8642, 17280]], "snapshots": ["snapshots/..."]}

It is JSON, one object under `pruned/<time>`, written before the first of the objects that it tells of is deleted.
`gone` are the numbers of all segments that retention ever deleted, by themselves or in packs; `snapshots` are the keys
of those that this run deletes; `counts` is how many objects the last runs deleted, this one included.

A run takes over what the records tell that it finds, and deletes them when its own is durable; not those of others of
the last hour, whose runs may be under way. So there is one, or a few where a run was interrupted or two ran at once,
and what is gone is what they tell together. What a record calls gone and is there is **leaving**: a run was
interrupted, or is under way. What a later run keeps of that is not gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec

from walrep.core.holding import Holding
from walrep.core.objects import Writer
from walrep.core.retention import RetentionPlan
from walrep.core.units import Seq, SeqRange
from walrep.errors import CorruptObject

__all__ = [
    "PRUNE_FORMAT",
    "RUN_MS_MAX",
    "Gone",
    "PruneRecord",
    "decode_record",
    "encode_record",
    "is_anything_leaving",
    "is_under_way",
    "join_records",
    "merge_ranges",
    "next_record",
]

PRUNE_FORMAT = 1

RUN_MS_MAX = 3_600_000
"""So long after its record was stored a run may be under way."""

_COUNTS_MAX = 7


class PruneRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What retention has deleted. `expired_ms`: what was younger than that was kept."""

    format: int
    pruned_ms: int
    expired_ms: int
    by: Writer
    counts: tuple[int, ...]
    gone: tuple[SeqRange, ...]
    snapshots: tuple[str, ...] = ()


class Gone:
    """What retention deleted, as a record tells; None: nothing. `expired_ms`: what was younger than that was kept."""

    def __init__(self, record: PruneRecord | None = None) -> None:
        self.ranges = record.gone if record else ()
        self.snapshots = frozenset(record.snapshots if record else ())
        self.expired_ms = record.expired_ms if record else None

    def between(self, before: int, after: float) -> bool:
        """Say whether a number between these two, both exclusive, is gone."""
        return any(max(first, before + 1) <= min(last, after - 1) for first, last in self.ranges)

    def holds(self, first: int, last: int) -> bool:
        """Say whether all of these numbers are gone."""
        return any(begin <= first and last <= end for begin, end in self.ranges)


class _Format(msgspec.Struct, frozen=True):
    format: int


def join_records(records: Sequence[PruneRecord]) -> PruneRecord | None:
    """Return what these records, oldest first, tell together; None if there is none."""
    if not records:
        return None
    return msgspec.structs.replace(
        records[-1],
        expired_ms=max(each.expired_ms for each in records),
        gone=merge_ranges(chain.from_iterable(each.gone for each in records)),
        snapshots=tuple(sorted({key for each in records for key in each.snapshots})),
    )


def is_under_way(record: PruneRecord, *, stored_ms: int, now_ms: int, nonce: str) -> bool:
    """Say whether this may be the record of a run that somebody else than the writer of this nonce does just now."""
    return record.by.nonce != nonce and now_ms - stored_ms < RUN_MS_MAX


def is_anything_leaving(record: PruneRecord | None, holding: Holding) -> bool:
    """Say whether something is there that the record calls gone: its run was interrupted, or is under way."""
    gone = Gone(record)
    return any(gone.holds(log.first_seq, log.last_seq) for log in holding.logs) or any(
        snapshot.key in gone.snapshots for snapshot in holding.snapshots
    )


def next_record(
    last: PruneRecord | None, holding: Holding, plan: RetentionPlan, *, now_ms: int, by: Writer
) -> PruneRecord:
    """Return what there is to tell once the plan, which was made of this holding, is carried out.

    `last` is what the records that are there tell together. Where its run was not finished, this one is the same run.
    """
    deleted = frozenset(plan.deletions)
    numbers = [(log.first_seq, log.last_seq) for log in holding.logs if log.key in deleted]
    kept = [(log.first_seq, log.last_seq) for log in holding.logs if log.key not in deleted]
    counts, count = last.counts if last else (), plan.delete_count
    if counts and is_anything_leaving(last, holding):
        counts, count = counts[:-1], max(count, counts[-1])
    return PruneRecord(
        format=PRUNE_FORMAT,
        pruned_ms=now_ms,
        expired_ms=plan.expired_ms,
        by=by,
        counts=(*counts, count)[-_COUNTS_MAX:],
        gone=_without(merge_ranges([*(last.gone if last else ()), *numbers]), merge_ranges(kept)),
        snapshots=tuple(sorted(each.key for each in holding.snapshots if each.key in deleted)),
    )


def merge_ranges(ranges: Iterable[SeqRange]) -> tuple[SeqRange, ...]:
    """Return the same numbers in as few ranges as possible, in order."""
    merged: list[SeqRange] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def encode_record(record: PruneRecord) -> bytes:
    """Return the bytes of the object."""
    return msgspec.json.encode(record) + b"\n"


def decode_record(data: bytes) -> PruneRecord:
    """Return what the object says.

    Raises:
        CorruptObject: it is not such a record, or of a newer format.

    """
    try:
        found = msgspec.json.decode(data, type=_Format).format
        if found != PRUNE_FORMAT:
            raise CorruptObject(f"a record of a prune of format {found}, not {PRUNE_FORMAT}", offset=0)
        record = msgspec.json.decode(data, type=PruneRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject("malformed record of a prune", offset=0, detail=str(error)) from error
    if not all(0 < first <= last for first, last in record.gone) or any(count < 0 for count in record.counts):
        raise CorruptObject("a record of a prune has numbers that make no sense", offset=0)
    return record


def _without(ranges: Iterable[SeqRange], others: Sequence[SeqRange]) -> tuple[SeqRange, ...]:
    """Return the numbers of some ranges that are in none of the others, which are merged."""
    left: list[SeqRange] = []
    for first, last in ranges:
        begin = first
        for other_first, other_last in others:
            if other_last < begin or other_first > last:
                continue
            if begin < other_first:
                left.append((begin, Seq(other_first - 1)))
            begin = Seq(other_last + 1)
        if begin <= last:
            left.append((begin, last))
    return tuple(left)
