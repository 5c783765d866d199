"""The contract of a store as tests: inherit `StoreContract` and give it `make_store`.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def make_store(self, tmp_path):
            async def make():
                return MyStore(tmp_path)
            return make

Within one test each call of `make_store` opens another client of one and the same place, which is empty at first. Each
sentence of `walrep.store.base` is a test of that name. The tests run their own event loops and need no plugin.
"""

# ruff: noqa: D102 - the names of tests are sentences
# ruff: noqa: S311 - what a test draws, a seed has to draw again

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from random import Random

import pytest

from walrep.errors import InvariantViolated, ObjectNotFound, PreconditionFailed
from walrep.store.base import Store
from walrep.testing.contract_listing import ListingContract
from walrep.testing.contract_use import MakeStore, expect, keys_of, use

__all__ = ["MakeStore", "StoreContract"]

_CONTENT = bytes(range(256)) * 16
_RACERS_COUNT = 32
_CLIENTS_COUNT = 4
_ALLOWED_KEYS = (
    "replica",
    "segments/0000000000000001",
    "snapshots/00001-5f3a9c21/0000000000001234-20261121T093000123Z-0000000000000007-full",
    "A.b_c-D/0/..e/f..",
    f"{'x' * 255}/{'y' * 254}/z",
)
_REFUSED_KEYS = (
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/./b",
    "a/../b",
    "../a",
    "a b",
    "a\n",
    "a\0",
    "a\\b",
    "ä",
    "a:b",
    f"{'x' * 255}/{'y' * 255}/z",
)
_RANGES = ((0, None), (0, 1), (7, 100), (4095, 1), (100, None), (0, 0), (0, 4096))


