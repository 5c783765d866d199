"""Uploads flow evenly, at the rate that was asked for, whoever shares it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random

import pytest

from tests.store.buckets import OwningStore
from tests.store.scripted import OK, scripted
from tests.store.uploads import MIB, SIZES, Parts
from walrep import app
from walrep.clock import SystemClock
from walrep.disk.atomic import FILE_CALLS, FileCalls
from walrep.errors import PreconditionFailed
from walrep.runner import InlineRunner, ThreadRunner
from walrep.store.base import Store
from walrep.store.local import LocalStore
from walrep.store.rate import UploadRate, waits_extend
from walrep.store.retry import RetryPolicy
from walrep.store.s3_client import S3Clients
from walrep.store.s3_url import S3Access
from walrep.testing.clock import SimClock
from walrep.testing.contract import MakeStore, StoreContract


class TestSlowLocalStore(StoreContract):
    """A folder that is written a slice at a time keeps every sentence of the contract."""

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        async def make() -> Store:
            return LocalStore(tmp_path / "store", InlineRunner(), rate=UploadRate(SystemClock(), 1 << 40))

        return make


class QuickClock(SystemClock):
    """The machine's clock, with which nobody waits; `waited_s` is how long they would have."""

    def __init__(self) -> None:
        self.waited_s = 0.0

    def monotonic_s(self) -> float:
        return self.waited_s

    async def sleep(self, seconds: float) -> None:
        self.waited_s += seconds
        # Others get their turn.
        await asyncio.to_thread(bool)


def test_those_who_share_the_line_get_as_much_of_it_each() -> None:
    clock = SimClock()
    rate = UploadRate(clock, 100_000)
    sent: list[tuple[float, str]] = []

    async def upload(name: str, count: int) -> None:
        for _ in range(count):
            await rate.take(rate.slice_bytes)
            sent.append((clock.monotonic_s(), name))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(upload("large", 1000))
            await clock.sleep(5)
            group.create_task(upload("small", 10))

    clock.run(main())
    assert rate.slice_bytes == 10_000
    times = [at_s for at_s, _name in sent]
    assert times[-1] == pytest.approx(1009 * 0.1)
    for index, at_s in enumerate(times):
        # In no second more than its share, and a slice for each of the two.
        assert sum(at_s <= each < at_s + 1 for each in times[index : index + 20]) <= 12
    small = [at_s for at_s, name in sent if name == "small"]
    assert 5 < small[0] < small[-1] < 5 + 2 * 10 * 0.1 + 0.3


def test_a_line_that_was_idle_owes_nothing() -> None:
    clock = SimClock()
    rate = UploadRate(clock, 100_000)

    async def main() -> None:
        await rate.take(10_000)
        await clock.sleep(3600)
        for _ in range(10):
            await rate.take(10_000)

    clock.run(main())
    assert clock.monotonic_s() == pytest.approx(3600.9)


