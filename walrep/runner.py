"""Where blocking work runs: threads in the product, inline in tests so that a seed replays a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

__all__ = ["InlineRunner", "Runner", "ThreadRunner"]

T = TypeVar("T")


class Runner(Protocol):
    """Runs a blocking call for a coroutine."""

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, or raise what it raises."""
        ...

    def close(self) -> None:
        """Wait for what is running and release the threads."""
        ...


class ThreadRunner:
    """A pool of threads."""

    def __init__(self, thread_count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(thread_count, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Wait for what is running and release the threads."""
        self._pool.shutdown(wait=True)


class InlineRunner:
    """The calling thread itself."""

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` here and now."""
        return call()

    def close(self) -> None:
        """Do nothing."""
