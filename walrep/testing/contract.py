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

__all__ = ["MakeStore", "StoreContract"]

MakeStore = Callable[[], Awaitable[Store]]

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


class StoreContract:
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
            _expect(await store.get(key), _CONTENT)
            _expect((await store.head(key)).key, key)
            _expect(await _keys(store), [key])
            await store.delete([key])
            _expect(await _keys(store), [])

        _use(make_store, body)

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
            _expect(await _keys(store), [])

        _use(make_store, body)

    def test_put_stores_the_bytes_or_the_content_of_the_file(self, make_store: MakeStore, tmp_path: Path) -> None:
        content = Random(1).randbytes((3 << 20) + 17)
        source = tmp_path / "source"
        source.write_bytes(content)

        async def body(store: Store) -> None:
            for name, given, stored in (("a", source, content), ("b", content, content), ("c", b"", b"")):
                await store.put(name, given)
                _expect(await store.get(name) == stored, expected=True)
                _expect((await store.head(name)).size_bytes, len(stored))
            await store.put("a", b"shorter")
            _expect(await store.get("a"), b"shorter")

        _use(make_store, body)

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

        _use(make_store, body)
        _expect({None if data is None else len(data) for data in seen - {None, *versions}}, set())
        _expect(versions[-1] in seen, expected=True)

    def test_put_returns_when_the_object_is_durable(self, make_store: MakeStore) -> None:
        async def write(store: Store) -> None:
            await store.put("folder/object", _CONTENT)
            async with aclosing(await make_store()) as other:
                _expect(await other.get("folder/object"), _CONTENT)
                _expect(await _keys(other), ["folder/object"])

        async def read_later(store: Store) -> None:
            _expect(await store.get("folder/object"), _CONTENT)

        _use(make_store, write)
        _use(make_store, read_later)

    def test_a_cancelled_put_has_an_unknown_outcome(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(store.put("a", _CONTENT))
                await asyncio.sleep(0)
                task.cancel()
            with suppress(ObjectNotFound):
                _expect(await store.get("a"), _CONTENT)
            await store.put("b", _CONTENT)
            _expect(await store.get("b"), _CONTENT)

        _use(make_store, body)

    def test_put_with_if_absent_raises_precondition_failed_when_the_key_exists(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.put("folder/object", b"first", if_absent=True)
            if not self.creates_only:
                await store.put("folder/object", b"second", if_absent=True)
                _expect(await store.get("folder/object"), b"second")
                return
            with pytest.raises(PreconditionFailed):
                await store.put("folder/object", b"second", if_absent=True)
            _expect(await store.get("folder/object"), b"first")
            await store.delete(["folder/object"])
            await store.put("folder/object", b"third", if_absent=True)
            _expect(await store.get("folder/object"), b"third")

        _use(make_store, body)

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
                _expect(len(winners) > 1, expected=True)
                return
            _expect((len(winners), len(refused)), (1, _RACERS_COUNT - 1))
            _expect(await store.get("folder/object"), winners[0])

        _use(make_store, body)

    @pytest.mark.parametrize(("start", "length"), _RANGES)
    def test_get_returns_the_bytes_asked_for(self, make_store: MakeStore, start: int, length: int | None) -> None:
        async def body(store: Store) -> None:
            await store.put("a", _CONTENT)
            expected = _CONTENT[start:] if length is None else _CONTENT[start : start + length]
            _expect(await store.get("a", start=start, length=length), expected)

        _use(make_store, body)

    def test_a_range_that_goes_past_the_end_is_cut(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.put("a", _CONTENT)
            _expect(await store.get("a", start=4000, length=1 << 40), _CONTENT[4000:])

        _use(make_store, body)

    @pytest.mark.parametrize("start", [len(_CONTENT), len(_CONTENT) + 1, 1 << 40])
    def test_a_range_that_begins_past_the_end_is_empty(self, make_store: MakeStore, start: int) -> None:
        async def body(store: Store) -> None:
            await store.put("a", _CONTENT)
            _expect(await store.get("a", start=start), b"")
            _expect(await store.get("a", start=start, length=5), b"")

        _use(make_store, body)

    def test_a_negative_range_is_refused(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.put("a", _CONTENT)
            with pytest.raises(InvariantViolated):
                await store.get("a", start=-1)
            with pytest.raises(InvariantViolated):
                await store.get("a", length=-1)

        _use(make_store, body)

    def test_get_and_head_raise_object_not_found_for_a_key_that_does_not_exist(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            for key in ("a", "a/b/c"):
                await _expect_missing(store, key)
            await store.put("a/b/c", _CONTENT)
            # Neither the folder of an object nor what would lie below it is one.
            for key in ("a", "a/b", "a/b/c/d", "a/b/cc"):
                await _expect_missing(store, key)
                await _expect_missing(store, key, start=1, length=2)

        _use(make_store, body)

    def test_head_returns_what_the_store_knows(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.put("folder/object", _CONTENT)
            info = await store.head("folder/object")
            _expect((info.key, info.size_bytes), ("folder/object", len(_CONTENT)))
            _expect([found async for found in store.list("")], [info])

        _use(make_store, body)

    def test_list_yields_every_key_with_the_prefix(self, make_store: MakeStore) -> None:
        keys = ["replica", "seg", "segments/1", "segments/10", "segments/2", "segments2", "snapshots/a/1"]
        expected = {
            "": keys,
            "seg": ["seg", "segments/1", "segments/10", "segments/2", "segments2"],
            "segments/": ["segments/1", "segments/10", "segments/2"],
            "segments/1": ["segments/1", "segments/10"],
            "segments/3": [],
            "snapshots/a/1": ["snapshots/a/1"],
            "snapshots/a/1/": [],
            "nothing/": [],
        }

        async def body(store: Store) -> None:
            _expect(await _keys(store), [])
            for key in reversed(keys):
                await store.put(key, b"x")
            _expect({prefix: await _keys(store, prefix) for prefix in expected}, expected)

        _use(make_store, body)

    def test_list_is_in_the_order_of_bytes_across_folders(self, make_store: MakeStore) -> None:
        keys = ["B", "a-b", "a.b", "a/b", "a/b-c", "a/b.c/d", "a/bc", "a/c/d", "a0", "a_", "aa/b", "b"]

        async def body(store: Store) -> None:
            for key in Random(2).sample(keys, len(keys)):
                await store.put(key, b"x")
            _expect(await _keys(store), keys)
            for index, key in enumerate(keys):
                _expect(await _keys(store, start_after=key), keys[index + 1 :])

        _use(make_store, body)

    @pytest.mark.parametrize("seed", range(3))
    def test_list_begins_after_start_after(self, make_store: MakeStore, seed: int) -> None:
        random = Random(seed)

        def draw(alphabet: str) -> str:
            folders = [random.choice("ab") + "." for _ in range(random.randrange(3))]
            return "/".join([*folders, "".join(random.choice(alphabet) for _ in range(random.randrange(1, 4)))])

        async def body(store: Store) -> None:
            # No key is the folder of another, which a file system could not hold: folders end in a dot, names do not.
            keys = sorted({draw("abc-_0") for _ in range(25)})
            for key in keys:
                await store.put(key, b"x")
            for _ in range(150):
                prefix = random.choice(keys)[: random.randrange(4)]
                start_after = draw("abc-_0./")
                expected = [key for key in keys if key.startswith(prefix) and key > start_after]
                _expect((start_after, await _keys(store, prefix, start_after)), (start_after, expected))

        _use(make_store, body)

    @pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 6, 100])
    def test_list_yields_no_more_than_limit(self, make_store: MakeStore, limit: int) -> None:
        keys = ["a/1", "a/2", "a/3", "b", "c/1"]

        async def body(store: Store) -> None:
            for key in keys:
                await store.put(key, b"x")
            _expect([info.key async for info in store.list("", limit=limit)], keys[:limit])
            _expect([info.key async for info in store.list("a/", start_after="a/1", limit=limit)], keys[1:3][:limit])

        _use(make_store, body)

    @pytest.mark.parametrize("prefix", ["/", "../", "a//", "./", "a/../", "ä", "x" * 513])
    def test_a_prefix_that_no_key_has_is_refused(self, make_store: MakeStore, prefix: str) -> None:
        async def body(store: Store) -> None:
            with pytest.raises(InvariantViolated):
                await _keys(store, prefix)

        _use(make_store, body)

    def test_delete_removes_these_objects_and_no_others(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            for key in ("a/b/1", "a/b/2", "a/c", "d"):
                await store.put(key, b"x")
            await store.delete(["a/b/1", "d"])
            _expect(await _keys(store), ["a/b/2", "a/c"])
            await store.delete([])
            await store.delete(["a/b/2", "a/c"])
            _expect(await _keys(store), [])
            await store.put("a/b/1", b"again")
            _expect(await store.get("a/b/1"), b"again")

        _use(make_store, body)

    def test_delete_of_a_key_that_does_not_exist_is_no_error(self, make_store: MakeStore) -> None:
        async def body(store: Store) -> None:
            await store.delete(["missing", "a/b/missing"])
            await store.put("a/b/c", b"x")
            await store.delete(["a", "a/b", "a/b/c/d", "missing", "a/b/c", "a/b/c"])
            _expect(await _keys(store), [])

        _use(make_store, body)

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
                await _keys(closed)
            # The others go on.
            await store.put("a", b"x")

        _use(make_store, body)


def _use(make_store: MakeStore, body: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        async with aclosing(await make_store()) as store:
            await body(store)

    asyncio.run(run())


async def _keys(store: Store, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix, start_after=start_after)]


async def _expect_missing(store: Store, key: str, *, start: int = 0, length: int | None = None) -> None:
    with pytest.raises(ObjectNotFound):
        await store.get(key, start=start, length=length)
    with pytest.raises(ObjectNotFound):
        await store.head(key)


def _expect(actual: object, expected: object) -> None:
    # Not an assert statement: pytest explains those in tests only, and they are off under -O.
    if actual != expected:
        raise AssertionError(f"{actual!r} is not the expected {expected!r}")
