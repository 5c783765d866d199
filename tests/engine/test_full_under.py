"""INV-31: a differential snapshot is stored only when the store has the full one under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.shipment import RecordedFaults, Shipment
from walrep.core.events import Alarm, Flushed, SnapshotWritten
from walrep.core.names import parse_snapshot_key
from walrep.core.units import Position
from walrep.disk.full import load_full
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler
from walrep.errors import CaptureBroken, SnapshotFailed, StoreError, StoreUnavailable
from walrep.testing.faults import Fault

PAGES = {pgno: bytes([pgno]) * 512 for pgno in range(1, 6)}


@pytest.fixture
def shipment(tmp_path: Path) -> Iterator[Shipment]:
    """A timeline whose base is full, and another one whose base leans on that of the first; nothing is stored."""
    made = Shipment(tmp_path / "state", RecordedFaults())
    made.rig.begin(PAGES)
    yield made
    made.close()


def full_one(shipment: Shipment) -> Position:
    full = load_full(shipment.rig.directory.path)
    assert full is not None
    return full.snapshot.position


def begin_child(shipment: Shipment) -> Position:
    under = full_one(shipment)
    shipment.rig.open()
    shipment.rig.publish_base({**PAGES, 2: b"x" * 512}, under=under)
    return under


def stored(shipment: Shipment) -> list[str]:
    """Return the kinds of the snapshots in the store, in the order in which they were put."""
    puts = [call.key for call in shipment.faults.calls if call.verb == "put"]
    names = [name for key in puts if (name := parse_snapshot_key(key)) is not None]
    return ["full" if name.full is None else "differential" for name in names]


def lists(shipment: Shipment) -> int:
    return sum(call.verb == "list" for call in shipment.faults.calls)


def test_what_was_stored_in_this_run_is_not_asked_for(shipment: Shipment) -> None:
    begin_child(shipment)

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        await shipper.drained()

    shipment.run(body)
    assert stored(shipment) == ["full", "differential"]
    assert lists(shipment) == 0


def test_after_a_start_the_store_is_asked_once(shipment: Shipment) -> None:
    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        await shipper.drained()

    shipment.run(body)
    begin_child(shipment)
    shipment.run(body)
    assert stored(shipment) == ["full", "differential"]
    assert lists(shipment) == 1


def test_a_full_one_that_waits_here_goes_first(shipment: Shipment) -> None:
    """It was made in the timeline before, and an outage or the end of that timeline came between."""
    shipment.rig.commit((1, b"y" * 512))
    shipment.rig.seal()
    shipment.rig.add_snapshot()
    begin_child(shipment)

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        await shipper.drained()
        assert shipper.durable is not None
        assert shipper.durable.timeline == shipment.rig.spool.state.timeline

    shipment.run(body)
    assert stored(shipment) == ["full", "full", "differential"]
    assert shipment.rig.spool.snapshots() == []


def test_one_that_waits_here_and_is_damaged_is_nowhere(shipment: Shipment) -> None:
    """The timeline whose base leans on it ends, and another one begins with a full one; protection goes on."""
    shipment.rig.commit((1, b"y" * 512))
    shipment.rig.seal()
    shipment.rig.add_snapshot()
    (waiting,) = shipment.rig.spool.snapshots()
    waiting.path.write_bytes(waiting.path.read_bytes()[:-1])
    begin_child(shipment)
    told: list[CaptureBroken] = []

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        shipper.base_refused = told.append
        await shipper.drained()

    shipment.run(body)
    assert ["on which it leans" in str(each) for each in told] == [True]
    assert stored(shipment) == ["full"]
    assert shipment.rig.spool.snapshots() == []
    assert load_full(shipment.rig.directory.path) is None


def lose_the_full_one(shipment: Shipment) -> None:
    """Store the first timeline, have somebody delete its base, and begin the second."""

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        await shipper.drained()

    shipment.run(body)
    begin_child(shipment)
    for key in [key for key in shipment.memory.objects if key.startswith("snapshots/")]:
        del shipment.memory.objects[key]
    shipment.events.clear()


def test_a_base_without_its_full_one_is_refused_and_nothing_of_its_timeline_is_durable(shipment: Shipment) -> None:
    lose_the_full_one(shipment)
    shipment.rig.commit((1, b"y" * 512))
    shipment.rig.seal()
    told: list[CaptureBroken] = []

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        shipper.base_refused = told.append
        await shipper.drained()
        assert shipper.lacks_base
        assert shipper.durable is None or shipper.durable.timeline != shipment.rig.spool.state.timeline

    shipment.run(body)
    assert [str(each) for each in told]
    assert not [key for key in shipment.memory.objects if key.startswith("snapshots/")]
    assert not [each for each in shipment.events if isinstance(each, SnapshotWritten | Flushed)]
    assert load_full(shipment.rig.directory.path) is None
    # Also after a kill before the next timeline has begun it is found out again; its segments are numbered, and stay.
    told.clear()
    shipment.run(body)
    assert len(told) == 1
    assert len([key for key in shipment.memory.objects if key.startswith("segments/")]) == 3


def test_a_refused_base_is_removed_when_the_next_timeline_has_begun(shipment: Shipment) -> None:
    lose_the_full_one(shipment)
    told: list[CaptureBroken] = []

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        shipper.base_refused = told.append
        await shipper.drained()

    shipment.run(body)
    shipment.rig.open()
    shipment.rig.publish_base(PAGES)
    shipment.run(body)
    assert len(told) == 1
    assert shipment.rig.spool.outbox() == []
    names = [name for key in shipment.memory.objects if (name := parse_snapshot_key(key)) is not None]
    assert [(name.timeline[:5], name.full) for name in names] == [("00003", None)]
    assert full_one(shipment).timeline.startswith("00003")


def begin_grandchild(shipment: Shipment) -> None:
    """Let the second timeline have segments, and a third one begin with a full base; of neither anything is stored."""
    for content in (b"y", b"z"):
        shipment.rig.commit((1, content * 512))
        shipment.rig.seal()
    shipment.rig.open()
    shipment.rig.publish_base(PAGES)


def flushed_of(shipment: Shipment, timeline: str) -> list[str]:
    told = [each.bookmark for each in shipment.events if isinstance(each, Flushed)]
    return [each for each in told if each.startswith(timeline)]


def test_of_a_timeline_that_ended_before_its_base_was_refused_nothing_is_called_durable(shipment: Shipment) -> None:
    """As after an outage in which it began and ended; the next one is."""
    lose_the_full_one(shipment)
    begin_grandchild(shipment)
    shipment.rig.commit((1, b"w" * 512))
    shipment.rig.seal()

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        await shipper.drained()
        assert not shipper.lacks_base

    shipment.run(body)
    assert flushed_of(shipment, "00002") == []
    assert len(flushed_of(shipment, "00003")) == 1
    (alarm,) = [each for each in shipment.events if isinstance(each, Alarm)]
    assert alarm.key == "timeline-ended"
    assert "nothing of timeline 00002-00112233, which has ended, can be restored" in alarm.message
    assert alarm.hint
    shipment.run(body)
    assert shipment.rig.spool.outbox() == []


@pytest.mark.parametrize("put", [2, 3, 4])
def test_also_after_a_kill_while_its_segments_go_out(shipment: Shipment, put: int) -> None:
    lose_the_full_one(shipment)
    begin_grandchild(shipment)

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        await shipper.drained()

    shipment.faults.faults = [Fault(verb="put", number=put, error=lambda: StoreError("killed"))]
    with pytest.raises(ExceptionGroup):
        shipment.run(body)
    shipment.faults.faults = []
    shipment.run(body)
    assert flushed_of(shipment, "00002") == []
    shipment.run(body)
    assert shipment.rig.spool.outbox() == []


def test_while_the_store_is_away_it_is_waited_for(shipment: Shipment) -> None:
    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        await shipper.drained()

    shipment.run(body)
    begin_child(shipment)
    shipment.faults.denied["list"] = StoreUnavailable("away")

    async def wait(shipper: Shipper, _spooler: Spooler) -> None:
        await shipment.clock.sleep(600)
        assert stored(shipment) == ["full"]
        assert not shipper.lacks_base
        del shipment.faults.denied["list"]
        await shipper.drained()

    shipment.run(wait)
    assert stored(shipment) == ["full", "differential"]


def test_a_daily_one_without_its_full_one_is_refused(shipment: Shipment) -> None:
    rig = shipment.rig
    rig.commit((1, b"y" * 512))
    rig.seal()
    rig.add_snapshot(full_txid=0)

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        await shipper.drained()

    shipment.run(body)
    for key in [key for key in shipment.memory.objects if key.startswith("snapshots/")]:
        del shipment.memory.objects[key]

    async def upload(shipper: Shipper, _spooler: Spooler) -> None:
        (item,) = rig.spool.snapshots()
        with pytest.raises(SnapshotFailed, match="on which it leans"):
            await shipper.upload_snapshot(item)

    shipment.run(upload)
    assert not [key for key in shipment.memory.objects if key.startswith("snapshots/")]
