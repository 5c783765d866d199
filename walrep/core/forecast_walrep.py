"""What walrep costs for a workload, as it is today and, told apart, with the daily snapshots that are planned.

With c changes in a active seconds of a day, and R days of history:

segments    min(c, a / RPO), more only where they reach their size limit first
packs       short ones, one for each 15 minutes of activity, and of these one a day; more where it would exceed 256 MiB,
            none where it would hold fewer than two objects. (The last quarter of a day ends with it and goes into the
            day's pack at once: of a database that is written around the clock that is one short pack fewer)
live        R days of logs, the base, and what opens the timeline. When the night's work is done the new day has some
            segments already, if the database is written around the clock; an idle one keeps its newest (INV-24)
snapshots   planned: one a day; a full one after 7 days, or when a differential would exceed half of it. Then R + 1 days
            of logs stay and R + 2 snapshots, because the log and the snapshot under the window's beginning are needed
            too, and the full one under the oldest

`tests/core/test_forecast_days.py` compares this with what `walrep.core.compaction` does of days in virtual time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from walrep.core.chunk import chunk_frames
from walrep.core.compaction import CompactionPolicy
from walrep.core.flush import FlushPolicy
from walrep.core.retention import RetentionPolicy
from walrep.core.slices import PART_BYTES
from walrep.core.workload import (
    DAY_S,
    DAYS,
    NUMBER_MAX,
    Access,
    Flow,
    Forecast,
    Workload,
    count_windows,
    delete_requests,
    distinct_pages,
    format_days,
    make_forecast,
)
from walrep.errors import UsageError

__all__ = [
    "INDEX_ROW_BYTES",
    "PACK_BYTES",
    "SEGMENT_BYTES",
    "SEGMENT_ENDS_BYTES",
    "UPLOAD_PART_BYTES",
    "WalrepSettings",
    "forecast_walrep",
]

SEGMENT_BYTES = 560
"""Of a segment, whatever it holds: fits what was measured with 1, 10 and 100 transactions each (docs/benchmarks.md)."""

SEGMENT_ENDS_BYTES = 465
"""Of these, header, footer and tail, which a pack leaves out; measured of objects made by `walrep.testing.history`."""

PACK_BYTES = 800
"""Of a pack, whatever it holds; measured in the same way."""

INDEX_ROW_BYTES = 15
"""Of a pack's index for each chunk, compressed; measured in the same way: 10 to 15."""

SNAPSHOT_BYTES = 600
"""Of a snapshot, beside its pages: header, footer, heads of blocks; an estimate."""

UPLOAD_PART_BYTES = 16 << 20
"""Larger objects are stored in parts of this size; the number of `walrep.store.s3_upload`, which core must not know."""

REPLICA_BYTES = 500
"""Of the replica object and of a segment that opens a timeline, each; as they are in `tests/golden`."""

WORTH_PACKING_COUNT = 2
"""A pack of fewer objects would replace nothing."""


class WalrepSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How walrep is set.

    `daily_snapshots`: planned, and not in the program. Without them there is the base only, so that nothing expires,
    and what is live is told after as many days as the retention has. `full_days`: after how many a full one is due.
    `read_back`: a pack is read back from the store before what it replaces is deleted, as `walrep compact` does of
    packs that another process made; `walrep replicate` proves its own locally, and asks for the size (INV-23).
    `creates_only`: the store has create-only PUT; where it has not, a writer looks for others every `rival_check_s`
    while segments are written.

    Raises:
        UsageError: a number is not possible.

    """

    flush: FlushPolicy = FlushPolicy()
    compaction: CompactionPolicy = CompactionPolicy()
    retention: RetentionPolicy = RetentionPolicy()
    daily_snapshots: bool = False
    full_days: int = 7
    read_back: bool = False
    creates_only: bool = True
    rival_check_s: float = 900.0

    def __post_init__(self) -> None:
        """Refuse spans and sizes of nothing."""
        if min(self.flush.rpo_s, self.rival_check_s, *self.compaction.spans_ms) <= 0:
            raise UsageError("the RPO, the span of a pack and the time between checks must be longer than nothing")
        if min(self.flush.segment_bytes_max, self.compaction.pack_bytes_max, self.full_days) <= 0:
            raise UsageError("the limits of segments and packs, and the days of a full snapshot, must be more than 0")
        if max(self.flush.rpo_s, self.retention.window_s) > NUMBER_MAX:
            raise UsageError("the RPO and the retention must be shorter than 30 million years")

    @property
    def retention_days(self) -> float:
        """The window, in days."""
        return self.retention.window_s / DAY_S

    @property
    def calendar_count(self) -> int:
        """How many calendar points there are beyond it, at most."""
        return self.retention.daily + self.retention.weekly + self.retention.monthly + self.retention.yearly


class _Tier(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of log in a day. `kept_count`: of those that stay; the others are replaced by larger ones.

    `waiting_count`: how many there are at most until they are. `early_count`: how many the new day has when the night's
    work is done.
    """

    what: str
    object_count: float
    object_bytes: float
    kept_count: float
    waiting_count: float
    early_count: float = 0.0


