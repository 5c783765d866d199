"""Who wrote what: lineages, and which of them were at work at once.

A lineage is what one writer wrote with one local state, told by its nonce. One begins where the one before it ends.
Where it does not, two writers were at work at once, on a store that could not keep them apart; which history counts is
for a person to say. A lineage that began behind all of them decides it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from walrep.core.objects import SegmentHeader
from walrep.core.units import Seq, TimelineId

__all__ = ["Lineage", "describe_rivalry", "find_lineages", "rivals_of"]


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """What one writer wrote: its first segment and its last, when it began, and who it was."""

    nonce: str
    first_seq: Seq
    last_seq: Seq
    begin_ms: int
    host: str
    timelines: tuple[TimelineId, ...]


def find_lineages(headers: Iterable[SegmentHeader]) -> tuple[Lineage, ...]:
    """Return the lineages of these segments, in the order in which they began."""
    by_nonce: defaultdict[str, list[SegmentHeader]] = defaultdict(list)
    for header in sorted(headers, key=lambda each: each.seq):
        by_nonce[header.writer.nonce].append(header)
    lineages = [
        Lineage(
            nonce=nonce,
            first_seq=own[0].seq,
            last_seq=own[-1].seq,
            begin_ms=own[0].created_ms,
            host=own[0].writer.host or "an unknown host",
            timelines=tuple(dict.fromkeys(header.timeline for header in own)),
        )
        for nonce, own in by_nonce.items()
    ]
    return tuple(sorted(lineages, key=lambda each: (each.first_seq, each.nonce)))


def rivals_of(lineages: Sequence[Lineage], lineage: Lineage) -> tuple[Lineage, ...]:
    """Return the lineages that began before this one and went on beside it."""
    return tuple(each for each in lineages[: lineages.index(lineage)] if each.last_seq >= lineage.first_seq)


def describe_rivalry(rival: Lineage, lineage: Lineage) -> str:
    """Return one sentence about two lineages that were at work at once."""
    return (
        f"{', '.join(rival.timelines)} went on being written (on {rival.host}) after {lineage.timelines[0]} had taken "
        f"over (on {lineage.host})"
    )
