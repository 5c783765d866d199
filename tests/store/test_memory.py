"""The store in memory keeps the contract."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from walrep.errors import SpoolError
from walrep.store.base import Store
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.clock import SimClock
from walrep.testing.contract import MakeStore, StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        objects: dict[str, MemoryObject] = {}

        async def make() -> Store:
            return MemoryStore(objects)

        return make


def test_objects_bear_the_time_of_the_clock() -> None:
    clock = SimClock(now_ms=1_000)
    store = MemoryStore(clock=clock)
    clock.advance(2.5)
    clock.run(store.put("a", b"x"))
    assert clock.run(store.head("a")).modified_ms == 3_500


def test_a_source_that_cannot_be_read_is_trouble_of_the_spool(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="missing"):
        asyncio.run(MemoryStore().put("a", tmp_path / "missing"))
