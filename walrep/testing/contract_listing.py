"""The part of the contract of a store that is about listings; `walrep.testing.contract` is the whole."""

# ruff: noqa: D102 - the names of tests are sentences
# ruff: noqa: S311 - what a test draws, a seed has to draw again

from __future__ import annotations

from random import Random

import pytest

from walrep.errors import InvariantViolated
from walrep.store.base import Store
from walrep.testing.contract_use import MakeStore, expect, keys_of, use

__all__ = ["ListingContract"]


class ListingContract:
    """Inherited by `StoreContract`, which has the fixture."""

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
            expect(await keys_of(store), [])
            for key in reversed(keys):
                await store.put(key, b"x")
            expect({prefix: await keys_of(store, prefix) for prefix in expected}, expected)

        use(make_store, body)

    def test_list_is_in_the_order_of_bytes_across_folders(self, make_store: MakeStore) -> None:
        keys = ["B", "a-b", "a.b", "a/b", "a/b-c", "a/b.c/d", "a/bc", "a/c/d", "a0", "a_", "aa/b", "b"]

        async def body(store: Store) -> None:
            for key in Random(2).sample(keys, len(keys)):
                await store.put(key, b"x")
            expect(await keys_of(store), keys)
            for index, key in enumerate(keys):
                expect(await keys_of(store, start_after=key), keys[index + 1 :])

        use(make_store, body)

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
                expect((start_after, await keys_of(store, prefix, start_after)), (start_after, expected))

        use(make_store, body)

    @pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 6, 100])
    def test_list_yields_no_more_than_limit(self, make_store: MakeStore, limit: int) -> None:
        keys = ["a/1", "a/2", "a/3", "b", "c/1"]

        async def body(store: Store) -> None:
            for key in keys:
                await store.put(key, b"x")
            expect([info.key async for info in store.list("", limit=limit)], keys[:limit])
            expect([info.key async for info in store.list("a/", start_after="a/1", limit=limit)], keys[1:3][:limit])

        use(make_store, body)

    @pytest.mark.parametrize("prefix", ["/", "../", "a//", "./", "a/../", "ä", "x" * 513])
    def test_a_prefix_that_no_key_has_is_refused(self, make_store: MakeStore, prefix: str) -> None:
        async def body(store: Store) -> None:
            with pytest.raises(InvariantViolated):
                await keys_of(store, prefix)

        use(make_store, body)
