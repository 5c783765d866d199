"""What comes back from a bucket, as real servers do rarely, becomes what the contract says, or the right error."""

from __future__ import annotations

import asyncio
import gc
from random import Random

import pytest

from tests.store.buckets import OwningStore
from tests.store.scripted import (
    LOST,
    OK,
    USES,
    Answer,
    Request,
    content,
    error_of,
    in_order,
    list_all,
    page,
    refusal,
    result_of,
    scripted,
)
from walrep.clock import SystemClock
from walrep.core.backoff import BackoffPolicy
from walrep.errors import (
    AccessDenied,
    NotSupported,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreMissing,
    StoreUnavailable,
    WalrepError,
)
from walrep.store.base import ObjectInfo
from walrep.store.observe import ObservedStore, RequestCounter
from walrep.store.retry import RetryingStore, RetryPolicy

BODY = bytes(range(200))


@pytest.mark.parametrize("verb", USES)
async def test_an_answer_that_is_lost_is_not_tried_again_by_the_client(verb: str) -> None:
    async with scripted(in_order(LOST)) as server:
        store = server.store()
        with pytest.raises(StoreUnavailable, match="s3://bucket/app"):
            await USES[verb](store)
        await store.aclose()
    assert len(server.requests) == 1


async def test_a_lost_answer_to_a_create_only_put_meets_its_own_object() -> None:
    async with scripted(in_order(LOST, refusal(412, "PreconditionFailed"))) as server:
        counter = RequestCounter()
        policy = RetryPolicy(backoff=BackoffPolicy(first_delay_s=0.001))
        observed = ObservedStore(OwningStore(server.url(), counter=counter), counter=counter)
        store = RetryingStore(observed, SystemClock(), policy, Random(0), lambda _error, _delay_s: None)
        with pytest.raises(PreconditionFailed):
            await store.put("a", b"mine", if_absent=True)
        await store.aclose()
    assert [request.body for request in server.requests] == [b"mine"] * 2
    assert (counter.counts.put, counter.counts.errors) == (2, 1), "each attempt counts"


@pytest.mark.parametrize("verb", USES)
@pytest.mark.parametrize("retry_after", ["7", "Sat, 21 Nov 2099 10:00:00 GMT", "soon"])
async def test_a_store_that_says_when_to_come_back_is_heard(verb: str, retry_after: str) -> None:
    error = await error_of(USES[verb], refusal(503, "SlowDown", retry_after=retry_after))
    assert isinstance(error, StoreUnavailable)
    assert {"7": error.retry_after_s == 7, "soon": error.retry_after_s == 0}.get(retry_after, error.retry_after_s > 1e6)


@pytest.mark.parametrize("verb", USES)
@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"),
    [
        (403, "AccessDenied", AccessDenied, "let the access key"),
        (403, "SignatureDoesNotMatch", AccessDenied, "access-key-id"),
        (403, "RequestTimeTooSkewed", AccessDenied, "clock"),
        (400, "ExpiredToken", AccessDenied, "renew"),
        (404, "NoSuchBucket", StoreMissing, "create it"),
        (429, "TooManyRequests", StoreUnavailable, ""),
        (400, "RequestTimeout", StoreUnavailable, ""),
        (409, "OperationAborted", StoreUnavailable, ""),
        (500, "NobodyKnows", StoreUnavailable, ""),
        (501, "NotImplemented", NotSupported, ""),
        (400, "NobodyKnows", StoreError, ""),
    ],
)
async def test_a_refusal_is_the_error_that_its_code_means(
    verb: str, status: int, code: str, kind: type[WalrepError], hint: str
) -> None:
    if verb == "head":
        # A HEAD has no body, hence no code: only the status is left.
        status, kind = (404, ObjectNotFound) if code == "NoSuchBucket" else (status, kind)
        kind, hint = {400: StoreError, 409: StoreError}.get(status, kind), "" if status != 403 else "let the access key"
    error = await error_of(USES[verb], refusal(status, code))
    assert type(error) is kind
    assert hint in error.hint
    assert "s3://bucket/app" in str(error) or kind is ObjectNotFound


@pytest.mark.parametrize("verb", USES)
async def test_a_bucket_elsewhere_is_an_error_that_names_its_region(verb: str) -> None:
    """The client would follow by itself, with a request or two more for the life of each process."""
    async with scripted(in_order(refusal(301, "PermanentRedirect", x_amz_bucket_region="eu-central-1"))) as server:
        store = server.store()
        with pytest.raises(StoreError, match="another region") as caught:
            await USES[verb](store)
        await store.aclose()
    assert caught.value.hint == "say region=eu-central-1"
    assert len(server.requests) == 1


