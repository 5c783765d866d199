"""Reads of the upload path wait for a store that fails: told once, tried again, and what they look for is found."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.disk.spooling import SpoolRig
from tests.engine.protection import OverwritingStore
from tests.engine.shipment import RecordedFaults, Shipment, images_in
from walrep.core.events import Alarm, RetryScheduled, StoreBack
from walrep.core.names import segment_key
from walrep.core.units import Seq
from walrep.engine.shipping import Shipper
from walrep.engine.spooler import Spooler
from walrep.errors import (
    AccessDenied,
    CorruptObject,
    PreconditionFailed,
    ReplicaConflict,
    StoreMissing,
    StoreUnavailable,
    WalrepError,
)
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.faults import Fault

BASE = {pgno: random.Random(pgno).randbytes(512) for pgno in range(1, 6)}
OUTAGE_S = 3600.0
RIVAL = "ffffffffffffffff"
ERRORS = [
    StoreUnavailable("the store did not answer"),
    AccessDenied("the key is wrong"),
    StoreMissing("the bucket does not exist"),
]
READS = ["the segment that a lost answer left", "the base that a lost answer left", "the list of rivals", "a rival"]


@pytest.fixture
def shipment(tmp_path: Path) -> Iterator[Shipment]:
    made = Shipment(tmp_path / "state", RecordedFaults())
    made.rig.begin(BASE)
    yield made
    made.close()


def name_by_writer(shipment: Shipment) -> None:
    """Have a store that overwrites, as the writer has found out before, and look for rivals."""
    shipment.memory = OverwritingStore(clock=shipment.clock)
    shipment.rig.spool.update(creates_only=False)
    shipment.guard()


def lose_answer(shipment: Shipment, number: int) -> None:
    """Let a PUT have its effect, and its second attempt, by whoever made it, meet the object."""
    shipment.faults.faults = [
        Fault(verb="put", number=number, when="after", error=lambda: PreconditionFailed("the object exists already"))
    ]


def segment_of_rival(folder: Path, seq: int, *, fence: bool) -> bytes:
    """Return the opening segment of another writer's timeline."""
    rig = SpoolRig(folder)
    writer = msgspec.structs.replace(rig.spool.state.writer, nonce=RIVAL, host="rival", pid=99)
    rig.spool.update(writer=writer, first_seq=Seq(seq), next_seq=Seq(seq), fence=fence)
    data = rig.open().path.read_bytes()
    rig.close()
    return data


async def commit_and_seal(shipment: Shipment, shipper: Shipper, spooler: Spooler, seed: int) -> None:
    shipment.commit(spooler, seed)
    await shipper.seal("test", final=False)


def told(shipment: Shipment, error: WalrepError) -> int:
    return sum(isinstance(event, RetryScheduled) and event.message == str(error) for event in shipment.events)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("read", READS)
def test_a_read_waits_for_the_store_and_everything_becomes_durable(
    shipment: Shipment, tmp_path: Path, read: str, error: WalrepError
) -> None:
    """An hour in which the read fails; uploads stop for as long, and go on by themselves."""
    verb = "get"
    if read == READS[0]:
        lose_answer(shipment, 3)
    elif read == READS[1]:
        verb = "head"
        lose_answer(shipment, 2)
    else:
        name_by_writer(shipment)
    if read == READS[2]:
        verb = "list"

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        if read in READS[2:]:
            await shipper.drained()
            await shipment.clock.sleep(shipment.parts.rival_check_s)
        if read == READS[3]:
            late = segment_of_rival(tmp_path / "rival", 3, fence=False)
            shipment.memory.objects[segment_key(3, RIVAL)] = MemoryObject(late, 0)
        shipment.faults.denied = {verb: error}
        before = len(shipment.faults.calls)
        await commit_and_seal(shipment, shipper, spooler, 1)
        await shipment.clock.sleep(1)
        await commit_and_seal(shipment, shipper, spooler, 2)
        await shipment.clock.sleep(OUTAGE_S)
        asked = sum(call.verb == verb for call in shipment.faults.calls[before:])
        assert OUTAGE_S / 60 < asked < OUTAGE_S / 2
        # What comes behind is held back, and the failure is told once.
        assert len(shipment.rig.spool.outbox()) >= 2
        assert told(shipment, error) == 1
        assert not any(isinstance(event, StoreBack) for event in shipment.events)
        shipment.faults.denied = {}
        await shipper.drained()
        assert shipper.durable == shipment.rig.spool.state.position()

    shipment.run(body)
    (back,) = [event for event in shipment.events if isinstance(event, StoreBack)]
    assert OUTAGE_S - 2 <= back.seconds <= OUTAGE_S + 120
    assert shipment.rig.spool.outbox() == []
    alarms = [event.key for event in shipment.events if isinstance(event, Alarm) and event.key == "rival-writer"]
    assert alarms == (["rival-writer"] if read == READS[3] else [])
    shipment.memory.objects.pop(segment_key(3, RIVAL), None)
    assert images_in(shipment.memory, tmp_path / "store") == shipment.rig.images


