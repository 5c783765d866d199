"""Two copies of one state: a number that the other one's compaction has freed is no free number. INV-36."""

from __future__ import annotations

import msgspec
import pytest

from tests.engine.shipment import RecordedFaults
from walrep.core.names import segment_key
from walrep.core.objects import SegmentHeader
from walrep.core.state import STATE_FORMAT, LocalState
from walrep.core.units import Seq
from walrep.disk.peek import parse_segment_header
from walrep.engine.lineage import check_store
from walrep.engine.outage import Outage
from walrep.engine.sole import SoleWriter
from walrep.errors import ReplicaConflict
from walrep.store.memory import MemoryObject
from walrep.testing.clock import SimClock
from walrep.testing.faults import FaultyStore
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import memory_store

GRACE_S = 600.0
REST_S = 400.0
NEXT = Seq(5)


class Copies:
    """Two that had stored segments 1 to 4 when they were one; the other one may go on to 8."""

    def __init__(self) -> None:
        self._builder = HistoryBuilder(512)
        self._builder.begin({1: bytes(512)}, 1000)
        for number in range(7):
            self._builder.commit([(1, bytes([1 + number]) * 512)], 1, 2000 + 1000 * number)
            self._builder.seal()
        self.memory = memory_store({segment_key(seq): self._builder.objects[segment_key(seq)] for seq in range(1, 5)})
        self.state = LocalState(
            format=STATE_FORMAT, replica="r", url="", writer=self._builder.writer, next_seq=NEXT, first_seq=Seq(1)
        )
        self.clock = SimClock()
        self.faults = RecordedFaults()
        self.store = FaultyStore(self.memory, self.faults)
        outage = Outage("app.db", self.clock, lambda _event: None)
        self.sole = SoleWriter(self.store, self.clock, outage, grace_s=GRACE_S)
        self.sole.note(self.sole.now())

    @property
    def lists(self) -> int:
        """How often the store was listed."""
        return sum(call.verb == "list" for call in self.faults.calls)

    def own(self, seq: Seq) -> SegmentHeader:
        """Return the header of this one's segment, which the other one has not."""
        there = parse_segment_header(self._builder.objects[segment_key(seq)])
        return msgspec.structs.replace(there, writer=msgspec.structs.replace(there.writer, host="clone"))

    def go_on(self) -> None:
        """Have the other one store segments 5 to 8; all but the newest are packed and deleted."""
        self.memory.objects[segment_key(8)] = MemoryObject(self._builder.objects[segment_key(8)], 0)

    async def store_own(self, seq: Seq, *, takes_s: float = 0.0) -> None:
        """Store a segment as a shipper does."""
        async with self.sole.storing(self.state, self.own(seq)) as met_nobody:
            await self.clock.sleep(takes_s)
            await self.store.put(segment_key(seq), b"its own", if_absent=True)
            met_nobody()


@pytest.fixture
def copies() -> Copies:
    return Copies()


def test_who_stores_all_the_time_asks_nobody(copies: Copies) -> None:
    async def body() -> None:
        for seq in range(5, 30):
            await copies.clock.sleep(REST_S / 2)
            copies.memory.objects.pop(segment_key(8), None)
            await copies.store_own(Seq(min(seq, 8)))
            del copies.memory.objects[segment_key(min(seq, 8))]

    copies.clock.run(body())
    assert copies.lists == 0


def test_who_has_rested_asks_once(copies: Copies) -> None:
    async def body() -> None:
        await copies.clock.sleep(REST_S)
        await copies.store_own(NEXT)
        await copies.store_own(Seq(6))

    copies.clock.run(body())
    assert copies.lists == 1


def test_who_has_rested_meets_the_other_one_though_its_number_is_free(copies: Copies) -> None:
    async def body() -> None:
        await copies.clock.sleep(REST_S)
        copies.go_on()
        await copies.store_own(NEXT)

    with pytest.raises(ReplicaConflict, match="another walrep"):
        copies.clock.run(body())
    assert segment_key(NEXT) not in copies.memory.objects


def test_a_put_that_took_long_proves_nothing(copies: Copies) -> None:
    async def body() -> None:
        copies.go_on()
        await copies.store_own(NEXT, takes_s=REST_S)

    with pytest.raises(ReplicaConflict, match="another walrep"):
        copies.clock.run(body())


def test_a_clock_that_stood_still_while_the_machine_slept_is_not_the_only_one(copies: Copies) -> None:
    async def body() -> None:
        copies.clock.step_wall(int(REST_S * 1000))
        copies.go_on()
        await copies.store_own(NEXT)

    with pytest.raises(ReplicaConflict, match="another walrep"):
        copies.clock.run(body())


def test_what_was_stored_and_not_acknowledged_is_nobody_elses(copies: Copies) -> None:
    """No PUT met nobody then, so that it proves nothing for the next one."""

    async def body() -> None:
        await copies.clock.sleep(REST_S / 2)
        async with copies.sole.storing(copies.state, copies.own(NEXT)):
            pass
        await copies.clock.sleep(REST_S / 2)
        await copies.store_own(Seq(6))

    copies.clock.run(body())
    assert copies.lists == 1


async def test_a_start_looks_at_what_has_the_numbers_of_its_outbox(copies: Copies) -> None:
    """All of them, as the first ones may be free again."""
    copies.go_on()
    waiting = [copies.own(Seq(seq)) for seq in (5, 6, 7, 8)]
    state = msgspec.structs.replace(copies.state, next_seq=Seq(9))
    with pytest.raises(ReplicaConflict, match="another walrep"):
        await check_store(copies.store, state, waiting)
    own = parse_segment_header(copies.memory.objects[segment_key(8)].data)
    assert await check_store(copies.store, state, [*waiting[:3], own]) == []
