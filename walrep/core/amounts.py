"""Durations, sizes and rates as people write them: `10s`, `15m`, `64MiB`, `2MiB/s`; or plain numbers of their units."""

from __future__ import annotations

import math
import re

__all__ = [
    "Duration",
    "Rate",
    "Size",
    "TimeOfDay",
    "parse_duration_s",
    "parse_rate_bytes_per_s",
    "parse_size_bytes",
    "parse_time_of_day_s",
]

_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|m|h|d)", re.ASCII)
_DURATION_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(B|[kKMGT]B|[KMGT]iB)", re.ASCII)
_SIZE_UNITS = {"B": 1} | {
    f"{prefix}{suffix}": base**power
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}


class Duration(float):
    """Seconds, written as `"10s"`, `"15m"`, `"1h"` or a number of seconds."""


class Rate(int):
    """Bytes per second, written as `"2MiB/s"`, or as a size."""


class TimeOfDay(int):
    """Seconds after midnight, written as `"03:00"` or `"03:00:30"`."""


class Size(int):
    """Bytes, written as `"64MiB"`, `"1GiB"` or a number of bytes."""


def parse_duration_s(value: object) -> float:
    """Return the seconds that a text such as `10s`, or a number, means.

    Raises:
        ValueError: it is neither, negative or not finite.

    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'expected a duration such as "10s", "15m", "1h" or a number of seconds, got {_shown(value)}')
    return float(match[1]) * _DURATION_UNITS_S[match[2]]


def parse_time_of_day_s(value: object) -> int:
    """Return the seconds after midnight that a text such as `03:00` means.

    Raises:
        ValueError: it is no time of day.

    """
    match = _TIME_OF_DAY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'expected a time of day such as "03:00", got {_shown(value)}')
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (hours * 60 + minutes) * 60 + seconds


def parse_size_bytes(value: object) -> int:
    """Return the bytes that a text such as `64MiB`, or an integer, means.

    Raises:
        ValueError: it is neither, or negative.

    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'expected a size such as "64MiB", "1GiB" or a number of bytes, got {_shown(value)}')
    unit = match[2]
    return int(float(match[1]) * _SIZE_UNITS["KB" if unit == "kB" else unit])


def parse_rate_bytes_per_s(value: object) -> int:
    """Return the bytes per second that a text such as `2MiB/s`, or an integer, means.

    Raises:
        ValueError: it is neither, or not more than nothing.

    """
    size = value.strip().removesuffix("/s") if isinstance(value, str) else value
    try:
        rate = parse_size_bytes(size)
    except ValueError:
        rate = 0
    if rate < 1:
        raise ValueError(f'expected bytes per second such as "2MiB/s", got {_shown(value)}')
    return rate


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
