"""Texts of times, and what they mean."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from walrep.core.target import format_duration, format_time, parse_time
from walrep.errors import UsageError

BERLIN = ZoneInfo("Europe/Berlin")
NOW_MS = int(datetime(2026, 11, 21, 15, 0, 0, tzinfo=UTC).timestamp()) * 1000  # 16:00 in Berlin


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "instant", "shown"),
    [
        ("2026-11-21T14:03:05Z", "2026-11-21T14:03:05+00:00", "2026-11-21T14:03:05.000Z"),
        ("2026-11-21t14:03:05z", "2026-11-21T14:03:05+00:00", "2026-11-21T14:03:05.000Z"),
        ("2026-11-21 14:03:05.1239+05:30", "2026-11-21T14:03:05.123+05:30", "2026-11-21T14:03:05.123+05:30"),
        ("2026-11-21T14:03-02:00", "2026-11-21T14:03:00-02:00", "2026-11-21T14:03:00.000-02:00"),
        (
            "2026-11-21 14:03:05",
            "2026-11-21T14:03:05+01:00",
            "2026-11-21T14:03:05.000+01:00 (Europe/Berlin)",
        ),
        (
            " 2026-07-01 14:03:05.5 ",
            "2026-07-01T14:03:05.500+02:00",
            "2026-07-01T14:03:05.500+02:00 (Europe/Berlin)",
        ),
        ("14:03", "2026-11-21T14:03:00+01:00", "2026-11-21T14:03:00.000+01:00 (Europe/Berlin)"),
        ("14:03:59", "2026-11-21T14:03:59+01:00", "2026-11-21T14:03:59.000+01:00 (Europe/Berlin)"),
        ("14:03Z", "2026-11-21T14:03:00+00:00", "2026-11-21T14:03:00.000Z"),
        ("now", "2026-11-21T16:00:00+01:00", "2026-11-21T16:00:00.000+01:00 (Europe/Berlin)"),
        ("2h ago", "2026-11-21T14:00:00+01:00", "2026-11-21T14:00:00.000+01:00 (Europe/Berlin)"),
    ],
)
def test_a_time_is_read_and_shown_back(text: str, instant: str, shown: str) -> None:
    parsed = parse_time(text, now_ms=NOW_MS, local_zone=BERLIN)
    assert (parsed.ms, parsed.shown) == (ms(instant), shown)


@pytest.mark.parametrize(
    ("text", "ago_ms"),
    [
        ("-15m", 900_000),
        ("- 15 min", 900_000),
        ("90 seconds ago", 90_000),
        ("1 second ago", 1000),
        ("1d 3h ago", 97_200_000),
        ("1d, 3h ago", 97_200_000),
        ("1d3h ago", 97_200_000),
        ("1.5h ago", 5_400_000),
        ("2 Weeks AGO", 1_209_600_000),
        ("500ms ago", 500),
        ("2 mins ago", 120_000),
        ("0.1s ago", 100),
    ],
)
def test_a_relative_time_counts_back_from_now(text: str, ago_ms: int) -> None:
    assert NOW_MS - parse_time(text, now_ms=NOW_MS, local_zone=BERLIN).ms == ago_ms


def test_a_day_ago_is_24_hours_also_across_a_change_of_the_clocks() -> None:
    noon_after_change = ms("2026-10-25T12:00:00+01:00")
    parsed = parse_time("1d ago", now_ms=noon_after_change, local_zone=BERLIN)
    assert parsed.shown == "2026-10-24T13:00:00.000+02:00 (Europe/Berlin)"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-11-21",
        "2026-02-30 12:00",
        "24:00",
        "12:60",
        "2026-11-21T14:03:60Z",
        "2026-11-21T14:03:05+24:00",
        "2026-11-21T14:03:05+01:60",
        "2026-11-21  14:03",
        "15m",
        "in 2h",
        "+2h",
        "2 ago",
        "2 fortnights ago",
        "ago",
        "-",
        "1h and 2m ago",
        "99999999999999999999w ago",
        "999999999999w ago",
        "0000-01-01 00:00",
        "9999-12-31T23:59:59-23:59",
        "١٤:٠٣",
        "1764000000",
    ],
)
def test_what_is_not_a_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(text, now_ms=NOW_MS, local_zone=BERLIN)
    assert "2026-11-21T14:03:05Z" in caught.value.hint


def test_a_local_time_that_came_twice_is_refused_with_both_readings() -> None:
    with pytest.raises(UsageError) as caught:
        parse_time("2026-10-25 02:30", now_ms=NOW_MS, local_zone=BERLIN)
    assert "came twice" in caught.value.message
    assert "2026-10-25T02:30:00.000+02:00" in caught.value.detail
    assert "2026-10-25T02:30:00.000+01:00" in caught.value.detail


def test_a_local_time_that_never_was_is_refused_with_both_readings() -> None:
    with pytest.raises(UsageError) as caught:
        parse_time("2026-03-29 02:30", now_ms=NOW_MS, local_zone=BERLIN)
    assert "never was" in caught.value.message
    assert "2026-03-29T01:30:00.000+01:00" in caught.value.detail
    assert "2026-03-29T03:30:00.000+02:00" in caught.value.detail


@pytest.mark.parametrize("text", ["2026-10-25 01:59:59", "2026-10-25 03:00", "2026-03-29 01:59:59", "2026-03-29 03:00"])
def test_the_edges_of_a_change_of_the_clocks_are_one_moment(text: str) -> None:
    assert parse_time(text, now_ms=NOW_MS, local_zone=BERLIN).shown.startswith(text.replace(" ", "T"))


@given(
    st.integers(0, 4_000_000_000_000),
    st.sampled_from([UTC, BERLIN, ZoneInfo("Australia/Lord_Howe"), timezone(timedelta(hours=-9, minutes=-30))]),
)
def test_what_is_shown_is_read_as_the_same_moment(instant: int, zone: ZoneInfo) -> None:
    shown = parse_time("now", now_ms=instant, local_zone=zone).shown.partition(" ")[0]
    assert parse_time(shown, now_ms=0, local_zone=UTC).ms == instant
    assert parse_time(format_time(instant), now_ms=0, local_zone=zone).ms == instant


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert parse_time(text, now_ms=NOW_MS, local_zone=BERLIN).shown


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0s"), (1250, "1.250s"), (59_000, "59s"), (60_000, "1m"), (125_000, "2m 5s"), (273_600_000, "3d 4h")],
)
def test_a_duration_is_written_for_people(duration_ms: int, text: str) -> None:
    assert format_duration(duration_ms) == text


def test_a_time_that_no_calendar_has_is_shown_as_a_number() -> None:
    assert format_time(1 << 62) == f"{1 << 62} ms since 1970"
