"""walrep beside the simple strategies and Litestream: sums by hand, and what is compared with what."""

from __future__ import annotations

import msgspec
import pytest

from walrep.core.forecast import compare_strategies, forecast_all
from walrep.core.forecast_simple import forecast_daily_snapshot, forecast_object_per_change
from walrep.core.forecast_walrep import WalrepSettings, forecast_walrep
from walrep.core.retention import RetentionPolicy
from walrep.core.traffic import PROFILES, forecast_traffic
from walrep.core.workload import Requests, Workload

TODAY = WalrepSettings()
PAGES = 10_000
BUSY = Workload(transactions_per_s=1.0, changed_bytes=100.0, pages=1.0, database_bytes=PAGES * 4096, encoded_ratio=1.0)


def slower(workload: Workload, per_day: float) -> Workload:
    return msgspec.structs.replace(workload, transactions_per_s=per_day / 86_400)


def test_a_daily_snapshot() -> None:
    forecast = forecast_daily_snapshot(BUSY, 30)
    assert (forecast.created_count, forecast.deleted_count) == (30, 30)
    assert (forecast.live_midnight_count, forecast.live_peak_count) == (30, 31)
    assert forecast.upload_bytes == forecast.live_bytes == pytest.approx(30 * PAGES * 4096 * 0.401)


def test_an_object_for_every_change() -> None:
    forecast = forecast_object_per_change(slower(BUSY, 1000), 7, poll_s=10)
    assert (forecast.created_count, forecast.live_midnight_count, forecast.live_peak_count) == (30_000, 7000, 8000)
    assert forecast.requests == Requests(put=30_000, get=0, head=0, list=2 * 6 * 60 * 24 * 30, delete=30)
    assert forecast.upload_bytes == pytest.approx(30_000 * 4096 * 0.737)


def test_all_strategies_with_the_same_retention() -> None:
    forecasts = forecast_all(BUSY, WalrepSettings(retention=RetentionPolicy(window_s=7 * 86_400.0)))
    assert [(each.strategy, each.restorable) for each in forecasts] == [
        ("walrep", "every transaction of 7 days, at most 10 s behind"),
        ("daily snapshot", "one state a day of 7 days, at most a day behind"),
        ("object per change", "every change of 7 days"),
        ("litestream 0.5", "every 1 s of the last 5 min, every 30 s of 1 day"),
        ("litestream 0.5, 7 days", "every 1 s of the last 5 min, every 30 s of 7 days"),
        ("litestream 0.5, tuned", "every 60 s of the last 90 min, every 3600 s of 7 days"),
    ]


def test_only_the_traffic_of_stores_without_create_only_put_has_lists_of_walrep() -> None:
    garage, ceph = PROFILES["garage"], PROFILES["ceph"]
    watchful = forecast_walrep(BUSY, WalrepSettings(creates_only=False))
    own, *others = compare_strategies(BUSY, TODAY, [garage, ceph])
    assert [each.profile for each in own.traffic] == ["garage", "ceph"]
    assert own.traffic == (forecast_traffic(watchful, garage), forecast_traffic(own.forecast, ceph))
    assert own.forecast.requests.list == 30 * 2
    assert [
        each.removesuffix(" LISTs more, which are counted in the traffic there") for each in own.forecast.notes[2:]
    ] == ["on a store without create-only PUT (garage) a writer looks for others: 2,880"]
    assert tuple(each.forecast for each in others) == forecast_all(BUSY, TODAY)[1:]


def test_where_no_store_has_create_only_put_the_requests_have_the_lists_too() -> None:
    (own, *_others) = compare_strategies(BUSY, TODAY, [PROFILES["garage"]])
    assert own.forecast == forecast_walrep(BUSY, WalrepSettings(creates_only=False))
    assert own.forecast.requests.list == 30 * (96 + 2)
    assert len(own.forecast.notes) == 2
    looking = next(each for each in own.forecast.accesses if each.what == "looking for another writer")
    assert (looking.row_count, looking.large_row_count, looking.object_bytes) == (90, 32, 1560)


def test_what_is_never_written_has_no_note_about_lists() -> None:
    (own, *_others) = compare_strategies(slower(BUSY, 0), TODAY, list(PROFILES.values()))
    assert own.forecast.notes == forecast_walrep(slower(BUSY, 0), TODAY).notes
