"""HTTP/1.1 as far as a proxy needs it (RFC 9112): where a head ends, how long a body is, what an S3 request asks for.

Pure: bytes in, values out. What S3's requests mean is told by method and query, as its API reference has them.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Literal
from urllib.parse import parse_qsl, unquote

import msgspec

Operation = Literal[
    "put",
    "begin-parts",
    "put-part",
    "finish-parts",
    "abort-parts",
    "get",
    "head",
    "list",
    "delete",
    "delete-many",
    "other",
]
"""What a request to S3 asks for. The three `-parts` and `put-part` are a multipart upload."""

VERBS: dict[Operation, str] = {
    "put": "PUT",
    "begin-parts": "PUT",
    "put-part": "PUT",
    "finish-parts": "PUT",
    "abort-parts": "DELETE",
    "get": "GET",
    "head": "HEAD",
    "list": "LIST",
    "delete": "DELETE",
    "delete-many": "DELETE",
    "other": "other",
}
"""The verbs as stores bill them: the POSTs of a multipart upload as PUT, a DeleteObjects as DELETE."""

_LTX_MAGIC = b"LTX1"
_LTX_TIMESTAMP_AT = 32
_KEY = re.compile(rb"<Key>([^<]*)</Key>")


class Head(msgspec.Struct, frozen=True):
    """The head of a request or of a response: its first line, and its fields with names in lower case."""

    first: str
    fields: dict[str, str]

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first.split(" ", 1)[0]

    @property
    def target(self) -> str:
        """Of a request: path and query."""
        return self.first.split(" ")[1]

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.first.split(" ")[1])


class Body(msgspec.Struct, frozen=True):
    """How a body is delimited: by its length, in chunks, or by the end of the connection."""

    kind: Literal["length", "chunked", "until-close"]
    length: int = 0


class Asked(msgspec.Struct, frozen=True):
    """What a request asks for. `key` of a LIST is the prefix; `upload` and `part` are those of a multipart upload."""

    operation: Operation
    key: str
    upload: str = ""
    part: int = 0


def parse_head(data: bytes) -> Head:
    """Parse a head with its empty line."""
    first, *lines = data.decode("latin-1").rstrip("\r\n").split("\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    return Head(first, fields)


def without_field(data: bytes, name: bytes) -> bytes:
    """Return a head without a field."""
    lines = data.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(name + b":"))


def request_body(head: Head) -> Body:
    """Return how the body of a request is delimited."""
    if head.fields.get("transfer-encoding", "").lower() == "chunked":
        return Body("chunked")
    return Body("length", int(head.fields.get("content-length", 0)))


def response_body(head: Head, method: str) -> Body:
    """Return how the body of a response is delimited: there is none after HEAD, and with 1xx, 204 and 304."""
    if method == "HEAD" or head.status < 200 or head.status in {204, 304}:
        return Body("length", 0)
    if head.fields.get("transfer-encoding", "").lower() == "chunked":
        return Body("chunked")
    if "content-length" in head.fields:
        return Body("length", int(head.fields["content-length"]))
    return Body("until-close")


def parse_asked(head: Head) -> Asked:
    """Tell what a request to S3 with the bucket in the path asks for."""
    path, _, text = head.target.partition("?")
    query = dict(parse_qsl(text, keep_blank_values=True))
    _bucket, _, key = unquote(path).removeprefix("/").partition("/")
    upload, part = query.get("uploadId", ""), int(query.get("partNumber", 0))
    if head.method == "GET" and not key:
        listing = "list-type" in query or "prefix" in query
        return Asked("list", query.get("prefix", "")) if listing else Asked("other", "")
    return Asked(_operation(head.method, query, key), key, upload, part)


def _operation(method: str, query: dict[str, str], key: str) -> Operation:
    if method == "POST":
        by_parameter: dict[str, Operation] = {
            "delete": "delete-many",
            "uploads": "begin-parts",
            "uploadId": "finish-parts",
        }
        return next((operation for name, operation in by_parameter.items() if name in query), "other")
    if not key:
        return "other"
    plain: dict[str, Operation] = {"PUT": "put", "GET": "get", "HEAD": "head", "DELETE": "delete"}
    of_parts: dict[str, Operation] = {"PUT": "put-part", "DELETE": "abort-parts"}
    return of_parts.get(method, "other") if "uploadId" in query else plain.get(method, "other")


def stored_bytes(head: Head, body_bytes: int) -> int:
    """Return how long the object of a PUT is: less than its body where each chunk carries a signature."""
    return int(head.fields.get("x-amz-decoded-content-length", body_bytes))


def parse_deleted(body: bytes) -> tuple[str, ...]:
    """Return the keys of a DeleteObjects."""
    return tuple(unescape(key.decode()) for key in _KEY.findall(body))


def ltx_timestamp_ms(begin: bytes) -> int:
    """Return the time in the header of an LTX file (ltx v0.5, header.go: 8 bytes at 32), 0 if it is none.

    The file may begin behind the signature of its first chunk.
    """
    at = begin.find(_LTX_MAGIC)
    field = begin[at + _LTX_TIMESTAMP_AT : at + _LTX_TIMESTAMP_AT + 8]
    return int.from_bytes(field, "big") if at >= 0 and len(field) == 8 else 0
