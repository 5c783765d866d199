"""A proxy in front of an S3 server that writes down every request, in a process of its own.

    python -m benchmarks.compare.proxy HOST PORT       prints {"port": N}

What comes in goes out byte for byte, so that signatures stay good; only `Expect: 100-continue` is answered here. The
command `save` writes all requests so far to a file; what they amount to is the business of `benchmarks.compare.counts`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
import uvloop

from benchmarks.compare.counts import Request
from benchmarks.compare.wire import (
    Asked,
    Body,
    Head,
    ltx_timestamp_ms,
    parse_asked,
    parse_deleted,
    parse_head,
    request_body,
    response_body,
    stored_bytes,
    without_field,
)

HEAD_BYTES_MAX = 1 << 17
SLICE_BYTES = 1 << 16
KEPT_BYTES = {"put": 512, "delete-many": 1 << 20}
"""How much of a body is looked at: the header of an LTX file, and the keys of a DeleteObjects."""

_LOST = (ConnectionError, asyncio.IncompleteReadError)


class Relay:
    """Copies one body, counts it, and keeps its beginning."""

    def __init__(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept_bytes: int = 0) -> None:
        self.source, self.sink, self.kept_bytes = source, sink, kept_bytes
        self.kept = bytearray()
        self.wire_bytes = 0
        self.body_bytes = 0

    async def run(self, body: Body) -> None:
        """Copy a body as it is delimited."""
        match body.kind:
            case "length":
                await self._copy(body.length)
            case "chunked":
                await self._copy_chunks()
            case "until-close":
                while data := await self.source.read(SLICE_BYTES):
                    self._send(data, len(data))
        await self.sink.drain()

    async def _copy(self, length: int) -> None:
        left = length
        while left:
            data = await self.source.read(min(left, SLICE_BYTES))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
            self._send(data, len(data))
            await self.sink.drain()

    async def _copy_chunks(self) -> None:
        while True:
            line = await self.source.readuntil(b"\r\n")
            self._send(line, 0)
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            await self._copy(size)
            self._send(await self.source.readexactly(2), 0)
        while line != b"\r\n":
            line = await self.source.readuntil(b"\r\n")
            self._send(line, 0)

    def _send(self, data: bytes, body_bytes: int) -> None:
        self.sink.write(data)
        self.wire_bytes += len(data)
        self.body_bytes += body_bytes
        if body_bytes and len(self.kept) < self.kept_bytes:
            self.kept += data[: self.kept_bytes - len(self.kept)]


class Proxy:
    """Passes on what clients ask; each connection of a client has one of its own to the server."""

    def __init__(self, host: str, port: int) -> None:
        self.server = host, port
        self.requests: list[Request] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it goes."""
        source: asyncio.StreamReader | None = None
        upstream: asyncio.StreamWriter | None = None
        with suppress(*_LOST):
            while True:
                data = await reader.readuntil(b"\r\n\r\n")
                # The server closes connections that nothing comes on; a client would have to try again, as it would not
                # with a proxy that one has in production.
                if source is None or upstream is None or source.at_eof():
                    await _close(upstream)
                    source, upstream = await asyncio.open_connection(*self.server, limit=HEAD_BYTES_MAX)
                if not await self._exchange(data, (reader, writer), (source, upstream)):
                    break
        for each in (writer, upstream):
            await _close(each)

    async def _exchange(
        self,
        data: bytes,
        before: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        behind: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> bool:
        """Pass on one request and its answer; return whether the connections can take another one."""
        (client, to_client), (server, to_server) = before, behind
        began_s = time.time()
        head = parse_head(data)
        asked = parse_asked(head)
        if head.fields.get("expect", "").lower() == "100-continue":
            to_client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            data = without_field(data, b"expect")
        to_server.write(data)
        up = Relay(client, to_server, KEPT_BYTES.get(asked.operation, 0))
        await up.run(request_body(head))
        answer = await server.readuntil(b"\r\n\r\n")
        answered = parse_head(answer)
        to_client.write(answer)
        down = Relay(server, to_client)
        body = response_body(answered, head.method)
        await down.run(body)
        self.requests.append(_request(asked, (head, answered), (up, down), began_s))
        closes = "close" in (answered.fields.get("connection", "").lower(), head.fields.get("connection", "").lower())
        return body.kind != "until-close" and not closes


async def _close(writer: asyncio.StreamWriter | None) -> None:
    if writer is not None:
        writer.close()
        with suppress(*_LOST):
            await writer.wait_closed()


def _request(asked: Asked, heads: tuple[Head, Head], relays: tuple[Relay, Relay], began_s: float) -> Request:
    head, answered = heads
    up, down = relays
    kept = bytes(up.kept)
    return Request(
        began_s=began_s,
        ended_s=time.time(),
        operation=asked.operation,
        key=asked.key,
        status=answered.status,
        up_bytes=up.body_bytes,
        down_bytes=down.body_bytes,
        stored_bytes=stored_bytes(head, up.body_bytes) if asked.operation in {"put", "put-part"} else 0,
        upload=asked.upload,
        part=asked.part,
        deleted=parse_deleted(kept) if asked.operation == "delete-many" else (),
        ltx_ms=ltx_timestamp_ms(kept) if asked.key.endswith(".ltx") else 0,
    )


async def run(host: str, port: int) -> None:
    """Serve until stdin ends."""
    proxy, stop, loop = Proxy(host, port), asyncio.Event(), asyncio.get_running_loop()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    loop.add_reader(0, _on_input(proxy, stop))
    await stop.wait()
    loop.remove_reader(0)
    server.close()


def _on_input(proxy: Proxy, stop: asyncio.Event) -> Callable[[], None]:
    def read() -> None:
        lines = os.read(0, 4096).splitlines()
        if not lines:
            stop.set()
        for line in lines:
            path = json.loads(line)["path"]
            with open(path, "wb") as file:
                file.write(msgspec.json.encode(proxy.requests))
            print(json.dumps({"requests": len(proxy.requests)}), flush=True)

    return read


def main() -> None:
    """Run with arguments: the server's host and port."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(sys.argv[1], int(sys.argv[2])))


if __name__ == "__main__":
    main()
