"""The full snapshot that the host keeps: others lean on its pages, and do without where it is not there."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from tests.engine.daily import FULL, begin_days, check_whole, flush, kinds, next_day
from tests.engine.protection import App, Protection
from walrep.core.events import SnapshotWritten, TimelineBegan
from walrep.core.snapshot import SnapshotPages, read_snapshot
from walrep.engine.settings import SpoolLimits


@pytest.fixture(autouse=True)
def daily(protection: Protection) -> None:
    begin_days(protection)


def object_path(protection: Protection) -> Path:
    return protection.settings.state_dir / "full.snapshot"


def full_objects(protection: Protection) -> list[bytes]:
    return [protection.objects[key].data for key in protection.keys("snapshots/") if key.endswith("-full")]


def delta_counts(protection: Protection) -> list[int]:
    """Return how many pages of each differential snapshot are against the full one's, in the order of keys."""
    counts = []
    for key in protection.keys("snapshots/"):
        if not key.endswith("-full"):
            read = io.BytesIO(protection.objects[key].data).read
            blocks = [item for item in read_snapshot(read) if isinstance(item, SnapshotPages)]
            counts.append(sum(len(block.pgnos) for block in blocks if block.is_delta))
    return counts


async def make_daily(app: App, protection: Protection) -> None:
    """Have a day pass on which something was committed."""
    before = len(protection.of(SnapshotWritten))
    await flush(app, protection)
    next_day(protection)
    await protection.until_count(SnapshotWritten, before + 1)


async def test_daily_snapshots_are_against_the_base(app: App, protection: Protection, tmp_path: Path) -> None:
    app.commit(200)
    async with protection.running():
        await protection.until(SnapshotWritten)
        for _ in range(2):
            await make_daily(app, protection)
    assert kinds(protection) == ["full", "on 0", "on 0"]
    assert [object_path(protection).read_bytes()] == full_objects(protection)
    assert min(delta_counts(protection)) > 0
    await check_whole(app, protection, tmp_path)


async def test_the_newest_full_one_takes_the_place_of_the_one_before(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    app.commit(200)
    async with protection.running():
        await protection.until(SnapshotWritten)
    first = object_path(protection).read_bytes()
    settings = protection.settings
    protection.change(snapshots=FULL)
    async with protection.running():
        await make_daily(app, protection)
    protection.change(snapshots=settings.snapshots)
    assert object_path(protection).read_bytes() == full_objects(protection)[1] != first
    async with protection.running():
        await make_daily(app, protection)
    assert kinds(protection)[:2] == ["full", "full"]
    assert min(delta_counts(protection)) > 0
    await check_whole(app, protection, tmp_path)


@pytest.mark.parametrize("how", ["there", "removed", "damaged", "cut", "of another snapshot", "over the limit"])
async def test_the_base_of_the_next_timeline_is_against_it_if_it_can_be(
    app: App, protection: Protection, tmp_path: Path, how: str
) -> None:
    app.commit(250)
    async with protection.running():
        await protection.commit_and_flush(app, 3)
    path = object_path(protection)
    data = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(data[:2000] + bytes(len(data) - 4000) + data[-2000:])
    elif how == "cut":
        path.write_bytes(data[:5000])
    elif how == "of another snapshot":
        path.write_bytes(await other_snapshot(tmp_path))
    elif how == "over the limit":
        protection.change(spool=SpoolLimits(full_bytes_max=len(data) - 1))
    for _ in range(2):
        app.change()
        app.checkpoint("truncate")
    async with protection.running():
        began = await protection.until(TimelineBegan)
        await protection.until(SnapshotWritten)
    assert began.base == "differential"
    assert (delta_counts(protection)[0] > 0) == (how == "there")
    assert path.exists() == (how == "there")
    await check_whole(app, protection, tmp_path)


async def test_who_lost_the_state_reads_it_and_leans_on_its_pages(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    app.commit(250)
    async with protection.running():
        await protection.commit_and_flush(app, 3)
    shutil.rmtree(protection.settings.state_dir)
    app.change()
    app.checkpoint("truncate")
    protection.change(take_over=True)
    async with protection.running():
        await protection.until(SnapshotWritten)
    assert kinds(protection) == ["full", "on 0"]
    assert [object_path(protection).read_bytes()] == full_objects(protection)
    assert delta_counts(protection)[0] > 0
    await check_whole(app, protection, tmp_path)


async def other_snapshot(folder: Path) -> bytes:
    """Return a full snapshot of another database."""
    other = Protection(folder / "other")
    (folder / "other").mkdir()
    app = App(other.settings.path)
    app.commit(250)
    async with other.running():
        await other.commit_and_flush(app, 1)
    app.close()
    return object_path(other).read_bytes()
