"""What a failure left half-way: it is shipped, let go or set aside, and never in the way of what comes after."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import apsw
import pytest

from tests.disk.spooling import SpoolRig
from tests.engine.protection import App, Protection
from tests.engine.shipment import RecordedFaults, Shipment, images_in
from walrep.core.events import Detached, Flushed, SnapshotWritten, TimelineBegan
from walrep.core.names import segment_key
from walrep.disk.room import DiskRoom
from walrep.engine.parts import HeldFiles
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler
from walrep.errors import DatabaseInUse, ReplicaConflict, SpoolFull, StoreUnavailable


def test_a_segment_that_was_sealed_and_not_queued_is_queued_again(tmp_path: Path) -> None:
    """INV-17: a full disk between the seal and its answer must not leave a hole below what is reported durable."""
    shipment = Shipment(tmp_path / "state", RecordedFaults())
    shipment.rig.begin({pgno: bytes(512) for pgno in range(1, 6)})

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        shipment.commit(spooler, 1)
        assert spooler.seal(final=False).result() is not None
        shipment.commit(spooler, 2)
        await shipper.requeue()
        await shipper.requeue()
        await shipper.seal("test", final=False)
        await shipper.drained()

    shipment.run(body)
    assert [key for key in sorted(shipment.memory.objects) if "segments" in key] == [segment_key(n) for n in (1, 2, 3)]
    assert images_in(shipment.memory, tmp_path / "store") == shipment.rig.images
    shipment.close()


def test_the_disk_is_not_filled_and_the_cache_goes_first(tmp_path: Path) -> None:
    """At the reserve the spool refuses; a segment that can go out may use half of it."""
    rig = SpoolRig(tmp_path / "state")
    rig.begin({1: bytes(512)})
    rig.commit((1, b"a" * 512))
    sealed = rig.seal()
    assert sealed is not None
    rig.spool.keep(sealed.item, cache_bytes_max=1 << 30)
    cached = tmp_path / "state" / "cache" / sealed.item.path.name
    free = 900
    rig.spool.room = DiskRoom(tmp_path, 900, lambda _directory: (free, 1 << 40))
    assert cached.exists()
    with pytest.raises(SpoolFull, match="almost full"):
        rig.commit((1, b"b" * 512))
    assert not cached.exists()
    free = 1 << 30
    rig.commit((1, b"c" * 512))
    free = 800
    assert rig.seal() is not None
    rig.close()


async def test_an_old_writer_may_begin_a_new_timeline_after_a_takeover(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """What its state directory held is set aside, and its history goes on behind the other's."""
    async with protection.running():
        await protection.commit_and_flush(app, 2)
    original = protection.settings
    protection.change(state_dir=tmp_path / "other", take_over=True)
    async with protection.running():
        await protection.until(SnapshotWritten)
    protection.change(state_dir=original.state_dir, take_over=False)
    async with protection.running():
        assert type(await protection.until_ended()) is ReplicaConflict
    protection.change(take_over=True)
    async with protection.running():
        began = await protection.until(TimelineBegan)
        await protection.commit_and_flush(app, 2)
    assert began.timeline.startswith("00003-")
    assert protection.ended_with() is None
    assert [path.name for path in (original.state_dir).glob("aside-*/state.json")] == ["state.json"]
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


async def test_a_stop_during_an_outage_lets_the_app_truncate_its_log_meanwhile(
    app: App, protection: Protection
) -> None:
    """While what is captured waits for the store the keeper goes on moving."""
    protection.deadline_s = 3.0
    truncated: list[tuple[int, int] | None] = []
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        protection.faults.down = StoreUnavailable("the store is down")
        app.commit(5)
        protection.quit()
        other = apsw.Connection(str(app.path))
        other.set_busy_timeout(1500)
        for _ in range(3):
            app.commit(1)
            try:
                truncated.append(await asyncio.to_thread(other.wal_checkpoint, mode=TRUNCATE))
            except apsw.BusyError:
                truncated.append(None)
        other.close()
        protection.faults.down = None
    assert None not in truncated
    assert protection.ended_with() is None
    assert protection.of(Detached)[0].durable
    assert len(protection.of(Flushed)) > 1


TRUNCATE = apsw.SQLITE_CHECKPOINT_TRUNCATE


def test_a_file_with_two_names_is_opened_once(tmp_path: Path) -> None:
    """INV-03: closing one descriptor drops all locks of the process on a file, so the second name is refused."""
    path, link = tmp_path / "app.db", tmp_path / "link.db"
    path.write_bytes(b"x")
    os.link(path, link)
    held, first, second = HeldFiles(), object(), object()
    held.claim(first, path.stat(), path)
    held.claim(first, path.stat(), path)
    with pytest.raises(DatabaseInUse):
        held.claim(second, link.stat(), link)
    held.release(first)
    held.claim(second, link.stat(), link)
