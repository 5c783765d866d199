"""What Litestream 0.5 costs: a model of its levels, made from what was read in its code and measured of it.

Source of everything here: research/litestream.md, which examined Litestream at commit 63225f1 (0.5.16) and measured it
against a store that counts requests; [M] measured there, [C] read in the code. `tests/core/test_forecast_litestream.py`
compares the model with what was measured.

    L0          one object for each look at the log that found something (every second), and one more for a write to its
                own table after a checkpoint, about a minute after a write [M 2.7: 120 an hour at one write a minute,
                3,645 at ten a second]. Kept for 5 minutes and until L1 has it, deleted at the next check [C 2.7]
    L1, L2, …   one for each window (30 s, 5 min, 1 h) with something in it. They are not deleted when they were
                compacted, but at the daily snapshot once they are older than the retention: 1 to 3 days [C 2.7]
    L9          a snapshot a day [C 2.4]
    LIST        two each check of L0 (15 s), also when idle [M 11,784 a day]; three of L1 for each L1 object, of as many
                pages as L1 fills; one for each L2 and L3; four for the snapshot [C 2.7]
    GET, down   L2 and L3 are made of objects of the level below, read back from the store [M 1.9 x up]
    DELETE      up to 329 requests an hour [M]

The bytes of a level are the pages that changed within its window, each once and compressed with LZ4.
"""

from __future__ import annotations

from itertools import pairwise

import msgspec

from walrep.core.workload import (
    DAY_S,
    DAYS,
    KEYS_PER_REQUEST,
    Access,
    Flow,
    Forecast,
    Workload,
    count_windows,
    distinct_pages,
    format_days,
    make_forecast,
)

__all__ = ["LITESTREAM", "LITESTREAM_TUNED", "LitestreamSettings", "forecast_litestream"]

BUMP_DELAY_S = 60.0
"""How long after a write the checkpoint follows that writes to Litestream's own table [C 2.3, M 2.7]."""

LTX_BYTES = 192
"""The smallest object seen: a change of one row in its own table [M 2.6]."""

RETENTION_DAYS_MORE = 2
"""Levels are pruned once a day below the snapshot before: up to so many days after they expired [C 2.7]."""

DELETE_REQUESTS_PER_HOUR = 329
"""DeleteObjects calls at ten writes a second [M 2.7]."""

LISTS_PER_CHECK, LISTS_PER_L1, LISTS_PER_SNAPSHOT = 2, 3, 4
"""LIST requests [C 2.7]."""

PART_BYTES = 5 << 20
"""Its default part size [C 1.2]."""


class LitestreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How Litestream is set. `bumps_per_min`: how often it writes to its own table while there are writes, at most."""

    name: str
    monitor_s: float = 1.0
    levels_s: tuple[float, ...] = (30.0, 300.0, 3600.0)
    l0_retention_s: float = 300.0
    l0_check_s: float = 15.0
    retention_days: float = 1.0
    bumps_per_min: float = 1.0


LITESTREAM = LitestreamSettings(name="litestream 0.5")
"""As it comes [C 1.2]."""

LITESTREAM_TUNED = LitestreamSettings(
    name="litestream 0.5, tuned",
    monitor_s=60.0,
    levels_s=(3600.0,),
    l0_check_s=3600.0,
    retention_days=30.0,
    bumps_per_min=0.5,
)
"""The tuning that research/litestream.md, 5, asks of a fair comparison; half a bump a minute, as measured [M 2.2]."""


class _Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level in a day."""

    object_count: float
    object_bytes: float


