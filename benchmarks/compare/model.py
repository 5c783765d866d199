"""30 days of steady state, modelled from what a run measured: objects, requests, bytes, traffic between regions, price.

The arithmetic is that of `walrep plan` (`walrep.core.forecast` and its modules), which takes a workload; here the
workload's numbers come from the measured runs. Nothing else of a run goes into it. Pure.

`walrep plan` takes the pages of a transaction as drawn at random. That is too many where some pages are hot, as the one
in which the app counts. For Litestream and for the object per change the bytes are therefore those that were measured:
Litestream's from its L1 where a run made two of them (that is in its favour: L0 was larger), else from its L0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from benchmarks.compare.counts import Kind
from benchmarks.compare.results import Result
from walrep.core.flush import FlushPolicy
from walrep.core.forecast import Strategy, compare_strategies
from walrep.core.forecast_litestream import LITESTREAM, LITESTREAM_TUNED, LTX_BYTES, forecast_litestream
from walrep.core.forecast_simple import forecast_daily_snapshot, forecast_object_per_change
from walrep.core.forecast_walrep import SEGMENT_BYTES, WalrepSettings
from walrep.core.traffic import PROFILES, forecast_traffic
from walrep.core.workload import DAY_S, DAYS, Forecast, Workload

INCIDENT, INCIDENT_LIKE = "incident", "minute"
"""The database of the team: 13,000 changes a month in 300 MB, each of the size and kind that this workload showed."""

INCIDENT_CHANGES, INCIDENT_BYTES = 13_000, 300_000_000

POLL_S = 10.0
"""How often somebody lists the changes (twice): the best explanation of the incident's traffic that was found."""

RPOS_S = (1.0, 10.0, 60.0, 900.0)
PAGE_BYTES = 4096
L1_S, L1_COUNT_MIN = 30.0, 2
TYPICAL = Workload(transactions_per_s=0.0)

PRICES_BASIS = "AWS S3 Standard, us-east-1: list prices; DELETE and traffic from the app to the bucket cost nothing"
PUT_PRICE, GET_PRICE, GB_MONTH_PRICE = 5e-6, 4e-7, 0.023

SPACINGS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "daily snapshot": ((30 * DAY_S, DAY_S),),
    "litestream 0.5": ((330, 1), (DAY_S, 30)),
    "litestream 0.5, 30 days": ((330, 1), (30 * DAY_S, 30)),
    "litestream 0.5, tuned": ((5400, 60), (30 * DAY_S, 3600)),
}
"""How far apart restore points are: up to an age, so many seconds (research/litestream.md, 2.8).

A strategy that is not here keeps every transaction.
"""


