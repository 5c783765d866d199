"""The forecast of walrep, against sums by hand; `test_forecast_days` has it against the planners."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, strategies as st

from walrep.core.compaction import CompactionPolicy
from walrep.core.flush import FlushPolicy
from walrep.core.forecast import forecast_all
from walrep.core.forecast_walrep import UPLOAD_PART_BYTES, WalrepSettings, forecast_walrep
from walrep.core.retention import RetentionPolicy
from walrep.core.workload import Flow, Forecast, Requests, Workload, distinct_pages, format_days, put_requests
from walrep.errors import UsageError
from walrep.store.s3_upload import UploadSizes

TODAY = WalrepSettings()
BASE_ONLY = WalrepSettings(snapshots=False)
PAGES = 10_000
BUSY = Workload(transactions_per_s=1.0, changed_bytes=100.0, pages=1.0, database_bytes=PAGES * 4096, encoded_ratio=1.0)
WORKLOADS = st.builds(
    Workload,
    transactions_per_s=st.floats(0, 5000),
    changed_bytes=st.floats(1, 100_000),
    pages=st.floats(1, 20),
    active_hours=st.floats(0, 24),
    database_bytes=st.integers(4096, 10**12),
)
SETTINGS = st.builds(
    WalrepSettings,
    flush=st.builds(FlushPolicy, rpo_s=st.floats(0.1, 3600)),
    retention=st.builds(RetentionPolicy, window_s=st.floats(0, 1e8), monthly=st.integers(0, 12)),
    snapshots=st.booleans(),
    creates_only=st.booleans(),
)


def slower(workload: Workload, per_day: float) -> Workload:
    return msgspec.structs.replace(workload, transactions_per_s=per_day / 86_400)


def with_packs_up_to(size: int) -> WalrepSettings:
    return WalrepSettings(compaction=CompactionPolicy(pack_bytes_max=size))


def flow(forecast: Forecast, what: str) -> Flow:
    return next(each for each in forecast.flows if each.what == what)


def test_a_database_that_is_written_every_second() -> None:
    """8,640 segments of 10 transactions, 96 packs of 90 segments, 1 of 96 packs, 1 snapshot, 1 record: each day.

    Of the new day there are those of ten minutes and a half when the night's work is done: 63.
    """
    forecast = forecast_walrep(BUSY, msgspec.structs.replace(TODAY, read_back=True))
    segment_bytes, chunk_bytes = 560 + 10 * 100, 86_400 * 100 + 8640 * (560 - 465 + 15)
    sizes = {each.what: (each.created_count / 30, each.object_bytes) for each in forecast.flows if each.created_count}
    assert sizes == {
        "segments": (8640, segment_bytes),
        "short packs": (96, chunk_bytes / 96 + 800),
        "day packs": (1, chunk_bytes + 800),
        "full snapshots": (1, PAGES * 4096 * 0.401 + 600),
        "record of retention": (1, 300),
    }
    assert forecast.created_count == forecast.deleted_count == 30 * (8640 + 96 + 1 + 1 + 1)
    assert forecast.live_midnight_count == 32 + 32 + 2 + 1 + 63
    assert forecast.live_peak_count == 32 + 33 + 2 + 1 + 96 + 90 + 63
    gets = 96 + 2 + 1  # the day pack has 9.6 MB and is read in parts of 8 MiB
    puts = forecast.created_count
    assert forecast.requests == Requests(put=puts, get=30 * gets, head=30, list=30 * 2, delete=30 * 98)
    daily_bytes = 8640 * segment_bytes + 2 * chunk_bytes + 97 * 800 + PAGES * 4096 * 0.401 + 600 + 300
    assert forecast.upload_bytes == pytest.approx(30 * daily_bytes)
    assert forecast.download_bytes == pytest.approx(30 * (2 * chunk_bytes + 97 * 800 + 300))
    snapshot_bytes = PAGES * 4096 * 0.401 + 600
    assert forecast.live_bytes == pytest.approx(
        32 * (chunk_bytes + 800) + 32 * snapshot_bytes + 1000 + 300 + 63 * segment_bytes
    )
    assert forecast.growth_bytes == 0
    assert forecast.restorable == "every transaction of 30 days, at most 10 s behind"


def test_sizes_by_hand() -> None:
    """Transactions of 128 pages have more chunks than segments; snapshots of 40 MB have three parts."""
    workload = Workload(
        transactions_per_s=0.1,
        changed_bytes=1000.0,
        pages=128.0,
        page_size=512,
        database_bytes=100_000_000,
        encoded_ratio=1.5,
        zstd_ratio=0.4,
    )
    forecast = forecast_walrep(workload, TODAY)
    chunk_bytes = 8640 * (1500 + 95) + 2 * 8640 * 15
    sizes = {each.what: each.object_bytes for each in forecast.flows if each.live_peak_count}
    assert sizes == pytest.approx(
        {
            "segments": 560 + 1500,
            "short packs": chunk_bytes / 96 + 800,
            "day packs": chunk_bytes + 800,
            "full snapshots": 40_000_600,
            "replica object and opening": 500,
            "record of retention": 300,
        }
    )
    assert forecast.requests.put - forecast.created_count == 30 * 4


def test_parts_are_those_of_the_program() -> None:
    assert UploadSizes().part_bytes == UPLOAD_PART_BYTES


def test_a_row_of_the_index_for_each_chunk_of_so_many_pages() -> None:
    """160 pages a segment: 3 chunks of 64, and of larger pages 10 of 256 KiB."""
    small = msgspec.structs.replace(BUSY, pages=16.0)
    large = msgspec.structs.replace(small, page_size=16_384)
    sizes = [flow(forecast_walrep(each, TODAY), "day packs").object_bytes for each in (small, large)]
    assert sizes[1] - sizes[0] == pytest.approx(8640 * (10 - 2.5) * 15)


def test_a_pack_that_replicate_makes_costs_a_head_and_no_download() -> None:
    forecast = forecast_walrep(BUSY, TODAY)
    read = [each.what for each in forecast.accesses if each.download_bytes]
    assert read == ["reading the record of retention"]
    assert (forecast.requests.get, forecast.requests.head) == (30, 30 * (97 + 1))


def test_what_is_never_written_costs_nothing() -> None:
    forecast = forecast_walrep(slower(BUSY, 0), TODAY)
    assert forecast.requests == Requests(put=0, get=0, head=0, list=0, delete=0)
    assert (forecast.live_midnight_count, forecast.live_peak_count) == (3, 3)
    assert forecast.upload_bytes == 0


@pytest.mark.parametrize(("rpo_s", "segments"), [(1.0, 86_400), (10.0, 8640), (60.0, 1440), (3600.0, 24)])
def test_the_rpo_is_the_cost_knob(rpo_s: float, segments: int) -> None:
    forecast = forecast_walrep(BUSY, WalrepSettings(flush=FlushPolicy(rpo_s=rpo_s)))
    assert flow(forecast, "segments").created_count == pytest.approx(30 * segments)


@pytest.mark.parametrize(
    ("per_day", "made", "live", "early", "waiting"),
    [
        (0.5, {"segments": 0.5}, 0.5, 0, 0.5),
        (1, {"segments": 1}, 1, 0, 1),
        (1.75, {"segments": 1.75, "day packs": 0.75}, 1, 1, 1.75),
        (2, {"segments": 2, "day packs": 1}, 1, 1, 2),
        (96, {"segments": 96, "day packs": 1}, 1, 1, 96),
        (100, {"segments": 100, "short packs": 4, "day packs": 1}, 1, 1, 4 + 92 + 100 / 96 * 1.7),
        (144, {"segments": 144, "short packs": 48, "day packs": 1}, 1, 1.05, 48 + 48 + 1.5 * 1.7),
        (192, {"segments": 192, "short packs": 96, "day packs": 1}, 1, 1.4, 96 + 2 * 1.7),
    ],
)
def test_what_would_replace_nothing_is_not_packed(
    per_day: float, made: dict[str, float], live: float, early: float, waiting: float
) -> None:
    """As `walrep.core.compaction` does it with evenly spread segments: 4 and 48 short packs of 100 and 144 segments.

    The newest segment stays beside its pack (INV-24).
    """
    forecast = forecast_walrep(slower(BUSY, per_day), TODAY)
    logs = [each for each in forecast.flows if each.what in {"segments", "short packs", "day packs"}]
    assert {each.what: each.created_count / 30 for each in logs} == pytest.approx(made)
    assert {each.what: each.deleted_count / 30 for each in logs} == pytest.approx(made)
    assert sum(each.live_midnight_count for each in logs) == pytest.approx(32 * live + early)
    assert sum(each.live_peak_count for each in logs) == pytest.approx(32 * live + waiting)


def test_segments_and_day_packs_have_a_limit() -> None:
    """1.2 GB a second of random bytes, for an hour: segments of 64 MiB, and packs of three that nothing can join."""
    blobs = Workload(transactions_per_s=100.0, changed_bytes=12e6, active_hours=1.0, encoded_ratio=1.0)
    segment_bytes = 64 << 20
    forecast = forecast_walrep(blobs, TODAY)
    assert flow(forecast, "segments").created_count == pytest.approx(30 * 100 * 12e6 * 3600 / segment_bytes)
    assert flow(forecast, "segments").object_bytes == pytest.approx(segment_bytes + 560)
    assert [each.what for each in forecast.flows if "packs" in each.what] == ["short packs"]
    packs = math.ceil(100 * 12e6 * 3600 / segment_bytes / 3)
    assert flow(forecast, "short packs").created_count == 30 * packs
    assert flow(forecast, "short packs").live_midnight_count == 32 * packs


def test_day_packs_hold_as_many_short_ones_as_fit() -> None:
    settings = with_packs_up_to(500_000)
    short_bytes = flow(forecast_walrep(BUSY, TODAY), "short packs").object_bytes - 800
    assert short_bytes == 99_900
    assert flow(forecast_walrep(BUSY, settings), "day packs").created_count == 30 * 20  # of 5 each, but for the last


def test_what_two_of_fit_is_joined_and_what_fills_more_than_half_is_not() -> None:
    """A short pack has 99,900 bytes of chunks."""
    two, one = (with_packs_up_to(size) for size in (199_800, 199_799))
    assert flow(forecast_walrep(BUSY, two), "day packs").created_count == 30 * 48
    assert flow(forecast_walrep(BUSY, two), "short packs").live_midnight_count == 0
    assert flow(forecast_walrep(BUSY, one), "short packs").live_midnight_count == 32 * 96


def test_a_pack_has_the_bytes_of_its_segments() -> None:
    """Of 144 segments 48 stay alone in their quarter of an hour; of 1.75 a quarter stays alone on its day."""
    segment_bytes = 100 + 95 + 15
    forecast = forecast_walrep(slower(BUSY, 144), TODAY)
    assert flow(forecast, "short packs").object_bytes == pytest.approx(2 * segment_bytes + 800)
    assert flow(forecast, "day packs").object_bytes == pytest.approx(144 * segment_bytes + 800)
    rare = forecast_walrep(slower(BUSY, 1.75), TODAY)
    assert flow(rare, "day packs").object_bytes == pytest.approx(2 * segment_bytes + 800)


def test_a_week_of_differentials() -> None:
    """1,000 pages a day are touched: after six days 45 % of the database, which is below half of it.

    Of 32 snapshots the oldest may lean on one more.
    """
    forecast = forecast_walrep(slower(BUSY, 1000), TODAY)
    full, differential = flow(forecast, "full snapshots"), flow(forecast, "differential snapshots")
    assert full.created_count == pytest.approx(30 / 7)
    assert differential.created_count == pytest.approx(30 * 6 / 7)
    assert full.live_midnight_count + differential.live_midnight_count == pytest.approx(32 + 6 / 7)
    assert full.live_peak_count + differential.live_peak_count == pytest.approx(33 + 6 / 7)
    assert full.live_peak_count == pytest.approx(33 / 7 + 6 / 7)
    touched = [10_000 * (1 - 2.718281828459045 ** (-0.1 * day)) for day in range(1, 7)]
    assert differential.object_bytes == pytest.approx(sum(touched) / 6 * 4096 * 0.401 + 600)
    assert touched[-1] < 5000


def test_a_differential_of_more_than_half_is_a_full_one() -> None:
    """2,000 pages a day: 18 %, 33 %, 45 %, and then a full one."""
    forecast = forecast_walrep(slower(BUSY, 2000), TODAY)
    assert flow(forecast, "full snapshots").created_count == pytest.approx(30 / 4)
    assert flow(forecast, "differential snapshots").created_count == pytest.approx(30 * 3 / 4)


@pytest.mark.parametrize("days", [1, 30, 365])
def test_with_a_base_only_nothing_expires(days: int) -> None:
    """What is live is what is there after so many days: a pack for each, the base, the replica object, the opening."""
    settings = msgspec.structs.replace(BASE_ONLY, retention=RetentionPolicy(window_s=days * 86_400.0))
    forecast = forecast_walrep(BUSY, settings)
    assert forecast.created_count - forecast.deleted_count == 30
    assert forecast.growth_bytes == pytest.approx(30 * flow(forecast, "day packs").object_bytes)
    assert forecast.live_midnight_count == days + 1 + 2 + 63
    assert forecast.live_peak_count == days + 1 + 2 + 96 + 90 + 63
    assert forecast.restorable == "every transaction since the base, at most 10 s behind"
    assert flow(forecast, "base").object_bytes == pytest.approx(PAGES * 4096 * 0.401 + 600)
    assert (forecast.requests.delete, forecast.requests.list, forecast.requests.get) == (30 * 97, 30, 0)
    assert any("nothing expires" in note for note in forecast.notes)


def test_calendar_points_stay() -> None:
    monthly = WalrepSettings(retention=RetentionPolicy(daily=1, weekly=2, monthly=3, yearly=4))
    more = forecast_walrep(BUSY, monthly).live_midnight_count - forecast_walrep(BUSY, TODAY).live_midnight_count
    assert more == 10
    quiet = slower(BUSY, 1000)
    more = forecast_walrep(quiet, monthly).live_midnight_count - forecast_walrep(quiet, TODAY).live_midnight_count
    assert more == pytest.approx(10 * (2 - 1 / 7))
    sizes = [
        flow(forecast_walrep(quiet, monthly), f"{kind} snapshots") for kind in ("full", "differential", "calendar")
    ]
    full, differential, calendar = (each.object_bytes - 600 for each in sizes)
    assert 10 * (full + differential * 6 / 7) == pytest.approx(sizes[2].live_midnight_count * calendar)


@pytest.mark.parametrize(("per_day", "looks"), [(0, 0), (10, 10 + 2), (86_400, 96 + 2)])
def test_a_store_without_create_only_put_is_looked_at_while_there_are_segments(per_day: float, looks: int) -> None:
    forecast = forecast_walrep(slower(BUSY, per_day), WalrepSettings(creates_only=False))
    assert forecast.requests.list == pytest.approx(30 * looks)


@pytest.mark.parametrize(
    ("changed_bytes", "database_bytes", "made"),
    [
        (67.0, PAGES * 4096, 1),
        (2000.0, PAGES * 4096, 1 + 2),
        (2000.0, 172_798_000, 1 + 1),
        (2000.0, 10**9, 1),
        (1e9, PAGES * 4096, 1 + 24 * 60),
    ],
)
def test_logs_that_outgrow_the_database_make_one_more(changed_bytes: float, database_bytes: int, made: int) -> None:
    """Segments of 20,560 bytes, 178 MB a day: outgrown at 64 MiB, or at the database's size; looked at each minute."""
    workload = msgspec.structs.replace(BUSY, changed_bytes=changed_bytes, database_bytes=database_bytes)
    forecast = forecast_walrep(workload, TODAY)
    assert sum(each.created_count for each in forecast.flows if "snapshots" in each.what) == pytest.approx(30 * made)


