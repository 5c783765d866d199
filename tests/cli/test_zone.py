"""Which zone local times are read in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from walrep.cli.zone import local_zone
from walrep.errors import UsageError

ZONES = Path("/usr/share/zoneinfo")
SUMMER = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("name", ["Europe/Berlin", ":Europe/Berlin"])
def test_local_zone_is_that_of_tz(name: str) -> None:
    zone = local_zone({"TZ": name})
    assert SUMMER.astimezone(zone).utcoffset() == timedelta(hours=2)


def test_local_zone_without_tz_is_that_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "localtime").symlink_to(ZONES / "Asia/Tokyo")
    zone = local_zone({}, tmp_path / "localtime")
    assert str(zone) == "Asia/Tokyo"
    assert SUMMER.astimezone(zone).utcoffset() == timedelta(hours=9)


def test_local_zone_of_a_machine_without_one_is_utc(tmp_path: Path) -> None:
    assert local_zone({"TZ": ""}, tmp_path / "localtime") is UTC


@pytest.mark.parametrize("name", ["Middle/Earth", "CET-1CEST,M3.5.0,M10.5.0/3", "/etc/passwd", "../x"])
def test_zone_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="time zone is not known"):
        local_zone({"TZ": name})
