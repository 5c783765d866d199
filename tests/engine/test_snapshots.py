"""Snapshots of a database that is written: full and differential, and every state restorable from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from tests.engine.daily import flush, names, next_day, restored
from tests.engine.protection import App, Protection
from tests.engine.shipment import images_in
from walrep.clock import SystemClock
from walrep.core.events import Alarm, Flushed, Pruned, SnapshotWritten
from walrep.core.names import parse_segment_key, parse_snapshot_key
from walrep.core.retention import RetentionPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.core.target import AtTxid
from walrep.core.units import Txid
from walrep.engine.fetch import read_history
from walrep.engine.restorer import RestoreRequest, restore
from walrep.errors import TargetNotFound
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryObject, MemoryStore

OFTEN = SnapshotPolicy(at_s=0, full_days=4, day_ms=500, look_s=0.05)


@pytest.fixture(autouse=True)
def often(protection: Protection) -> None:
    """Let a day last half a second."""
    protection.change(snapshots=OFTEN)


async def test_every_state_is_restorable_from_the_newest_snapshot_before_it(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """INV-27."""
    async with protection.running():
        await protection.until(SnapshotWritten)
        app.commit(300)
        while len({event.txid for event in protection.of(SnapshotWritten)}) < 8:
            flushed = len(protection.of(Flushed))
            app.commit(3)
            await protection.until_count(Flushed, flushed + 1)
    assert protection.ended_with() is None
    assert not protection.of(Alarm)
    kinds = [event.kind for event in protection.of(SnapshotWritten)]
    assert kinds[0] == "full"
    assert "full" in kinds[1:]
    assert "differential" in kinds
    names = [name for key in protection.keys("snapshots/") if (name := parse_snapshot_key(key)) is not None]
    app.close()
    images = images_in(protection.store(), tmp_path / "replayed")
    assert images[-1] == app.path.read_bytes()
    txids = {name.txid for name in names} | {name.txid + 1 for name in names}
    for txid in sorted(txids | set(Random(1).sample(range(len(images)), 20))):
        if txid < len(images):
            plan = await protection.plan(AtTxid(txid=Txid(txid)))
            assert plan.snapshot.name.txid == max(name.txid for name in names if name.txid <= txid)
            output = tmp_path / f"restored-{txid}"
            request = RestoreRequest(output=output, target=AtTxid(txid=Txid(txid)), check="full")
            await restore(protection.store(), request, clock=SystemClock(), runner=InlineRunner())
            assert output.read_bytes() == images[txid]
            output.unlink()


class Buried:
    """Keeps what is deleted, so that every state can still be told."""

    def __init__(self, protection: Protection) -> None:
        self.objects: dict[str, MemoryObject] = {}
        buried = self.objects

        class Burying(MemoryStore):
            def __init__(self, objects: dict[str, MemoryObject]) -> None:
                super().__init__(objects, protection.clock)

            async def delete(self, keys: Sequence[str]) -> None:
                buried.update({key: self.objects[key] for key in keys if key in self.objects})
                await super().delete(keys)

        protection.kind = Burying


async def test_logs_and_snapshots_expire_and_every_state_of_the_window_stays(
    app: App, protection: Protection, tmp_path: Path
) -> None:
    """With a window of two days, and a full snapshot each third day."""
    buried = Buried(protection)
    policy = RetentionPolicy(window_s=2 * 86_400.0, grace_s=0.0, snapshots_min=0)
    protection.change(
        retention=policy, snapshots=SnapshotPolicy(at_s=0, look_s=0.02, full_days=3, changed_share_max=1.0)
    )
    app.commit(50)
    async with protection.running():
        await protection.until(SnapshotWritten)
        for day in range(9):
            next_day(protection)
            await flush(app, protection, 2)
            await protection.until_count(SnapshotWritten, day + 2)
    assert protection.ended_with() is None
    assert protection.of(Alarm) == []
    assert len(protection.of(Pruned)) >= 3
    app.close()
    images = images_in(MemoryStore({**buried.objects, **protection.objects}), tmp_path / "all")
    assert len(images) == 19
    assert len([key for key in buried.objects if parse_segment_key(key) is not None]) >= 8
    gone = [name for key in buried.objects if (name := parse_snapshot_key(key)) is not None]
    assert {name.full is None for name in gone} == {True, False}
    left = names(protection)
    assert {name.full for name in left if name.full is not None} <= {name.as_full for name in left if name.full is None}
    assert (await read_history(protection.store(), InlineRunner())).problems == ()
    with pytest.raises(TargetNotFound):
        await restored(protection, tmp_path, AtTxid(Txid(1)))
    # Two days, of two transactions each.
    for txid in range(15, 19):
        assert await restored(protection, tmp_path, AtTxid(Txid(txid))) == images[txid]
