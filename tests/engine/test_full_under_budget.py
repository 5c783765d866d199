"""A full snapshot that waits for the budget of a day, and a timeline that begins on top of it. INV-31, INV-32."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.engine.shipment import RecordedFaults, Shipment
from tests.engine.test_full_under import begin_child, stored
from walrep.core.budget import BudgetPolicy, DaySpent, day_of
from walrep.core.events import Alarm
from walrep.core.names import parse_snapshot_key
from walrep.engine.budget import Budget
from walrep.engine.parts import OpenedStore
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler
from walrep.errors import StoreError, WalrepError
from walrep.store.meter import MeteredStore
from walrep.store.retry import RetryingStore

PUTS_MAX = 60
PAGES = {pgno: Random(pgno).randbytes(512) for pgno in range(1, 6)}


class BudgetedShipment(Shipment):
    """A shipment in which a full snapshot goes up in more parts than a day has for one."""

    spent_count = 0
    """What was sent today, before."""

    def opened(self, notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        opened = super().opened(notify)
        assert isinstance(opened.store, RetryingStore)
        metered = MeteredStore(opened.store, lambda size_bytes, _if_absent: 40 if size_bytes > 2000 else 1)
        settings = msgspec.structs.replace(self.settings, budget=BudgetPolicy(puts_per_day_max=PUTS_MAX))
        metered.meter = budget = Budget(self.parts, settings, self.spent(), asyncio.Event())
        return msgspec.structs.replace(opened, store=metered, metered=metered, budget=budget)

    def spent(self) -> tuple[DaySpent, ...]:
        """Return what the disk would say of today."""
        return (DaySpent(day_of(self.clock.now_ms()), put_count=self.spent_count),)


@pytest.fixture
def shipment(tmp_path: Path) -> Iterator[BudgetedShipment]:
    """A timeline that is stored, and a full snapshot of it that waits."""
    made = BudgetedShipment(tmp_path / "state", RecordedFaults())
    made.rig.begin(PAGES)
    made.rig.commit((1, b"y" * 512))
    made.rig.seal()

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        await shipper.drained()

    made.run(body)
    made.rig.add_snapshot()
    yield made
    made.close()


@pytest.mark.parametrize(("spent_count", "alarms"), [(0, []), (PUTS_MAX, ["puts-exceeded"])])
def test_the_full_one_under_a_base_does_not_wait_for_the_budget(
    shipment: BudgetedShipment, spent_count: int, alarms: list[str]
) -> None:
    """Without it nothing of the new timeline is restorable, so it belongs to what begins that."""
    begin_child(shipment)
    shipment.spent_count = spent_count

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        async with asyncio.timeout(60):
            await shipper.drained()
        assert shipper.durable is not None
        assert shipper.durable.timeline == shipment.rig.spool.state.timeline

    shipment.run(body)
    assert stored(shipment) == ["full", "full", "differential"]
    assert [each.key for each in shipment.events if isinstance(each, Alarm)] == alarms


def test_alone_it_waits_in_the_state_directory(shipment: BudgetedShipment) -> None:
    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        (item,) = shipment.rig.spool.snapshots()
        with pytest.raises(StoreError, match="more requests than the budget of a day has"):
            await shipper.upload_snapshot(item)

    shipment.run(body)
    assert [parse_snapshot_key(key) is not None for key in shipment.memory.objects].count(True) == 1
    assert len(shipment.rig.spool.snapshots()) == 1
