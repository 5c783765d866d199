"""What snapshots cost: how often one is made, how many are full, and how many stay.

How often and of which kind is decided by `walrep.core.snapshots`, here with the same numbers: one on each day with
changes, and one more whenever so many segments were stored that they have outgrown the database. A *cycle* is a full
one and the differentials to it, until the next one would be too old or hold too many pages. Their pages are taken as
whole, as without the object of the full one on the host: an upper bound.

What stays is decided by `walrep.core.retention`: all of the window, of which its grace makes a day more; the one under
its beginning, and the full one under that.
"""

from __future__ import annotations

import math

import msgspec

from walrep.core.retention import RetentionPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.core.workload import DAY_S, DAYS, Flow, Workload, distinct_pages, standing_flow

__all__ = ["SNAPSHOT_BYTES", "base_flow", "snapshot_flows", "window_days"]

SNAPSHOT_BYTES = 600
"""Of a snapshot, beside its pages: header, footer, heads of blocks; an estimate."""

_POLICY = SnapshotPolicy()


class _Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """How many snapshots a day makes, and the sizes of the differentials of one cycle."""

    made_count: float
    differential_bytes: tuple[float, ...]

    @property
    def full_share(self) -> float:
        """Which share of the snapshots is full."""
        return 1 / (1 + len(self.differential_bytes))

    @property
    def mean_bytes(self) -> float:
        """The mean size of a differential one."""
        return sum(self.differential_bytes) / max(1, len(self.differential_bytes))


def base_flow(workload: Workload) -> Flow:
    """Return the base alone, which stays."""
    return standing_flow("base", 1.0, _full_bytes(workload))


def snapshot_flows(
    workload: Workload, retention: RetentionPolicy, *, segment_count: float, segment_bytes: float
) -> list[Flow]:
    """Return the flows of snapshots, where a day makes so many segments of this mean size.

    Calendar points are snapshots that stay; each of them may need a full one more. At most there is, beside what
    stays, what the day has made so far.
    """
    rhythm = _plan_rhythm(workload, segment_count, segment_bytes)
    made, share, full_bytes = rhythm.made_count, rhythm.full_share, _full_bytes(workload)
    kept = window_days(retention) * made + 1
    calendar_count = retention.daily + retention.weekly + retention.monthly + retention.yearly
    calendar_bytes = (full_bytes + (1 - share) * rhythm.mean_bytes) / (2 - share)
    return [
        Flow(
            what="full snapshots",
            created_count=DAYS * made * share,
            deleted_count=DAYS * made * share,
            object_bytes=full_bytes,
            live_midnight_count=kept * share + (1 - share),
            live_peak_count=(kept + made) * share + (1 - share),
        ),
        Flow(
            what="differential snapshots",
            created_count=DAYS * made * (1 - share),
            deleted_count=DAYS * made * (1 - share),
            object_bytes=rhythm.mean_bytes,
            live_midnight_count=kept * (1 - share),
            live_peak_count=(kept + made) * (1 - share),
        ),
        standing_flow("calendar snapshots", calendar_count * (2 - share), calendar_bytes),
    ]


def window_days(retention: RetentionPolicy) -> int:
    """Return of how many days something is in the window when a day begins: the last day of these is only just over.

    The store's clock counts, too: a day's pack is stored half a minute behind its midnight, and is young until then.
    """
    return math.floor((retention.window_s + retention.grace_s) / DAY_S) + 1


def _plan_rhythm(workload: Workload, segment_count: float, segment_bytes: float) -> _Rhythm:
    """Decide as `plan_snapshot` and `plan_kind` do. Pages differ from the full one that were written since, once each.

    Each snapshot has something new; so there are never more of them than segments.
    """
    made = workload.busy_days
    if segment_count:
        limit_bytes = max(workload.database_bytes, _POLICY.outgrown_bytes_min)
        outgrowing_count = max(
            math.floor(limit_bytes / segment_bytes) + 1, segment_count * _POLICY.look_s / workload.active_s
        )
        made = min(segment_count, made + math.floor(segment_count / outgrowing_count))
    sizes = []
    for number in range(1, math.floor((_POLICY.full_days - 0.5) * made) + 1):
        changed_pages = distinct_pages(
            number / made * workload.transactions_per_day * workload.pages, workload.page_count
        )
        if changed_pages > _POLICY.changed_share_max * workload.page_count:
            break
        sizes.append(changed_pages * workload.page_size * workload.zstd_ratio + SNAPSHOT_BYTES)
    return _Rhythm(made_count=made, differential_bytes=tuple(sizes))


def _full_bytes(workload: Workload) -> float:
    return workload.database_bytes * workload.zstd_ratio + SNAPSHOT_BYTES
