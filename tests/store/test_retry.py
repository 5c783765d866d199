"""What fails for now is tried again, in virtual time; what fails for good is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from walrep.core.backoff import BackoffPolicy
from walrep.errors import (
    AccessDenied,
    NotSupported,
    ObjectNotFound,
    PreconditionFailed,
    SpoolError,
    StoreMissing,
    StoreUnavailable,
    WalrepError,
)
from walrep.store.base import ObjectInfo, Store
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.testing.clock import SimClock
from walrep.testing.contract import MakeStore, StoreContract
from walrep.testing.faults import Fault, FaultPlan, FaultyStore, RandomFaults, ScriptedFaults, Verb

POLICY = RetryPolicy(backoff=BackoffPolicy(first_delay_s=1, delay_s_max=8), deadline_s=60, put_deadline_s=None)
VERBS: tuple[Verb, ...] = ("put", "get", "head", "list", "delete")


class Bench:
    """A store that retries over one that fails, in virtual time."""

    def __init__(self, plan: FaultPlan, policy: RetryPolicy = POLICY, seed: int = 0) -> None:
        self.clock = SimClock()
        self.memory = MemoryStore()
        self.faulty = FaultyStore(self.memory, plan)
        self.notices: list[tuple[WalrepError, float]] = []
        self.store = RetryingStore(self.faulty, self.clock, policy, Random(seed), self.notify)

    def notify(self, error: WalrepError, delay_s: float) -> None:
        self.notices.append((error, delay_s))

    def use(self, verb: Verb) -> list[str]:
        return self.clock.run(self._use(verb))

    async def _use(self, verb: Verb) -> list[str]:
        if verb == "list":
            return [info.key async for info in self.store.list("")]
        if verb == "put":
            await self.store.put("a", b"content")
        elif verb == "delete":
            await self.store.delete(["a"])
        else:
            await (self.store.get("a") if verb == "get" else self.store.head("a"))
        return []


class TestRetryingStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        objects: dict[str, MemoryObject] = {}

        async def make() -> Store:
            return RetryingStore(MemoryStore(objects), SimClock(), POLICY, Random(0), lambda _error, _delay_s: None)

        return make


@pytest.mark.parametrize("verb", VERBS)
def test_a_transient_failure_is_tried_again_and_told_once(verb: Verb) -> None:
    bench = Bench(ScriptedFaults(Fault(verb=verb, number=1), Fault(verb=verb, number=2)))
    bench.memory.objects["a"] = MemoryObject(b"old", 0)
    bench.use(verb)
    assert len(bench.faulty.struck) == 2
    assert [type(error) for error, _ in bench.notices] == [StoreUnavailable] * 2
    assert bench.clock.monotonic_s() == pytest.approx(sum(delay_s for _, delay_s in bench.notices))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("error", [AccessDenied, ObjectNotFound, PreconditionFailed])
def test_a_failure_for_good_is_raised_at_once(verb: Verb, error: Callable[[str], WalrepError]) -> None:
    bench = Bench(ScriptedFaults(Fault(verb=verb, error=lambda: error("for good"))))
    with pytest.raises(WalrepError, match="for good"):
        bench.use(verb)
    assert len(bench.faulty.struck) == 1
    assert bench.notices == []
    assert bench.clock.monotonic_s() == 0


def test_a_bug_is_not_tried_again() -> None:
    bench = Bench(ScriptedFaults(Fault(error=lambda: ZeroDivisionError("bug"))))
    with pytest.raises(ZeroDivisionError):
        bench.use("get")
    assert len(bench.faulty.struck) == 1


@pytest.mark.parametrize("verb", ["get", "head", "list", "delete"])
def test_no_attempt_begins_after_the_deadline(verb: Verb) -> None:
    bench = Bench(ScriptedFaults(Fault(always=True)))
    with pytest.raises(StoreUnavailable):
        bench.use(verb)
    assert 60 - 8 <= bench.clock.monotonic_s() <= 60
    assert len(bench.faulty.struck) == len(bench.notices) + 1, "the error that is raised is not told"


def test_an_upload_is_tried_for_ever() -> None:
    outage_count = 20_000

    class Outage:
        def fault_for(self, call: object) -> Fault | None:
            del call
            return Fault() if len(bench.faulty.struck) < outage_count else None

    bench = Bench(Outage())
    bench.use("put")
    assert bench.memory.objects["a"].data == b"content"
    assert bench.clock.monotonic_s() > 24 * 3600 / 2


def test_a_deadline_for_uploads_is_kept() -> None:
    bench = Bench(ScriptedFaults(Fault(always=True)), RetryPolicy(put_deadline_s=5))
    with pytest.raises(StoreUnavailable):
        bench.use("put")
    assert bench.clock.monotonic_s() <= 5


def too_busy(retry_after_s: float) -> Callable[[], WalrepError]:
    return lambda: StoreUnavailable("busy", retry_after_s=retry_after_s)


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_is_not_asked_again_before_it_said(verb: Verb) -> None:
    bench = Bench(ScriptedFaults(Fault(verb=verb, error=too_busy(50))))
    bench.memory.objects["a"] = MemoryObject(b"old", 0)
    bench.use(verb)
    assert [delay_s for _, delay_s in bench.notices] == [50]
    assert bench.clock.monotonic_s() == pytest.approx(50)


def test_a_store_that_comes_back_at_once_is_given_the_usual_time_all_the_same() -> None:
    delays = []
    for seed in range(50):
        bench = Bench(ScriptedFaults(Fault(verb="put", error=too_busy(0.25))), seed=seed)
        bench.use("put")
        delays += [delay_s for _, delay_s in bench.notices]
    assert min(delays) == 0.25
    assert max(delays) > 0.9


def test_a_store_that_wants_to_be_away_for_a_day_is_asked_after_minutes() -> None:
    bench = Bench(ScriptedFaults(Fault(verb="put", error=too_busy(86_400))))
    bench.use("put")
    assert [delay_s for _, delay_s in bench.notices] == [300]


def test_a_read_does_not_wait_past_its_deadline_for_a_store_to_come_back() -> None:
    bench = Bench(ScriptedFaults(Fault(verb="get", error=too_busy(61))))
    with pytest.raises(StoreUnavailable):
        bench.use("get")
    assert bench.clock.monotonic_s() == 0


@pytest.mark.parametrize("kind", [AccessDenied, StoreMissing])
def test_an_upload_waits_until_somebody_puts_it_right(kind: Callable[[str], WalrepError]) -> None:
    mended_after = 500

    class Revoked:
        def fault_for(self, call: object) -> Fault | None:
            del call
            return Fault(error=lambda: kind("revoked")) if len(bench.faulty.struck) < mended_after else None

    bench = Bench(Revoked(), RetryPolicy(mend_delay_s=30))
    bench.use("put")
    assert bench.memory.objects["a"].data == b"content"
    delays = [delay_s for _, delay_s in bench.notices]
    assert len(delays) == mended_after
    assert (15 <= min(delays) < 16, 44 < max(delays) < 45) == (True, True)
    assert sum(delays) / len(delays) == pytest.approx(30, rel=0.1)


@pytest.mark.parametrize("verb", ["get", "head", "list", "delete"])
def test_nothing_but_an_upload_waits_for_that(verb: Verb) -> None:
    bench = Bench(ScriptedFaults(Fault(verb=verb, error=lambda: AccessDenied("revoked"))), RetryPolicy(mend_delay_s=30))
    with pytest.raises(AccessDenied):
        bench.use(verb)
    assert bench.notices == []


@pytest.mark.parametrize("error", [ObjectNotFound, PreconditionFailed, NotSupported, SpoolError])
def test_what_nobody_can_put_right_is_not_waited_for(error: Callable[[str], WalrepError]) -> None:
    bench = Bench(ScriptedFaults(Fault(verb="put", error=lambda: error("for good"))), RetryPolicy(mend_delay_s=30))
    with pytest.raises(WalrepError, match="for good"):
        bench.use("put")
    assert bench.notices == []


def test_an_upload_with_a_deadline_is_not_mended_for_ever() -> None:
    fault = Fault(always=True, error=lambda: AccessDenied("revoked"))
    bench = Bench(ScriptedFaults(fault), RetryPolicy(mend_delay_s=30, put_deadline_s=100))
    with pytest.raises(AccessDenied):
        bench.use("put")
    assert 55 <= bench.clock.monotonic_s() <= 100


@pytest.mark.parametrize("is_waiting", [False, True])
def test_an_upload_that_is_cancelled_is_cancelled(*, is_waiting: bool) -> None:
    """Whether it is with the store or waits for its next attempt: the outcome is unknown, and that is told."""
    bench = Bench(ScriptedFaults(*([Fault(verb="put", always=True)] if is_waiting else [])))
    asked = asyncio.Event()

    class StuckStore(MemoryStore):
        async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
            await super().put(key, source, if_absent=if_absent)
            asked.set()
            await asyncio.Event().wait()

    def tell(_error: WalrepError, _delay_s: float) -> None:
        asked.set()

    inner: Store = bench.faulty if is_waiting else StuckStore(bench.memory.objects)
    store = RetryingStore(inner, bench.clock, RetryPolicy(mend_delay_s=30), Random(0), tell)

    async def body() -> bool:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(store.put("a", b"content"))
            await asked.wait()
            task.cancel()
        return task.cancelled()

    assert bench.clock.run(body())
    assert ("a" in bench.memory.objects) is not is_waiting


def test_delays_are_drawn_below_a_ceiling_that_doubles_to_its_cap() -> None:
    longest = [0.0] * 6
    for seed in range(300):
        bench = Bench(ScriptedFaults(*(Fault(verb="put", number=number) for number in range(1, 7))), seed=seed)
        bench.use("put")
        longest = [max(before, delay_s) for before, (_, delay_s) in zip(longest, bench.notices, strict=True)]
    ceilings = [1, 2, 4, 8, 8, 8]
    assert all(0.9 * ceiling < seen < ceiling for seen, ceiling in zip(longest, ceilings, strict=True))


def test_a_seed_replays_the_delays() -> None:
    runs = []
    for _ in range(2):
        bench = Bench(RandomFaults(seed=3, probability=0.8), seed=7)
        bench.use("put")
        runs.append([delay_s for _, delay_s in bench.notices])
    assert runs[0] == runs[1]
    assert runs[0]


def test_a_lost_answer_to_a_create_only_put_meets_its_own_object() -> None:
    bench = Bench(ScriptedFaults(Fault(verb="put", when="after")))
    with pytest.raises(PreconditionFailed):
        bench.clock.run(bench.store.put("a", b"mine", if_absent=True))
    assert bench.memory.objects["a"].data == b"mine"
    assert len(bench.notices) == 1


def test_a_listing_that_breaks_off_goes_on_where_it_was() -> None:
    keys = [f"{number:03d}" for number in range(10)]
    bench = Bench(ScriptedFaults(Fault(verb="list", when="after", always=True)))
    bench.memory.objects.update({key: MemoryObject(b"", 0) for key in keys})
    listed: list[str] = []

    async def collect() -> None:
        async for info in bench.store.list("", start_after="001"):
            listed.append(info.key)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(StoreUnavailable):
        bench.clock.run(collect())
    assert listed == keys[2:]
    struck_at = [call.number for call, _ in bench.faulty.struck]
    assert all(after == before + 1 for before, after in pairwise(struck_at))


@pytest.mark.parametrize(("limit", "asked"), [(0, []), (1, [1]), (3, [3, 2, 1]), (None, [None] * 5)])
def test_a_listing_that_goes_on_yields_no_more_than_its_limit(limit: int | None, asked: list[int | None]) -> None:
    """Each listing breaks off behind its first key; of four keys, the last one is followed by nothing."""
    limits: list[int | None] = []

    class BreakingStore(MemoryStore):
        async def list(
            self, prefix: str, *, start_after: str = "", limit: int | None = None
        ) -> AsyncIterator[ObjectInfo]:
            limits.append(limit)
            async for info in super().list(prefix, start_after=start_after, limit=limit):
                yield info
                raise StoreUnavailable("broken off")

    clock = SimClock()
    inner = BreakingStore({key: MemoryObject(b"", 0) for key in "abcd"})
    store = RetryingStore(inner, clock, POLICY, Random(0), lambda _error, _delay_s: None)

    async def list_all() -> list[str]:
        return [info.key async for info in store.list("", limit=limit)]

    assert clock.run(list_all()) == list("abcd"[:limit])
    assert limits == asked


def test_progress_gives_a_listing_a_new_deadline() -> None:
    """Each object comes after a stretch of failures that the deadline allows; together they take longer than it."""
    stretch, deadline_s = 8, 8.0
    keys = ["a", "b", "c", "d", "e", "f"]
    numbers = range(1, stretch * len(keys) + 1)
    faults = [Fault(verb="list", number=number, when="before" if number % stretch else "after") for number in numbers]
    policy = RetryPolicy(backoff=BackoffPolicy(first_delay_s=1, delay_s_max=1), deadline_s=deadline_s)
    bench = Bench(ScriptedFaults(*faults), policy)
    bench.memory.objects.update({key: MemoryObject(b"", 0) for key in keys})
    assert bench.use("list") == keys
    assert len(bench.faulty.struck) == len(faults)
    assert bench.clock.monotonic_s() > deadline_s
