"""What walrep will cost for a workload, beside other ways to protect the same database: the numbers of `walrep plan`.

Days are alike (`walrep.core.workload` says what is assumed). For every strategy, with c changes and a active seconds a
day, and R days of retention:

walrep          segments       min(c, a / RPO), more only where they reach their size limit first
                packs          short ones, one for each 15 minutes of activity, and of these one a day; more where it
                               would exceed 256 MiB, none where it would hold fewer than two objects
                snapshots      one a day; a full one after 7 days, or when a differential would exceed half of it
                live           R + 1 days of logs and R + 2 snapshots, because the log and the snapshot under the
                               window's beginning stay too, and the full one under the oldest
object per      c; each is deleted R days later; and two LISTs, or none, for each time that it is looked for changes
change
daily snapshot  one a day, R of them

Litestream has a module of its own (`walrep.core.forecast_litestream`), what stores make of it too (`traffic`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from walrep.core.flush import FlushPolicy
from walrep.core.forecast_litestream import LITESTREAM, LITESTREAM_TUNED, forecast_litestream
from walrep.core.retention import RetentionPolicy
from walrep.core.workload import (
    DAY_S,
    DAYS,
    Access,
    Flow,
    Forecast,
    Workload,
    count_windows,
    delete_requests,
    distinct_pages,
    make_forecast,
)
from walrep.errors import UsageError

__all__ = [
    "PART_BYTES",
    "READ_BYTES",
    "PackTiers",
    "WalrepSettings",
    "forecast_all",
    "forecast_daily_snapshot",
    "forecast_object_per_change",
    "forecast_walrep",
]

SEGMENT_BYTES = 560
"""Of a segment, whatever it holds: fits what was measured with 1, 10 and 100 transactions each (docs/benchmarks.md)."""

SEGMENT_ENDS_BYTES = 465
"""Of these, header, footer and tail, which a pack leaves out; measured of objects made by `walrep.testing.history`."""

PACK_BYTES = 800
"""Of a pack, whatever it holds; measured in the same way."""

PACK_ROW_BYTES = 15
"""Of a pack's index for each chunk, compressed; measured in the same way: 10 to 15."""

CHUNK_FRAMES = 64
"""A chunk ends at so many frames, and at the end of a segment (`walrep.core.chunk`)."""

SNAPSHOT_BYTES = 600
"""Of a snapshot, beside its pages: header, footer, heads of blocks; an estimate."""

PART_BYTES = 16 << 20
"""Larger objects are stored in parts of this size (`walrep.store.s3_upload`)."""

READ_BYTES = 8 << 20
"""Larger objects are read in parts of this size (`walrep.core.restore`)."""

REPLICA_BYTES = 500
"""Of the replica object and of a segment that opens a timeline, each; as they are in `tests/golden`."""

WORTH_PACKING_COUNT = 2
"""A pack of fewer objects would replace nothing."""


class PackTiers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When logs are packed: the span of a short pack, the limit of any, and how long what they replace stays."""

    short_s: float = 900.0
    pack_bytes_max: int = 256 << 20
    grace_s: float = 600.0


class WalrepSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How walrep is set. `base_only`: no snapshot but the one with which the timeline began, so that nothing expires.

    `read_back`: a pack is read back before what it replaces is deleted (INV-23); otherwise a HEAD is believed.
    `creates_only`: the store has create-only PUT; where it has not, a writer looks for others every `rival_check_s`
    while segments are written.

    Raises:
        UsageError: a number is not possible.

    """

    flush: FlushPolicy = FlushPolicy()
    tiers: PackTiers = PackTiers()
    retention: RetentionPolicy = RetentionPolicy()
    full_days: int = 7
    base_only: bool = False
    read_back: bool = True
    creates_only: bool = True
    rival_check_s: float = 900.0

    def __post_init__(self) -> None:
        """Refuse spans and sizes of nothing."""
        if min(self.flush.rpo_s, self.tiers.short_s, self.rival_check_s) <= 0:
            raise UsageError("the RPO, the span of a pack and the time between checks must be longer than nothing")
        if min(self.flush.segment_bytes_max, self.tiers.pack_bytes_max, self.full_days) <= 0:
            raise UsageError("the limits of segments and packs, and the days of a full snapshot, must be more than 0")

    @property
    def retention_days(self) -> float:
        """The window, in days."""
        return self.retention.window_s / DAY_S

    @property
    def calendar_count(self) -> int:
        """How many calendar points there are beyond it, at most."""
        return self.retention.daily + self.retention.weekly + self.retention.monthly + self.retention.yearly


