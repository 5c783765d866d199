"""The proxy on loopback, in front of a server that answers what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.compare.proxy import HEAD_BYTES_MAX, Proxy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Takes requests of known lengths and answers each; keeps what came."""

    def __init__(self, lengths: list[int], answers: list[bytes]) -> None:
        self.lengths, self.answers = lengths, answers
        self.received: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for length, answer in zip(self.lengths, self.answers, strict=True):
            self.received.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(length))
            writer.write(answer)
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give a proxy with one client; both connections are over at the end."""
    over = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.serve(reader, writer)
        over[0].set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await proxy.serve(reader, writer)
        over[1].set()

    behind = await asyncio.start_server(answer, "127.0.0.1", 0)
    proxy = Proxy(*behind.sockets[0].getsockname()[:2])
    front = await asyncio.start_server(relay, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
    reader, writer = await asyncio.open_connection(*front.sockets[0].getsockname()[:2])
    try:
        yield proxy, reader, writer
    finally:
        writer.close()
        await writer.wait_closed()
        for each in over:
            await each.wait()
        for listener in (front, behind):
            listener.close()
            await listener.wait_closed()


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
