"""What is sent is counted before it is sent, whatever happens, and waits for its turn. INV-32."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.engine.shipment import RecordedFaults, Shipment
from walrep.core.budget import DAY_MS, BudgetPolicy, DaySpent, day_of, spent_on
from walrep.core.events import Alarm
from walrep.disk.spent import load_days, save_days
from walrep.engine.budget import Budget, open_metered
from walrep.engine.settings import SpoolLimits
from walrep.errors import SpoolError, StoreError, StoreUnavailable
from walrep.store.memory import MemoryStore
from walrep.store.meter import MeteredStore
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.testing.faults import Fault, FaultyStore

BASE = {pgno: random.Random(pgno).randbytes(512) for pgno in range(1, 6)}
PUTS_MAX = 60
SEGMENT = "segments/0000000000000007"


class CountingStore(MemoryStore):
    """Counts what arrives on each day, and looks at what the disk says of the day then."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.sent: Counter[int] = Counter()
        self.took_s = 0.0
        self._rig = rig

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        clock = self._rig.clock
        await clock.sleep(self.took_s)
        day = day_of(clock.now_ms())
        self.sent[day] += 1
        if self._rig.disk_works:
            assert self.sent[day] <= spent_on(load_days(self._rig.state_dir), day).put_count
        await super().put(key, source, if_absent=if_absent)


class Rig:
    """A budget and its store; `start` is another process."""

    def __init__(self, folder: Path) -> None:
        self.shipment = Shipment(folder / "state", RecordedFaults())
        self.shipment.rig.begin(BASE)
        self.clock = self.shipment.clock
        self.state_dir = folder / "state"
        self.disk_works = True
        self.counting = CountingStore(self)
        self.stopping = asyncio.Event()
        self.policy = BudgetPolicy(puts_per_day_max=PUTS_MAX)
        self.budget, self.store = self.start()

    def start(self) -> tuple[Budget, MeteredStore]:
        """Begin with what is on disk."""
        self.settings = msgspec.structs.replace(self.shipment.settings, budget=self.policy, state_dir=self.state_dir)
        days = load_days(self.state_dir) if self.disk_works else ()
        self.budget = Budget(self.shipment.parts, self.settings, days, self.stopping)
        self.store = MeteredStore(FaultyStore(self.counting, self.shipment.faults), lambda size_bytes, _: size_bytes)
        self.store.meter = self.budget
        return self.budget, self.store

    @property
    def today(self) -> int:
        """The day that the clock shows."""
        return day_of(self.clock.now_ms())

    def until_midnight_s(self) -> float:
        """How much of the day is left."""
        return (DAY_MS - self.clock.now_ms() % DAY_MS) / 1000

    def alarms(self) -> list[str]:
        """The messages that were told."""
        return [each.message for each in self.shipment.events if isinstance(each, Alarm)]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.shipment.close()


def test_no_day_has_more_however_often_it_is_killed(rig: Rig) -> None:
    """The disk is ahead of what was sent, by eight at most for each kill."""
    dice = Random(5)

    async def body() -> None:
        for _ in range(40):
            _budget, store = rig.start()
            rig.budget.watch(rig.shipment.rig.spool)
            try:
                async with asyncio.timeout(dice.uniform(0, 20_000)):
                    while True:
                        await store.put(SEGMENT, b"x")
            except TimeoutError:
                pass

    rig.clock.run(body())
    assert len(rig.counting.sent) > 2
    assert max(rig.counting.sent.values()) <= PUTS_MAX
    # Something is left of each day, however many kills it had.
    assert min(rig.counting.sent.values()) > 0


