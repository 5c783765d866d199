"""How a store asks for one place in a bucket: keys below its prefix, and requests that are bounded, counted and mapped.

It must not know what is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

from walrep.errors import AccessDenied
from walrep.store.observe import RequestCounter, Verb
from walrep.store.rate import waits_extend
from walrep.store.s3_client import S3Api, S3Client, S3Clients
from walrep.store.s3_errors import S3Call, concerns_credentials, mapped
from walrep.store.s3_url import S3Url

__all__ = ["S3Exchange", "S3Place", "do_each", "seconds_for"]

T = TypeVar("T")

_REQUEST_S = 60
_SLOWEST_BYTES_PER_S = 64 << 10


def seconds_for(size_bytes: int) -> float:
    """Return how long a request may take that moves so much: a minute, and the time of a slow line (64 KiB/s).

    The client bounds silence only; a store that answers byte by byte would hold an upload for ever.
    """
    return _REQUEST_S + size_bytes / _SLOWEST_BYTES_PER_S


class S3Place:
    """One prefix of one bucket, and the client for it."""

    def __init__(self, url: S3Url, clients: S3Clients, counter: RequestCounter) -> None:
        self.bucket = url.bucket
        self.root = f"{url.prefix}/" if url.prefix else ""
        self.counter = counter
        self._clients = clients
        self._settings = clients.resolve(url)

    async def client(self) -> S3Client:
        """Return the client, made when it is asked for first."""
        return await self._clients.get(self._settings)

    @asynccontextmanager
    async def asking(self, verb: str, key: str) -> AsyncIterator[S3Client]:
        """Provide the client for a request for a key relative to the place, and map what goes wrong with it."""
        client = await self.client()
        try:
            with client.in_use(), mapped(self.named(verb, key), self._clients.clock):
                yield client
        except AccessDenied as error:
            if concerns_credentials(error):
                await self._clients.retire(client)
            raise

    def named(self, verb: str, key: str) -> S3Call:
        """Return a request's name for messages."""
        return S3Call(verb, self.bucket, self.root + key, self._settings.shown_endpoint)


class S3Exchange:
    """The requests of one call: the caller counts the first one, the others are counted here."""

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._is_first = True

    async def send(self, verb: Verb, key: str, request: Callable[[S3Api], Awaitable[T]], *, size_bytes: int = 0) -> T:
        """Return the answer to a request, which `verb` it counts as, and which moves `size_bytes` at most.

        Raises:
            WalrepError: as the table of `walrep.store.s3_errors` has it.

        """
        async with self._place.asking(verb, key) as client:
            if not self._is_first:
                self._place.counter.request(verb)
            self._is_first = False
            async with asyncio.timeout(seconds_for(size_bytes)) as timeout:
                with waits_extend(timeout):
                    return await request(client.api)


async def do_each(items: Iterator[T], work: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    """Do the work for every item, so many at a time; the first failure ends it, and is raised as it is."""

    async def work_through() -> None:
        for item in items:
            await work(item)

    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work_through())
    except ExceptionGroup as failures:
        failure = failures.exceptions[0]
    if failure is not None:
        raise failure