async def test_a_region_in_the_body_of_a_refusal_is_named_too() -> None:
    answer = refusal(400, "AuthorizationHeaderMalformed", more="<Region>ap-south-1</Region>")
    assert (await error_of(USES["put"], answer)).hint == "say region=ap-south-1"


async def test_an_endpoint_in_the_body_of_a_refusal_is_named() -> None:
    answer = refusal(301, "PermanentRedirect", more="<Endpoint>b.s3.example</Endpoint>")
    assert "b.s3.example" in (await error_of(USES["put"], answer)).hint


@pytest.mark.parametrize("cut_bytes", [0, 100, 199])
@pytest.mark.parametrize("length", [None, 200])
async def test_a_body_that_breaks_off_is_no_object(cut_bytes: int, length: int | None) -> None:
    answer = content(BODY, 206 if length else 200, cut_bytes=cut_bytes)
    error = await error_of(lambda store: store.get("a", length=length), answer)
    assert type(error) is StoreUnavailable


@pytest.mark.parametrize(
    "answer",
    [
        content(BODY[10:20], 206, content_range="bytes 10-19/200"),
        content(BODY[10:20], 206),
        content(BODY[10:20], content_range="bytes 10-19/200"),
        content(BODY),
        content(BODY[5:], 206, content_range="bytes 5-199/*"),
    ],
    ids=["206", "206 without header", "200 with header, as rclone", "200 and all", "206 with more"],
)
async def test_a_range_is_right_however_the_store_answers(answer: Answer) -> None:
    assert await result_of(lambda store: store.get("a", start=10, length=10), answer) == BODY[10:20]


@pytest.mark.parametrize(
    ("start", "length", "answer"),
    [
        (10, 10, content(BODY[10:19], 206, content_range="bytes 10-18/200")),
        (10, 10, content(BODY[10:19], 206, content_range="bytes 10-19/200")),
        (10, 10, content(BODY[10:19], 206, content_range="bytes 10-18/*")),
        (10, 10, content(BODY[10:19], 206)),
        (10, 10, content(b"", 206, content_range="bytes 10-19/200")),
        (190, 100, content(BODY[190:199], 206, content_range="bytes 190-198/200")),
        (10, None, content(BODY[10:199], 206, content_range="bytes 10-198/200")),
        (0, None, content(BODY[:100], content_range="bytes 0-99/200")),
    ],
)
async def test_a_range_that_is_shorter_than_asked_for_is_no_range(
    start: int, length: int | None, answer: Answer
) -> None:
    """The body is as long as its own header says, so nothing but the question tells that something is missing."""
    error = await error_of(lambda store: store.get("a", start=start, length=length), answer)
    assert (type(error), "another length" in str(error)) == (StoreUnavailable, True)


@pytest.mark.parametrize(
    "answer", [content(BODY[190:], 206, content_range="bytes 190-199/200"), content(BODY)], ids=["206", "200 and all"]
)
async def test_a_range_that_goes_past_the_end_is_cut_there(answer: Answer) -> None:
    assert await result_of(lambda store: store.get("a", start=190, length=100), answer) == BODY[190:]


async def test_another_range_than_the_one_asked_for_is_refused() -> None:
    answer = content(BODY[20:30], 206, content_range="bytes 20-29/200")
    error = await error_of(lambda store: store.get("a", start=10, length=10), answer)
    assert (type(error), "another range" in str(error)) == (StoreError, True)


async def test_a_range_past_the_end_is_empty_and_nothing_of_a_missing_object_is_an_error() -> None:
    assert await result_of(lambda store: store.get("a", start=300), refusal(416, "InvalidRange")) == b""
    with pytest.raises(ObjectNotFound):
        await result_of(lambda store: store.get("a", length=0), Answer(404))


@pytest.mark.parametrize(
    "answer",
    [page("app/b", "app/a"), page("app/a", "app/a"), page("other"), page("app/a", "app/c", token="T")],
    ids=["backwards", "twice", "outside", "again on the next page"],
)
async def test_a_listing_out_of_order_is_refused(answer: Answer) -> None:
    error = await error_of(list_all, answer)
    assert (type(error), "order of keys" in str(error)) == (StoreError, True)


