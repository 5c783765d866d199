"""What a person asks a restore for, and how the text of a time is read.

    latest            the newest transaction
    txid              one transaction of a timeline
    time              the last transaction that had been seen at that moment
    bookmark          timeline, txid and database checksum

Times are written as

    2026-11-21T14:03:05Z  2026-11-21 14:03:05.123+01:00   RFC 3339, with a zone
    2026-11-21 14:03:05   2026-11-21 14:03   14:03         local, the last one today
    now   15m ago   -15m   90 seconds ago   1d 3h ago      relative; a day is 24 hours, whatever daylight saving does

The local zone is passed in, as is the present. A local time that a change to or from daylight saving makes ambiguous
or nonexistent is refused; the message names both readings. Nothing is guessed: a number without unit, a date without
time and a duration without direction are refused, too.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from fractions import Fraction

import msgspec

from walrep.core.units import Position, Txid
from walrep.errors import UsageError

__all__ = [
    "AtBookmark",
    "AtTime",
    "AtTxid",
    "Latest",
    "ParsedTime",
    "Target",
    "depends_on_end",
    "format_duration",
    "format_time",
    "parse_time",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_UNITS_MS = {
    "millisecond": 1,
    "ms": 1,
    "second": 1000,
    "sec": 1000,
    "s": 1000,
    "minute": 60_000,
    "min": 60_000,
    "m": 60_000,
    "hour": 3_600_000,
    "hr": 3_600_000,
    "h": 3_600_000,
    "day": 86_400_000,
    "d": 86_400_000,
    "week": 604_800_000,
    "w": 604_800_000,
}
_PLURAL_MIN = 2  # "mins" is a plural, "ms" is not
_NUMBER_DIGITS_MAX = 12
_ABSOLUTE = re.compile(
    r"(?:(?P<date>\d{4}-\d\d-\d\d)[Tt ])?"
    r"(?P<clock>\d\d:\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    r" ?(?P<zone>[Zz]|[+-]\d\d:[0-5]\d)?",
    re.ASCII,
)
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*,?", re.ASCII)
_HINT = 'write "2026-11-21T14:03:05Z", "2026-11-21 14:03:05" or "14:03" (local time), "2h ago", "-15m" or "now"'


class Latest(msgspec.Struct, frozen=True, tag="latest"):
    """The newest transaction."""


class AtTxid(msgspec.Struct, frozen=True, tag="txid"):
    """The state after one transaction; 0 is the base of the timeline."""

    txid: Txid


class AtTime(msgspec.Struct, frozen=True, tag="time"):
    """The last transaction that had been seen at `ms`, since 1970 UTC."""

    ms: int


class AtBookmark(msgspec.Struct, frozen=True, tag="bookmark"):
    """Exactly this position."""

    position: Position


Target = Latest | AtTxid | AtTime | AtBookmark


def depends_on_end(target: Target, timeline: str | None) -> bool:
    """Say whether what is meant could be something else if newer transactions were there. INV-33."""
    if isinstance(target, AtTxid):
        # Of the newest timeline, if nobody says of which.
        return timeline is None
    return not isinstance(target, AtBookmark)


class ParsedTime(msgspec.Struct, frozen=True):
    """A moment, and how it is shown back to the person who wrote it."""

    ms: int
    shown: str


def parse_time(text: str, *, now_ms: int, local_zone: tzinfo) -> ParsedTime:
    """Read a time in one of the forms that the module's docstring lists.

    Raises:
        UsageError: the text is none of them, or names no moment or two.

    """
    plain = text.strip()
    try:
        match = _ABSOLUTE.fullmatch(plain)
        if match is not None:
            return _parse_absolute(match, now_ms, local_zone)
        ago_ms = _parse_relative(plain.lower())
        if ago_ms is not None:
            return _shown(now_ms - ago_ms, local_zone)
    except (ValueError, OverflowError) as error:
        raise UsageError("not a time", detail=f"{text!r}: {error}", hint=_HINT) from error
    raise UsageError("not a time", detail=repr(text), hint=_HINT)


def format_time(ms: int) -> str:
    """Return RFC 3339 text in UTC with milliseconds."""
    try:
        return _isoformat(_EPOCH + timedelta(milliseconds=ms))
    except OverflowError:
        return f"{ms} ms since 1970"


def format_duration(ms: int) -> str:
    """Return a length of time for people, its two largest units: `3d 4h`, `2m 5s`, `1.250s`."""
    if ms < _UNITS_MS["minute"]:
        return f"{ms / 1000:.3f}s" if ms % 1000 else f"{ms // 1000}s"
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{value}{unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")) if value]
    return " ".join(parts[:2])


def _parse_absolute(match: re.Match[str], now_ms: int, local_zone: tzinfo) -> ParsedTime:
    zone = _fixed_zone(match["zone"]) if match["zone"] else None
    day = (
        date.fromisoformat(match["date"])
        if match["date"]
        else (_EPOCH + now_ms * _MILLISECOND).astimezone(zone or local_zone).date()
    )
    hour, minute = match["clock"].split(":")
    milliseconds = int((match["fraction"] or "").ljust(3, "0")[:3])
    naive = datetime(  # noqa: DTZ001 - the zone is decided below
        day.year, day.month, day.day, int(hour), int(minute), int(match["second"] or 0), milliseconds * 1000
    )
    if zone is not None:
        return _shown((naive.replace(tzinfo=zone) - _EPOCH) // _MILLISECOND, zone)
    return _resolve_local(naive, local_zone)


def _fixed_zone(text: str) -> timezone:
    if text in "Zz":
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[4:6]))
    return timezone(-offset if text[0] == "-" else offset)


def _resolve_local(naive: datetime, zone: tzinfo) -> ParsedTime:
    """Return the one moment at which clocks in `zone` showed `naive`.

    Both folds are tried (PEP 495). A moment counts only if, shown in the zone, it reads `naive` again: in a spring gap
    neither does, in an autumn overlap two different ones do.
    """
    moments = [naive.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    real = sorted({moment for moment in moments if moment.astimezone(zone).replace(tzinfo=None, fold=0) == naive})
    if len(real) == 1:
        return _shown((real[0] - _EPOCH) // _MILLISECOND, zone)
    first, second = (_isoformat(moment.astimezone(zone)) for moment in sorted(moments))
    if real:
        raise UsageError(
            "this local time came twice, when the clocks were set back",
            detail=f"{naive.isoformat(sep=' ')} is {first} or {second}",
            hint="write one of the two, with its offset",
        )
    raise UsageError(
        "this local time never was, because the clocks were set forward",
        detail=f"{naive.isoformat(sep=' ')} would be {first} or {second}",
        hint="write one of the two, with its offset",
    )


def _parse_relative(text: str) -> int | None:
    """Return how many ms ago `text` means; None if it is not of that form."""
    if text == "now":
        return 0
    if text.startswith("-"):
        rest = text[1:]
    elif text.endswith("ago"):
        rest = text[:-3]
    else:
        return None
    rest = rest.strip()
    total = Fraction(0)
    position = 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None:
            return None
        number, word = part.groups()
        unit = _UNITS_MS.get(word) or (_UNITS_MS.get(word.removesuffix("s")) if len(word) > _PLURAL_MIN else None)
        if unit is None:
            raise ValueError(f"unknown unit {word!r}")
        if len(number) > _NUMBER_DIGITS_MAX:
            raise ValueError("number too large")
        total += Fraction(number) * unit
        position = part.end()
    return int(total) if position else None


def _shown(ms: int, zone: tzinfo) -> ParsedTime:
    moment = (_EPOCH + timedelta(milliseconds=ms)).astimezone(zone)
    name = getattr(zone, "key", None)
    text = _isoformat(moment)
    return ParsedTime(ms, f"{text} ({name})" if name and name != "UTC" else text)


def _isoformat(moment: datetime) -> str:
    text = moment.isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z" if moment.tzinfo is UTC else text
