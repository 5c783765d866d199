"""Segments go to the store in order, few and in time; durable is what the store has acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.disk.spooling import SpoolRig
from tests.engine.protection import OverwritingStore
from tests.engine.shipment import RecordedFaults, Shipment, images_in
from walrep.core.events import Flushed, SnapshotWritten
from walrep.core.flush import FlushPolicy
from walrep.core.names import segment_key
from walrep.disk.spool import Spool
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler, SpoolerLimits
from walrep.errors import ReplicaConflict, SpoolFull, StoreUnavailable
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.faults import Fault
from walrep.testing.virtual import InlineExecutor

BASE = {pgno: random.Random(pgno).randbytes(512) for pgno in range(1, 6)}


@pytest.fixture
def shipment(tmp_path: Path) -> Iterator[Shipment]:
    made = Shipment(tmp_path / "state", RecordedFaults())
    made.rig.begin(BASE)
    yield made
    made.close()


def flushed(shipment: Shipment) -> list[Flushed]:
    return [event for event in shipment.events if isinstance(event, Flushed)]


async def commit_and_drain(shipment: Shipment, shipper: Shipper, spooler: Spooler, count: int = 1) -> None:
    for number in range(count):
        shipment.commit(spooler, 1000 + number)
    await shipper.seal("test", final=False)
    await shipper.drained()


def test_objects_go_in_the_order_in_which_a_restore_needs_them(shipment: Shipment, tmp_path: Path) -> None:
    """The segment that opens a timeline, its base, then the transactions: no later one before an earlier."""

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        for number in range(3):
            shipment.commit(spooler, number)
            await shipper.seal("test", final=False)
        await shipper.drained()

    shipment.run(body)
    assert shipment.faults.keys() == ["segments/0001", "snapshots/full", *[f"segments/000{n}" for n in (2, 3, 4)]]
    assert images_in(shipment.memory, tmp_path / "store") == shipment.rig.images
    assert [event.transactions for event in flushed(shipment)] == [1, 1, 1]
    assert isinstance(shipment.events[0], SnapshotWritten)
    assert isinstance(shipment.events[1], Flushed)


class HeldStore(MemoryStore):
    """A memory store whose `put` has its effect, and returns when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.effects: list[str] = []

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store, then wait."""
        await super().put(key, source, if_absent=if_absent)
        self.effects.append(key)
        await self.let.wait()


def test_durable_moves_only_after_the_put_has_returned(shipment: Shipment) -> None:
    """INV-16: that the object is there already does not count; that its answer came does."""
    held = HeldStore()
    shipment.memory = held

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        assert shipper.durable is None
        shipment.commit(spooler, 1)
        await shipper.seal("test", final=False)
        await shipment.clock.sleep(100)
        assert held.effects == [segment_key(1)]
        assert (shipper.durable, flushed(shipment)) == (None, [])
        held.let.set()
        await shipper.drained()
        assert shipper.durable == shipment.rig.spool.state.position()

    shipment.run(body)
    assert shipment.rig.spool.outbox() == []


def test_whoever_asks_is_told_when_a_snapshot_is_stored(shipment: Shipment) -> None:
    """Retention has more to delete then, also if nothing is committed any more."""
    told: list[int] = []

    async def body(shipper: Shipper, _spooler: Spooler) -> None:
        shipper.snapshot_stored = lambda: told.append(len(shipment.memory.objects))
        await shipper.drained()

    shipment.run(body)
    assert told == [2]


def test_what_was_left_from_the_run_before_goes_first(shipment: Shipment, tmp_path: Path) -> None:
    shipment.rig.commit((2, bytes(512)))
    shipment.rig.seal()

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        assert shipper.durable is None
        await shipper.drained()
        assert shipper.durable == shipment.rig.spool.state.position()
        await commit_and_drain(shipment, shipper, spooler)

    shipment.run(body)
    assert [event.reason for event in flushed(shipment)] == ["left from the run before", "test"]
    assert images_in(shipment.memory, tmp_path / "store") == shipment.rig.images


@pytest.mark.parametrize("number", range(1, 5))
def test_a_lost_response_is_recognised_as_our_own_object(shipment: Shipment, tmp_path: Path, number: int) -> None:
    """The create-only PUT had its effect, the answer was lost, and the second attempt meets our own object."""
    shipment.faults.faults = [Fault(verb="put", number=number, when="after")]

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        await commit_and_drain(shipment, shipper, spooler)
        await commit_and_drain(shipment, shipper, spooler)
        assert shipper.durable == shipment.rig.spool.state.position()

    shipment.run(body)
    assert len([call for call in shipment.faults.calls if call.verb == "put"]) == 5
    assert images_in(shipment.memory, tmp_path / "store") == shipment.rig.images


def foreign_segment(tmp_path: Path, *, nonce: str) -> bytes:
    """Return segment 2 of another writer, or of this one at another time."""
    other = SpoolRig(tmp_path / "other")
    other.begin(BASE)
    other.spool.update(writer=msgspec.structs.replace(other.spool.state.writer, nonce=nonce, host="rival", pid=99))
    other.commit((1, bytes(512)))
    sealed = other.spool.seal(1)
    assert sealed is not None
    other.close()
    return sealed.item.path.read_bytes()


@pytest.mark.parametrize("nonce", ["ffffffffffffffff", "0011223344556677"])
def test_the_object_of_another_writer_is_a_conflict(shipment: Shipment, tmp_path: Path, nonce: str) -> None:
    """Nothing is overwritten, nothing is reported durable, and what was captured stays in the outbox."""
    theirs = MemoryObject(foreign_segment(tmp_path, nonce=nonce), 0)
    shipment.memory.objects[segment_key(2)] = theirs
    shippers: list[Shipper] = []

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        shippers.append(shipper)
        await commit_and_drain(shipment, shipper, spooler)

    with pytest.raises(ExceptionGroup) as group:
        shipment.run(body)
    (conflict,) = group.value.exceptions
    assert isinstance(conflict, ReplicaConflict)
    assert "process 99 on rival" in conflict.detail
    assert shipment.memory.objects[segment_key(2)] == theirs
    assert flushed(shipment) == []
    assert shippers[0].durable is not None
    assert shippers[0].durable.txid == 0
    assert [item.seq for item in shipment.rig.spool.outbox()] == [2]


def test_a_copy_of_the_state_is_not_overwritten_where_the_store_would(shipment: Shipment, tmp_path: Path) -> None:
    """INV-20: its segments have the same nonce in their keys."""
    own = shipment.rig.spool.state.writer.nonce
    theirs = MemoryObject(foreign_segment(tmp_path, nonce=own), 0)
    shipment.memory = OverwritingStore(clock=shipment.clock)
    shipment.rig.spool.update(creates_only=False)
    shipment.memory.objects[segment_key(2, own)] = theirs
    with pytest.raises(ExceptionGroup) as group:
        shipment.run(partial(commit_and_drain, shipment))
    (conflict,) = group.value.exceptions
    assert isinstance(conflict, ReplicaConflict)
    assert shipment.memory.objects[segment_key(2, own)] == theirs


def test_an_outage_ends_with_few_large_objects(shipment: Shipment, tmp_path: Path) -> None:
    """An hour without the store at an RPO of ten seconds is one or two segments, not 360."""

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        await commit_and_drain(shipment, shipper, spooler)
        durable = shipper.durable
        shipment.faults.down = StoreUnavailable("the store is down")
        for number in range(720):
            shipment.commit(spooler, number)
            await shipment.clock.sleep(5)
        assert shipper.durable == durable
        shipment.faults.down = None
        shipment.commit(spooler, 999)
        await shipment.clock.sleep(60)
        await shipper.drained()
        assert shipper.durable == shipment.rig.spool.state.position()

    shipment.run(body)
    assert len([key for key in shipment.memory.objects if key.startswith("segments/")]) <= 5
    assert sum(event.transactions for event in flushed(shipment)) == 722
    assert images_in(shipment.memory, tmp_path / "store") == shipment.rig.images


def test_an_idle_database_costs_no_request(shipment: Shipment) -> None:
    async def body(shipper: Shipper, spooler: Spooler) -> None:
        await commit_and_drain(shipment, shipper, spooler)
        before = len(shipment.faults.calls)
        await shipment.clock.sleep(30 * 86400)
        assert len(shipment.faults.calls) == before

    shipment.run(body)


def test_the_first_commit_after_quiet_goes_out_soon_and_the_next_ones_at_the_rpo(shipment: Shipment) -> None:
    async def body(shipper: Shipper, spooler: Spooler) -> None:
        await shipper.drained()
        for number in range(40):
            shipment.commit(spooler, number)
            await shipment.clock.sleep(1)
        await shipment.clock.sleep(20)

    shipment.run(body)
    found = flushed(shipment)
    assert [event.reason for event in found] == ["first commit after quiet", "rpo", "rpo", "rpo", "rpo"]
    assert found[0].lag_s <= 1.01
    assert all(event.lag_s <= 10.01 for event in found)
    assert sum(event.transactions for event in found) == 40


def test_a_segment_at_its_size_limit_does_not_wait_for_the_rpo(tmp_path: Path) -> None:
    shipment = Shipment(tmp_path / "state", RecordedFaults(), flush=FlushPolicy(segment_bytes_max=20_000, rpo_s=3600))
    shipment.rig.begin(BASE)

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        await commit_and_drain(shipment, shipper, spooler)
        for number in range(100):
            shipment.commit(spooler, number)
            await shipment.clock.sleep(0.01)
        await shipper.drained()

    shipment.run(body)
    reasons = [event.reason for event in flushed(shipment)]
    assert reasons[1:] == ["size"] * (len(reasons) - 1)
    assert len(reasons) > 2
    shipment.close()


def test_what_is_durable_goes_to_the_cache(shipment: Shipment) -> None:
    async def body(shipper: Shipper, spooler: Spooler) -> None:
        await commit_and_drain(shipment, shipper, spooler)
        await shipment.clock.sleep(1)

    shipment.run(body)
    cache = sorted(path.name for path in (shipment.rig.directory.path / "cache").iterdir())
    assert cache == [segment_key(seq).partition("/")[2] for seq in (1, 2)]


def test_frames_count_as_spooled_only_when_they_are_in_the_journal(tmp_path: Path) -> None:
    """INV-12: the keeper that protects them in the log stays until then, also when the outbox is full."""
    shipment = Shipment(tmp_path / "state", RecordedFaults())
    shipment.rig.begin(BASE)
    full = Spool(shipment.rig.directory, shipment.rig.spool.state, outbox_bytes_max=0)
    assert full.recover() is not None
    limits = SpoolerLimits(queue_bytes_max=1 << 30, segment_bytes_max=1 << 30)
    failures: list[Exception] = []
    spooler = Spooler(
        full,
        InlineExecutor(),
        clock=shipment.clock,
        limits=limits,
        changed=lambda: None,
        failed=failures.append,
    )
    shipment.commit(spooler, 1)
    assert spooler.spooled_frames == 0
    assert isinstance(spooler.failure, SpoolFull)
    assert failures == [spooler.failure]
    with pytest.raises(SpoolFull):
        shipment.commit(spooler, 2)
    full.close()
    shipment.close()