def forecast_walrep(workload: Workload, settings: WalrepSettings) -> Forecast:
    """Forecast walrep; the formulas stand in the module's text, and in the functions that this one calls."""
    tiers = _plan_tiers(workload, settings)
    flows = [*_log_flows(tiers, settings), *_snapshot_flows(workload, settings)]
    flows.append(_standing_flow("replica object and opening", 2.0, REPLICA_BYTES))
    batch_count = sum(tier.object_count for tier in tiers[1:])
    if settings.daily_snapshots:
        batch_count += workload.busy_days
        names = "walrep with daily snapshots", f"every transaction of {format_days(settings.retention_days)}"
    else:
        names = "walrep", "every transaction since the base"
    return make_forecast(
        (names[0], f"{names[1]}, at most {settings.flush.rpo_s:g} s behind"),
        flows,
        _accesses(workload, settings, tiers),
        part_bytes=UPLOAD_PART_BYTES,
        delete_request_count=delete_requests(sum(flow.deleted_count for flow in flows), DAYS * batch_count),
        notes=_notes(settings),
    )


def _notes(settings: WalrepSettings) -> list[str]:
    notes = ["a start costs one LIST for each 1,000 objects and a few requests more; none is counted"]
    if not settings.daily_snapshots:
        notes.append(
            "nothing expires: this version makes no snapshot after the base, and keeps every log on top of it. Live is "
            f"what is there after {format_days(settings.retention_days)}, and it grows on; a restore reads the base "
            "and all logs up to its target. The base is uploaded once, and not counted"
        )
    return notes


def _plan_tiers(workload: Workload, settings: WalrepSettings) -> list[_Tier]:
    """Return what a day's changes become: segments, of these short packs, and of what there is then day packs.

    A pack has the chunks of its segments and a row of its index for each chunk, and not what else segments have.
    """
    policy, changes = settings.compaction, workload.transactions_per_day
    encoded_bytes = changes * workload.changed_bytes * workload.encoded_ratio
    count = max(
        count_windows(changes, workload.active_s / settings.flush.rpo_s),
        encoded_bytes / settings.flush.segment_bytes_max,
    )
    if not count:
        return []
    chunk_count = max(count, changes * workload.pages / chunk_frames(workload.page_size))
    chunk_bytes = encoded_bytes + count * (SEGMENT_BYTES - SEGMENT_ENDS_BYTES) + chunk_count * INDEX_ROW_BYTES
    slots = math.ceil(workload.active_s * 1000 / policy.spans_ms[0])
    shorts, single = _pack(slots, count, chunk_bytes / count, policy.pack_bytes_max)
    days, alone = _pack(1, shorts + single, chunk_bytes / (shorts + single), policy.pack_bytes_max)
    kept = alone / (shorts + single)
    packs = (
        ("short packs", shorts, chunk_bytes * (1 - single / count), shorts * kept),
        ("day packs", days, chunk_bytes * (1 - kept), days),
    )
    # A quarter of an hour's segments are there for that long, until it is packed, and for the grace after that.
    lasting = 1 + (policy.settle_ms + policy.grace_ms) / policy.spans_ms[0]
    return [
        _Tier(
            what="segments",
            object_count=count,
            object_bytes=SEGMENT_BYTES + encoded_bytes / count,
            kept_count=single * kept,
            waiting_count=min(count, single + lasting * count / slots) - single * kept,
            early_count=min(count - single * kept, max(1.0, count * _early_share(workload, policy))),
        ),
        *(
            _Tier(
                what=what,
                object_count=made,
                object_bytes=PACK_BYTES + bytes_together / made,
                kept_count=staying,
                waiting_count=made - staying,
            )
            for what, made, bytes_together, staying in packs
            if made
        ),
    ]


def _early_share(workload: Workload, policy: CompactionPolicy) -> float:
    """Return which share of a day's segments is there when the night's work is done.

    A database that is idle for some part of the day is taken as idle at midnight, UTC.
    """
    idle_s = DAY_S - workload.active_s
    return max(0.0, (policy.settle_ms + policy.grace_ms) / 1000 - idle_s) / workload.active_s


