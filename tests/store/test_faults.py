"""Faults strike where the plan says, before or after the effect, once or always."""

from __future__ import annotations

import asyncio

import pytest

from walrep.errors import AccessDenied, StoreUnavailable
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.faults import Call, Fault, FaultyStore, RandomFaults, ScriptedFaults, Verb


def outcomes(store: FaultyStore, count: int) -> list[str]:
    async def body() -> list[str]:
        seen = []
        for number in range(count):
            try:
                await store.put(f"k{number}", b"x")
            except StoreUnavailable:
                seen.append("failed")
            else:
                seen.append("passed")
        return seen

    return asyncio.run(body())


def test_before_the_effect_leaves_nothing_and_after_leaves_it() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory, ScriptedFaults(Fault(number=1), Fault(number=2, when="after")))
    assert outcomes(store, 3) == ["failed", "failed", "passed"]
    assert sorted(memory.objects) == ["k1", "k2"]
    assert [(call.number, fault.when) for call, fault in store.struck] == [(1, "before"), (2, "after")]


def test_always_strikes_from_its_number_on() -> None:
    store = FaultyStore(MemoryStore(), ScriptedFaults(Fault(verb="put", number=3, always=True)))
    assert outcomes(store, 5) == ["passed", "passed", "failed", "failed", "failed"]


def test_the_error_is_the_one_of_choice_and_strikes_its_verb_only() -> None:
    plan = ScriptedFaults(Fault(verb="get", error=lambda: AccessDenied("no")))

    async def body() -> None:
        store = FaultyStore(MemoryStore(), plan)
        await store.put("a", b"x")
        await store.head("a")
        with pytest.raises(AccessDenied, match="no"):
            await store.get("a")
        assert await store.get("a") == b"x"
        await store.delete(["a"])
        assert [call for call, _ in store.struck] == [Call(verb="get", key="a", number=1)]

    asyncio.run(body())


def test_a_list_that_fails_late_breaks_off_behind_its_first_object() -> None:
    objects = {key: MemoryObject(b"", 0) for key in "abc"}

    found: list[str] = []

    async def collect(memory: MemoryStore) -> None:
        async for info in FaultyStore(memory, ScriptedFaults(Fault(when="after"))).list(""):
            found.append(info.key)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(StoreUnavailable):
        asyncio.run(collect(MemoryStore(objects)))
    assert found == ["a"]
    with pytest.raises(StoreUnavailable):
        asyncio.run(collect(MemoryStore()))
    assert found == ["a"]


def test_a_seed_determines_the_faults() -> None:
    runs = [outcomes(FaultyStore(MemoryStore(), RandomFaults(seed, 0.3)), 200) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert 30 < runs[0].count("failed") < 90


def test_random_faults_strike_before_and_after() -> None:
    store = FaultyStore(MemoryStore(), RandomFaults(5, 1.0))
    assert outcomes(store, 50) == ["failed"] * 50
    assert {fault.when for _, fault in store.struck} == {"before", "after"}


@pytest.mark.parametrize("verb", ["put", "get", "head", "delete"])
def test_no_fault_none_struck(verb: Verb) -> None:
    store = FaultyStore(MemoryStore(), ScriptedFaults(Fault(verb=verb, number=100)))
    assert outcomes(store, 3) == ["passed"] * 3
    assert store.struck == []
