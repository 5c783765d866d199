"""Capture goes on after a reboot only where the database file proves it; and behind a link."""

from __future__ import annotations

import os
from pathlib import Path

from tests.engine.protection import AheadClock, App, Protection
from walrep.core.events import Flushed, Resumed, SnapshotWritten, TimelineBegan
from walrep.core.target import Latest


class AnotherBoot(AheadClock):
    """The clock of the machine after it was started again."""

    def boot_id(self) -> str:
        """Return another id than before."""
        return "another boot"


async def test_a_clean_end_is_resumed_after_a_reboot_and_known_for_the_next_start(
    app: App, protection: Protection
) -> None:
    async with protection.running():
        await protection.commit_and_flush(app, 5)
    protection.clock = AnotherBoot()
    reasons = []
    for _ in range(2):
        app.commit(1)
        async with protection.running():
            reasons.append((await protection.until(Resumed)).reason)
            await protection.until(Flushed)
        assert protection.error is None
        assert not protection.of(TimelineBegan)
    left = "the database file is as it was left"
    assert reasons == [f"{left}, page for page", left]
    assert (await protection.plan(Latest())).position.txid == 7


async def test_what_a_checkpoint_copied_before_a_reboot_begins_a_new_timeline(app: App, protection: Protection) -> None:
    async with protection.running():
        await protection.commit_and_flush(app, 5)
    app.commit(1)
    app.close()
    protection.clock = AnotherBoot()
    again = App(app.path)
    again.commit(1)
    async with protection.running():
        began = await protection.until(TimelineBegan)
        await protection.until(SnapshotWritten)
    assert "not what was captured: page" in began.reason
    assert not protection.of(Resumed)
    again.close()


async def test_a_database_behind_a_link_is_shipped_and_resumed(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link.db"
    link.symlink_to(app.path)
    protection.change(path=link)
    async with protection.running():
        await protection.commit_and_flush(app, 3)
    async with protection.running():
        await protection.until(Resumed)
    assert protection.error is None
    assert not protection.of(SnapshotWritten)
    assert os.listdir(link.parent) == ["link.db"]
