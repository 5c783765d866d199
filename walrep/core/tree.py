"""Which timeline left which: a tree, in the order in which it is shown.

A timeline stands below the one that it left. One that left none, or whose parent nothing is known of, stands at the
top. Of several below one parent the older comes first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from walrep.core.units import TimelineId, timeline_number

__all__ = ["Branch", "order_tree"]


class Branch(msgspec.Struct, frozen=True):
    """A timeline, and how many stand above it."""

    timeline: TimelineId
    depth: int


def order_tree(parents: Mapping[TimelineId, TimelineId | None]) -> tuple[Branch, ...]:
    """Return all timelines, each below its parent; `parents` tells that of each, None for none."""
    below: defaultdict[TimelineId | None, list[TimelineId]] = defaultdict(list)
    for timeline, parent in sorted(parents.items(), key=lambda each: (timeline_number(each[0]), each[0])):
        # A parent has a lower number: damage must not lead round in a circle.
        is_known = parent in parents and parent is not None and timeline_number(parent) < timeline_number(timeline)
        below[parent if is_known else None].append(timeline)
    return tuple(_walk(below))


def _walk(below: Mapping[TimelineId | None, Sequence[TimelineId]]) -> Iterator[Branch]:
    left = [Branch(timeline, 0) for timeline in reversed(below[None])]
    while left:
        branch = left.pop()
        yield branch
        left += [Branch(timeline, branch.depth + 1) for timeline in reversed(below.get(branch.timeline, ()))]
