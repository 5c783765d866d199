"""Who wrote what: lineages, and which of them were at work at once.

A lineage is what one writer wrote with one local state, told by the first 8 digits of its nonce, which the ids of its
timelines carry: so the name of a pack tells whose transactions it holds, whoever packed them. One begins where the one
before it ends. Where it does not, two writers were at work at once, on a store that could not keep them apart; which
history counts is for a person to say. A lineage that began behind all of them decides it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from walrep.core.names import PackName
from walrep.core.objects import SegmentHeader
from walrep.core.units import Seq, TimelineId, timeline_nonce

__all__ = ["Lineage", "describe_rivalry", "find_lineages", "rivals_of"]


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """What one writer wrote: its first segment and its last, when it began, and who it was."""

    nonce: str
    first_seq: Seq
    last_seq: Seq
    begin_ms: int
    host: str
    timelines: tuple[TimelineId, ...]


class _Trace(msgspec.Struct, frozen=True):
    """What one object tells of its writer."""

    first_seq: Seq
    last_seq: Seq
    begin_ms: int
    host: str
    timeline: TimelineId


def find_lineages(headers: Iterable[SegmentHeader], packs: Iterable[PackName] = ()) -> tuple[Lineage, ...]:
    """Return the lineages of these segments and packs, in the order in which they began."""
    traces = [_Trace(each.seq, each.seq, each.created_ms, each.writer.host, each.timeline) for each in headers]
    traces += [_Trace(each.first_seq, each.last_seq, each.first_seen_ms, "", each.timeline) for each in packs]
    by_nonce: defaultdict[str, list[_Trace]] = defaultdict(list)
    for trace in sorted(traces, key=lambda each: (each.first_seq, not each.host)):
        by_nonce[timeline_nonce(trace.timeline)].append(trace)
    lineages = [
        Lineage(
            nonce=nonce,
            first_seq=own[0].first_seq,
            last_seq=max(trace.last_seq for trace in own),
            begin_ms=own[0].begin_ms,
            host=next((trace.host for trace in own if trace.host), "an unknown host"),
            timelines=tuple(dict.fromkeys(trace.timeline for trace in own)),
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
