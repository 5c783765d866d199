from __future__ import annotations

import pytest

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

PUT = b"PUT /bucket/a/b%20c?x-id=PutObject HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n"


def asked(line: str) -> Asked:
    return parse_asked(Head(f"{line} HTTP/1.1", {}))


def test_a_head_has_a_first_line_and_fields() -> None:
    head = parse_head(PUT)
    assert (head.method, head.target) == ("PUT", "/bucket/a/b%20c?x-id=PutObject")
    assert head.fields == {"host": "h", "content-length": "12", "expect": "100-continue"}


def test_a_field_can_be_left_out_and_the_rest_stays_as_it_is() -> None:
    assert without_field(PUT, b"expect") == PUT.replace(b"Expect: 100-continue\r\n", b"")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("PUT /b/a/b%20c?x-id=PutObject", Asked("put", "a/b c")),
        ("PUT /b/k?partNumber=3&uploadId=U", Asked("put-part", "k", "U", 3)),
        ("POST /b/k?uploads", Asked("begin-parts", "k")),
        ("POST /b/k?uploadId=U", Asked("finish-parts", "k", "U")),
        ("DELETE /b/k?uploadId=U", Asked("abort-parts", "k", "U")),
        ("POST /b/?delete", Asked("delete-many", "")),
        ("DELETE /b/k", Asked("delete", "k")),
        ("GET /b/k", Asked("get", "k")),
        ("HEAD /b/k", Asked("head", "k")),
        ("GET /b?list-type=2&prefix=run%2F0", Asked("list", "run/0")),
        ("GET /b/?prefix=run", Asked("list", "run")),
        ("GET /b?location", Asked("other", "")),
        ("HEAD /b", Asked("other", "")),
        ("PUT /b", Asked("other", "")),
    ],
)
def test_what_a_request_asks_for(line: str, expected: Asked) -> None:
    assert asked(line) == expected


def test_a_request_without_a_length_has_no_body() -> None:
    assert request_body(Head("GET / HTTP/1.1", {})) == Body("length", 0)
    assert request_body(Head("PUT / HTTP/1.1", {"transfer-encoding": "chunked"})) == Body("chunked")


@pytest.mark.parametrize(
    ("status", "fields", "method", "expected"),
    [
        (200, {"content-length": "5"}, "GET", Body("length", 5)),
        (200, {"content-length": "5"}, "HEAD", Body("length", 0)),
        (204, {"content-length": "5"}, "DELETE", Body("length", 0)),
        (200, {"transfer-encoding": "chunked"}, "GET", Body("chunked")),
        (200, {}, "GET", Body("until-close")),
    ],
)
def test_how_the_body_of_a_response_is_delimited(
    status: int, fields: dict[str, str], method: str, expected: Body
) -> None:
    assert response_body(Head(f"HTTP/1.1 {status} x", fields), method) == expected


def test_signatures_of_chunks_are_no_part_of_the_object() -> None:
    assert stored_bytes(Head("PUT / HTTP/1.1", {"x-amz-decoded-content-length": "100"}), 285) == 100
    assert stored_bytes(Head("PUT / HTTP/1.1", {}), 285) == 285


def test_keys_of_a_deletion_are_unescaped() -> None:
    body = b"<Delete><Object><Key>a/1</Key></Object><Object><Key>b &amp; c</Key></Object></Delete>"
    assert parse_deleted(body) == ("a/1", "b & c")


def test_an_ltx_file_tells_its_time_also_behind_a_signature() -> None:
    header = b"LTX1" + bytes(28) + (1_763_000_000_123).to_bytes(8, "big")
    assert ltx_timestamp_ms(header) == 1_763_000_000_123
    assert ltx_timestamp_ms(b"200;chunk-signature=ab\r\n" + header) == 1_763_000_000_123
    assert ltx_timestamp_ms(header[:36]) == 0
    assert ltx_timestamp_ms(b"something else") == 0