def test_a_large_transaction_once_a_day_has_one_snapshot() -> None:
    workload = msgspec.structs.replace(slower(BUSY, 1), changed_bytes=70e6, pages=9000.0)
    forecast = forecast_walrep(workload, WalrepSettings(flush=FlushPolicy(segment_bytes_max=1 << 30)))
    assert flow(forecast, "full snapshots").created_count == pytest.approx(30)


@pytest.mark.parametrize(
    ("per_day", "verbs"),
    [
        (10, {"list": 2, "get": 1, "head": 1 + 1, "put": 10 + 1 + 1 + 1}),
        (0.5, {"list": 1 + 0.5, "get": 1, "head": 0.5, "put": 1.5}),
        (0.1, {"list": 0.3 + 0.1, "get": 0.3, "head": 0.1, "put": 0.3}),
    ],
)
def test_what_retention_asks(per_day: float, verbs: dict[str, float]) -> None:
    """A look on a day behind a segment, on one on which something expires, and on the one behind that.

    Segments, a pack that is looked at, a snapshot, a record.
    """
    asked = forecast_walrep(slower(BUSY, per_day), TODAY).requests
    assert {verb: getattr(asked, verb) / 30 for verb in verbs} == pytest.approx(verbs)


def test_a_list_of_everything_has_pages() -> None:
    """An RPO of a tenth of a second leaves 15,300 segments at most."""
    forecast = forecast_walrep(
        msgspec.structs.replace(BUSY, transactions_per_s=10.0), WalrepSettings(flush=FlushPolicy(rpo_s=0.1))
    )
    lists = {each.what: each.request_count / 30 for each in forecast.accesses if each.verb == "list"}
    assert lists == {"looking for what has expired": 16, "looking for what is kept by name": 1}


