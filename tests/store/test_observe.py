"""Every request is counted, by verb, and moved bytes and upload times with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from walrep.errors import AccessDenied, ObjectNotFound, PreconditionFailed, SpoolError, StoreUnavailable
from walrep.store.base import Store
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.store.observe import ObservedStore, RequestCounter, RequestCounts
from walrep.testing.clock import SimClock
from walrep.testing.contract import MakeStore, StoreContract
from walrep.testing.faults import Fault, FaultyStore, ScriptedFaults


class TestObservedStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        objects: dict[str, MemoryObject] = {}

        async def make() -> Store:
            return ObservedStore(MemoryStore(objects))

        return make


async def list_all(store: Store, prefix: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix)]


def test_each_verb_is_counted_with_the_bytes_it_moved(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)

    async def body() -> RequestCounts:
        store = ObservedStore(MemoryStore())
        assert store.counts == RequestCounts()
        await store.put("a", b"12345")
        await store.put("b", source)
        await store.get("a")
        await store.get("b", start=990, length=100)
        await store.head("a")
        await list_all(store)
        await store.delete(["a", "b"])
        return store.counts

    assert asyncio.run(body()) == RequestCounts(
        put=2, get=2, head=1, list=1, delete_requests=1, deleted_objects=2, bytes_up=1005, bytes_down=15
    )


@pytest.mark.parametrize("objects_count", [0, 1, 2500])
def test_a_call_is_one_request_however_much_it_is_about(objects_count: int) -> None:
    """A store that makes more of it says so: `walrep.store.s3` does."""
    keys = [f"{number:05d}" for number in range(objects_count)]
    store = ObservedStore(MemoryStore(dict.fromkeys(keys, MemoryObject(b"", 0))))
    assert asyncio.run(list_all(store)) == keys
    asyncio.run(store.delete(keys))
    expected = RequestCounts(list=1, delete_requests=1 if keys else 0, deleted_objects=len(keys))
    assert store.counts == expected


class PagingStore(MemoryStore):
    """Makes two requests of every call, and reports the second one."""

    def __init__(self, counter: RequestCounter) -> None:
        super().__init__()
        self._counter = counter

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        self._counter.request("put")
        await super().put(key, source, if_absent=if_absent)

    async def delete(self, keys: Sequence[str]) -> None:
        self._counter.request("delete")
        await super().delete(keys)


def test_a_store_reports_the_requests_that_it_makes_inside_a_call() -> None:
    counter = RequestCounter()
    store = ObservedStore(PagingStore(counter), counter=counter)

    async def body() -> None:
        await store.put("a", b"12345")
        await store.delete(["a"])

    asyncio.run(body())
    assert store.counter is counter
    assert store.counts == counter.counts == RequestCounts(put=2, delete_requests=2, deleted_objects=1, bytes_up=5)


def test_a_put_that_is_refused_or_fails_tells_nothing_of_uploads() -> None:
    clock = SimClock()
    faults = ScriptedFaults(Fault(verb="put", number=4, when="after"))
    store = ObservedStore(FaultyStore(SlowStore(clock), faults), clock)

    async def body() -> None:
        await store.put("a", b"2")
        await store.put("a", b"3")
        with pytest.raises(PreconditionFailed):
            await store.put("a", b"4", if_absent=True)
        with pytest.raises(StoreUnavailable):
            await store.put("a", b"5")

    clock.run(body())
    assert store.upload_p95_s() == 3
    assert (store.counts.put, store.counts.bytes_up, store.counts.errors) == (4, 2, 1)


def test_a_request_that_fails_counts_and_moves_nothing() -> None:
    async def body() -> RequestCounts:
        store = ObservedStore(FaultyStore(MemoryStore(), ScriptedFaults(Fault(always=True))))
        with pytest.raises(StoreUnavailable):
            await store.put("a", b"12345")
        with pytest.raises(StoreUnavailable):
            await store.get("a")
        with pytest.raises(StoreUnavailable):
            await store.head("a")
        with pytest.raises(StoreUnavailable):
            await list_all(store)
        with pytest.raises(StoreUnavailable):
            await store.delete(["a"])
        assert store.upload_p95_s() == 0
        return store.counts

    assert asyncio.run(body()) == RequestCounts(put=1, get=1, head=1, list=1, delete_requests=1, errors=5)


def test_an_answer_is_no_error_and_a_refusal_is() -> None:
    faults = ScriptedFaults(Fault(verb="head", number=2, error=lambda: AccessDenied("no")))

    async def body() -> int:
        store = ObservedStore(FaultyStore(MemoryStore(), faults))
        await store.put("a", b"x")
        with pytest.raises(PreconditionFailed):
            await store.put("a", b"x", if_absent=True)
        with pytest.raises(ObjectNotFound):
            await store.get("b")
        with pytest.raises(ObjectNotFound):
            await store.head("b")
        assert store.counts.errors == 0
        with pytest.raises(AccessDenied):
            await store.head("a")
        return store.counts.errors

    assert asyncio.run(body()) == 1


def test_a_source_that_is_gone_is_trouble_of_the_spool(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="missing"):
        asyncio.run(ObservedStore(MemoryStore()).put("a", tmp_path / "missing"))


class SlowStore(MemoryStore):
    """Takes as long for a put as its content says, in simulated seconds."""

    def __init__(self, clock: SimClock) -> None:
        super().__init__(clock=clock)
        self._sim = clock

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        assert isinstance(source, bytes)
        await self._sim.sleep(float(source))
        await super().put(key, source, if_absent=if_absent)


@pytest.mark.parametrize(
    ("put_seconds", "p95_s"),
    [
        ([], 0),
        ([3], 3),
        (list(range(1, 21)), 19),
        (list(range(1, 101)), 95),
        ([1000] * 256 + [1] * 256, 1),
        ([1] * 255 + [1000] * 14, 1000),
        ([1] * 255 + [1000] * 12, 1),
    ],
)
def test_the_95th_percentile_is_that_of_the_last_256_puts(put_seconds: list[int], p95_s: float) -> None:
    clock = SimClock()
    store = ObservedStore(SlowStore(clock), clock)

    async def body() -> None:
        for seconds in put_seconds:
            await store.put("a", b"%d" % seconds)

    clock.run(body())
    assert store.upload_p95_s() == pytest.approx(p95_s)
