"""What is in flight stays within its limits, in the order in which it came, whoever gives up meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import pytest

from walrep.errors import InvariantViolated, SpoolError, StoreUnavailable
from walrep.store.base import ObjectInfo, Store
from walrep.store.limit import LimitedStore, StoreLimits
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.clock import SimClock
from walrep.testing.contract import MakeStore, StoreContract
from walrep.testing.faults import Fault, FaultyStore, ScriptedFaults


class TestLimitedStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        objects: dict[str, MemoryObject] = {}
        limits = StoreLimits(requests_max=1, bytes_max=1000)

        async def make() -> Store:
            return LimitedStore(MemoryStore(objects), limits)

        return make


class GatedStore(MemoryStore):
    """Holds every call until its key is let go, and knows what is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def gate(self, key: str) -> asyncio.Event:
        return self._gates.setdefault(key, asyncio.Event())

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        del source, if_absent
        await self._wait(key)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        del start, length
        await self._wait(key)
        return b""

    async def head(self, key: str) -> ObjectInfo:
        await self._wait(key)
        return ObjectInfo(key=key, size_bytes=0, modified_ms=0)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._wait(keys[0])

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        await self._wait(prefix)
        async for info in super().list(prefix, start_after=start_after, limit=limit):
            yield info

    async def _wait(self, key: str) -> None:
        self.inside.append(key)
        try:
            await self.gate(key).wait()
        finally:
            self.inside.remove(key)


async def has_room(limits: StoreLimits, requests_count: int, size_bytes: int) -> bool:
    """Tell whether so many requests, one of which carries so many bytes, have their turn at once."""
    inside: list[int] = []

    async def request(size_bytes: int) -> None:
        async with limits.turn(size_bytes):
            inside.append(size_bytes)
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        # One byte more than the limit would not wait if nothing else was in flight, so it comes in two.
        sizes = [size_bytes - 1, 1] if requests_count > 1 else [size_bytes]
        tasks = [group.create_task(request(size)) for size in [*sizes, *[0] * (requests_count - len(sizes))]]
        for _ in range(20):
            await asyncio.sleep(0)
        found = len(inside) == requests_count
        for task in tasks:
            task.cancel()
    return found


class Bench:
    """A gated store behind limits; `settle` lets every task run until it waits."""

    def __init__(self, requests_max: int, bytes_max: int) -> None:
        self.store = GatedStore()
        self.limits = StoreLimits(requests_max, bytes_max)
        self.limited = LimitedStore(self.store, self.limits)

    async def settle(self) -> list[str]:
        for _ in range(20):
            await asyncio.sleep(0)
        return sorted(self.store.inside)

    async def let_go(self, key: str) -> list[str]:
        self.store.gate(key).set()
        return await self.settle()

    async def is_idle(self) -> bool:
        """Tell whether everything was given back: then the limits can be used up at once."""
        return await has_room(self.limits, self.limits.requests_max, self.limits.bytes_max)


async def test_no_more_requests_are_in_flight_than_the_limit_in_the_order_they_came() -> None:
    bench = Bench(2, 1000)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("a", b"x"))
        group.create_task(bench.limited.get("b"))
        group.create_task(bench.limited.head("c"))
        group.create_task(bench.limited.delete(["d"]))
        group.create_task(bench.limited.put("e", b"x"))
        assert await bench.settle() == ["a", "b"]
        assert await bench.let_go("b") == ["a", "c"]
        assert await bench.let_go("a") == ["c", "d"]
        assert await bench.let_go("c") == ["d", "e"]
        for key in "de":
            await bench.let_go(key)
    assert await bench.is_idle()


async def test_no_more_bytes_are_in_flight_than_the_limit_and_a_small_object_does_not_overtake(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(60))
    bench = Bench(10, 100)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("a", bytes(60)))
        group.create_task(bench.limited.put("b", source))
        group.create_task(bench.limited.put("c", b"x"))
        group.create_task(bench.limited.get("d", length=39))
        assert await bench.settle() == ["a"]
        assert await bench.let_go("a") == ["b", "c", "d"]
        assert not await has_room(bench.limits, 1, 1)
        assert await has_room(bench.limits, 7, 0)
        for key in "bcd":
            await bench.let_go(key)
    assert await bench.is_idle()