def _pack(span_count: int, source_count: float, source_bytes: float, bytes_max: int) -> tuple[float, float]:
    """Return how many packs are made of so many sources in so many spans, and how many sources are left alone.

    One alone in its span is left. Evenly spread, between one and two for each span are two in some and one in others.
    What fills more packs than there are spans makes as many as it fills; what fills half a pack is not joined.
    """
    fitting = bytes_max // source_bytes
    if fitting < WORTH_PACKING_COUNT:
        return 0.0, source_count
    filled = math.ceil(source_count / fitting)
    if filled > span_count:
        return float(filled), 0.0
    mean = source_count / span_count
    return span_count * min(1.0, max(0.0, mean - 1)), span_count * min(mean, max(0.0, 2 - mean))


def _log_flows(tiers: Sequence[_Tier], settings: WalrepSettings) -> list[Flow]:
    """Return the flows of logs: what is kept of a day stays, for the retention or for good; the rest is replaced.

    With expiry the log under the window's beginning stays too.
    """
    kept_days = settings.retention_days + 1 if settings.daily_snapshots else settings.retention_days
    return [
        Flow(
            what=tier.what,
            created_count=DAYS * tier.object_count,
            deleted_count=DAYS * (tier.object_count - (0.0 if settings.daily_snapshots else tier.kept_count)),
            object_bytes=tier.object_bytes,
            live_midnight_count=kept_days * tier.kept_count + tier.early_count,
            live_peak_count=(kept_days + 1) * tier.kept_count + tier.waiting_count,
        )
        for tier in tiers
    ]


def _snapshot_flows(workload: Workload, settings: WalrepSettings) -> list[Flow]:
    """A cycle is a full snapshot and the differentials to it: pages changed since, from the next day to the last one.

    Mean differential = mean over the days j of the cycle of distinct_pages(j x pages a day) x page size x ratio.
    Calendar points are snapshots that stay; each of them may need a full one more.
    """
    full_bytes = workload.database_bytes * workload.zstd_ratio
    if not settings.daily_snapshots:
        return [_standing_flow("base", 1.0, full_bytes + SNAPSHOT_BYTES)]
    writes = workload.transactions_per_day * workload.pages
    page_bytes = workload.page_size * workload.zstd_ratio
    sizes = [distinct_pages(day * writes, workload.page_count) * page_bytes for day in range(1, settings.full_days)]
    sizes = [size for size in sizes if size <= full_bytes / 2]
    share = 1 / (1 + len(sizes))
    kept, made = (settings.retention_days + 2) * workload.busy_days, workload.busy_days
    mean_bytes = sum(sizes) / max(1, len(sizes))
    calendar_bytes = (full_bytes + (1 - share) * mean_bytes) / (2 - share)
    return [
        Flow(
            what="full snapshots",
            created_count=DAYS * made * share,
            deleted_count=DAYS * made * share,
            object_bytes=full_bytes + SNAPSHOT_BYTES,
            live_midnight_count=1 + kept * share,
            live_peak_count=1 + (kept + made) * share,
        ),
        Flow(
            what="differential snapshots",
            created_count=DAYS * made * (1 - share),
            deleted_count=DAYS * made * (1 - share),
            object_bytes=mean_bytes + SNAPSHOT_BYTES,
            live_midnight_count=kept * (1 - share),
            live_peak_count=(kept + made) * (1 - share),
        ),
        _standing_flow("calendar snapshots", settings.calendar_count * (2 - share), calendar_bytes + SNAPSHOT_BYTES),
    ]


def _standing_flow(what: str, count: float, object_bytes: float) -> Flow:
    return Flow(
        what=what,
        created_count=0.0,
        deleted_count=0.0,
        object_bytes=object_bytes,
        live_midnight_count=count,
        live_peak_count=count,
    )


def _accesses(workload: Workload, settings: WalrepSettings, tiers: Sequence[_Tier]) -> list[Access]:
    """Return what is read: of each pack the size, or all of it; and LISTs that look for another writer.

    Such a LIST begins behind the last one: it finds the segments since then, and the snapshots, which sort last.
    """
    accesses = []
    if tiers and not settings.creates_only:
        looks = count_windows(tiers[0].object_count, workload.active_s / settings.rival_check_s)
        accesses.append(
            Access(
                what="looking for another writer",
                verb="list",
                request_count=DAYS * looks,
                object_bytes=tiers[0].object_bytes,
                row_count=tiers[0].object_count / looks + 1,
            )
        )
    for tier in tiers[1:]:
        parts = math.ceil(tier.object_bytes / PART_BYTES) if settings.read_back else 1
        accesses.append(
            Access(
                what=f"verifying {tier.what}",
                verb="get" if settings.read_back else "head",
                request_count=DAYS * tier.object_count * parts,
                object_bytes=tier.object_bytes,
                download_bytes=DAYS * tier.object_count * tier.object_bytes if settings.read_back else 0.0,
            )
        )
    return accesses
