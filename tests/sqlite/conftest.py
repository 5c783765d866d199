"""A database that is captured, and snapshots of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sqlite.live import LiveDatabase
from tests.sqlite.snapshotting import Snapshots, filled


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveDatabase]:
    database = filled(tmp_path / "app.db")
    yield database
    database.close()


@pytest.fixture
def snapshots(live: LiveDatabase) -> Snapshots:
    return Snapshots(live)
