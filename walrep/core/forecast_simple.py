"""What the simple ways to protect a database cost: a snapshot a day, or an object for every change.

daily snapshot      one a day, R of them, R being days of retention
object per change   c a day, each deleted R days later; and two LISTs, or none, whenever changes are looked for
"""

from __future__ import annotations

from walrep.core.forecast_walrep import UPLOAD_PART_BYTES
from walrep.core.workload import (
    DAY_S,
    DAYS,
    Access,
    Flow,
    Forecast,
    Workload,
    delete_requests,
    format_days,
    make_forecast,
)

__all__ = ["forecast_daily_snapshot", "forecast_object_per_change"]


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
        ("daily snapshot", f"one state a day of {format_days(retention_days)}, at most a day behind"),
        [flow],
        [],
        part_bytes=UPLOAD_PART_BYTES,
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
        ("object per change", f"every change of {format_days(retention_days)}"),
        [flow],
        [poll],
        part_bytes=UPLOAD_PART_BYTES,
        delete_request_count=delete_requests(flow.deleted_count, DAYS * workload.busy_days),
        notes=["the snapshots without which old changes could not be deleted are not counted"],
    )