async def test_a_listing_that_ignores_where_to_begin_is_refused() -> None:
    async def list_later(store: OwningStore) -> list[str]:
        return [info.key async for info in store.list("", start_after="m")]

    assert "order of keys" in str(await error_of(list_later, page("app/a", "app/z")))


async def test_what_cannot_be_a_key_of_ours_is_passed_over() -> None:
    listed = page("app/", "app/.tmp/x", "app/a", "app/b c", "app/d//e", "app/e/", "app/f", "app/ä")
    assert await result_of(list_all, listed) == ["a", "f"]


async def test_a_listing_and_a_head_tell_the_same_time() -> None:
    """A HEAD has whole seconds, and the listings of some stores thousandths."""
    headers = {"Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT", "Content-Length": "1"}
    head = await result_of(lambda store: store.head("a"), Answer(headers=headers))
    assert isinstance(head, ObjectInfo)

    async def list_infos(store: OwningStore) -> list[ObjectInfo]:
        return [info async for info in store.list("")]

    assert await result_of(list_infos, page("app/a")) == [head]
    assert head.modified_ms == 1_795_255_200_000


async def test_what_a_delete_is_refused_is_told() -> None:
    errors = (
        b"<DeleteResult><Error><Key>app/a</Key><Code>NoSuchKey</Code></Error>"
        b"<Error><Key>app/b</Key><Code>%s</Code><Message>no</Message></Error></DeleteResult>"
    )
    error = await error_of(USES["delete"], Answer(body=errors % b"AccessDenied"))
    assert (type(error), "app/b" in str(error)) == (AccessDenied, True)
    assert type(await error_of(USES["delete"], Answer(body=errors % b"InternalError"))) is StoreUnavailable
    assert type(await error_of(USES["delete"], Answer(body=errors % b"Whatever"))) is StoreError
    assert await result_of(USES["delete"], Answer(body=errors % b"NoSuchKey")) is None


@pytest.mark.parametrize("refused", [refusal(501, "NotImplemented"), refusal(405, "MethodNotAllowed")])
async def test_a_store_that_cannot_delete_many_is_asked_once_and_then_deleted_from_singly(refused: Answer) -> None:
    counter = RequestCounter()
    async with scripted(lambda request: refused if request.method == "POST" else Answer(204)) as server:
        store = OwningStore(server.url(), counter=counter)
        observed = ObservedStore(store, counter=counter)
        await observed.delete(["a", "b", "c"])
        await observed.delete(["d", "e"])
        await observed.aclose()
    assert [request.method for request in server.requests] == ["POST", *["DELETE"] * 5]
    assert sorted(request.path for request in server.requests[1:]) == [f"/bucket/app/{key}" for key in "abcde"]
    assert counter.counts.delete_requests == 6


async def test_a_provider_without_deletes_of_many_is_not_even_asked() -> None:
    async with scripted(in_order(Answer(404), Answer(204))) as server:
        store = server.store(provider="gcs")
        await store.delete(["a", "b"])
        await store.aclose()
    assert [request.method for request in server.requests] == ["DELETE", "DELETE"]


async def test_the_first_failure_of_single_deletes_is_raised_as_it_is() -> None:
    async with scripted(in_order(refusal(403, "AccessDenied"))) as server:
        store = server.store(provider="gcs")
        with pytest.raises(AccessDenied):
            await store.delete(["a", "b", "c"])
        await store.aclose()


async def test_a_cancelled_put_is_cancelled_whatever_the_store_has_made_of_it() -> None:
    stored: list[Request] = []

    def store_first(request: Request) -> Answer:
        stored.append(request)
        if len(stored) == 1:
            task.cancel()
        return OK

    async with scripted(store_first) as server:
        store = server.store()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(store.put("a", b"first"))
        assert task.cancelled()
        await store.put("a", b"second")
        await store.aclose()
    assert [request.body for request in stored] == [b"first", b"second"]


async def test_a_connection_that_is_refused_is_trouble_that_passes() -> None:
    async with scripted(in_order(OK)) as server:
        store = server.store()
    # The listening socket is closed; nobody else has its port yet.
    with pytest.raises(StoreUnavailable, match="did not answer") as caught:
        await store.put("a", b"x")
    await store.aclose()
    assert "endpoint" in caught.value.hint


@pytest.mark.filterwarnings("error::ResourceWarning")
async def test_what_is_closed_leaves_no_connection_behind() -> None:
    async with scripted(in_order(OK)) as server:
        store = server.store()
        await store.put("a", b"x")
        await store.aclose()
        del store
        gc.collect()
