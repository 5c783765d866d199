"""The record of what retention has deleted, so that nobody takes it for damage; and what is usual.

    {"format": 1, "pruned_ms": ..., "expired_ms": ..., "by": {"nonce": ..., "host": ..., "pid": ...},
     "counts": [2, 2, 3], "gone": [[1, 8640], [8642, 17280]]}

It is JSON, one object under `pruned/<time>`, written before the first of the objects that it tells of is deleted.
`gone` are the numbers of all segments that retention ever deleted, by themselves or in packs; `counts` is how many
objects the last runs deleted, this one included. The newest record tells all; the next run deletes the older ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from walrep.core.holding import Holding
from walrep.core.objects import Writer
from walrep.core.retention import RetentionPlan
from walrep.core.units import SeqRange
from walrep.errors import CorruptObject

__all__ = ["PRUNE_FORMAT", "PruneRecord", "decode_record", "encode_record", "merge_ranges", "next_record"]

PRUNE_FORMAT = 1

_COUNTS_MAX = 7


class PruneRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What retention has deleted. `expired_ms`: what was younger than that was kept."""

    format: int
    pruned_ms: int
    expired_ms: int
    by: Writer
    counts: tuple[int, ...]
    gone: tuple[SeqRange, ...]


def next_record(
    last: PruneRecord | None, holding: Holding, plan: RetentionPlan, *, now_ms: int, by: Writer
) -> PruneRecord:
    """Return what there is to tell once the plan, which was made of this holding, is carried out."""
    deleted = frozenset(plan.deletions)
    numbers = [(log.first_seq, log.last_seq) for log in holding.logs if log.key in deleted]
    counts = (*(last.counts if last else ()), plan.delete_count)
    return PruneRecord(
        format=PRUNE_FORMAT,
        pruned_ms=now_ms,
        expired_ms=plan.expired_ms,
        by=by,
        counts=counts[-_COUNTS_MAX:],
        gone=merge_ranges([*(last.gone if last else ()), *numbers]),
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
        record = msgspec.json.decode(data, type=PruneRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject("malformed record of a prune", offset=0, detail=str(error)) from error
    if record.format != PRUNE_FORMAT:
        raise CorruptObject(f"a record of a prune of format {record.format}, not {PRUNE_FORMAT}", offset=0)
    return record
