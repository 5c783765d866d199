"""The zone of local times on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from walrep.errors import UsageError

__all__ = ["local_zone"]

_LOCAL_TIME = Path("/etc/localtime")
_TIME_ZONE_HINT = "set TZ to a name such as Europe/Berlin, or unset it"


def local_zone(environment: Mapping[str, str], local_time: Path = _LOCAL_TIME) -> tzinfo:
    """Return the zone of local times: TZ, else the system's, else UTC.

    Raises:
        UsageError: TZ names no zone of the time zone database.

    """
    name = environment.get("TZ", "").removeprefix(":")
    if name:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise UsageError("the time zone is not known", detail=f"TZ={name}", hint=_TIME_ZONE_HINT) from error
    try:
        with local_time.open("rb") as file:
            return ZoneInfo.from_file(file, key=_zone_name(local_time))
    except (ValueError, OSError):
        return UTC


def _zone_name(local_time: Path) -> str | None:
    """Return `Europe/Berlin` for a link into the time zone database."""
    _, found, name = str(local_time.resolve()).partition("/zoneinfo/")
    return name if found else None
