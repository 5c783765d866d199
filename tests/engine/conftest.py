"""A database with an app in a process of its own, and its protection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.protection import App, Protection


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    made = App(tmp_path / "app.db")
    yield made
    made.close()


@pytest.fixture
def protection(app: App, tmp_path: Path) -> Protection:
    assert app.path == tmp_path / "app.db"
    return Protection(tmp_path)