def forecast_litestream(workload: Workload, settings: LitestreamSettings) -> Forecast:
    """Forecast Litestream 0.5, from the formulas in the module's text."""
    l0, levels = _l0(workload, settings), _levels(workload, settings)
    active_share = workload.active_s / DAY_S
    l0_live_s = max(settings.levels_s[0], settings.l0_retention_s) + settings.l0_check_s / 2
    l0_live = l0.object_count * l0_live_s / workload.active_s if workload.active_s else 0.0
    days, later_days = settings.retention_days, settings.retention_days + RETENTION_DAYS_MORE
    image_bytes = workload.database_bytes * workload.lz4_ratio
    flows = [
        _flow("L0", l0, l0_live, l0_live),
        *(
            _flow(f"L{number}", level, days * level.object_count, later_days * level.object_count)
            for number, level in enumerate(levels, start=1)
        ),
        _flow(
            "L9 snapshots",
            _Level(object_count=workload.busy_days, object_bytes=image_bytes),
            max(1.0, days * workload.busy_days),
            1 + days * workload.busy_days,
        ),
    ]
    delete_request_count = min(l0.object_count, DELETE_REQUESTS_PER_HOUR * 24 * active_share)
    delete_request_count += sum(level.object_count / KEYS_PER_REQUEST for level in levels) + workload.busy_days
    recent = f"every {settings.monitor_s:g} s of the last {l0_live_s / 60:.0f} min"
    return make_forecast(
        (settings.name, f"{recent}, every {settings.levels_s[0]:g} s of {format_days(days)}"),
        flows,
        _accesses(workload, settings, l0, levels),
        part_bytes=PART_BYTES,
        delete_request_count=DAYS * delete_request_count,
        notes=["a restart that meets another log uploads the database four times more; none is counted"],
    )


def _l0(workload: Workload, settings: LitestreamSettings) -> _Level:
    look_count = count_windows(workload.transactions_per_day, workload.active_s / settings.monitor_s)
    count = look_count + _bumps(workload, settings)
    pages = workload.transactions_per_day / look_count * workload.pages if look_count else 0.0
    page_bytes = distinct_pages(pages, workload.page_count) * workload.page_size * workload.lz4_ratio
    return _Level(object_count=count, object_bytes=LTX_BYTES + page_bytes * look_count / count if count else 0.0)


def _bumps(workload: Workload, settings: LitestreamSettings) -> float:
    """Return how often a day it writes to its own table: once for each write, or as often as it does at most."""
    return count_windows(workload.transactions_per_day, workload.active_s / 60 * settings.bumps_per_min)


def _levels(workload: Workload, settings: LitestreamSettings) -> list[_Level]:
    """Return the levels above L0, of a day.

    A write and the bump a minute after it fall into two windows if these are shorter than a minute, and otherwise with
    a chance of a minute to the window's length [M 2.7: 2 L1, 1.2 L2 and 1 L3 for each write of one an hour].
    """
    levels = []
    writes, bumps = workload.transactions_per_day, _bumps(workload, settings)
    for window_s in settings.levels_s:
        busy = count_windows(writes + bumps * min(1.0, BUMP_DELAY_S / window_s), workload.active_s / window_s)
        with_writes = count_windows(writes, busy)
        pages = writes / with_writes * workload.pages if with_writes else 0.0
        page_bytes = distinct_pages(pages, workload.page_count) * workload.page_size * workload.lz4_ratio
        levels.append(
            _Level(object_count=busy, object_bytes=LTX_BYTES + page_bytes * with_writes / busy if busy else 0.0)
        )
    return levels


def _flow(what: str, level: _Level, midnight_count: float, peak_count: float) -> Flow:
    return Flow(
        what=what,
        created_count=DAYS * level.object_count,
        deleted_count=DAYS * level.object_count,
        object_bytes=level.object_bytes,
        live_midnight_count=midnight_count,
        live_peak_count=peak_count,
    )


def _accesses(workload: Workload, settings: LitestreamSettings, l0: _Level, levels: list[_Level]) -> list[Access]:
    """Return what it reads. L1 is listed in as many pages as it fills with the retention and a day more, 0 to 2."""
    first = levels[0]
    pages = max(1.0, -(-(settings.retention_days + 1) * first.object_count // KEYS_PER_REQUEST))
    others = sum(level.object_count for level in levels[1:]) + LISTS_PER_SNAPSHOT * workload.busy_days
    lists = (
        ("retention of L0", LISTS_PER_CHECK * DAY_S / settings.l0_check_s, l0.object_bytes),
        ("compaction", LISTS_PER_L1 * first.object_count * pages + others, first.object_bytes),
    )
    return [
        *(Access(what=what, verb="list", request_count=DAYS * count, object_bytes=size) for what, count, size in lists),
        *(
            Access(
                what=f"reading L{number} to compact it",
                verb="get",
                request_count=DAYS * below.object_count,
                object_bytes=below.object_bytes,
                download_bytes=DAYS * below.object_count * below.object_bytes,
            )
            for number, (below, _level) in enumerate(pairwise(levels), start=1)
        ),
    ]
