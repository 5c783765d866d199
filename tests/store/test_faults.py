"""Faults strike where the plan says, before or after the effect, once or always."""

from __future__ import annotations

import asyncio

import pytest

from walrep.errors import AccessDenied, StoreError, StoreMissing, StoreUnavailable, WalrepError
from walrep.store.base import Store
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.answers import REFUSALS
from walrep.testing.clock import SimClock
from walrep.testing.faults import (
    KINDS,
    Call,
    Fault,
    FaultyStore,
    Kind,
    Past,
    RandomFaults,
    ScriptedFaults,
    Verb,
)

ALL_VERBS: tuple[Verb, ...] = ("put", "get", "head", "list", "delete")


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


async def everything(store: Store) -> dict[Verb, object]:
    """Use each verb once, on two objects; return what came, or the error."""
    came: dict[Verb, object] = {}
    for verb in ALL_VERBS:
        try:
            if verb == "put":
                await store.put("b", b"content")
            elif verb == "get":
                came[verb] = await store.get("a")
            elif verb == "head":
                came[verb] = (await store.head("a")).modified_ms
            elif verb == "list":
                came[verb] = [info.modified_ms async for info in store.list("")]
            else:
                await store.delete(["a", "b"])
        except StoreError as error:
            came[verb] = error
    return came


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_strikes_the_verbs_that_it_is_said_to_strike_and_passes_others_by(kind: Kind) -> None:
    clock = SimClock()
    store = FaultyStore(
        MemoryStore({"a": MemoryObject(b"something", clock.now_ms())}, clock),
        ScriptedFaults(Fault(kind=kind, always=True, seconds=60.0)),
        clock=clock,
        past=Past(),
    )

    async def body() -> None:
        await clock.sleep(100.0)
        await everything(store)

    clock.run(body())
    assert {call.verb for call, _ in store.struck} == KINDS[kind]


def test_what_is_cut_is_done_by_half() -> None:
    memory = MemoryStore({key: MemoryObject(b"x", 0) for key in "abcd"})
    store = FaultyStore(memory, ScriptedFaults(Fault(kind="cut", always=True)))
    listed: list[str] = []

    async def collect() -> None:
        async for info in store.list(""):
            listed.append(info.key)  # noqa: PERF401 - what came before the error counts

    for call in (store.put("e", b"x"), collect(), store.delete(["a", "b", "c", "d"])):
        with pytest.raises(StoreUnavailable):
            asyncio.run(call)
    assert listed == ["a", "b"]
    assert sorted(memory.objects) == ["c", "d"]


def test_short_is_half_of_it_and_rot_is_one_bit_the_same_in_every_run() -> None:
    content = bytes(100)

    def read(kind: Kind) -> bytes:
        store = FaultyStore(MemoryStore({"a": MemoryObject(content, 0)}), ScriptedFaults(Fault(kind=kind)))
        return asyncio.run(store.get("a", start=10, length=50))

    assert read("short") == bytes(25)
    rotten = read("rot")
    assert len(rotten) == 50
    assert int.from_bytes(rotten, "big").bit_count() == 1
    assert read("rot") == rotten


def test_a_stale_listing_is_the_one_of_a_while_ago() -> None:
    clock = SimClock()
    memory = MemoryStore({"old": MemoryObject(b"1", 0), "rewritten": MemoryObject(b"12", 0)}, clock)
    plan = ScriptedFaults(Fault(verb="list", kind="stale", seconds=30.0, times=2))
    store = FaultyStore(memory, plan, clock=clock, past=Past())

    async def body() -> tuple[list[tuple[str, int]], ...]:
        await clock.sleep(100.0)
        await store.put("new", b"")
        await store.put("rewritten", b"123")
        await store.delete(["old"])
        return tuple([[(info.key, info.size_bytes) async for info in store.list("", limit=9)] for _ in range(3)])

    first, again, now = clock.run(body())
    assert first == again == [("old", 1), ("rewritten", 2)]
    assert now == [("new", 0), ("rewritten", 3)]


def test_slow_takes_time_and_skew_tells_another() -> None:
    clock = SimClock()
    memory = MemoryStore({"a": MemoryObject(b"", 5_000)}, clock)
    plan = ScriptedFaults(Fault(verb="get", kind="slow", seconds=9.0), Fault(verb="head", kind="skew", seconds=-3.0))
    store = FaultyStore(memory, plan, clock=clock)

    async def body() -> tuple[int, float]:
        began_s = clock.monotonic_s()
        await store.get("a")
        return (await store.head("a")).modified_ms, clock.monotonic_s() - began_s

    assert clock.run(body()) == (2_000, 9.0)


def test_refusals_are_what_the_s3_store_raises() -> None:
    raised = {name: make() for name, make in REFUSALS.items()}
    assert {name: type(error) for name, error in raised.items()} == {
        "throttled": StoreUnavailable,
        "busy": StoreUnavailable,
        "failed": StoreUnavailable,
        "denied": AccessDenied,
        "no-bucket": StoreMissing,
        "timeout": StoreUnavailable,
    }
    throttled: WalrepError = raised["throttled"]
    assert isinstance(throttled, StoreUnavailable)
    assert throttled.retry_after_s == 7.0


def test_times_strikes_so_many_in_a_row() -> None:
    store = FaultyStore(MemoryStore(), ScriptedFaults(Fault(verb="put", number=2, times=2)))
    assert outcomes(store, 5) == ["passed", "failed", "failed", "passed", "passed"]


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
