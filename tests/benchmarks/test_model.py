from __future__ import annotations

import msgspec
import pytest

from benchmarks.compare.counts import Kind
from benchmarks.compare.model import live_by_day, model, observe, price, restore_points
from benchmarks.compare.results import Result
from tests.benchmarks.making import counted, result
from walrep.core.forecast_simple import forecast_daily_snapshot
from walrep.core.forecast_walrep import SEGMENT_BYTES
from walrep.core.workload import Workload

DAY_S = 86_400


def measured() -> list[Result]:
    segments = Kind(created=10, bytes=10 * SEGMENT_BYTES + 120_000)
    image = {"image": Kind(created=1, bytes=4_000_000)}
    return [
        result("none"),
        result("walrep-10s", run=counted({"segments": segments}, PUT=10), start=counted(image, PUT=1)),
        result("litestream", start=counted({"image": Kind(created=2, bytes=12_000_000)}, PUT=2)),
    ]


def test_a_workload_is_what_the_run_showed() -> None:
    workload = observe(measured())
    assert workload is not None
    assert workload.transactions_per_s == 10.0
    assert workload.changed_bytes == 100.0
    assert workload.pages == 3.0
    assert workload.encoded_ratio == pytest.approx(1.2)
    assert (workload.zstd_ratio, workload.lz4_ratio) == (0.4, 0.6)


def test_without_a_run_of_walrep_nothing_is_modelled() -> None:
    assert model([each for each in measured() if each.strategy != "walrep-10s"]) == []
    idle = [msgspec.structs.replace(each, transactions=0, changed_bytes=0) for each in measured()]
    assert model(idle) == []


def test_every_strategy_is_modelled_for_every_store() -> None:
    found = {each.strategy: each for each in model(measured())}
    assert list(found) == [
        "walrep, RPO 1 s",
        "walrep, RPO 10 s",
        "walrep, RPO 1 min",
        "walrep, RPO 15 min",
        "daily snapshot",
        "object per change",
        "litestream 0.5",
        "litestream 0.5, 30 days",
        "litestream 0.5, tuned",
    ]
    assert all(len(each.traffic_bytes) == len(found["daily snapshot"].traffic_bytes) for each in found.values())
    assert found["walrep, RPO 1 s"].requests["put"] > 9 * found["walrep, RPO 10 s"].requests["put"]


def test_the_incident_is_modelled_from_the_workload_that_is_like_it() -> None:
    found = model([msgspec.structs.replace(each, workload="minute") for each in measured()])
    own = {each.strategy: each for each in found if each.workload == "incident"}
    assert own["object per change"].created == pytest.approx(13_000)
    assert own["daily snapshot"].upload_bytes == pytest.approx(30 * 300e6 * 0.4)


def test_objects_pile_up_until_as_many_go_as_come() -> None:
    forecast = forecast_daily_snapshot(Workload(transactions_per_s=1.0), retention_days=7)
    days = live_by_day(forecast)
    assert (days[0], days[5], days[6], days[29]) == (1, 6, 7, 7)


def test_a_price_is_that_of_requests_and_of_what_is_stored() -> None:
    workload = Workload(transactions_per_s=0.0, database_bytes=10_000_000_000, zstd_ratio=0.1)
    # 30 snapshots of 1 GB, each in 60 parts of 16 MiB and two requests more.
    expected = 30 * 62 * 5e-6 + 30 * 0.023
    assert price(forecast_daily_snapshot(workload, 30)) == pytest.approx(expected)


def test_restore_points_are_no_closer_than_transactions() -> None:
    assert restore_points("daily snapshot", 10.0) == ((30 * DAY_S, DAY_S),)
    assert restore_points("walrep, RPO 15 min", 10.0) == ((30 * DAY_S, 0.1),)
    assert restore_points("litestream 0.5", 1 / 60)[1] == (DAY_S, 60.0)
