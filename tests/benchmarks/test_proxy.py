"""The proxy on loopback, in front of a server that answers what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from benchmarks.compare.proxy import HEAD_BYTES_MAX, Proxy

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """On each connection takes requests of known lengths and answers each, then closes; keeps what came."""

    def __init__(self, lengths: list[int], answers: list[bytes]) -> None:
        self.lengths, self.answers = lengths, answers
        self.received: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            for length, answer in zip(self.lengths, self.answers, strict=True):
                self.received.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(length))
                writer.write(answer)
        writer.close()
        await writer.wait_closed()


class Listener:
    """Listens, and knows when nobody is served any more."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.count = 0
        self.idle = asyncio.Event()
        self.server: asyncio.Server

    async def open(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        await self.idle.wait()
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        self.idle.clear()
        await self.handler(reader, writer)
        self.count -= 1
        if not self.count:
            self.idle.set()


class Place:
    """A server and the proxy in front of it."""

    def __init__(self, server: Server) -> None:
        self.behind = Listener(server.serve)
        self.proxy: Proxy
        self.front: Listener

    async def open(self) -> None:
        await self.behind.open()
        self.proxy = Proxy(*self.behind.address)
        self.front = Listener(self.proxy.serve)
        await self.front.open()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(*self.front.address)
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def placed(server: Server) -> AsyncIterator[Place]:
    place = Place(server)
    await place.open()
    try:
        yield place
    finally:
        await place.front.close()
        await place.behind.close()


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    async with placed(server) as place, place.client() as (reader, writer):
        yield place.proxy, reader, writer


async def test_requests_on_one_connection_pass_unchanged_and_are_counted() -> None:
    put = b"PUT /b/r/0/key HTTP/1.1\r\nContent-Length: 5\r\nAuthorization: x\r\n\r\nhello"
    get = b"GET /b/r/0/key HTTP/1.1\r\n\r\n"
    server = Server([5, 0], [OK, OK])
    async with proxied(server) as (proxy, reader, writer):
        for request in (put, get):
            writer.write(request)
            assert await reader.readexactly(len(OK)) == OK
    assert server.received == [put, get]
    seen = [(each.operation, each.key, each.status, each.up_bytes, each.down_bytes) for each in proxy.requests]
    assert seen == [("put", "r/0/key", 200, 5, 2), ("get", "r/0/key", 200, 0, 2)]
    assert proxy.requests[0].stored_bytes == 5


async def test_a_client_that_waits_for_leave_to_send_gets_it_from_the_proxy() -> None:
    server = Server([4], [OK])
    async with proxied(server) as (proxy, reader, writer):
        writer.write(b"PUT /b/k HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"data")
        assert await reader.readexactly(len(OK)) == OK
    assert server.received == [b"PUT /b/k HTTP/1.1\r\nContent-Length: 4\r\n\r\ndata"]
    assert proxy.requests[0].up_bytes == 4


async def test_chunks_of_an_answer_pass_and_only_what_is_in_them_counts() -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with proxied(Server([0], [chunks])) as (proxy, reader, writer):
        writer.write(b"GET /b?list-type=2&prefix=r HTTP/1.1\r\n\r\n")
        assert await reader.readexactly(len(chunks)) == chunks
    assert [(each.operation, each.key, each.down_bytes) for each in proxy.requests] == [("list", "r", 5)]


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\nall of it"
    async with proxied(Server([0], [answer])) as (proxy, reader, writer):
        writer.write(b"GET /b/k HTTP/1.1\r\n\r\n")
        assert await reader.read() == answer
    assert proxy.requests[0].down_bytes == 9


async def test_what_was_not_answered_is_not_counted() -> None:
    async with proxied(Server([5], [b"HTTP/1.1 200 OK\r\nContent-Le"])) as (proxy, reader, writer):
        writer.write(b"PUT /b/k HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
        assert await reader.read() == b""
    assert proxy.requests == []


async def test_of_a_deletion_of_many_the_keys_are_kept() -> None:
    body = b"<Delete><Object><Key>r/0/a</Key></Object></Delete>"
    async with proxied(Server([len(body)], [OK])) as (proxy, reader, writer):
        writer.write(b"POST /b?delete HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.readexactly(len(OK))
    assert proxy.requests[0].deleted == ("r/0/a",)


async def test_a_connection_that_the_server_closed_is_opened_anew_for_the_next_request() -> None:
    """The server takes one request on each connection; the client keeps its own."""
    get = b"GET /b/k HTTP/1.1\r\n\r\n"
    async with placed(Server([0], [OK])) as place, place.client() as (reader, writer):
        writer.write(get)
        assert await reader.readexactly(len(OK)) == OK
        await place.behind.idle.wait()
        # The proxy learns of the end while it serves somebody else.
        async with place.client() as (other_reader, other_writer):
            other_writer.write(get)
            assert await other_reader.readexactly(len(OK)) == OK
        writer.write(get)
        assert await reader.readexactly(len(OK)) == OK
    assert [each.status for each in place.proxy.requests] == [200, 200, 200]
