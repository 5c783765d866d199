"""What fails for now within an upload in parts is tried again by itself, and a lost completion is not guessed at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from random import Random
from typing import Any

import pytest

from tests.store.buckets import OneClient, OwningStore, new_prefix, s3_url
from tests.store.scripted import LOST, OK, Answer, Request, refusal, scripted
from tests.store.servers import S3Server
from tests.store.uploads import CONTENT, MIB, SIZES, LossyApi, Parts, is_completion, is_part
from walrep.clock import Clock, SystemClock
from walrep.core.backoff import BackoffPolicy
from walrep.errors import AccessDenied, PreconditionFailed, StoreUnavailable, WalrepError
from walrep.store.observe import ObservedStore, RequestCounter
from walrep.store.retry import Retries, RetryPolicy
from walrep.store.s3_client import S3Clients
from walrep.store.s3_upload import UploadSizes
from walrep.testing.clock import SimClock

Fault = Callable[[Request], Answer | None]

SOON = RetryPolicy(backoff=BackoffPolicy(first_delay_s=0.001))
GONE = refusal(404, "NoSuchUpload")


class Told:
    """What is told of failures that are tried again."""

    def __init__(self, clock: Clock, policy: RetryPolicy = SOON) -> None:
        self.errors: list[WalrepError] = []
        self.retries = Retries(clock, policy, Random(0), self._tell)

    def _tell(self, error: WalrepError, _delay_s: float) -> None:
        self.errors.append(error)


def at_first(matches: Callable[[Request], bool], *answers: Answer) -> Fault:
    """Return a fault: the first requests that match are answered like this."""
    left = list(answers)
    return lambda request: left.pop(0) if left and matches(request) else None


async def put(script: Parts, *, if_absent: bool = False) -> tuple[list[Request], list[WalrepError]]:
    """Put an object of three parts; return the requests, and what was told of them."""
    told = Told(SystemClock())
    async with scripted(script) as server:
        store = OwningStore(server.url(), sizes=SIZES, retries=told.retries)
        try:
            await store.put("a", CONTENT, if_absent=if_absent)
        finally:
            await store.aclose()
    return server.requests, told.errors


@pytest.mark.parametrize(
    "answers",
    [
        [LOST],
        [refusal(503, "SlowDown"), refusal(500, "InternalError")],
        [refusal(400, "BadDigest")],
        [Answer()],
    ],
    ids=["lost", "busy twice", "damaged", "no store"],
)
async def test_a_part_that_fails_for_now_is_sent_again_and_no_other(answers: list[Answer]) -> None:
    script = Parts(at_first(lambda request: is_part(request, 2), *answers))
    requests, told = await put(script)
    sent = sorted(request.query["partNumber"] for request in requests if request.method == "PUT")
    assert sent == ["1", *["2"] * (len(answers) + 1), "3"]
    assert b"".join(script.parts[number].body for number in (1, 2, 3)) == CONTENT
    assert [type(error) for error in told] == [StoreUnavailable] * len(answers)
    assert script.aborted == []


async def test_each_attempt_at_a_part_counts_as_a_request() -> None:
    counter, told = RequestCounter(), Told(SystemClock())
    async with scripted(Parts(at_first(lambda request: is_part(request, 2), LOST, LOST))) as server:
        inner = OwningStore(server.url(), sizes=SIZES, retries=told.retries, counter=counter)
        store = ObservedStore(inner, counter=counter)
        await store.put("a", CONTENT)
        await store.aclose()
    assert counter.counts.put == len(server.requests) == 7


@pytest.mark.parametrize(("answer", "kind"), [(refusal(403, "AccessDenied"), AccessDenied), (GONE, StoreUnavailable)])
async def test_a_part_that_fails_for_good_ends_the_upload_at_once(answer: Answer, kind: type[WalrepError]) -> None:
    """One of an upload that somebody has removed passes when the upload begins anew."""
    script = Parts(lambda request: answer if is_part(request, 2) else None)
    with pytest.raises(kind) as caught:
        await put(script)
    assert caught.value.transient == (answer is GONE)
    assert script.aborted == ["up/1+"]


class SlowApi:
    """Takes an upload in parts; a part, or the completion, is never answered."""

    def __init__(self, silent: str) -> None:
        self.asked: list[str] = []
        self._silent = silent

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def answer(**_: object) -> dict[str, str]:
            self.asked.append(name)
            if name == self._silent:
                raise TimeoutError
            return {"UploadId": "up", "ETag": "x"}

        return answer


@pytest.mark.parametrize("silent", ["upload_part", "complete_multipart_upload"])
def test_what_goes_on_failing_is_given_up_after_minutes_and_the_parts_are_removed(silent: str) -> None:
    clock = SimClock()
    api, told = SlowApi(silent), Told(clock, RetryPolicy())
    store = OwningStore(
        s3_url("s3://bucket"),
        clients=OneClient(api),
        sizes=UploadSizes(part_bytes=MIB, single_bytes_max=MIB),
        retries=told.retries,
    )
    with pytest.raises(StoreUnavailable):
        clock.run(store.put("a", bytes(3 * MIB)))
    assert 120 <= clock.monotonic_s() <= 180
    assert api.asked[-1] == "abort_multipart_upload"
    assert len(told.errors) >= 5


def heads(*answers: Answer) -> Fault:
    return at_first(lambda request: request.method == "HEAD", *answers)


def completions(*answers: Answer) -> Fault:
    return at_first(is_completion, *answers)


def tagged(content: bytes) -> Answer:
    """Return the answer to a HEAD of an object in parts of 5 MiB, with the tag that AWS makes."""
    digests = [hashlib.md5(content[start : start + 5 * MIB]).digest() for start in range(0, len(content), 5 * MIB)]
    return Answer(headers={"ETag": f'"{hashlib.md5(b"".join(digests)).hexdigest()}-{len(digests)}"'})


async def test_a_completion_without_an_answer_is_sent_again() -> None:
    script = Parts(completions(LOST))
    requests, told = await put(script)
    assert [request.method for request in requests[-2:]] == ["POST", "POST"]
    assert requests[-1].body == requests[-2].body
    assert (len(told), script.aborted) == (1, [])


async def test_a_completion_whose_answer_was_lost_is_known_by_the_content_of_the_object() -> None:
    completion, head = completions(LOST, GONE), heads(tagged(CONTENT))
    requests, _told = await put(Parts(lambda request: completion(request) or head(request)))
    assert [request.method for request in requests[-3:]] == ["POST", "POST", "HEAD"]


@pytest.mark.parametrize("head", [tagged(bytes(len(CONTENT))), OK, Answer(404)], ids=["other", "unknown", "none"])
async def test_an_upload_that_is_gone_and_has_not_become_the_object_passes_when_it_begins_anew(head: Answer) -> None:
    completion, headed = completions(LOST, GONE), heads(head)
    with pytest.raises(StoreUnavailable, match="removed"):
        await put(Parts(lambda request: completion(request) or headed(request)))


@pytest.mark.parametrize("second", [GONE, refusal(412, "PreconditionFailed")])
async def test_a_create_only_object_whose_completion_was_lost_is_for_the_caller_to_tell(second: Answer) -> None:
    """Also where the content is the same: of two writers with the same content one has to lose."""
    completion, head = completions(LOST, second), heads(Answer(404), tagged(CONTENT))
    with pytest.raises(PreconditionFailed):
        await put(Parts(lambda request: completion(request) or head(request)), if_absent=True)


async def test_a_create_only_upload_that_is_gone_without_an_object_begins_anew() -> None:
    with pytest.raises(StoreUnavailable, match="removed"):
        await put(Parts(completions(LOST, GONE)), if_absent=True)


@pytest.mark.parametrize(
    ("kind", "if_absent", "error"),
    [
        # It remembers an upload that it has completed.
        ("ministack", False, None),
        ("ministack", True, None),
        # It does not, and its tag is another: only an upload that begins anew is certain.
        ("rclone", False, StoreUnavailable),
        ("rclone", True, PreconditionFailed),
    ],
)
async def test_at_a_real_server_a_lost_completion_is_stored_or_told(
    kind: str, error: type[WalrepError] | None, request: pytest.FixtureRequest, *, if_absent: bool
) -> None:
    server: S3Server = request.getfixturevalue(kind)
    url = s3_url(server.url(new_prefix()))
    clients = S3Clients({})
    api = LossyApi((await clients.get(clients.resolve(url))).api)
    told = Told(SystemClock())
    store = OwningStore(url, clients=OneClient(api), sizes=SIZES, retries=told.retries)  # type: ignore[arg-type]
    with pytest.raises(error) if error else nullcontext():
        await store.put("a", CONTENT, if_absent=if_absent)
    assert (api.completion_count, len(told.errors)) == (2, 1)
    assert await store.get("a") == CONTENT
    await clients.aclose()
