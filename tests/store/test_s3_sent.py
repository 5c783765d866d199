"""What goes over the wire to a bucket, read from a socket."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from tests.store.buckets import OwningStore
from tests.store.scripted import OK, Answer, Request, ScriptedServer, content, in_order, page, scripted
from walrep.store.observe import ObservedStore, RequestCounter
from walrep.store.s3_upload import UploadSizes

CONTENT = b"content" * 100


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


async def sent_by_put(content: bytes | Path = CONTENT, *, if_absent: bool = False, **parameters: str) -> Request:
    async with scripted(in_order(OK)) as server:
        store = server.store(**parameters)
        await store.put("segments/1", content, if_absent=if_absent)
        await store.aclose()
    (request,) = server.requests
    return request


async def test_a_put_is_one_request_with_content_md5_and_nothing_that_only_aws_knows() -> None:
    request = await sent_by_put()
    assert (request.method, request.path, request.body) == ("PUT", "/bucket/app/segments/1", CONTENT)
    assert request.headers["content-md5"] == md5(CONTENT)
    assert request.headers["content-length"] == str(len(CONTENT))
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert "content-md5" in request.headers["authorization"], "what is not signed, a proxy may change"
    assert "accept-encoding" not in request.headers["authorization"], "Google's proxies change it"
    assert [name for name in request.headers if "checksum" in name or name in ("expect", "transfer-encoding")] == []
    assert request.headers.get("content-encoding") is None
    assert "if-none-match" not in request.headers
    assert "walrep/" in request.headers["user-agent"]


async def test_a_create_only_put_has_its_condition() -> None:
    assert (await sent_by_put(if_absent=True)).headers["if-none-match"] == "*"


async def test_a_store_without_a_prefix_has_its_keys_at_the_root_of_the_bucket() -> None:
    assert (await sent_by_put(prefix="")).path == "/bucket/segments/1"


async def test_every_object_gets_the_storage_class_and_the_encryption_that_the_url_says() -> None:
    request = await sent_by_put(storage_class="STANDARD_IA", sse="aws:kms", sse_kms_key_id="key/1")
    assert request.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key/1"
    assert [name for name in (await sent_by_put()).headers if name.startswith("x-amz-s")] == []


@pytest.mark.parametrize("is_file", [False, True])
async def test_a_large_create_only_object_is_one_streamed_put(tmp_path: Path, *, is_file: bool) -> None:
    content = bytes(3 << 20) + CONTENT
    source = tmp_path / "source"
    source.write_bytes(content)
    sizes = UploadSizes(single_bytes_max=1 << 20, conditional_bytes_max=4 << 20)
    async with scripted(in_order(OK)) as server:
        store = OwningStore(server.url(), sizes=sizes)
        await store.put("a", source if is_file else content, if_absent=True)
        await store.aclose()
    (request,) = server.requests
    assert request.body == content
    assert request.headers["content-md5"] == md5(content)
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(content).hexdigest()
    assert request.headers["if-none-match"] == "*"
    assert request.headers["expect"] == "100-continue", "a refusal spares the upload"


async def test_a_secret_with_a_plus_signs_as_it_is_written() -> None:
    """A form would read the + as a space, and AWS makes secrets with a + in them."""
    plus = await sent_by_put(session_token="a+b/c=")
    assert plus.headers["x-amz-security-token"] == "a+b/c="


async def send_everything(server: ScriptedServer, counter: RequestCounter) -> None:
    store = OwningStore(server.url(), counter=counter)
    observed = ObservedStore(store, counter=counter)
    assert [info.key async for info in observed.list("seg", start_after="segments/0")] == ["segments/1", "segments/3"]
    await observed.delete(["a", "b", "c"])
    await observed.delete(["d"])
    await observed.delete([])
    await observed.aclose()


async def test_a_listing_takes_pages_and_a_delete_says_its_md5() -> None:
    pages = [page("app/segments/1", "app/segments/2 copy", token="T 1"), page("app/segments/3")]
    counter = RequestCounter()
    async with scripted(in_order(*pages, Answer(body=b"<DeleteResult/>"), Answer(204))) as server:
        await send_everything(server, counter)
    first, second, batch, single = server.requests
    assert first.query["prefix"] == second.query["prefix"] == "app/seg"
    assert (first.query["start-after"], first.query["max-keys"]) == ("app/segments/0", "1000")
    assert (second.query["continuation-token"], second.query.get("start-after")) == ("T 1", None)
    assert (batch.method, batch.path, batch.query) == ("POST", "/bucket", {"delete": ""})
    assert batch.headers["content-md5"] == md5(batch.body)
    assert "content-md5" in batch.headers["authorization"]
    assert b"<Key>app/a</Key>" in batch.body
    assert b"<Quiet>true</Quiet>" in batch.body
    assert (single.method, single.path) == ("DELETE", "/bucket/app/d")
    assert counter.counts.list == 2
    assert (counter.counts.delete_requests, counter.counts.deleted_objects) == (2, 4)


@pytest.mark.parametrize(("limit", "asked"), [(1, ["1"]), (3, ["3", "1"]), (1500, ["1000", "1000"])])
async def test_no_more_keys_are_asked_for_than_the_limit(limit: int, asked: list[str]) -> None:
    """The first page has one key of ours of two, so that another is needed for a limit of 3."""
    async with scripted(in_order(page("app/a", "app/b", token="T"), page("app/c"))) as server:
        store = server.store()
        found = [info.key async for info in store.list("", limit=limit)]
        await store.aclose()
    assert found == ["a", "b", "c"][:limit]
    assert [request.query["max-keys"] for request in server.requests] == asked


@pytest.mark.parametrize(
    ("prefix", "start_after", "asked"),
    [
        ("segments/", "", [None]),
        ("segments/", "segments/5", ["app/segments/5"]),
        ("segments/", "a", [None]),
        ("segments/", "segments", [None]),
        ("segments/", "snapshots/1", []),
        ("", "a", ["app/a"]),
    ],
)
async def test_a_store_is_asked_to_begin_after_keys_with_the_prefix_only(
    prefix: str, start_after: str, asked: list[str | None]
) -> None:
    """MinIO and Garage list nothing, or too much, after a key that has not the prefix."""
    async with scripted(in_order(page())) as server:
        store = server.store()
        assert [info async for info in store.list(prefix, start_after=start_after)] == []
        await store.aclose()
    assert [request.query.get("start-after") for request in server.requests] == asked


async def test_a_limit_of_nothing_asks_for_nothing() -> None:
    async with scripted(in_order(page("app/a"))) as server:
        store = server.store()
        assert [info async for info in store.list("", limit=0)] == []
        await store.aclose()
    assert server.requests == []


async def test_a_store_that_gives_no_token_is_asked_from_the_last_key_on() -> None:
    async with scripted(in_order(page("app/a", "app/b c", is_truncated=True), page("app/d"))) as server:
        store = server.store()
        assert [info.key async for info in store.list("")] == ["a", "d"]
        await store.aclose()
    assert server.requests[1].query["start-after"] == "app/b c"


async def test_more_than_a_thousand_keys_are_deleted_in_batches() -> None:
    counter = RequestCounter()
    async with scripted(in_order(Answer(body=b"<DeleteResult/>"))) as server:
        store = OwningStore(server.url(), counter=counter)
        keys = [f"{number:05d}" for number in range(2001)]
        await ObservedStore(store, counter=counter).delete([*keys, keys[0]])
        await store.aclose()
    assert [request.body.count(b"<Key>") for request in server.requests] == [1000, 1000, 0]
    assert server.requests[-1].path == "/bucket/app/02000"
    assert counter.counts.delete_requests == 3


@pytest.mark.parametrize(
    ("start", "length", "header"),
    [(0, None, None), (5, None, "bytes=5-"), (0, 1, "bytes=0-0"), (5, 10, "bytes=5-14")],
)
async def test_a_range_is_asked_for_only_where_one_is_wanted(
    start: int, length: int | None, header: str | None
) -> None:
    async with scripted(in_order(content(b"0123456789" * 3))) as server:
        store = server.store()
        await store.get("a", start=start, length=length)
        await store.aclose()
    assert server.requests[0].headers.get("range") == header
