"""A database with an app in a process of its own, and its protection; a replica of weeks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.protection import App, Protection
from tests.engine.weeks import Weeks, make_weeks
from walrep.store.memory import MemoryStore
from walrep.testing.clock import SimClock


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    made = App(tmp_path / "app.db")
    yield made
    made.close()


@pytest.fixture
def protection(app: App, tmp_path: Path) -> Protection:
    assert app.path == tmp_path / "app.db"
    return Protection(tmp_path)


@pytest.fixture(scope="session")
def made_weeks() -> Weeks:
    return make_weeks()


@pytest.fixture
def weeks(made_weeks: Weeks) -> Weeks:
    """A replica of weeks, with a store and a clock of its own."""
    again = made_weeks.copy()
    again.clock = SimClock(made_weeks.clock.now_ms())
    again.store = MemoryStore(dict(made_weeks.objects), again.clock)
    return again
