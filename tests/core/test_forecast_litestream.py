"""The model of Litestream against what was measured of it: research/litestream.md, 2.7, at 63225f1."""

from __future__ import annotations

import msgspec
import pytest

from walrep.core.forecast_litestream import LITESTREAM, LITESTREAM_TUNED, LitestreamSettings, forecast_litestream
from walrep.core.workload import Flow, Forecast, Workload

IDLE = Workload(transactions_per_s=0.0, pages=1.0, lz4_ratio=0.445)
"""Its pages compressed to 44.5 % there (a database of 100 MB to 44.5 MB); a transaction changed a row in one page."""

SLOW = msgspec.structs.replace(IDLE, transactions_per_s=1 / 60)
CONSTANT = msgspec.structs.replace(IDLE, transactions_per_s=10.0)
HOURLY = msgspec.structs.replace(IDLE, transactions_per_s=1 / 3600)
MONTH = msgspec.structs.replace(LITESTREAM, retention_days=30.0)


def per_day(forecast: Forecast) -> dict[str, float]:
    return {flow.what.split()[0]: flow.created_count / 30 for flow in forecast.flows}


def flows(forecast: Forecast) -> dict[str, Flow]:
    return {flow.what.split()[0]: flow for flow in forecast.flows}


def test_objects_a_day_of_a_database_that_is_written_once_a_minute() -> None:
    forecast = forecast_litestream(SLOW, LITESTREAM)
    assert per_day(forecast) == pytest.approx({"L0": 2880, "L1": 2880, "L2": 288, "L3": 24, "L9": 1})
    assert forecast.created_count == pytest.approx(30 * 6073)
    assert forecast.deleted_count == pytest.approx(30 * 6070, rel=0.001)
    assert forecast.requests.delete == pytest.approx(30 * 2650, rel=0.1)


def test_objects_a_day_of_a_database_that_is_written_ten_times_a_second() -> None:
    """Measured were 87,480 of L0 (3,645 an hour); 89,600 to 90,700 in all."""
    forecast = forecast_litestream(CONSTANT, LITESTREAM)
    assert per_day(forecast) == pytest.approx({"L0": 87_480, "L1": 2880, "L2": 288, "L3": 24, "L9": 1}, rel=0.005)
    assert 89_600 <= forecast.created_count / 30 <= 91_100
    assert forecast.requests.delete == pytest.approx(30 * 7900, rel=0.01)


@pytest.mark.parametrize(
    ("workload", "settings", "least", "most"),
    [
        (IDLE, LITESTREAM, 11_520, 11_784),
        (IDLE, MONTH, 11_520, 11_784),
        (SLOW, LITESTREAM, 38_000, 90_000),
        (CONSTANT, LITESTREAM, 38_000, 90_000),
        (SLOW, MONTH, 760_000, 800_000),
        (CONSTANT, MONTH, 760_000, 800_000),
        (SLOW, LitestreamSettings(name="nothing kept", retention_days=-0.9), 20_476, 20_570),
    ],
)
def test_lists_a_day(workload: Workload, settings: LitestreamSettings, least: float, most: float) -> None:
    """The last row is the first hour, when L1 fits one page of a LIST."""
    assert least <= round(forecast_litestream(workload, settings).requests.list / 30, 6) <= most


@pytest.mark.parametrize(
    ("workload", "settings", "midnight", "peak"),
    [
        (SLOW, LITESTREAM, 3200, 9600),
        (CONSTANT, LITESTREAM, 3500, 9900),
        (SLOW, MONTH, 95_800, 102_200),
        (CONSTANT, MONTH, 96_100, 102_500),
    ],
)
def test_live_objects(workload: Workload, settings: LitestreamSettings, midnight: float, peak: float) -> None:
    """Said were 3.2k to 9.9k with the default retention, and 96k to 102k with 30 days."""
    forecast = forecast_litestream(workload, settings)
    assert forecast.live_midnight_count == pytest.approx(midnight, rel=0.01)
    assert forecast.live_peak_count == pytest.approx(peak, rel=0.01)


def test_live_objects_of_the_lowest_level() -> None:
    assert flows(forecast_litestream(CONSTANT, LITESTREAM))["L0"].live_peak_count == pytest.approx(310, rel=0.02)
    assert flows(forecast_litestream(SLOW, LITESTREAM))["L0"].live_peak_count == pytest.approx(10, rel=0.05)
    assert flows(forecast_litestream(IDLE, LITESTREAM))["L0"].live_peak_count == 0


def test_a_database_that_is_written_once_an_hour() -> None:
    """Two L1, 1.2 L2 and one L3 for each write: about 3,000 objects in 30 days."""
    forecast = forecast_litestream(HOURLY, MONTH)
    assert per_day(forecast) == pytest.approx({"L0": 48, "L1": 48, "L2": 28.8, "L3": 24, "L9": 1}, rel=0.02)
    assert forecast.live_midnight_count == pytest.approx(3000, rel=0.05)


