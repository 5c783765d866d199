"""Bytes between regions, against the tables of research/objectstores.md, and the incident that began it all."""

from __future__ import annotations

import msgspec
import pytest

from walrep.core.forecast import forecast_all
from walrep.core.forecast_simple import forecast_daily_snapshot, forecast_object_per_change
from walrep.core.forecast_walrep import WalrepSettings, forecast_walrep
from walrep.core.traffic import PROFILES, StoreProfile, Traffic, forecast_traffic
from walrep.core.workload import Access, Flow, Forecast, Workload, make_forecast

GARAGE, CEPH = PROFILES["garage"], PROFILES["ceph"]
MONTH_S = 30 * 86_400
WEEKS = 30 / 7
INCIDENT = Workload(transactions_per_s=13_000 / MONTH_S, database_bytes=300_000_000)
"""13,000 changes a month in a few hundred MB."""


def forecast_of(
    *, size: float, put: float = 0, delete: float = 0, access: Access | None = None, live: float = 0
) -> Forecast:
    flow = Flow(
        what="objects",
        created_count=put,
        deleted_count=delete,
        object_bytes=size,
        live_midnight_count=live,
        live_peak_count=live,
    )
    accesses = [access] if access else []
    return make_forecast(("one", ""), [flow], accesses, part_bytes=1 << 30, delete_request_count=delete)


def caused(profile: StoreProfile, forecast: Forecast) -> float:
    return forecast_traffic(profile=profile, forecast=forecast).caused_bytes


@pytest.mark.parametrize(
    ("size", "kilobytes"), [(200, 5.6), (1024, 7.4), (3071, 11.6), (4096, 22.2), (65_536, 151), (1 << 20, 2210)]
)
def test_a_put_on_garage(size: int, kilobytes: float) -> None:
    assert caused(GARAGE, forecast_of(size=size, put=1)) == pytest.approx(kilobytes * 1000, rel=0.025)


@pytest.mark.parametrize(("size", "kilobytes"), [(1024, 10.6), (3071, 10.6), (3072, 14.4), (1 << 20, 14.4)])
def test_a_deletion_on_garage(size: int, kilobytes: float) -> None:
    assert caused(GARAGE, forecast_of(size=size, delete=1)) == kilobytes * 1000


@pytest.mark.parametrize(("size", "kilobytes"), [(200, 592), (1024, 1457), (3071, 3600), (4096, 421), (1 << 20, 421)])
def test_a_page_of_a_list_on_garage(size: int, kilobytes: float) -> None:
    page = Access(what="", verb="list", request_count=1, object_bytes=size)
    assert caused(GARAGE, forecast_of(size=size, access=page, live=5000)) == pytest.approx(kilobytes * 1000, rel=0.04)


def test_a_list_reads_no_more_rows_than_there_are_in_the_bucket() -> None:
    page = Access(what="", verb="list", request_count=3, object_bytes=4096)
    forecast = forecast_of(size=4096, access=page, live=100)
    assert forecast_traffic(forecast, GARAGE).list_bytes == 3 * 100 * 420
    assert forecast_traffic(forecast, GARAGE, bucket_objects=300).list_bytes == 3 * 400 * 420
    assert forecast_traffic(forecast, GARAGE, bucket_objects=10_000).list_bytes == 3 * 1001 * 420


def test_rows_of_large_objects_are_read_without_them() -> None:
    """A page of a LIST has no more rows than others."""
    page = Access(what="", verb="list", request_count=3, object_bytes=1000, row_count=7, large_row_count=5)
    forecast = forecast_of(size=1000, access=page, live=5000)
    assert forecast_traffic(forecast, GARAGE).list_bytes == 3 * (7 * 1400 + 5 * 420)
    more = msgspec.structs.replace(page, large_row_count=5000)
    forecast = forecast_of(size=1000, access=more, live=5000)
    assert forecast_traffic(forecast, GARAGE).list_bytes == 3 * (7 * 1400 + 994 * 420)


@pytest.mark.parametrize("verb", ["head", "get"])
@pytest.mark.parametrize(("size", "expected"), [(1000, 1850), (3072, 820)])
def test_a_head_or_get_reads_a_row(verb: str, size: int, expected: int) -> None:
    access = Access(what="", verb="head" if verb == "head" else "get", request_count=2, object_bytes=size)
    traffic = forecast_traffic(forecast_of(size=size, access=access), GARAGE)
    assert (traffic.read_bytes, traffic.list_bytes) == (2 * expected, 0)


def test_the_parts_add_up() -> None:
    page = Access(what="", verb="list", request_count=3, object_bytes=1024)
    head = Access(what="", verb="head", request_count=2, object_bytes=5000)
    flow = Flow(
        what="", created_count=10, deleted_count=5, object_bytes=1024, live_midnight_count=10, live_peak_count=10
    )
    forecast = make_forecast(("one", ""), [flow, flow], [page, head], part_bytes=1 << 20, delete_request_count=1)
    assert forecast_traffic(forecast, GARAGE) == Traffic(
        profile="garage",
        strategy="one",
        put_bytes=106_000,
        payload_bytes=2.1 * 20_480,
        delete_bytes=106_000,
        list_bytes=3 * 20 * 1424,
        read_bytes=1640,
        caused_bytes=106_000 + 2.1 * 20_480 + 106_000 + 85_440 + 1640,
        idle_bytes=2700 * MONTH_S,
    )


