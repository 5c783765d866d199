"""How the tests of a contract use the store that they are given: in an event loop of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from walrep.store.base import Store

__all__ = ["MakeStore", "expect", "keys_of", "use"]

MakeStore = Callable[[], Awaitable[Store]]
"""Opens another client of one and the same place."""

_SHOWN_CHARACTERS_MAX = 500


def use(make_store: MakeStore, body: Callable[[Store], Awaitable[None]]) -> None:
    """Run `body` with a store, and close it."""

    async def run() -> None:
        async with aclosing(await make_store()) as store:
            await body(store)

    asyncio.run(run())


async def keys_of(store: Store, prefix: str = "", start_after: str = "") -> list[str]:
    """Return the keys that the store lists."""
    return [info.key async for info in store.list(prefix, start_after=start_after)]


def expect(actual: object, expected: object) -> None:
    """Fail unless both are equal.

    Raises:
        AssertionError: they are not.

    """
    # Not an assert statement: pytest explains those in tests only, and they are off under -O.
    if actual != expected:
        raise AssertionError(f"{_shown(actual)} is not the expected {_shown(expected)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}... ({len(text)} characters)"