class _Tier(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of log in a day. `kept_count`: of those that stay for the retention; the others are replaced.

    `waiting_count`: how many there are at most until they are.
    """

    what: str
    object_count: float
    object_bytes: float
    kept_count: float
    waiting_count: float


def forecast_all(workload: Workload, settings: WalrepSettings) -> tuple[Forecast, ...]:
    """Forecast every strategy: walrep first, then the others, with the same retention where they have one."""
    days = settings.retention_days
    same = msgspec.structs.replace(LITESTREAM, name=f"{LITESTREAM.name}, {days:g} days", retention_days=days)
    return (
        forecast_walrep(workload, settings),
        forecast_daily_snapshot(workload, days),
        forecast_object_per_change(workload, days),
        forecast_litestream(workload, LITESTREAM),
        forecast_litestream(workload, same),
        forecast_litestream(workload, msgspec.structs.replace(LITESTREAM_TUNED, retention_days=days)),
    )


def forecast_walrep(workload: Workload, settings: WalrepSettings) -> Forecast:
    """Forecast walrep; the formulas stand in the module's text, and in the functions that this one calls."""
    tiers = _plan_tiers(workload, settings)
    flows = [*_log_flows(tiers, settings), *_snapshot_flows(workload, settings)]
    flows.append(_standing_flow("replica object and opening", 2.0, REPLICA_BYTES))
    pack_count = sum(tier.object_count for tier in tiers[1:])
    batch_count = pack_count + (0.0 if settings.base_only else workload.busy_days)
    span = "all time" if settings.base_only else f"{settings.retention_days:g} days"
    notes = ["a start costs one LIST for each 1,000 objects and a few requests more; none is counted"]
    if settings.base_only:
        notes.append("no steady state: without snapshots nothing expires; what is live is so after the first 30 days")
    return make_forecast(
        (
            "walrep, base only" if settings.base_only else "walrep",
            f"every transaction of {span}, at most {settings.flush.rpo_s:g} s behind",
        ),
        flows,
        _accesses(workload, settings, tiers),
        part_bytes=PART_BYTES,
        delete_request_count=delete_requests(sum(flow.deleted_count for flow in flows), DAYS * batch_count),
        notes=notes,
    )


def forecast_daily_snapshot(workload: Workload, retention_days: float) -> Forecast:
    """Forecast one zstd-compressed copy of the database a day, also when nothing changed, kept for some days."""
    flow = Flow(
        what="snapshots",
        created_count=DAYS,
        deleted_count=DAYS,
        object_bytes=workload.database_bytes * workload.zstd_ratio,
        live_midnight_count=retention_days,
        live_peak_count=retention_days + 1,
    )
    return make_forecast(
        ("daily snapshot", f"one state a day of {retention_days:g} days, at most a day behind"),
        [flow],
        [],
        part_bytes=PART_BYTES,
        delete_request_count=DAYS,
    )


def forecast_object_per_change(
    workload: Workload, retention_days: float, *, object_bytes: float | None = None, poll_s: float = 0.0
) -> Forecast:
    """Forecast every change as an object of its own, kept for some days, and perhaps two LISTs every `poll_s` seconds.

    Two LISTs of one page every 10 s on Garage are what research/objectstores.md, 1.1, holds for the best explanation
    of several hundred GB a week. `object_bytes` None: the pages that changed, each compressed.
    """
    if object_bytes is None:
        object_bytes = workload.pages * workload.page_size * workload.lz4_ratio
    per_day = workload.transactions_per_day
    flow = Flow(
        what="changes",
        created_count=DAYS * per_day,
        deleted_count=DAYS * per_day,
        object_bytes=object_bytes,
        live_midnight_count=retention_days * per_day,
        live_peak_count=(retention_days + 1) * per_day,
    )
    list_count = 2 * DAYS * DAY_S / poll_s if poll_s else 0.0
    poll = Access(what="looking for changes", verb="list", request_count=list_count, object_bytes=object_bytes)
    return make_forecast(
        ("object per change", f"every change of {retention_days:g} days"),
        [flow],
        [poll],
        part_bytes=PART_BYTES,
        delete_request_count=delete_requests(flow.deleted_count, DAYS * workload.busy_days),
        notes=["the snapshots without which old changes could not be deleted are not counted"],
    )


def _plan_tiers(workload: Workload, settings: WalrepSettings) -> list[_Tier]:
    """Return what a day's changes become: segments, of these short packs, and of what there is then day packs.

    A pack has the chunks of its segments and a row of its index for each chunk, and not what else segments have.
    """
    limits, changes = settings.tiers, workload.transactions_per_day
    encoded_bytes = changes * workload.changed_bytes * workload.encoded_ratio
    count = max(
        count_windows(changes, workload.active_s / settings.flush.rpo_s),
        encoded_bytes / settings.flush.segment_bytes_max,
    )
    if not count:
        return []
    chunk_count = max(count, changes * workload.pages / CHUNK_FRAMES)
    chunk_bytes = encoded_bytes + count * (SEGMENT_BYTES - SEGMENT_ENDS_BYTES) + chunk_count * PACK_ROW_BYTES
    slots = math.ceil(workload.active_s / limits.short_s)
    shorts, single = _pack(slots, count, chunk_bytes, limits.pack_bytes_max)
    days, alone = _pack(1, shorts + single, chunk_bytes, limits.pack_bytes_max)
    kept = alone / (shorts + single)
    in_slot = count / slots * (1 + limits.grace_s / limits.short_s)
    packs = (
        ("short packs", shorts, chunk_bytes * (1 - single / count), shorts * kept),
        ("day packs", days, chunk_bytes * (1 - kept), days),
    )
    return [
        _Tier(
            what="segments",
            object_count=count,
            object_bytes=SEGMENT_BYTES + encoded_bytes / count,
            kept_count=single * kept,
            waiting_count=min(count, in_slot + single) - single * kept,
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


def _pack(span_count: int, source_count: float, chunk_bytes: float, bytes_max: int) -> tuple[float, float]:
    """Return how many packs are made of so many sources in so many spans, and how many sources are left alone.

    One alone in its span is left. Evenly spread, between one and two for each span are two in some and one in others.
    What fills more packs than there are spans makes as many as it fills; what fills half a pack is not joined.
    """
    fitting = bytes_max * source_count // chunk_bytes
    if fitting < WORTH_PACKING_COUNT:
        return 0.0, source_count
    filled = math.ceil(source_count / fitting)
    if filled > span_count:
        return float(filled), 0.0
    mean = source_count / span_count
    return span_count * min(1.0, max(0.0, mean - 1)), span_count * min(mean, max(0.0, 2 - mean))


def _log_flows(tiers: Sequence[_Tier], settings: WalrepSettings) -> list[Flow]:
    """Return the flows of logs: what is kept of a day stays for the retention, the rest is replaced within the day."""
    kept_days = DAYS if settings.base_only else settings.retention_days + 1
    expiry = 0.0 if settings.base_only else 1.0
    return [
        Flow(
            what=tier.what,
            created_count=DAYS * tier.object_count,
            deleted_count=DAYS * (tier.object_count - tier.kept_count * (1 - expiry)),
            object_bytes=tier.object_bytes,
            live_midnight_count=kept_days * tier.kept_count,
            live_peak_count=(kept_days + expiry) * tier.kept_count + tier.waiting_count,
        )
        for tier in tiers
    ]


def _snapshot_flows(workload: Workload, settings: WalrepSettings) -> list[Flow]:
    """A cycle is a full snapshot and the differentials to it: pages changed since, from the next day to the last one.

    Mean differential = mean over the days j of the cycle of distinct_pages(j x pages a day) x page size x ratio.
    Calendar points are snapshots that stay; each of them may need a full one more.
    """
    full_bytes = workload.database_bytes * workload.zstd_ratio
    if settings.base_only:
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
    """Each pack is verified, by reading it in parts or by one HEAD; LISTs are only to look for another writer."""
    looks = 0.0
    if tiers and not settings.creates_only:
        looks = count_windows(tiers[0].object_count, workload.active_s / settings.rival_check_s)
    accesses = [
        Access(
            what="looking for another writer",
            verb="list",
            request_count=DAYS * looks,
            object_bytes=tiers[-1].object_bytes if tiers else 0.0,
        )
    ]
    for tier in tiers[1:]:
        parts = math.ceil(tier.object_bytes / READ_BYTES) if settings.read_back else 1
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
