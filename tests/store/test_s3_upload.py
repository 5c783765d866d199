"""Objects in parts: whole or not there, at a real server and at one that fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
from hypothesis import given, strategies as st

from tests.store.buckets import OneClient, OwningStore, new_prefix, s3_url
from tests.store.scripted import LOST, OK, Answer, Request, refusal, scripted
from tests.store.servers import BUCKET, S3Server
from tests.store.uploads import CONTENT, MIB, SIZES, Parts, is_completion, is_part
from walrep.errors import AccessDenied, ObjectNotFound, PreconditionFailed, SpoolError, StoreUnavailable
from walrep.runner import InlineRunner, ThreadRunner
from walrep.store.observe import ObservedStore, RequestCounter, RequestCounts
from walrep.store.s3 import S3Store
from walrep.store.s3_client import S3Clients
from walrep.store.s3_upload import PARTS_IN_FLIGHT_MAX, PARTS_MAX, UploadSizes, part_bytes_for

T = TypeVar("T")


async def uploads_left(store: OwningStore, server: S3Server, prefix: str) -> list[object]:
    """Return the uploads below a prefix that are neither completed nor aborted."""
    client = await store.clients.get(store.clients.resolve(s3_url(server.url(prefix))))
    answer = await client.api.list_multipart_uploads(Bucket=BUCKET)  # type: ignore[attr-defined]
    return [upload for upload in answer.get("Uploads", []) if upload["Key"].startswith(prefix)]


@pytest.mark.parametrize("kind", ["ministack", "rclone"])
async def test_forty_megabytes_are_uploaded_in_parts_of_sixteen(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: S3Server = request.getfixturevalue(kind)
    content = Random(1).randbytes(40 * MIB + 1)
    source = tmp_path / "source"
    source.write_bytes(content)
    counter, runner = RequestCounter(), ThreadRunner(2, "upload")
    clients = S3Clients({})
    store = S3Store(s3_url(server.url(new_prefix())), clients, runner, counter=counter)
    observed = ObservedStore(store, counter=counter)
    await observed.put("folder/object", source)
    assert counter.counts == RequestCounts(put=5, bytes_up=len(content))
    assert await store.get("folder/object") == content
    assert await store.get("folder/object", start=16 * MIB - 3, length=6) == content[16 * MIB - 3 : 16 * MIB + 3]
    assert (await store.head("folder/object")).size_bytes == len(content)
    await clients.aclose()
    runner.close()


@pytest.mark.parametrize("size_bytes", [0, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1, 5 * MIB, 11 * MIB])
@pytest.mark.parametrize("if_absent", [False, True])
async def test_how_many_requests_an_upload_takes_is_known_before(size_bytes: int, *, if_absent: bool) -> None:
    counter = RequestCounter()
    whole = Parts(lambda request: OK if request.method == "PUT" and "partNumber" not in request.query else None)
    async with scripted(whole) as server:
        store = OwningStore(server.url(), counter=counter, sizes=SIZES)
        try:
            await ObservedStore(store, counter=counter).put("a", bytes(size_bytes), if_absent=if_absent)
        finally:
            await store.aclose()
    assert counter.counts.put == store.put_requests(size_bytes, if_absent)


@pytest.mark.parametrize("is_file", [False, True])
async def test_a_create_only_object_in_parts_is_created_only_once(
    ministack: S3Server,
    tmp_path: Path,
    *,
    is_file: bool,
) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    prefix, counter = new_prefix(), RequestCounter()
    store = OwningStore(s3_url(ministack.url(prefix)), counter=counter, sizes=SIZES)
    observed = ObservedStore(store, counter=counter)
    await observed.put("a", source if is_file else CONTENT, if_absent=True)
    assert (counter.counts.put, counter.counts.head) == (5, 1)
    with pytest.raises(PreconditionFailed):
        await observed.put("a", bytes(len(CONTENT)), if_absent=True)
    assert await store.get("a") == CONTENT
    assert await uploads_left(store, ministack, prefix) == []
    await store.aclose()


async def test_of_many_that_create_an_object_in_parts_at_once_one_succeeds(ministack: S3Server) -> None:
    prefix = new_prefix()
    store = OwningStore(s3_url(ministack.url(prefix)), sizes=SIZES)
    results: list[str] = []

    async def create(content: bytes) -> None:
        try:
            await store.put("a", content, if_absent=True)
        except PreconditionFailed:
            results.append("refused")
        else:
            results.append("created")

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(create(bytes([number]) * 6 * MIB))
    assert sorted(results) == ["created", "refused", "refused"]
    assert len(set(await store.get("a"))) == 1
    assert await uploads_left(store, ministack, prefix) == []
    await store.aclose()


class GatedRunner(InlineRunner):
    """Stops before the call of this number, from 1, until the gate is opened."""

    def __init__(self, number: int) -> None:
        self.reached, self.gate = asyncio.Event(), asyncio.Event()
        self._left = number

    async def run(self, call: Callable[[], T]) -> T:
        self._left -= 1
        if self._left == 0:
            self.reached.set()
            await self.gate.wait()
        return call()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_an_object_in_parts_is_not_there_until_it_is_whole(
    ministack: S3Server,
    *,
    is_cancelled: bool,
) -> None:
    prefix = new_prefix()
    runner = GatedRunner(3)
    store = OwningStore(s3_url(ministack.url(prefix)), sizes=SIZES, runner=runner)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.put("a", CONTENT))
        await runner.reached.wait()
        assert len(await uploads_left(store, ministack, prefix)) == 1
        with pytest.raises(ObjectNotFound):
            await store.head("a")
        assert [info async for info in store.list("")] == []
        runner.gate.set()
        if is_cancelled:
            task.cancel()
    assert [info.key async for info in store.list("")] == ([] if is_cancelled else ["a"])
    assert await uploads_left(store, ministack, prefix) == []
    await store.aclose()


async def put_in_parts(script: Parts, *, if_absent: bool = False, **parameters: str) -> list[Request]:
    async with scripted(script) as server:
        store = OwningStore(server.url(**parameters), sizes=SIZES)
        try:
            await store.put("a", CONTENT, if_absent=if_absent)
        finally:
            await store.aclose()
    return server.requests


async def test_every_part_has_its_md5_and_the_object_what_the_url_says() -> None:
    script = Parts()
    requests = await put_in_parts(script, if_absent=True, storage_class="STANDARD_IA", sse="AES256")
    created, *_, head, completed = requests
    assert (created.method, created.query) == ("POST", {"uploads": ""})
    assert created.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert created.headers["x-amz-server-side-encryption"] == "AES256"
    assert b"".join(script.parts[number].body for number in (1, 2, 3)) == CONTENT
    assert all(len(part.headers["content-md5"]) == 24 for part in script.parts.values())
    assert head.method == "HEAD"
    assert completed.headers["if-none-match"] == "*"
    assert completed.body.index(b"<PartNumber>1<") < completed.body.index(b"<PartNumber>3<")
    assert script.aborted == []


async def test_an_object_that_may_be_overwritten_has_no_condition() -> None:
    requests = await put_in_parts(Parts())
    assert [request.method for request in requests] == ["POST", "PUT", "PUT", "PUT", "POST"]
    assert "if-none-match" not in requests[-1].headers


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (lambda request: LOST if is_part(request, 2) else None, StoreUnavailable),
        (lambda request: refusal(403, "AccessDenied") if is_part(request, 3) else None, AccessDenied),
        (lambda request: refusal(400, "BadDigest") if is_part(request, 1) else None, StoreUnavailable),
        (lambda request: refusal(404, "NoSuchUpload") if is_part(request, 1) else None, StoreUnavailable),
        (lambda request: refusal(503, "SlowDown") if is_completion(request) else None, StoreUnavailable),
        (lambda request: refusal(200, "InternalError") if is_completion(request) else None, StoreUnavailable),
        (lambda request: refusal(412, "PreconditionFailed") if is_completion(request) else None, PreconditionFailed),
        (
            lambda request: refusal(409, "ConditionalRequestConflict") if is_completion(request) else None,
            StoreUnavailable,
        ),
        (lambda request: OK if request.method == "HEAD" else None, PreconditionFailed),
        (lambda request: LOST if request.method == "HEAD" else None, StoreUnavailable),
    ],
)
async def test_whatever_fails_the_parts_are_removed(
    fault: Callable[[Request], Answer | None], kind: type[Exception]
) -> None:
    script = Parts(fault)
    with pytest.raises(kind) as caught:
        await put_in_parts(script, if_absent=True)
    assert type(caught.value) is kind
    assert script.aborted == ["up/1+"]


async def test_what_went_wrong_is_told_also_when_the_parts_cannot_be_removed() -> None:
    def fail(request: Request) -> Answer | None:
        if request.method == "DELETE":
            return LOST
        return refusal(403, "AccessDenied") if is_part(request, 1) else None

    with pytest.raises(AccessDenied):
        await put_in_parts(Parts(fail))


async def test_an_upload_that_was_not_begun_is_not_aborted() -> None:
    script = Parts(lambda _request: refusal(403, "AccessDenied"))
    with pytest.raises(AccessDenied):
        await put_in_parts(script)
    assert script.aborted == []


async def test_a_cancelled_upload_removes_its_parts_before_it_is_over() -> None:
    def cancel_once(request: Request) -> None:
        if is_part(request, 2):
            task.cancel()

    script = Parts(cancel_once)
    async with scripted(script) as server:
        store = OwningStore(server.url(), sizes=SIZES)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(store.put("a", CONTENT))
        assert task.cancelled()
        assert script.aborted == ["up/1+"]
        await store.aclose()


class BusyApi:
    """Counts the parts that are in flight at once; an abort is never answered."""

    def __init__(self) -> None:
        self.aborting = asyncio.Event()
        self.numbers: list[object] = []
        self.now = self.most = 0

    async def create_multipart_upload(self, **_: object) -> dict[str, str]:
        return {"UploadId": "up"}

    async def upload_part(self, **parameters: object) -> dict[str, str]:
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(10):
            await asyncio.sleep(0)
        self.numbers.append(parameters["PartNumber"])
        self.now -= 1
        return {"ETag": "x"}

    async def complete_multipart_upload(self, **_: object) -> dict[str, str]:
        return {"ETag": "x-20"}

    async def abort_multipart_upload(self, **_: object) -> dict[str, str]:
        self.aborting.set()
        await asyncio.Event().wait()
        return {}


async def test_an_upload_that_is_cancelled_twice_waits_for_nothing_and_leaves_no_task() -> None:
    api = BusyApi()
    store = OwningStore(s3_url("s3://bucket"), sizes=UploadSizes(part_bytes=MIB), clients=OneClient(api))  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.put("a", bytes(20 * MIB)))
        await asyncio.sleep(0)
        task.cancel()
        await api.aborting.wait()
        task.cancel()
    assert task.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_two_parts_at_most_are_in_flight() -> None:
    api = BusyApi()
    store = OwningStore(s3_url("s3://bucket"), sizes=UploadSizes(part_bytes=MIB), clients=OneClient(api))  # type: ignore[arg-type]
    await store.put("a", bytes(20 * MIB))
    assert (sorted(map(str, api.numbers)), api.most) == (sorted(map(str, range(1, 21))), PARTS_IN_FLIGHT_MAX)
    assert PARTS_IN_FLIGHT_MAX == 2


@pytest.mark.parametrize(
    ("size_bytes", "held_bytes"),
    [(0, 0), (16 * MIB, 16 * MIB), (20 * MIB, 20 * MIB), (4 << 30, 32 * MIB), (10 << 40, 2 * 1049 * MIB)],
)
def test_of_a_large_file_two_parts_are_in_memory(size_bytes: int, held_bytes: int) -> None:
    assert OwningStore(s3_url("s3://bucket")).held_bytes(size_bytes) == held_bytes


async def test_a_file_that_shrinks_is_trouble_of_the_spool_and_no_object(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)

    def shrink(request: Request) -> None:
        if "uploads" in request.query:
            source.write_bytes(CONTENT[: 6 * MIB])

    script = Parts(shrink)
    async with scripted(script) as server:
        store = OwningStore(server.url(), sizes=SIZES)
        with pytest.raises(SpoolError, match="changed"):
            await store.put("a", source)
        await store.aclose()
    assert script.aborted == ["up/1+"]


@pytest.mark.parametrize("if_absent", [False, True])
async def test_a_file_that_is_gone_is_trouble_of_the_spool(tmp_path: Path, *, if_absent: bool) -> None:
    store = OwningStore(s3_url("s3://bucket?endpoint=http://127.0.0.1:1&access-key-id=a&secret-access-key=b"))
    with pytest.raises(SpoolError):
        await store.put("a", tmp_path / "missing", if_absent=if_absent)
    await store.aclose()


@given(st.integers(0, 50 << 40), st.integers(5, 64))
def test_parts_are_never_too_many_nor_smaller_than_wanted(size_bytes: int, part_mib: int) -> None:
    part_bytes = part_bytes_for(size_bytes, part_mib * MIB)
    assert part_bytes >= part_mib * MIB
    assert -(-size_bytes // part_bytes) <= PARTS_MAX
    assert part_bytes == part_mib * MIB or part_bytes - MIB < size_bytes / PARTS_MAX