@pytest.mark.parametrize(
    ("window_s", "grace_s", "days"), [(30 * 86_400.0, 3600.0, 32), (0.0, 3600.0, 2), (86_400.0, 0.0, 3), (8e4, 6400, 3)]
)
def test_days_of_logs_that_a_window_keeps(window_s: float, grace_s: float, days: int) -> None:
    """It reaches into one more, and the one before leads up to its beginning."""
    settings = WalrepSettings(retention=RetentionPolicy(window_s=window_s, grace_s=grace_s))
    assert flow(forecast_walrep(BUSY, settings), "day packs").live_midnight_count == days


@given(WORKLOADS, SETTINGS)
def test_what_holds_of_every_forecast(workload: Workload, settings: WalrepSettings) -> None:
    for forecast in forecast_all(workload, settings):
        assert forecast.live_peak_count >= forecast.live_midnight_count >= 0
        assert forecast.requests.put >= forecast.created_count >= 0
        assert forecast.requests.delete >= forecast.deleted_count / 1000 * (1 - 1e-9)
        assert forecast.upload_bytes >= 0
        steady = settings.snapshots or forecast.strategy != "walrep"
        assert forecast.deleted_count == pytest.approx(forecast.created_count) or not steady
        assert msgspec.json.decode(msgspec.json.encode(forecast), type=Forecast) == forecast


