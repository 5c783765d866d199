"""A spool with a model beside it, whose timeline has begun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disk.spooling import BASE, SpoolRig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SpoolRig]:
    made = SpoolRig(tmp_path / "state")
    made.begin(BASE)
    yield made
    made.close()