def expect_end(
    shipment: Shipment, body: Callable[[Shipper, Spooler], Awaitable[None]], kind: type[WalrepError]
) -> WalrepError:
    """Run, and return the error of this kind that ends the uploads."""
    with pytest.raises(ExceptionGroup) as group:
        shipment.run(body)
    (error,) = group.value.exceptions
    assert isinstance(error, kind)
    return error


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_rival_that_took_over_during_an_outage_ends_it_when_the_store_is_back(
    shipment: Shipment, tmp_path: Path, error: WalrepError
) -> None:
    name_by_writer(shipment)
    fence = MemoryObject(segment_of_rival(tmp_path / "rival", 2, fence=True), 0)

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        await shipper.drained()
        await shipment.clock.sleep(shipment.parts.rival_check_s)
        shipment.faults.denied = {"list": error}
        await commit_and_seal(shipment, shipper, spooler, 1)
        await shipment.clock.sleep(OUTAGE_S)
        shipment.memory.objects[segment_key(2, RIVAL)] = fence
        shipment.faults.denied = {"get": error}
        await shipment.clock.sleep(OUTAGE_S)
        shipment.faults.denied = {}
        await shipment.clock.sleep(OUTAGE_S)

    conflict = expect_end(shipment, body, ReplicaConflict)
    assert "process 99 on rival" in conflict.detail
    # Twice: in between the store answered that no copy of this state writes.
    assert told(shipment, error) == 2


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_segment_of_another_writer_is_a_conflict_also_after_an_outage(
    shipment: Shipment, tmp_path: Path, error: WalrepError
) -> None:
    theirs = MemoryObject(segment_of_rival(tmp_path / "rival", 2, fence=True), 0)
    shipment.memory.objects[segment_key(2)] = theirs

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        shipment.faults.denied = {"get": error}
        await commit_and_seal(shipment, shipper, spooler, 1)
        await shipment.clock.sleep(OUTAGE_S)
        shipment.faults.denied = {}
        await shipper.drained()

    conflict = expect_end(shipment, body, ReplicaConflict)
    assert "process 99 on rival" in conflict.detail
    assert shipment.memory.objects[segment_key(2)] == theirs
    assert [item.seq for item in shipment.rig.spool.outbox()] == [2]


def test_what_cannot_pass_is_not_waited_for(shipment: Shipment) -> None:
    """An object under our number that nobody can read stays, and ends the uploads at once."""
    shipment.memory.objects[segment_key(2)] = MemoryObject(b"no segment", 0)

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        await commit_and_seal(shipment, shipper, spooler, 1)
        await shipment.clock.sleep(1)

    expect_end(shipment, body, CorruptObject)
    assert not any(isinstance(event, RetryScheduled) for event in shipment.events)


def test_a_store_that_says_when_to_come_back_is_not_asked_before(shipment: Shipment) -> None:
    """Also where that is later than a read is tried again by itself."""
    lose_answer(shipment, 3)
    busy = StoreUnavailable("slow down", retry_after_s=190.0)

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        shipment.faults.denied = {"get": busy}
        await commit_and_seal(shipment, shipper, spooler, 1)
        await shipment.clock.sleep(OUTAGE_S)
        assert sum(call.verb == "get" for call in shipment.faults.calls) == OUTAGE_S // 190 + 1
        shipment.faults.denied = {}
        await shipper.drained()

    shipment.run(body)


class PackedMeanwhile(OverwritingStore):
    """A store in which a segment is packed and deleted between the list that shows it and the read."""

    def __init__(self, store: MemoryStore, key: str) -> None:
        super().__init__(store.objects)
        self._key = key

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, unless it went just now."""
        if key == self._key:
            self.objects.pop(key, None)
        return await super().get(key, start=start, length=length)


def test_a_rivals_segment_that_is_packed_while_it_is_looked_at_ends_nothing(shipment: Shipment, tmp_path: Path) -> None:
    name_by_writer(shipment)
    shipment.memory = PackedMeanwhile(shipment.memory, segment_key(3, RIVAL))

    async def body(shipper: Shipper, spooler: Spooler) -> None:
        await shipper.drained()
        await shipment.clock.sleep(shipment.parts.rival_check_s)
        for seq in (3, 4):
            late = segment_of_rival(tmp_path / f"rival-{seq}", seq, fence=False)
            shipment.memory.objects[segment_key(seq, RIVAL)] = MemoryObject(late, 0)
        await commit_and_seal(shipment, shipper, spooler, 1)
        await shipper.drained()

    shipment.run(body)
    assert segment_key(3, RIVAL) not in shipment.memory.objects
    (alarm,) = [event for event in shipment.events if isinstance(event, Alarm) and event.key == "rival-writer"]
    assert "segment 4" in alarm.message
