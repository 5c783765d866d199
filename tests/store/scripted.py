"""An S3 server on a real socket that answers by a script: what real servers do rarely, or never on demand."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest

from tests.store.buckets import OwningStore, s3_url
from walrep.errors import WalrepError
from walrep.store.s3_url import S3Url

SECRET = "very-secret"


class Request(msgspec.Struct, frozen=True):
    """What arrived; names of headers are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Answer(msgspec.Struct, frozen=True):
    """What to send. `cut_bytes`: only so much of the body, then hang up; `is_lost`: hang up without a word."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}
    cut_bytes: int | None = None
    is_lost: bool = False


LOST = Answer(is_lost=True)
OK = Answer(headers={"ETag": '"0123"'})


def content(body: bytes, status: int = 200, *, cut_bytes: int | None = None, **headers: str) -> Answer:
    """Return an object, or a range of it."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body, OK.headers | more, cut_bytes)


def refusal(status: int, code: str, *, message: str = "scripted", more: str = "", **headers: str) -> Answer:
    """Return an error as S3 has it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Answer(status, body.encode(), {name.replace("_", "-"): value for name, value in headers.items()})


def page(*keys: str, token: str = "", is_truncated: bool = False) -> Answer:
    """Return a page of a listing."""
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-11-21T10:00:00.123Z</LastModified></Contents>"
        for key in keys
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = str(is_truncated or bool(token)).lower()
    return Answer(
        body=f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{contents}</ListBucketResult>".encode()
    )


class ScriptedServer:
    """Answers each request as the script says, and keeps them all."""

    def __init__(self, script: Callable[[Request], Answer]) -> None:
        self.requests: list[Request] = []
        self.connection_count = 0
        self.endpoint = ""
        self._script = script

    def url(self, *, prefix: str = "app", **parameters: str) -> S3Url:
        """Return a place in a bucket of this server."""
        query = "".join(f"&{name.replace('_', '-')}={value}" for name, value in parameters.items())
        return s3_url(
            f"s3://bucket/{prefix}?endpoint={self.endpoint}&access-key-id=key&secret-access-key={SECRET}"
            f"&region=us-east-1{query}"
        )

    def store(self, **parameters: str) -> OwningStore:
        """Return a store in a bucket of this server."""
        return OwningStore(self.url(**parameters))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        try:
            while (request := await _read_request(reader, writer)) is not None:
                self.requests.append(request)
                answer = self._script(request)
                if not await _write_answer(writer, request, answer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def scripted(
    script: Callable[[Request], Answer], context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[ScriptedServer]:
    """Run a server; `context` makes it one of TLS."""
    server = ScriptedServer(script)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    server.endpoint = f"{'https' if context else 'http'}://{host}:{port}"
    try:
        yield server
    finally:
        listening.close()


def in_order(*answers: Answer) -> Callable[[Request], Answer]:
    """Return a script of one answer after the other; the last one is given for ever."""
    left = list(answers)
    return lambda _request: left.pop(0) if len(left) > 1 else left[0]


Use = Callable[[OwningStore], Awaitable[object]]


async def list_all(store: OwningStore) -> list[str]:
    """Return every key."""
    return [info.key async for info in store.list("")]


USES: dict[str, Use] = {
    "put": lambda store: store.put("a", b"x"),
    "get": lambda store: store.get("a"),
    "head": lambda store: store.head("a"),
    "list": list_all,
    "delete": lambda store: store.delete(["a", "b"]),
}


async def result_of(use: Use, *answers: Answer) -> object:
    """Return what a use of a store comes to that gets these answers."""
    async with scripted(in_order(*answers)) as server:
        store = server.store()
        try:
            return await use(store)
        finally:
            await store.aclose()


async def error_of(use: Use, *answers: Answer) -> WalrepError:
    """Return what a use of a store that gets these answers raises, which shows no secret."""
    with pytest.raises(WalrepError) as caught:
        await result_of(use, *answers)
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    return caught.value


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode().split(" ")
    headers = {}
    while field := (await reader.readline()).decode().rstrip("\r\n"):
        name, _, value = field.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("expect") == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    return Request(method, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers, body)


async def _write_answer(writer: asyncio.StreamWriter, request: Request, answer: Answer) -> bool:
    """Return whether the connection stays open."""
    if answer.is_lost:
        return False
    length = {"Content-Length": str(len(answer.body))}
    headers = "".join(f"{name}: {value}\r\n" for name, value in (length | answer.headers).items())
    writer.write(f"HTTP/1.1 {answer.status} Scripted\r\n{headers}\r\n".encode())
    if request.method != "HEAD":
        writer.write(answer.body[: answer.cut_bytes])
    await writer.drain()
    return answer.cut_bytes is None