def test_an_orderly_end_keeps_the_exact_number(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put("packs/x", b"xxx")
        # Eight more than three, and these on the next day, too, on which they might have arrived.
        assert [each.put_count for each in load_days(rig.state_dir)] == [11, 11]
        await rig.store.aclose()

    rig.clock.run(body())
    assert load_days(rig.state_dir) == (DaySpent(rig.today, put_count=3, upload_bytes=3),)


def test_what_is_on_its_way_at_midnight_counts_on_both_days(rig: Rig) -> None:
    async def body() -> None:
        rig.counting.took_s = rig.until_midnight_s() + 5
        before = rig.today
        async with asyncio.TaskGroup() as group:
            group.create_task(rig.store.put("packs/x", bytes(30)))
            await rig.clock.sleep(rig.until_midnight_s() + 1)
            rig.counting.took_s = 0.0
            # Of the 60 of this day 30 may be used up by what is on its way.
            group.create_task(rig.store.put("packs/y", bytes(31)))
            await rig.clock.sleep(3600)
            assert [rig.today, rig.counting.sent[rig.today]] == [before + 1, 1]
        assert rig.counting.sent == {before + 1: 1, before + 2: 1}

    rig.clock.run(body())


def test_a_clock_that_is_set_back_does_not_give_a_day_twice(rig: Rig) -> None:
    async def body() -> None:
        day = rig.today
        await rig.store.put("packs/x", bytes(35))
        rig.clock.step_wall(DAY_MS)
        await rig.store.put("packs/y", bytes(35))
        rig.clock.step_wall(-DAY_MS)
        async with asyncio.timeout(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await rig.store.put("packs/z", bytes(35))
        assert rig.counting.sent == {day: 1, day + 1: 1}

    rig.clock.run(body())


def test_a_request_within_an_upload_is_sent_again_only_if_it_is_counted(rig: Rig) -> None:
    async def body() -> None:
        assert not rig.store.may_try_again()
        await rig.store.put("packs/x", bytes(3))
        assert [rig.store.may_try_again() for _ in range(9)] == [True] * 8 + [False]
        rig.clock.step_wall(DAY_MS)
        assert [rig.store.may_try_again() for _ in range(12)] == [True] * 11 + [False]
        rig.clock.step_wall(2 * DAY_MS)
        assert not rig.store.may_try_again()

    rig.clock.run(body())


def test_where_bytes_are_only_told_every_part_is_sent_again(rig: Rig) -> None:
    """Nothing is held back: an upload of many parts does not begin anew because nine of them failed."""
    rig.policy = BudgetPolicy(upload_bytes_per_day_warn=1 << 30)
    rig.start()

    async def body() -> None:
        await rig.store.put("packs/x", bytes(3))
        assert [rig.store.may_try_again() for _ in range(100)] == [True] * 100
        await rig.store.aclose()

    rig.clock.run(body())
    assert [each.put_count for each in load_days(rig.state_dir)] == [103]


def test_a_day_without_the_store_does_not_eat_the_budget(rig: Rig) -> None:
    """Segments and packs are sent again and again, at a pace that leaves something for when the store is back."""
    rig.budget.watch(rig.shipment.rig.spool)
    retrying = RetryingStore(rig.store, rig.clock, RetryPolicy(), Random(1), lambda _error, _delay_s: None)

    async def body() -> None:
        await rig.clock.sleep(rig.until_midnight_s())
        rig.shipment.faults.down = StoreUnavailable("the store is down")
        async with asyncio.TaskGroup() as group:
            for key in (SEGMENT, "packs/x"):
                group.create_task(retrying.put(key, b"x"))
            await rig.clock.sleep(12 * 3600)
            rig.shipment.faults.down = None
            await rig.clock.sleep(2 * 3600)
            assert sorted(rig.counting.objects) == ["packs/x", SEGMENT]
        attempts = Counter(call.key for call in rig.shipment.faults.calls)
        assert 10 < attempts[SEGMENT] < 30
        assert 10 < attempts["packs/x"] < 25

    rig.clock.run(body())


def fill_outbox(rig: Rig) -> None:
    """Let three quarters of the outbox be full."""
    rig.shipment.rig.commit((1, random.Random(9).randbytes(512)))
    used_bytes = rig.shipment.rig.spool.outbox_bytes
    spool = SpoolLimits(outbox_bytes_max=used_bytes * 4 // 3)
    rig.shipment.settings = msgspec.structs.replace(rig.shipment.settings, spool=spool)


def test_a_full_outbox_beats_the_budget_and_is_told_once_a_day(rig: Rig) -> None:
    save_days(rig.state_dir, [DaySpent(rig.today, put_count=PUTS_MAX)])

    async def body() -> None:
        rig.start()
        rig.budget.watch(rig.shipment.rig.spool)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(rig.store.put(SEGMENT, b"x"))
            pack = group.create_task(rig.store.put("packs/x", b"x"))
            await rig.clock.sleep(600)
            assert (waiting.done(), rig.alarms()) == (False, [])
            waiting.cancel()
            fill_outbox(rig)
            rig.start()
            rig.budget.watch(rig.shipment.rig.spool)
            for number in range(3):
                await rig.store.put(f"{SEGMENT}{number}", b"x")
            assert rig.counting.sent[rig.today] == 3
            assert rig.alarms() == ["more PUTs than the 60 of a day: the outbox is almost full"]
            pack.cancel()

    rig.clock.run(body())


def test_what_opens_a_timeline_does_not_wait(rig: Rig) -> None:
    save_days(rig.state_dir, [DaySpent(rig.today, put_count=PUTS_MAX)])

    async def body() -> None:
        began_s = rig.clock.monotonic_s()
        rig.start()
        # Nothing is protected yet: the store has to be proved.
        await rig.store.put("replica", b"x")
        rig.budget.watch(rig.shipment.rig.spool)
        rig.budget.openings.add(SEGMENT)
        await rig.store.put(SEGMENT, b"x")
        assert rig.clock.monotonic_s() == began_s
        assert rig.alarms() == ["more PUTs than the 60 of a day: a timeline begins"]
        # It is no opening any more, and a proof waits now, too.
        for key in (SEGMENT, "replica"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await rig.store.put(key, b"x")

    rig.clock.run(body())


def test_a_stop_uses_the_share_of_packs(rig: Rig) -> None:
    save_days(rig.state_dir, [DaySpent(rig.today, put_count=PUTS_MAX - 2)])

    async def body() -> None:
        rig.start()
        rig.budget.watch(rig.shipment.rig.spool)
        began_s = rig.clock.monotonic_s()
        async with asyncio.TaskGroup() as group:
            group.create_task(rig.store.put(SEGMENT, b"x"))
            await rig.clock.sleep(60)
            assert rig.counting.sent[rig.today] == 0
            rig.stopping.set()
        assert rig.clock.monotonic_s() - began_s < 65

    rig.clock.run(body())


@pytest.mark.parametrize(("put_count", "told"), [(8, "-> the next segment then"), (21, "-> a segment each ")])
def test_segments_leave_what_a_pack_waits_for_if_it_can_have_it_today(rig: Rig, put_count: int, told: str) -> None:
    """20 are left: 12 of them are the share of the day, and 8 are for a pack that was sent in vain."""
    save_days(rig.state_dir, [DaySpent(rig.today, put_count=PUTS_MAX - 20 - put_count * (put_count == 8))])
    rig.shipment.faults.faults = [Fault(verb="put", number=1, error=lambda: StoreUnavailable("down"))]

    async def body() -> None:
        rig.start()
        rig.budget.watch(rig.shipment.rig.spool)
        retrying = RetryingStore(rig.store, rig.clock, RetryPolicy(), Random(1), lambda _error, _delay_s: None)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(retrying.put("packs/large", bytes(put_count)))
            await rig.clock.sleep(40)
            pace = rig.budget.pace()
            assert pace is not None
            assert f"20 left until 00:00 UTC {told}" in pace.reason
            await rig.clock.sleep(rig.until_midnight_s() + 200)
            assert waiting.done()

    rig.clock.run(body())


def test_what_no_day_has_room_for_is_refused(rig: Rig) -> None:
    async def body() -> None:
        rig.budget.watch(rig.shipment.rig.spool)
        with pytest.raises(StoreError) as refused:
            await rig.store.put("packs/large", bytes(37))
        assert refused.value.detail == "packs/large: 37 of 60"
        assert "raise puts-per-day-max" in refused.value.hint

    rig.clock.run(body())


def test_a_disk_that_takes_no_number_holds_nothing_up(rig: Rig) -> None:
    """What is uploaded makes room on it; the numbers in memory count on."""
    rig.state_dir = rig.state_dir / "nowhere"
    rig.disk_works = False

    async def body() -> None:
        rig.start()
        rig.budget.watch(rig.shipment.rig.spool)
        rig.stopping.set()
        for _ in range(PUTS_MAX):
            await rig.store.put(SEGMENT, b"x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await rig.store.put(SEGMENT, b"x")

    rig.clock.run(body())
    assert rig.counting.sent[rig.today] == PUTS_MAX


def test_a_file_that_cannot_be_read_is_named(rig: Rig) -> None:
    (rig.state_dir / "budget.json").write_text('[{"day": "today"}]')
    with pytest.raises(SpoolError) as refused:
        rig.start()
    assert "budget.json" in refused.value.detail
    assert "remove the file" in refused.value.hint


async def test_without_a_budget_nothing_is_counted(rig: Rig) -> None:
    rig.policy = BudgetPolicy()
    _budget, store = rig.start()
    store.meter = None
    opened = msgspec.structs.replace(rig.shipment.opened(lambda _error, _delay_s: None), metered=store)
    assert await open_metered(rig.shipment.parts, rig.settings, opened, rig.stopping) is opened
    assert store.meter is None
    assert store.may_try_again()
