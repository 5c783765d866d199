"""Snapshots that somebody asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.daily import begin_days, check_whole, flush, kinds, names
from tests.engine.protection import App, Protection
from walrep.clock import SystemClock
from walrep.core.events import Alarm, SnapshotWritten
from walrep.core.units import parse_bookmark
from walrep.engine.asking import SnapshotRequest, ask_for_snapshot
from walrep.errors import SpoolError


@pytest.fixture(autouse=True)
def daily(protection: Protection) -> None:
    begin_days(protection)


async def test_a_snapshot_that_is_asked_for_is_stored_when_the_answer_comes(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    state_dir, clock = protection.settings.state_dir, SystemClock()
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection)
        answer = await ask_for_snapshot(state_dir, SnapshotRequest(), clock)
        assert answer.made
        assert [int(name.txid) for name in names(protection)] == [0, 1]
        again = await ask_for_snapshot(state_dir, SnapshotRequest(), clock)
        assert (again.made, again.bookmark) == (False, answer.bookmark)
        full = await ask_for_snapshot(state_dir, SnapshotRequest(full=True), clock)
        assert (full.made, full.bookmark) == (True, answer.bookmark)
        assert kinds(protection) == ["full", "on 0", "full"]
        await flush(app, protection)
        later = await ask_for_snapshot(state_dir, SnapshotRequest(), clock)
        assert parse_bookmark(later.bookmark).txid == names(protection)[-1].txid == 2
        assert kinds(protection)[-1] == "on 1"
    await check_whole(app, protection, tmp_path)


async def test_who_asks_is_told_why_there_is_none(app: App, protection: Protection) -> None:
    part = protection.settings.state_dir / "snapshot.part"
    async with protection.running():
        await protection.until(SnapshotWritten)
        await flush(app, protection)
        part.mkdir()
        with pytest.raises(SpoolError, match=r"snapshot\.part"):
            await ask_for_snapshot(protection.settings.state_dir, SnapshotRequest(), SystemClock())
        part.rmdir()
        await flush(app, protection)
    assert protection.ended_with() is None
    assert protection.of(Alarm) == []