class StoreContract(ListingContract):
    """Inherit it, and override `make_store`."""

    creates_only = True
    """Whether the store honours `if_absent`; two tests prove it, or that it does not."""

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Return the factory that opens a client of the place under test."""
        raise NotImplementedError

    @pytest.mark.parametrize("key", _ALLOWED_KEYS)
    def test_keys_are_names_of_letters_digits_and_three_marks_between_slashes(
        self, make_store: MakeStore, key: str
    ) -> None:
        async def body(store: Store) -> None:
            await store.put(key, _CONTENT)
            expect(await store.get(key), _CONTENT)
            expect((await store.head(key)).key, key)
            expect(await keys_of(store), [key])
            await store.delete([key])
            expect(await keys_of(store), [])

        use(make_store, body)

    @pytest.mark.parametrize("key", _REFUSED_KEYS)
    def test_no_other_key_is_accepted(self, make_store: MakeStore, key: str) -> None:
        async def body(store: Store) -> None:
            calls: tuple[Callable[[], Awaitable[object]], ...] = (
                lambda: store.put(key, b"x"),
                lambda: store.get(key),
                lambda: store.head(key),
                lambda: store.delete([key]),
            )
            for call in calls:
                with pytest.raises(InvariantViolated):
                    await call()
            expect(await keys_of(store), [])

        use(make_store, body)

    def test_put_stores_the_bytes_or_the_content_of_the_file(self, make_store: MakeStore, tmp_path: Path) -> None:
        content = Random(1).randbytes((3 << 20) + 17)
        source = tmp_path / "source"
        source.write_bytes(content)

        async def body(store: Store) -> None:
            for name, given, stored in (("a", source, content), ("b", content, content), ("c", b"", b"")):
                await store.put(name, given)
                expect(await store.get(name) == stored, expected=True)
                expect((await store.head(name)).size_bytes, len(stored))
            await store.put("a", b"shorter")
            expect(await store.get("a"), b"shorter")

        use(make_store, body)

    def test_put_is_atomic_a_reader_sees_the_whole_object_or_none(self, make_store: MakeStore) -> None:
        versions = [bytes([number]) * (100_000 + 50_000 * number) for number in range(8)]
        seen: set[bytes | None] = set()
        done = asyncio.Event()

        async def write(store: Store) -> None:
            for version in versions:
                await store.put("folder/object", version)
                # A store that never waits lets nobody else run.
                await asyncio.sleep(0)
            done.set()

        async def read(store: Store) -> None:
            is_last = False
            while not is_last:
                is_last = done.is_set()
                try:
                    seen.add(await store.get("folder/object"))
                except ObjectNotFound:
                    seen.add(None)
                await asyncio.sleep(0)

        async def body(store: Store) -> None:
            other = await make_store()
            async with aclosing(other), asyncio.TaskGroup() as group:
                for client in (store, other):
                    group.create_task(read(client))
                group.create_task(write(other))

        use(make_store, body)
        expect({None if data is None else len(data) for data in seen - {None, *versions}}, set())
        expect(versions[-1] in seen, expected=True)

    def test_put_returns_when_the_object_is_durable(self, make_store: MakeStore) -> None:
        async def write(store: Store) -> None:
            await store.put("folder/object", _CONTENT)
            async with aclosing(await make_store()) as other:
                expect(await other.get("folder/object"), _CONTENT)
                expect(await keys_of(other), ["folder/object"])

        async def read_later(store: Store) -> None:
            expect(await store.get("folder/object"), _CONTENT)

        use(make_store, write)
        use(make_store, read_later)

    def test_a_cancelled_put_has_an_unknown_outcome(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(store.put("a", _CONTENT))
                await asyncio.sleep(0)
                task.cancel()
            with suppress(ObjectNotFound):
                expect(await store.get("a"), _CONTENT)
            await store.put("b", _CONTENT)
            expect(await store.get("b"), _CONTENT)

        use(make_store, body)

    def test_put_with_if_absent_raises_precondition_failed_when_the_key_exists(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.put("folder/object", b"first", if_absent=True)
            if not self.creates_only:
                await store.put("folder/object", b"second", if_absent=True)
                expect(await store.get("folder/object"), b"second")
                return
            with pytest.raises(PreconditionFailed):
                await store.put("folder/object", b"second", if_absent=True)
            expect(await store.get("folder/object"), b"first")
            await store.delete(["folder/object"])
            await store.put("folder/object", b"third", if_absent=True)
            expect(await store.get("folder/object"), b"third")

        use(make_store, body)

    def test_of_many_at_once_exactly_one_succeeds(self, make_store: MakeStore) -> None:
        winners: list[bytes] = []
        refused: list[bytes] = []

        async def race(store: Store, content: bytes) -> None:
            try:
                await store.put("folder/object", content, if_absent=True)
            except PreconditionFailed:
                refused.append(content)
            else:
                winners.append(content)

        async def body(store: Store) -> None:
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(aclosing(await make_store())) for _ in range(_CLIENTS_COUNT)]
                async with asyncio.TaskGroup() as group:
                    for number in range(_RACERS_COUNT):
                        group.create_task(race(clients[number % _CLIENTS_COUNT], b"%d" % number * 1000))
            if not self.creates_only:
                # Nothing else is promised: this proves that the store has to be treated as one without.
                expect(len(winners) > 1, expected=True)
                return
            expect((len(winners), len(refused)), (1, _RACERS_COUNT - 1))
            expect(await store.get("folder/object"), winners[0])

        use(make_store, body)

    @pytest.mark.parametrize(("start", "length"), _RANGES)
    def test_get_returns_the_bytes_asked_for(self, make_store: MakeStore, start: int, length: int | None) -> None:
        async def body(store: Store) -> None:
            await store.put("a", _CONTENT)
            expected = _CONTENT[start:] if length is None else _CONTENT[start : start + length]
            expect(await store.get("a", start=start, length=length), expected)

        use(make_store, body)

    def test_a_range_that_goes_past_the_end_is_cut(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.put("a", _CONTENT)
            expect(await store.get("a", start=4000, length=1 << 40), _CONTENT[4000:])

        use(make_store, body)

    @pytest.mark.parametrize("start", [len(_CONTENT), len(_CONTENT) + 1, 1 << 40])
    def test_a_range_that_begins_past_the_end_is_empty(self, make_store: MakeStore, start: int) -> None:
        async def body(store: Store) -> None:
            await store.put("a", _CONTENT)
            expect(await store.get("a", start=start), b"")
            expect(await store.get("a", start=start, length=5), b"")

        use(make_store, body)

    def test_a_negative_range_is_refused(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.put("a", _CONTENT)
            with pytest.raises(InvariantViolated):
                await store.get("a", start=-1)
            with pytest.raises(InvariantViolated):
                await store.get("a", length=-1)

        use(make_store, body)

    def test_get_and_head_raise_object_not_found_for_a_key_that_does_not_exist(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            for key in ("a", "a/b/c"):
                await _expect_missing(store, key)
            await store.put("a/b/c", _CONTENT)
            # Neither the folder of an object nor what would lie below it is one.
            for key in ("a", "a/b", "a/b/c/d", "a/b/cc"):
                await _expect_missing(store, key)
                await _expect_missing(store, key, start=1, length=2)

        use(make_store, body)

    def test_head_returns_what_the_store_knows(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.put("folder/object", _CONTENT)
            info = await store.head("folder/object")
            expect((info.key, info.size_bytes), ("folder/object", len(_CONTENT)))
            expect([found async for found in store.list("")], [info])

        use(make_store, body)

    def test_delete_removes_these_objects_and_no_others(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            for key in ("a/b/1", "a/b/2", "a/c", "d"):
                await store.put(key, b"x")
            await store.delete(["a/b/1", "d"])
            expect(await keys_of(store), ["a/b/2", "a/c"])
            await store.delete([])
            await store.delete(["a/b/2", "a/c"])
            expect(await keys_of(store), [])
            await store.put("a/b/1", b"again")
            expect(await store.get("a/b/1"), b"again")

        use(make_store, body)

    def test_delete_of_a_key_that_does_not_exist_is_no_error(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.delete(["missing", "a/b/missing"])
            await store.put("a/b/c", b"x")
            await store.delete(["a", "a/b", "a/b/c/d", "missing", "a/b/c", "a/b/c"])
            expect(await keys_of(store), [])

        use(make_store, body)

    def test_using_it_after_aclose_is_an_error(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            closed = await make_store()
            await closed.aclose()
            with pytest.raises(InvariantViolated):
                await closed.put("a", b"x")
            with pytest.raises(InvariantViolated):
                await closed.get("a")
            with pytest.raises(InvariantViolated):
                await closed.delete(["a"])
            with pytest.raises(InvariantViolated):
                await keys_of(closed)
            # The others go on.
            await store.put("a", b"x")

        use(make_store, body)


async def _expect_missing(store: Store, key: str, *, start: int = 0, length: int | None = None) -> None:
    with pytest.raises(ObjectNotFound):
        await store.get(key, start=start, length=length)
    with pytest.raises(ObjectNotFound):
        await store.head(key)
