"""What walrep costs for a workload, as it is today.

With c changes in a active seconds of a day, and a window of R days:

segments    min(c, a / RPO), more only where they reach their size limit first
packs       short ones, one for each 15 minutes of activity, and of these one a day; more where it would exceed 256 MiB,
            none where it would hold fewer than two objects. (The last quarter of a day ends with it and goes into the
            day's pack at once: of a database that is written around the clock that is one short pack fewer)
snapshots   one a day with changes, full about once a week (`walrep.core.forecast_snapshots`)
retention   at midnight, before the day's pack is made: the window with its grace reaches into the day R + 1 before, and
            the log and the snapshot under its beginning are needed, too. So R + 2 days of logs and R + 2 snapshots
            stay, and the full one under the oldest. The store is asked on days on which something was stored
live        these, what opens the timeline, and a record of what was deleted. When the night's work is done the new
            day has some segments already, if the database is written around the clock; an idle one keeps its newest
            (INV-24)

Without snapshots there is the base only, and nothing expires.

`tests/core/test_forecast_days.py` compares this with what the planners of packs, snapshots and retention do of days in
virtual time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from walrep.core.chunk import chunk_frames
from walrep.core.compaction import CompactionPolicy
from walrep.core.flush import FlushPolicy
from walrep.core.forecast_snapshots import base_flow, snapshot_flows, window_days
from walrep.core.retention import RetentionPolicy
from walrep.core.slices import PART_BYTES
from walrep.core.workload import (
    DAY_S,
    DAYS,
    KEYS_PER_REQUEST,
    NUMBER_MAX,
    Access,
    Flow,
    Forecast,
    Workload,
    count_windows,
    delete_requests,
    format_days,
    make_forecast,
    standing_flow,
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

UPLOAD_PART_BYTES = 16 << 20
"""Larger objects are stored in parts of this size; the number of `walrep.store.s3_upload`, which core must not know."""

REPLICA_BYTES = 500
"""Of the replica object and of a segment that opens a timeline, each; as they are in `tests/golden`."""

RECORD_BYTES = 300
"""Of the record of what retention deleted, which has one range of numbers and a snapshot's key; measured."""

WORTH_PACKING_COUNT = 2
"""A pack of fewer objects would replace nothing."""


class WalrepSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How walrep is set.

    `snapshots` False, as in walrep.toml: there is the base only, so that nothing expires, and what is live is told
    after as many days as the retention has.
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
    snapshots: bool = True
    read_back: bool = False
    creates_only: bool = True
    rival_check_s: float = 900.0

    def __post_init__(self) -> None:
        """Refuse spans and sizes of nothing."""
        if min(self.flush.rpo_s, self.rival_check_s, *self.compaction.spans_ms) <= 0:
            raise UsageError("the RPO, the span of a pack and the time between checks must be longer than nothing")
        if min(self.flush.segment_bytes_max, self.compaction.pack_bytes_max) <= 0:
            raise UsageError("the limits of segments and packs must be more than 0")
        if max(self.flush.rpo_s, self.retention.window_s) > NUMBER_MAX:
            raise UsageError("the RPO and the retention must be shorter than 30 million years")

    @property
    def retention_days(self) -> float:
        """The window, in days."""
        return self.retention.window_s / DAY_S