def test_bytes_a_day_of_a_database_that_is_written_ten_times_a_second() -> None:
    """GB: L0 1.56, L1 1.53, L2 1.46, L3 about 0.9, an image of 0.0445; down about 3."""
    forecast = forecast_litestream(CONSTANT, LITESTREAM)
    bytes_of = {what: each.created_count * each.object_bytes / 30 / 1e9 for what, each in flows(forecast).items()}
    assert bytes_of.pop("L3") == pytest.approx(0.9, rel=0.1)
    assert bytes_of == pytest.approx({"L0": 1.56, "L1": 1.53, "L2": 1.46, "L9": 0.0445}, rel=0.03)
    assert forecast.upload_bytes / 30 / 1e9 == pytest.approx(5.5, rel=0.03)
    assert forecast.download_bytes / 30 / 1e9 == pytest.approx(3.0, rel=0.03)
    assert forecast.requests.get == 30 * (2880 + 288)


def test_the_image_is_stored_in_parts() -> None:
    """44.5 MB in parts of 5 MiB are 9, and two requests more."""
    forecast = forecast_litestream(SLOW, LITESTREAM)
    assert forecast.requests.put - forecast.created_count == pytest.approx(30 * 10)


def test_tuned_as_a_fair_comparison_has_it() -> None:
    """Said were 720 L1, 30 L9 and at most 130 L0 with 30 days; measured 1.5 L0 a minute."""
    forecast = forecast_litestream(CONSTANT, LITESTREAM_TUNED)
    live = {what: each.live_midnight_count for what, each in flows(forecast).items()}
    assert live.pop("L0") == pytest.approx(130, rel=0.05)
    assert live == {"L1": 720, "L9": 30}
    assert per_day(forecast) == pytest.approx({"L0": 2160, "L1": 24, "L9": 1})
    assert forecast.requests.list == 30 * (48 + 72 + 4)
    assert forecast.download_bytes == 0


def test_an_idle_database_keeps_one_image() -> None:
    forecast = forecast_litestream(IDLE, MONTH)
    assert (forecast.created_count, forecast.live_midnight_count, forecast.live_peak_count) == (0, 1, 1)
    assert forecast.requests.put == forecast.requests.get == forecast.requests.delete == 0
    assert [each.object_bytes for each in forecast.flows] == [0, 0, 0, 0, 44_500_000]


def test_a_day_by_hand() -> None:
    """Six hours of a write of two pages every 10 s, in a database so large that none is written twice in a window."""
    huge = Workload(transactions_per_s=0.1, active_hours=6.0, pages=2.0, database_bytes=10**15, lz4_ratio=0.5)
    forecast = forecast_litestream(huge, LITESTREAM)
    page_bytes = 4096 * 0.5
    found = flows(forecast)
    assert per_day(forecast) == pytest.approx({"L0": 2160 + 360, "L1": 720, "L2": 72, "L3": 6, "L9": 1})
    sizes = {what: each.object_bytes for what, each in found.items()}
    assert sizes == pytest.approx(
        {
            "L0": 192 + 2160 / 2520 * 2 * page_bytes,
            "L1": 192 + 3 * 2 * page_bytes,
            "L2": 192 + 30 * 2 * page_bytes,
            "L3": 192 + 360 * 2 * page_bytes,
            "L9": 10**15 * 0.5,
        }
    )
    assert found["L0"].live_peak_count == pytest.approx(2520 / (6 * 3600) * 307.5)
    assert (found["L3"].live_midnight_count, found["L3"].live_peak_count) == (6, 18)
    assert (found["L9"].live_midnight_count, found["L9"].live_peak_count) == (1, 2)
    assert forecast.requests.delete == pytest.approx(30 * (min(2520, 329 * 6) + (720 + 72 + 6) / 1000 + 1))
    assert forecast.requests.list == pytest.approx(30 * (2 * 5760 + 3 * 720 * 2 + 72 + 6 + 4))
    assert [each.what for each in forecast.accesses if each.verb == "get"] == [
        "reading L1 to compact it",
        "reading L2 to compact it",
    ]
    assert forecast.restorable == "every 1 s of the last 5 min, every 30 s of 1 day"


def test_a_write_and_what_follows_it_after_a_minute() -> None:
    """Windows of two minutes: half of the pairs fall into one."""
    twice = LitestreamSettings(name="", levels_s=(120.0,))
    assert per_day(forecast_litestream(HOURLY, twice))["L1"] == pytest.approx(24 * 1.5)


def test_half_a_day_of_activity_makes_half_the_objects() -> None:
    half = msgspec.structs.replace(CONSTANT, active_hours=12.0)
    ratio = (
        forecast_litestream(half, LITESTREAM).created_count / forecast_litestream(CONSTANT, LITESTREAM).created_count
    )
    assert ratio == pytest.approx(0.5, rel=0.001)
