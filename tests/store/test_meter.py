"""Every PUT is announced to the meter before it is sent, with as many requests as it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from tests.store.scripted import Answer, Request, refusal, scripted
from tests.store.uploads import CONTENT, SIZES, Parts, is_part
from walrep.clock import SystemClock
from walrep.core.backoff import BackoffPolicy
from walrep.errors import StoreUnavailable
from walrep.runner import InlineRunner
from walrep.store.base import Store
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.store.meter import MeteredStore
from walrep.store.observe import ObservedStore, RequestCounter
from walrep.store.retry import Retries, RetryPolicy
from walrep.store.s3 import S3Store
from walrep.store.s3_client import S3Clients
from walrep.testing.contract import MakeStore, StoreContract


class Meter:
    """Counts what it is told, and lets so many requests be sent again."""

    def __init__(self, again_max: int = 0) -> None:
        self.sent: list[tuple[str, int, int]] = []
        self.again_count = 0
        self.is_closed = False
        self._again_max = again_max

    @asynccontextmanager
    async def sending(self, key: str, put_count: int, size_bytes: int) -> AsyncIterator[None]:
        self.sent.append((key, put_count, size_bytes))
        yield

    def again(self) -> bool:
        if self.again_count >= self._again_max:
            return False
        self.again_count += 1
        return True

    async def aclose(self) -> None:
        self.is_closed = True


class TestMeteredStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        objects: dict[str, MemoryObject] = {}

        async def make() -> Store:
            store = MeteredStore(MemoryStore(objects))
            store.meter = Meter()
            return store

        return make


async def test_it_hears_of_puts_and_of_nothing_else() -> None:
    store, meter = MeteredStore(MemoryStore()), Meter()
    store.meter = meter
    await store.put("a", b"12345")
    await store.get("a")
    await store.head("a")
    assert [info.key async for info in store.list("")] == ["a"]
    await store.delete(["a"])
    await store.aclose()
    assert meter.sent == [("a", 1, 5)]
    assert meter.is_closed


@pytest.mark.parametrize("again_max", [0, 1, 2, 5])
async def test_a_part_is_sent_again_only_if_the_meter_has_room_for_it(again_max: int) -> None:
    """What the meter was told is never less than what was sent, and exactly that where all went well."""
    left = [refusal(503, "SlowDown"), refusal(503, "SlowDown")]

    def fault(request: Request) -> Answer | None:
        return left.pop(0) if left and is_part(request, 2) else None

    counter, meter = RequestCounter(), Meter(again_max)
    policy = RetryPolicy(backoff=BackoffPolicy(first_delay_s=0.001))
    async with scripted(Parts(fault)) as server:
        clients = S3Clients({})
        retries = Retries(SystemClock(), policy, Random(0), lambda _error, _delay_s: None, meter.again)
        store = S3Store(server.url(), clients, InlineRunner(), counter, retries, SIZES)
        metered = MeteredStore(ObservedStore(store, counter=counter), store.put_requests)
        metered.meter = meter
        try:
            if again_max < 2:
                with pytest.raises(StoreUnavailable):
                    await metered.put("a", CONTENT)
            else:
                await metered.put("a", CONTENT)
        finally:
            await clients.aclose()
    assert meter.sent == [("a", 5, len(CONTENT))]
    assert meter.again_count == min(again_max, 2)
    told = 5 + meter.again_count
    assert counter.counts.put == told if again_max >= 2 else counter.counts.put <= told