@pytest.mark.parametrize(
    ("name", "gigabytes_a_week"), [("garage", 1.6), ("garage-9-nodes", 7.4), ("ceph", 14.5), ("minio", None)]
)
def test_what_a_cluster_says_to_itself_is_told_apart(name: str, gigabytes_a_week: float | None) -> None:
    """Garage 1.1 + 0.5 and 1.1 + 6.3 GB a week; Ceph 13 to 16. Of others it is not known."""
    idle_bytes = forecast_traffic(forecast_of(size=1), PROFILES[name]).idle_bytes
    expected = gigabytes_a_week and pytest.approx(gigabytes_a_week * 1e9 * WEEKS, rel=0.03)
    assert idle_bytes == expected


def test_objects_on_ceph() -> None:
    """13,000 objects of 1 KB: 20 KB each, 0.26 GB a month; a deletion about 9 KB net."""
    assert caused(CEPH, forecast_of(size=1000, put=13_000)) == pytest.approx(0.26e9, rel=0.01)
    assert caused(CEPH, forecast_of(size=1000, delete=1)) == 9000
    page = Access(what="", verb="list", request_count=1000, object_bytes=1024)
    assert caused(CEPH, forecast_of(size=1, access=page, live=5000)) == 0


@pytest.mark.parametrize(
    ("name", "put", "delete"), [("ceph", 18_000, 9000), ("minio", 3000, 3000), ("seaweedfs", 3000, 1000)]
)
def test_stores_that_list_and_read_where_they_are_asked(name: str, put: int, delete: int) -> None:
    """However small an object is: each byte goes to two other regions, and reading costs nothing between them."""
    head = Access(what="", verb="head", request_count=5, object_bytes=1)
    page = Access(what="", verb="list", request_count=5, object_bytes=1)
    assert caused(PROFILES[name], forecast_of(size=0.5, put=1, access=page, live=9)) == put + 1
    assert caused(PROFILES[name], forecast_of(size=0.5, delete=1, access=head)) == delete


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_says_where_its_numbers_come_from(profile: StoreProfile) -> None:
    assert PROFILES[profile.name] is profile
    assert any(word in profile.basis for word in ("measured", "derived"))
    assert ("estimate" in profile.basis) == (profile.idle_bytes_per_s is None)


# The incident: 13,000 objects a month for each database, several hundred GB of replication traffic a week.


def test_the_incident_made_13_000_objects_a_month() -> None:
    assert forecast_object_per_change(INCIDENT, 30).created_count == pytest.approx(13_000)
    assert forecast_object_per_change(INCIDENT, 30).live_midnight_count == pytest.approx(13_000)


@pytest.mark.parametrize(("size", "gigabytes"), [(1024, 0.23), (8192, 0.59)])
def test_objects_alone_do_not_explain_the_incident(size: int, gigabytes: float) -> None:
    """A month of PUTs and DELETEs between regions on Garage."""
    forecast = forecast_object_per_change(INCIDENT, 30, object_bytes=size)
    assert caused(GARAGE, forecast) == pytest.approx(gigabytes * 1e9, rel=0.025)


def test_thirty_snapshots_of_5_mb() -> None:
    database = Workload(transactions_per_s=1.0, database_bytes=5_242_880, zstd_ratio=1.0)
    assert caused(GARAGE, forecast_daily_snapshot(database, 30)) == pytest.approx(0.33e9, rel=0.02)


@pytest.mark.parametrize(("poll_s", "gigabytes_a_week"), [(10, 176), (30, 59), (60, 29)])
def test_lists_explain_the_incident(poll_s: float, gigabytes_a_week: float) -> None:
    """Two LISTs for each look, of rows that carry objects of 1 KB: a few databases make several hundred GB."""
    forecast = forecast_object_per_change(INCIDENT, 30, object_bytes=1024, poll_s=poll_s)
    traffic = forecast_traffic(forecast, GARAGE)
    assert traffic.list_bytes / WEEKS == pytest.approx(gigabytes_a_week * 1e9, rel=0.03)
    assert traffic.list_bytes > 0.99 * traffic.caused_bytes


def test_litestream_with_30_days_has_the_size_of_the_incident() -> None:
    """One database with 13,000 changes a month: several hundred GB a week on Garage, of which LISTs are almost all."""
    strategies = {each.strategy: each for each in forecast_all(INCIDENT, WalrepSettings())}
    traffic = forecast_traffic(strategies["litestream 0.5, 30 days"], GARAGE)
    assert 200e9 < traffic.caused_bytes / WEEKS < 400e9
    assert traffic.list_bytes > 0.98 * traffic.caused_bytes


@pytest.mark.parametrize("snapshots", [False, True])
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_walrep_gives_every_transaction_for_less_than_the_daily_snapshots(
    profile: StoreProfile,
    snapshots: bool,  # noqa: FBT001 - a parameter of a test
) -> None:
    """Less traffic than the snapshots that the team gave point-in-time restore up for, on every store."""
    settings = WalrepSettings(creates_only=profile.creates_only, snapshots=snapshots)
    walrep, daily = forecast_walrep(INCIDENT, settings), forecast_daily_snapshot(INCIDENT, 30)
    assert caused(profile, walrep) < caused(profile, daily)
    assert (walrep.requests.list > 60) == (not profile.creates_only)
    assert walrep.live_midnight_count < (72 if snapshots else 37)


def test_a_list_reads_as_many_rows_as_it_finds() -> None:
    page = Access(what="", verb="list", request_count=3, object_bytes=4096, row_count=7)
    forecast = forecast_of(size=4096, access=page, live=5000)
    assert forecast_traffic(forecast, GARAGE).list_bytes == 3 * 7 * 420
    assert forecast_traffic(forecast, GARAGE, bucket_objects=10_000).list_bytes == 3 * 1001 * 420