async def test_what_is_larger_than_the_limit_goes_through_alone() -> None:
    bench = Bench(10, 100)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("a", b"x"))
        group.create_task(bench.limited.put("huge", bytes(1000)))
        group.create_task(bench.limited.put("z", b"x"))
        assert await bench.settle() == ["a"]
        assert await bench.let_go("a") == ["huge"]
        assert await bench.let_go("huge") == ["z"]
        await bench.let_go("z")
    assert await bench.is_idle()


async def test_what_carries_nothing_need_not_wait_for_memory() -> None:
    bench = Bench(10, 100)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("huge", bytes(1000)))
        group.create_task(bench.limited.head("head"))
        assert await bench.settle() == ["head", "huge"]
        for key in ("head", "huge"):
            await bench.let_go(key)
    assert await bench.is_idle()


async def test_what_carries_nothing_passes_those_that_wait_for_memory_and_not_those_that_wait_for_a_place() -> None:
    bench = Bench(3, 100)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("a", bytes(100)))
        group.create_task(bench.limited.put("b", bytes(100)))
        assert await bench.settle() == ["a"]
        for key in "cdef":
            group.create_task(bench.limited.head(key))
        assert await bench.settle() == ["a", "c", "d"]
        # The first place that becomes free is for `b`, if there is memory; otherwise for the next that needs none.
        assert await bench.let_go("c") == ["a", "d", "e"]
        assert await bench.let_go("a") == ["b", "d", "e"]
        assert await bench.let_go("d") == ["b", "e", "f"]
        for key in "bef":
            await bench.let_go(key)
    assert await bench.is_idle()


async def test_a_large_file_counts_with_what_is_in_memory_of_it(tmp_path: Path) -> None:
    """One base would keep the segments of all other databases waiting, for as long as it takes."""
    source = tmp_path / "base"
    source.write_bytes(bytes(5000))
    bench = Bench(10, 100)
    limited = LimitedStore(bench.store, bench.limits, lambda size_bytes: min(size_bytes, 40))
    async with asyncio.TaskGroup() as group:
        group.create_task(limited.put("base", source))
        group.create_task(limited.put("segment", bytes(60)))
        group.create_task(limited.put("more", b"x"))
        assert await bench.settle() == ["base", "segment"]
        assert await bench.let_go("segment") == ["base", "more"]
        for key in ("base", "more"):
            await bench.let_go(key)
    assert await bench.is_idle()


async def test_stores_share_their_limits() -> None:
    bench = Bench(1, 100)
    other = LimitedStore(bench.store, bench.limits)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("a", b"x"))
        group.create_task(other.put("b", b"x"))
        assert await bench.settle() == ["a"]
        assert await bench.let_go("a") == ["b"]
        await bench.let_go("b")


async def test_one_that_is_cancelled_while_it_waits_lets_the_next_one_by() -> None:
    bench = Bench(10, 100)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("a", bytes(50)))
        large = group.create_task(bench.limited.put("large", bytes(60)))
        group.create_task(bench.limited.put("b", bytes(50)))
        assert await bench.settle() == ["a"]
        large.cancel()
        assert await bench.settle() == ["a", "b"]
        for key in "ab":
            await bench.let_go(key)
    assert await bench.is_idle()


async def test_one_that_is_cancelled_as_its_turn_comes_gives_it_to_the_next() -> None:
    bench = Bench(1, 100)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("a", b"x"))
        second = group.create_task(bench.limited.put("b", b"x"))
        group.create_task(bench.limited.put("c", b"x"))
        await bench.settle()
        bench.store.gate("a").set()
        # In this step of the loop `a` ends and hands its turn over; in the next one `b` would begin.
        while bench.store.inside:  # noqa: ASYNC110 - step by step is the point
            await asyncio.sleep(0)
        second.cancel()
        assert await bench.settle() == ["c"]
        await bench.let_go("c")
    assert second.cancelled()
    assert await bench.is_idle()


async def test_one_that_was_cancelled_is_passed_over_before_it_knows() -> None:
    """`a` ends in the very step in which `b` is cancelled, which has not run yet."""
    bench = Bench(1, 100)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("a", b"x"))
        second = group.create_task(bench.limited.put("b", b"x"))
        group.create_task(bench.limited.put("c", b"x"))
        await bench.settle()
        bench.store.gate("a").set()
        second.cancel()
        assert await bench.settle() == ["c"]
        await bench.let_go("c")
    assert await bench.is_idle()