@given(WORKLOADS, SETTINGS, st.floats(1, 100))
def test_a_longer_rpo_never_costs_more_segments(workload: Workload, settings: WalrepSettings, factor: float) -> None:
    longer = msgspec.structs.replace(settings, flush=FlushPolicy(rpo_s=settings.flush.rpo_s * factor))
    segments = [
        sum(each.created_count for each in forecast_walrep(workload, each).flows if each.what == "segments")
        for each in (settings, longer)
    ]
    assert segments[1] <= segments[0]


@pytest.mark.parametrize(("writes", "pages", "touched"), [(0, 100, 0), (100, 100, 63.212), (1, 1e9, 1), (5, 0, 0)])
def test_pages_that_are_drawn_more_than_once_count_once(writes: float, pages: float, touched: float) -> None:
    assert distinct_pages(writes, pages) == pytest.approx(touched, rel=1e-4)


@pytest.mark.parametrize(("size", "requests"), [(0, 1), (1, 1), (100, 1), (101, 4), (200, 4), (201, 5)])
def test_a_large_object_is_stored_in_parts(size: float, requests: int) -> None:
    assert put_requests(size, 100) == requests


def test_the_default_is_the_measured_mixed_load() -> None:
    """2,000 transactions changed 273 kB and made 17.8 MB of log, 4,120 bytes a frame; 1.12 shipped for each changed."""
    load = Workload(transactions_per_s=1.0)
    assert load.changed_bytes == pytest.approx(273_000 / 2000, rel=0.03)
    assert load.pages == pytest.approx(17_800_000 / 2000 / 4120, rel=0.03)
    assert 560 + 100 * load.changed_bytes * load.encoded_ratio == pytest.approx(1.12 * 100 * 140, rel=0.03)


@pytest.mark.parametrize(
    "wrong",
    [{"transactions_per_s": -1.0}, {"active_hours": 25.0}, {"page_size": 1000}, {"changed_bytes": float("nan")}],
)
def test_a_workload_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Workload(**({"transactions_per_s": 1.0} | wrong))  # type: ignore[arg-type] # the type is right, the value is not


@pytest.mark.parametrize(
    "wrong",
    [
        {"flush": FlushPolicy(rpo_s=0.0)},
        {"compaction": CompactionPolicy(spans_ms=(0, 1))},
        {"compaction": CompactionPolicy(pack_bytes_max=0)},
        {"rival_check_s": 0.0},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="must be"):
        msgspec.structs.replace(TODAY, **wrong)


@pytest.mark.parametrize("window_s", [float("inf"), 1e16])
def test_a_retention_that_cannot_be_is_refused(window_s: float) -> None:
    with pytest.raises(UsageError, match="shorter than"):
        WalrepSettings(retention=RetentionPolicy(window_s=window_s))


@pytest.mark.parametrize(("days", "text"), [(1.0, "1 day"), (30.0, "30 days"), (0.5, "0.5 days")])
def test_days_for_people(days: float, text: str) -> None:
    assert format_days(days) == text
