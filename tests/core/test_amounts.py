"""Durations, sizes and times of day, as people write them."""

from __future__ import annotations

import math

import pytest

from walrep.core.amounts import parse_duration_s, parse_size_bytes, parse_time_of_day_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("15m", 900), ("1h", 3600), ("1d", 86400), ("1.5s", 1.5), ("250ms", 0.25), ("2 m", 120), (7, 7)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 << 20), ("1GiB", 1 << 30), ("1 kB", 1000), ("2GB", 2 * 10**9), ("0.5KiB", 512), ("9B", 9), (5, 5)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("03:00", 3 * 3600), (" 00:00 ", 0), ("23:59:59", 86_399), ("12:34", 45_240)]
)
def test_times_of_day(text: str, seconds: int) -> None:
    assert parse_time_of_day_s(text) == seconds


@pytest.mark.parametrize("value", ["", "10", "s", "-1s", "1w", "1e3s", -1, math.inf, math.nan, True, None, [1]])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration_s(value)


@pytest.mark.parametrize("value", ["", "64", "64 mib", "-1B", -1, 1.5, True, None])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size_bytes(value)


@pytest.mark.parametrize("value", ["", "3:00", "24:00", "12:60", "12:00:60", 3, None])
def test_what_is_no_time_of_day_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a time of day"):
        parse_time_of_day_s(value)
