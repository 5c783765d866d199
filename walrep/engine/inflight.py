"""Several requests at a time, their answers in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import TypeVar

__all__ = ["each_in_order", "task_group"]

T = TypeVar("T")
R = TypeVar("R")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open a task group that raises the first error itself rather than a group of them."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


async def each_in_order(
    items: Iterable[T],
    fetch: Callable[[T], Awaitable[R]],
    consume: Callable[[T, R], Awaitable[bool]],
    *,
    in_flight_max: int,
) -> None:
    """Fetch several items at a time and consume them in their order, until `consume` returns False."""
    rest = iter(items)

    async def run(item: T) -> R:
        return await fetch(item)

    async with task_group() as group:
        window = deque((item, group.create_task(run(item))) for item in islice(rest, in_flight_max))
        while window:
            item, task = window.popleft()
            result = await task
            window.extend((new, group.create_task(run(new))) for new in islice(rest, 1))
            if not await consume(item, result):
                break
        for _item, task in window:
            task.cancel()


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
