"""30 days of steady state, modelled from what a run measured: objects, requests, bytes, traffic between regions, price.

The arithmetic is that of `walrep plan` (`walrep.core.forecast` and its modules), which takes a workload; here the
workload's numbers come from the measured runs. Nothing else of a run goes into it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from benchmarks.compare.results import Result
from walrep.core.flush import FlushPolicy
from walrep.core.forecast import Strategy, compare_strategies
from walrep.core.forecast_walrep import SEGMENT_BYTES, WalrepSettings
from walrep.core.traffic import PROFILES
from walrep.core.workload import DAY_S, DAYS, Forecast, Workload

INCIDENT, INCIDENT_LIKE = "incident", "minute"
"""The database of the team: 13,000 changes a month in 300 MB, each of the size and kind that this workload showed."""

INCIDENT_CHANGES, INCIDENT_BYTES = 13_000, 300_000_000

RPOS_S = (1.0, 10.0, 60.0, 900.0)
PAGE_BYTES = 4096
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


def model(results: Sequence[Result]) -> list[Modelled]:
    """Model every workload of which enough was measured."""
    found = []
    for name in dict.fromkeys(each.workload for each in results):
        own = [each for each in results if each.workload == name]
        workload = observe(own)
        if workload is not None:
            found += [_modelled(name, each) for each in _strategies(workload)]
        if workload is not None and name == INCIDENT_LIKE:
            found += [_modelled(INCIDENT, each) for each in _strategies(_incident(workload))]
    return found


def observe(results: Sequence[Result]) -> Workload | None:
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
    database_bytes = min(each.database_bytes for each in results)
    return Workload(
        transactions_per_s=shown.transactions / shown.seconds,
        changed_bytes=shown.changed_bytes / shown.transactions,
        pages=shown.pages_per_transaction,
        page_size=PAGE_BYTES,
        database_bytes=database_bytes,
        encoded_ratio=max(0.0, segments.bytes - fixed) / shown.changed_bytes,
        zstd_ratio=_image_ratio(results, "walrep-10s", "image", TYPICAL.zstd_ratio),
        lz4_ratio=_image_ratio(results, "litestream", "image", TYPICAL.lz4_ratio),
    )


def restore_points(strategy: str, transactions_per_s: float) -> tuple[tuple[float, float], ...]:
    """Return how far apart the states are to which one can go back: up to an age, so many seconds; ages in order."""
    each_s = 1 / transactions_per_s if transactions_per_s else float(DAY_S)
    steps = SPACINGS.get(strategy, ((30.0 * DAY_S, 0.0),))
    return tuple((age_s, max(each_s, spacing_s)) for age_s, spacing_s in steps)


def _incident(alike: Workload) -> Workload:
    per_s = INCIDENT_CHANGES / DAYS / DAY_S
    return msgspec.structs.replace(alike, transactions_per_s=per_s, database_bytes=INCIDENT_BYTES)


def _image_ratio(results: Sequence[Result], strategy: str, kind: str, otherwise: float) -> float:
    """Return how well the first copy of the database compressed."""
    for each in results:
        image = each.start.kinds.get(kind)
        if each.strategy == strategy and image is not None and image.created:
            return image.bytes / image.created / each.database_bytes * each.database_count
    return otherwise


def _strategies(workload: Workload) -> list[Strategy]:
    profiles = list(PROFILES.values())
    own: list[Strategy] = []
    others: tuple[Strategy, ...] = ()
    for rpo_s in RPOS_S:
        settings = WalrepSettings(flush=FlushPolicy(rpo_s=rpo_s), snapshots=True)
        first, *rest = compare_strategies(workload, settings, profiles)
        named = msgspec.structs.replace(first.forecast, strategy=f"walrep, RPO {_short(rpo_s)}")
        own.append(msgspec.structs.replace(first, forecast=named))
        others = tuple(rest)
    return [*own, *others]


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