class _Tier(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of log in a day. `kept_count`: of those that stay; the others are replaced by larger ones.

    `waiting_count`: how many there are at most beside those that stay of the days before. `early_count`: how many the
    new day has when the night's work is done.
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
    stored_days = min(1.0, tiers[0].object_count) if tiers else 0.0
    expiring_days = stored_days if settings.snapshots else 0.0
    logs, snapshots = _log_flows(tiers, settings), _snapshot_flows(workload, settings, tiers)
    flows = [*logs, *snapshots, standing_flow("replica object and opening", 2.0, REPLICA_BYTES)]
    flows.append(_record_flow(expiring_days))
    batch_count = sum(tier.object_count for tier in tiers[1:]) + expiring_days
    kept = f"of {format_days(settings.retention_days)}" if settings.snapshots else "since the base"
    return make_forecast(
        ("walrep", f"every transaction {kept}, at most {settings.flush.rpo_s:.4g} s behind"),
        flows,
        [
            *_rival_accesses(workload, settings, logs, sum(flow.live_midnight_count for flow in snapshots)),
            *_pack_accesses(tiers[1:], settings),
            *_retention_accesses(stored_days, expiring_days, flows),
        ],
        part_bytes=UPLOAD_PART_BYTES,
        delete_request_count=delete_requests(sum(flow.deleted_count for flow in flows), DAYS * batch_count),
        notes=_notes(settings),
    )


def _notes(settings: WalrepSettings) -> list[str]:
    notes = [
        "a start costs one LIST for each 1,000 objects and a few requests more; none is counted",
        "a segment after five minutes without one costs a LIST, to look for a copy of the writer; none is counted",
    ]
    if not settings.snapshots:
        notes.append(
            "nothing expires: without snapshots every log on top of the base stays. Live is what is there after "
            f"{format_days(settings.retention_days)}, and it grows on; a restore reads the base and all logs up to its "
            "target. The base is uploaded once, and not counted"
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
        ("short packs", shorts, chunk_bytes * (1 - single / count), shorts * kept, shorts),
        # They are made when the day is over, and what expired then is gone.
        ("day packs", days, chunk_bytes * (1 - kept), days, 0.0),
    )
    # A quarter of an hour's segments are there for that long, until it is packed, and for the grace after that.
    lasting = 1 + (policy.settle_ms + policy.grace_ms) / policy.spans_ms[0]
    return [
        _Tier(
            what="segments",
            object_count=count,
            object_bytes=SEGMENT_BYTES + encoded_bytes / count,
            kept_count=single * kept,
            waiting_count=min(count, single + lasting * count / slots),
            early_count=min(count - single * kept, max(1.0, count * _early_share(workload, policy))),
        ),
        *(
            _Tier(
                what=what,
                object_count=made,
                object_bytes=PACK_BYTES + bytes_together / made,
                kept_count=staying,
                waiting_count=waiting,
            )
            for what, made, bytes_together, staying, waiting in packs
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

    With expiry the log that leads up to the window's beginning stays, too.
    """
    kept_days = window_days(settings.retention) + 1 if settings.snapshots else settings.retention_days
    return [
        Flow(
            what=tier.what,
            created_count=DAYS * tier.object_count,
            # What is left below nothing is rounding.
            deleted_count=max(0.0, DAYS * (tier.object_count - (0.0 if settings.snapshots else tier.kept_count))),
            object_bytes=tier.object_bytes,
            live_midnight_count=kept_days * tier.kept_count + tier.early_count,
            live_peak_count=kept_days * tier.kept_count + tier.waiting_count,
        )
        for tier in tiers
    ]


def _snapshot_flows(workload: Workload, settings: WalrepSettings, tiers: Sequence[_Tier]) -> list[Flow]:
    if not settings.snapshots:
        return [base_flow(workload)]
    count, size_bytes = (tiers[0].object_count, tiers[0].object_bytes) if tiers else (0.0, 0.0)
    return snapshot_flows(workload, settings.retention, segment_count=count, segment_bytes=size_bytes)


def _record_flow(expiring_days: float) -> Flow:
    """Return the flow of records of what was deleted; each takes over what the one before it told, and replaces it."""
    live_count = 1.0 if expiring_days else 0.0
    return Flow(
        what="record of retention",
        created_count=DAYS * expiring_days,
        deleted_count=DAYS * expiring_days,
        object_bytes=RECORD_BYTES,
        live_midnight_count=live_count,
        live_peak_count=live_count,
    )


def _rival_accesses(
    workload: Workload, settings: WalrepSettings, logs: Sequence[Flow], snapshot_count: float
) -> list[Access]:
    """Return the LISTs that look for another writer while segments are stored.

    Such a LIST begins behind the last one: it finds the segments since then, and the snapshots, which sort last.
    """
    if settings.creates_only or not logs:
        return []
    segment_count = logs[0].created_count / DAYS
    looks = count_windows(segment_count, workload.active_s / settings.rival_check_s)
    return [
        Access(
            what="looking for another writer",
            verb="list",
            request_count=DAYS * looks,
            object_bytes=logs[0].object_bytes,
            row_count=segment_count / looks,
            large_row_count=snapshot_count,
        )
    ]


def _pack_accesses(packs: Sequence[_Tier], settings: WalrepSettings) -> list[Access]:
    """Return what is read of each pack: the size, or all of it."""
    accesses = []
    for tier in packs:
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


def _retention_accesses(stored_days: float, expiring_days: float, flows: Sequence[Flow]) -> list[Access]:
    """Return what retention asks of the store.

    Everything is listed, and the record read, on a day behind one on which something was stored, on one on which
    something expires, and on the day behind that. Where something expires, what people keep is listed, too, and of the
    new record the time is asked.
    """
    if not stored_days:
        return []
    look_count = DAYS * min(1.0, stored_days + 2 * expiring_days)
    segments, large_count = flows[0], sum(flow.live_peak_count for flow in flows[1:])
    page_count = math.ceil((segments.live_peak_count + large_count) / KEYS_PER_REQUEST)
    listing = Access(
        what="looking for what has expired",
        verb="list",
        request_count=look_count * page_count,
        object_bytes=segments.object_bytes,
        row_count=segments.live_peak_count,
        large_row_count=large_count,
    )
    if not expiring_days:
        return [listing]
    count = DAYS * expiring_days
    return [
        listing,
        msgspec.structs.replace(listing, what="looking for what is kept by name", request_count=count),
        Access(
            what="reading the record of retention",
            verb="get",
            request_count=look_count,
            object_bytes=RECORD_BYTES,
            download_bytes=look_count * RECORD_BYTES,
        ),
        Access(what="timing the record of retention", verb="head", request_count=count, object_bytes=RECORD_BYTES),
    ]
