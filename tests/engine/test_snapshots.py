"""Snapshots of a database that is written: full and differential, and every state restorable from them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.engine.protection import App, Protection
from tests.engine.shipment import images_in
from walrep.clock import SystemClock
from walrep.core.events import Alarm, Flushed, SnapshotWritten
from walrep.core.names import parse_snapshot_key
from walrep.core.snapshots import SnapshotPolicy
from walrep.core.target import AtTxid
from walrep.core.units import Txid
from walrep.engine.restorer import RestoreRequest, restore
from walrep.runner import InlineRunner

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