class Modelled(msgspec.Struct, frozen=True, kw_only=True):
    """One strategy for one workload. `traffic_bytes`: between three regions, by store. `price`: dollars a month."""

    workload: str
    strategy: str
    restorable: str
    live: float
    created: float
    requests: dict[str, float]
    upload_bytes: float
    download_bytes: float
    live_bytes: float
    traffic_bytes: dict[str, float]
    price: float
    live_by_day: tuple[float, ...]
    notes: tuple[str, ...]


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What runs of one workload have shown. `litestream`: the same as Litestream sees it, with fewer distinct pages.

    `change_bytes`: of the object of a change; None: not measured.
    """

    workload: Workload
    litestream: Workload
    change_bytes: float | None


def model(results: Sequence[Result]) -> list[Modelled]:
    """Model every workload of which enough was measured."""
    found = []
    for name in dict.fromkeys(each.workload for each in results):
        seen = observe([each for each in results if each.workload == name])
        if seen is None:
            continue
        found += [_modelled(name, each) for each in _strategies(seen)]
        if name == INCIDENT_LIKE:
            found += [_modelled(INCIDENT, each) for each in _strategies(_incident(seen))]
    return found


def observe(results: Sequence[Result]) -> Observed | None:
    """Return the workload of one database that runs have shown, None if they do not show it.

    Sizes that no strategy showed, because it did not take part, are those of the literature in `Workload`.
    """
    shown = next((each for each in results if each.strategy == "walrep-10s" and each.transactions), None)
    if shown is None or shown.database_count > 1:
        return None
    segments = shown.run.kinds.get("segments")
    if segments is None or not shown.changed_bytes:
        return None
    fixed = segments.created * SEGMENT_BYTES
    workload = Workload(
        transactions_per_s=shown.transactions / shown.seconds,
        changed_bytes=shown.changed_bytes / shown.transactions,
        pages=shown.pages_per_transaction,
        page_size=PAGE_BYTES,
        database_bytes=min(each.database_bytes for each in results),
        encoded_ratio=max(0.0, segments.bytes - fixed) / shown.changed_bytes,
        zstd_ratio=_image_ratio(results, "walrep-10s", TYPICAL.zstd_ratio),
        lz4_ratio=_image_ratio(results, "litestream", TYPICAL.lz4_ratio),
    )
    pages = next(
        (litestream_pages(each, workload) for each in results if each.strategy == "litestream"), workload.pages
    )
    changes = [each.run.kinds["changes"] for each in results if "changes" in each.run.kinds]
    return Observed(
        workload=workload,
        litestream=msgspec.structs.replace(workload, pages=pages),
        change_bytes=changes[0].bytes / changes[0].created if changes and changes[0].created else None,
    )


def litestream_pages(shown: Result, workload: Workload) -> float:
    """Return how many random pages a transaction would have to write for Litestream's objects to be as they were.

    The inverse of `distinct_pages`: of P pages d are touched by -P ln(1 - d / P) random writes.
    """
    windows = {"L0": shown.seconds, "L1": shown.seconds / L1_S}
    level = "L1" if shown.run.kinds.get("L1", Kind()).created >= L1_COUNT_MIN else "L0"
    kind = shown.run.kinds.get(level, Kind())
    # A window with a transaction holds several of them, or else each transaction has one of its own.
    window_count = min(windows[level], shown.transactions, kind.created or 1)
    page_bytes = max(0.0, kind.bytes - LTX_BYTES * kind.created) / window_count
    distinct = page_bytes / (workload.page_size * workload.lz4_ratio)
    if not 0 < distinct < workload.page_count:
        return workload.pages
    writes = -workload.page_count * math.log1p(-distinct / workload.page_count)
    return min(workload.pages, writes * window_count / shown.transactions)


def restore_points(strategy: str, transactions_per_s: float) -> tuple[tuple[float, float], ...]:
    """Return how far apart the states are to which one can go back: up to an age, so many seconds; ages in order."""
    each_s = 1 / transactions_per_s if transactions_per_s else float(DAY_S)
    steps = SPACINGS.get(strategy, ((30.0 * DAY_S, 0.0),))
    return tuple((age_s, max(each_s, spacing_s)) for age_s, spacing_s in steps)


def _incident(alike: Observed) -> Observed:
    per_s = INCIDENT_CHANGES / DAYS / DAY_S

    def sized(workload: Workload) -> Workload:
        return msgspec.structs.replace(workload, transactions_per_s=per_s, database_bytes=INCIDENT_BYTES)

    return msgspec.structs.replace(alike, workload=sized(alike.workload), litestream=sized(alike.litestream))


def _image_ratio(results: Sequence[Result], strategy: str, otherwise: float) -> float:
    """Return how well the first copy of the database compressed."""
    for each in results:
        image = each.start.kinds.get("image")
        if each.strategy == strategy and image is not None and image.created:
            return image.bytes / image.created / each.database_bytes * each.database_count
    return otherwise


def _strategies(seen: Observed) -> list[Strategy]:
    profiles = list(PROFILES.values())
    found = []
    for rpo_s in RPOS_S:
        settings = WalrepSettings(flush=FlushPolicy(rpo_s=rpo_s), snapshots=True)
        own = compare_strategies(seen.workload, settings, profiles)[0]
        named = msgspec.structs.replace(own.forecast, strategy=f"walrep, RPO {_short(rpo_s)}")
        found.append(msgspec.structs.replace(own, forecast=named))
    same = msgspec.structs.replace(LITESTREAM, name=f"{LITESTREAM.name}, 30 days", retention_days=DAYS)
    listed = forecast_object_per_change(seen.workload, DAYS, object_bytes=seen.change_bytes, poll_s=POLL_S)
    others = [
        forecast_daily_snapshot(seen.workload, DAYS),
        forecast_object_per_change(seen.workload, DAYS, object_bytes=seen.change_bytes),
        msgspec.structs.replace(listed, strategy=f"object per change, listed every {POLL_S:g} s"),
        *(forecast_litestream(seen.litestream, each) for each in (LITESTREAM, same, LITESTREAM_TUNED)),
    ]
    for other in others:
        traffic = tuple(forecast_traffic(other, profile) for profile in profiles)
        found.append(Strategy(forecast=other, traffic=traffic))
    return found


def _modelled(workload: str, strategy: Strategy) -> Modelled:
    forecast = strategy.forecast
    requests = {name: float(value) for name, value in msgspec.structs.asdict(forecast.requests).items()}
    return Modelled(
        workload=workload,
        strategy=forecast.strategy,
        restorable=forecast.restorable,
        live=forecast.live_midnight_count,
        created=forecast.created_count,
        requests=requests,
        upload_bytes=forecast.upload_bytes,
        download_bytes=forecast.download_bytes,
        live_bytes=forecast.live_bytes,
        traffic_bytes={each.profile: each.caused_bytes for each in strategy.traffic},
        price=price(forecast),
        live_by_day=live_by_day(forecast),
        notes=forecast.notes,
    )


def price(forecast: Forecast) -> float:
    """Return dollars a month: requests and storage, at `PRICES_BASIS`."""
    asked = forecast.requests
    return (
        (asked.put + asked.list) * PUT_PRICE
        + (asked.get + asked.head) * GET_PRICE
        + forecast.live_bytes / 1e9 * GB_MONTH_PRICE
    )


def live_by_day(forecast: Forecast) -> tuple[float, ...]:
    """Return how many objects are live at the end of each day from an empty place: as many as were made, or as stay."""
    return tuple(
        sum(
            min(flow.live_midnight_count, flow.created_count / DAYS * day)
            if flow.created_count
            else flow.live_midnight_count
            for flow in forecast.flows
        )
        for day in range(1, DAYS + 1)
    )


def _short(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