@pytest.mark.parametrize(("bytes_per_s", "slice_bytes"), [(1, 4096), (2 * MIB, 2 * MIB // 10), (1 << 40, MIB)])
def test_slices_are_a_tenth_of_a_second_within_reason(bytes_per_s: int, slice_bytes: int) -> None:
    assert UploadRate(SimClock(), bytes_per_s).slice_bytes == slice_bytes


def test_what_is_waited_for_a_turn_does_not_count_as_silence() -> None:
    """Also in a task that was begun within, as the client of HTTP writes a body."""
    clock = SimClock()
    rate = UploadRate(clock, 4096)

    async def main() -> None:
        async with asyncio.timeout(2) as timeout:
            with waits_extend(timeout):
                async with asyncio.TaskGroup() as group:
                    for _ in range(60):
                        await group.create_task(rate.take(4096))
            await clock.sleep(1)
        await rate.take(4 * 4096)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await rate.take(4096)

    clock.run(main())
    assert clock.monotonic_s() >= 60


@pytest.mark.parametrize(("bytes_per_s", "deadline_s"), [(None, 180), (MIB, 180 + 128), (MIB // 8, 180 + 8 * 128)])
async def test_a_part_that_had_to_wait_long_may_still_be_sent_again(bytes_per_s: int | None, deadline_s: float) -> None:
    opening = app.open_stores(1, SystemClock(), {}, S3Access(), RetryPolicy(), upload_bytes_per_s=bytes_per_s)
    async with opening as stores:
        assert stores._policy.part_deadline_s == deadline_s


async def test_a_put_that_is_cancelled_while_a_slice_is_read_ends_with_nothing_else(tmp_path: Path) -> None:
    """Whoever cancels waits for that, and for nothing worse: a stop must not look like a bug."""
    pipe = tmp_path / "source"
    os.mkfifo(pipe)
    runner = ThreadRunner(1, "test")
    store = LocalStore(tmp_path / "store", runner, rate=UploadRate(SystemClock(), 1 << 30))
    async with asyncio.TaskGroup() as group:
        putting = group.create_task(store.put("key", pipe))
        # It is open when somebody reads it, and the first slice never comes.
        writer = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)
        putting.cancel()
        await asyncio.wait([putting])
        os.close(writer)
    assert putting.cancelled()
    runner.close()
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_a_folder_is_written_at_the_rate(tmp_path: Path) -> None:
    clock = SimClock()
    written: list[tuple[float, int]] = []

    def write(descriptor: int, data: bytes | memoryview) -> int:
        count = FILE_CALLS.write(descriptor, data)
        written.append((clock.monotonic_s(), count))
        return count

    content = Random(1).randbytes(3 * MIB + 5)
    (tmp_path / "source").write_bytes(content)
    store = LocalStore(
        tmp_path / "store", InlineRunner(), clock, FileCalls(write=write), rate=UploadRate(clock, MIB // 2)
    )
    clock.run(store.put("a/b", tmp_path / "source"))
    assert (tmp_path / "store/a/b").read_bytes() == content
    assert clock.monotonic_s() == pytest.approx(6, abs=0.11)
    for second in range(6):
        assert sum(count for at_s, count in written if second <= at_s < second + 1) <= MIB // 2 * 1.11


@pytest.mark.parametrize("if_absent", [False, True])
def test_a_slow_put_that_is_given_up_leaves_nothing(tmp_path: Path, *, if_absent: bool) -> None:
    clock = SimClock()
    store = LocalStore(tmp_path / "store", InlineRunner(), clock, rate=UploadRate(clock, 100_000))

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await store.put("a", bytes(MIB), if_absent=if_absent)
        assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
        await store.put("a", b"first", if_absent=if_absent)
        if if_absent:
            with pytest.raises(PreconditionFailed):
                await store.put("a", b"second", if_absent=True)
            assert await store.get("a") == b"first"

    clock.run(main())
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == ["a"]


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("size_bytes", [1000, MIB, 2 * MIB, 11 * MIB])
async def test_a_body_goes_to_a_bucket_in_slices(tmp_path: Path, size_bytes: int, *, is_file: bool) -> None:
    """In one PUT, streamed from a file, and in parts: each byte has its turn, and the store sees an ordinary PUT."""
    content = Random(2).randbytes(size_bytes)
    (tmp_path / "source").write_bytes(content)
    clock = QuickClock()
    rate = UploadRate(clock, 100_000)
    script = Parts(lambda request: OK if request.method == "PUT" and "partNumber" not in request.query else None)
    async with scripted(script) as server:
        clients = S3Clients({}, rate=rate)
        store = OwningStore(server.url(), clients=clients, sizes=SIZES)
        try:
            await store.put("a", tmp_path / "source" if is_file else content, if_absent=True)
        finally:
            await store.aclose()
    puts = [request for request in server.requests if request.method == "PUT"]
    bodies = sorted(puts, key=lambda request: int(request.query.get("partNumber", 0)))
    assert b"".join(request.body for request in bodies) == content
    assert {request.headers.get("transfer-encoding") for request in puts} == {None}
    assert [int(request.headers["content-length"]) for request in puts] == [len(request.body) for request in puts]
    # The last slice need not wait for the line to be free again.
    assert clock.waited_s == pytest.approx(size_bytes / 100_000, abs=0.25)