async def test_a_call_that_fails_gives_its_place_back() -> None:
    limits = StoreLimits(1, 1)
    store = LimitedStore(FaultyStore(MemoryStore(), ScriptedFaults(Fault(always=True))), limits)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.put("a", b"xyz")
        with pytest.raises(StoreUnavailable):
            await store.get("a")
        with pytest.raises(StoreUnavailable):
            _ = [info async for info in store.list("")]
    assert await has_room(limits, 1, 1)


async def test_whoever_reads_a_listing_may_make_requests_meanwhile() -> None:
    """With one place, a listing that kept it would wait for itself."""
    objects = {f"{number:04d}": MemoryObject(b"x", 0) for number in range(2500)}
    limits = StoreLimits(1, 1)
    store = LimitedStore(MemoryStore(objects), limits)
    read = [(info.key, await store.get(info.key)) async for info in store.list("")]
    assert len(read) == len(objects)
    assert await has_room(limits, 1, 1)


async def test_a_listing_waits_for_its_turn() -> None:
    bench = Bench(1, 100)
    bench.store.objects["list/1"] = MemoryObject(b"x", 0)

    async def list_all() -> list[str]:
        return [info.key async for info in bench.limited.list("list/")]

    async with asyncio.TaskGroup() as group:
        group.create_task(bench.limited.put("a", b"x"))
        listing = group.create_task(list_all())
        assert await bench.settle() == ["a"]
        assert await bench.let_go("a") == ["list/"]
        await bench.let_go("list/")
    assert listing.result() == ["list/1"]


async def test_what_a_listing_had_before_it_broke_off_is_yielded() -> None:
    """Otherwise whoever tries again would begin where it was, and get no further."""
    faults = ScriptedFaults(Fault(verb="list", when="after"))
    inner = MemoryStore({key: MemoryObject(b"x", 0) for key in "abc"})
    store = LimitedStore(FaultyStore(inner, faults), StoreLimits(1, 1))
    listed: list[str] = []

    async def collect() -> None:
        async for info in store.list(""):
            listed.append(info.key)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(StoreUnavailable):
        await collect()
    assert listed == ["a"]


async def test_a_source_that_is_gone_is_trouble_of_the_spool_and_takes_no_place(tmp_path: Path) -> None:
    limits = StoreLimits(1, 1)
    with pytest.raises(SpoolError, match="missing"):
        await LimitedStore(MemoryStore(), limits).put("a", tmp_path / "missing")
    assert await has_room(limits, 1, 1)


@pytest.mark.parametrize(("requests_max", "bytes_max"), [(0, 1), (1, 0)])
def test_limits_that_let_nothing_through_are_refused(requests_max: int, bytes_max: int) -> None:
    with pytest.raises(InvariantViolated):
        StoreLimits(requests_max, bytes_max)


@pytest.mark.parametrize("seed", range(20))
def test_limits_hold_and_nobody_is_forgotten_whoever_is_cancelled(seed: int) -> None:
    random, clock = Random(seed), SimClock()
    limits = StoreLimits(requests_max=3, bytes_max=100)
    done: list[int] = []
    inside: list[int] = []
    exceeded: list[list[int]] = []

    async def request(number: int, size_bytes: int) -> None:
        await clock.sleep(random.random() * 10)
        async with limits.turn(size_bytes):
            inside.append(size_bytes)
            if len(inside) > 3 or (size_bytes and sum(inside) > max(100, size_bytes)):
                exceeded.append(list(inside))
            try:
                await clock.sleep(random.random())
            finally:
                inside.remove(size_bytes)
        done.append(number)

    async def body() -> tuple[int, bool]:
        sizes = [random.choice([0, 1, 40, 60, 100, 300]) for _ in range(60)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(request(number, size_bytes)) for number, size_bytes in enumerate(sizes)]
            for task in random.sample(tasks, 20):
                await clock.sleep(random.random())
                task.cancel()
        return sum(task.cancelled() for task in tasks), await has_room(limits, 3, 100)

    cancelled_count, is_idle = clock.run(body())
    assert exceeded == []
    assert len(done) == 60 - cancelled_count
    assert is_idle
