"""walrep beside other ways to protect the same database, as `walrep plan` compares them.

Numbers of walrep are those of the program as it is; of the others they are models, each with its source in its module.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from walrep.core.forecast_litestream import LITESTREAM, LITESTREAM_TUNED, forecast_litestream
from walrep.core.forecast_simple import forecast_daily_snapshot, forecast_object_per_change
from walrep.core.forecast_walrep import WalrepSettings, forecast_walrep
from walrep.core.traffic import StoreProfile, Traffic, forecast_traffic
from walrep.core.workload import Forecast, Workload, format_days

__all__ = ["Strategy", "compare_strategies", "forecast_all"]


class Strategy(msgspec.Struct, frozen=True, kw_only=True):
    """One way to protect a database, and what each of some stores makes of it between its regions."""

    forecast: Forecast
    traffic: tuple[Traffic, ...]


def compare_strategies(
    workload: Workload, settings: WalrepSettings, profiles: Sequence[StoreProfile]
) -> tuple[Strategy, ...]:
    """Forecast every strategy, and its traffic in these stores.

    On a store without create-only PUT walrep lists now and then. The traffic there has these LISTs in any case, the
    forecast only if all stores are such, and otherwise a note.
    """
    listing = msgspec.structs.replace(settings, creates_only=False)
    without = [profile.name for profile in profiles if not profile.creates_only]
    if profiles and len(without) == len(profiles):
        settings, without = listing, []
    own, *others = forecast_all(workload, settings)
    watchful = forecast_walrep(workload, listing)
    more_count = watchful.requests.list - own.requests.list
    if without and more_count:
        note = (
            f"on a store without create-only PUT ({', '.join(without)}) a writer looks for others: "
            f"{more_count:,.0f} LISTs more, which are counted in the traffic there"
        )
        own = msgspec.structs.replace(own, notes=(*own.notes, note))
    own_traffic = [forecast_traffic(own if profile.creates_only else watchful, profile) for profile in profiles]
    return (
        Strategy(forecast=own, traffic=tuple(own_traffic)),
        *(
            Strategy(forecast=other, traffic=tuple(forecast_traffic(other, profile) for profile in profiles))
            for other in others
        ),
    )


def forecast_all(workload: Workload, settings: WalrepSettings) -> tuple[Forecast, ...]:
    """Forecast every strategy: walrep first, then the others, with the same retention where they have one."""
    days = settings.retention_days
    same = msgspec.structs.replace(LITESTREAM, name=f"{LITESTREAM.name}, {format_days(days)}", retention_days=days)
    tuned = msgspec.structs.replace(LITESTREAM_TUNED, retention_days=days)
    return (
        forecast_walrep(workload, settings),
        forecast_daily_snapshot(workload, days),
        forecast_object_per_change(workload, days),
        *(forecast_litestream(workload, each) for each in (LITESTREAM, same, tuned)),
    )
