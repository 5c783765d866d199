"""The contract of a store over the network, against servers that are as different as they come."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from tests.store.buckets import OwningStore, new_prefix, s3_url
from tests.store.servers import BUCKET, ROOT, S3Server
from walrep.clock import SystemClock
from walrep.errors import AccessDenied, ObjectNotFound, StoreMissing, StoreUnavailable
from walrep.store.base import Store
from walrep.store.observe import ObservedStore, RequestCounter
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.store.s3_client import CONNECTIONS_MAX
from walrep.store.s3_requests import do_each
from walrep.testing.contract import MakeStore, StoreContract
from walrep.testing.contract_use import use

MD5_OF_NOTHING = "1B2M2Y8AsgTpgAmY7PhCfg=="


class TestMinistack(StoreContract):
    @pytest.fixture
    def make_store(self, ministack: S3Server) -> MakeStore:
        url = s3_url(ministack.url(new_prefix()))

        async def make() -> Store:
            return OwningStore(url)

        return make


class TestRclone(StoreContract):
    """With retries, as in the product: rclone answers 500 now and then while a key is both read and written."""

    creates_only = False

    @pytest.fixture
    def make_store(self, rclone: S3Server) -> MakeStore:
        url = s3_url(rclone.url(new_prefix()))

        async def make() -> Store:
            return RetryingStore(
                OwningStore(url), SystemClock(), RetryPolicy(), Random(0), lambda _error, _delay_s: None
            )

        return make

    def test_put_is_atomic_a_reader_sees_the_whole_object_or_none(self, make_store: MakeStore) -> None:
        """Of new objects only, which is what walrep writes.

        rclone cannot do better: of 940 reads of a key that was being overwritten, two had the new content with the
        length of the old; of 880 of keys that were new, none was torn.
        """
        versions = [bytes([number]) * (100_000 + 50_000 * number) for number in range(8)]
        seen: set[bytes] = set()

        async def read(store: Store, number: int, *, until: asyncio.Event) -> None:
            is_last = False
            while not is_last:
                is_last = until.is_set()
                with suppress(ObjectNotFound):
                    seen.add(await store.get(f"folder/{number}"))

        async def body(store: Store) -> None:
            for number, version in enumerate(versions):
                written = asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    group.create_task(read(store, number, until=written))
                    await store.put(f"folder/{number}", version)
                    written.set()

        use(make_store, body)
        assert {len(data) for data in seen ^ set(versions)} == set()


@pytest.fixture(params=["ministack", "rclone"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


async def list_all(store: Store) -> list[str]:
    return [info.key async for info in store.list("")]


async def test_more_than_a_page_is_listed_and_deleted(server: S3Server) -> None:
    counter = RequestCounter()
    inner = OwningStore(s3_url(server.url(new_prefix())), counter=counter)
    store = ObservedStore(inner, counter=counter)
    keys = [f"{number:04d}" for number in range(1003)]
    # A thousand at once would keep the loop from noticing for seconds that a connection is there.
    await do_each(iter(keys), lambda key: store.put(key, b"x"), at_once=CONNECTIONS_MAX)
    assert await list_all(store) == keys
    assert counter.counts.list == 2
    assert [info.key async for info in store.list("", start_after="0500", limit=600)] == keys[501:1101]
    assert counter.counts.list == 3
    await store.delete(keys)
    assert counter.counts.delete_requests == 2
    assert await list_all(store) == []
    await store.aclose()


async def test_a_body_that_was_damaged_on_its_way_is_not_stored(server: S3Server) -> None:
    """The servers hold bodies against Content-MD5, which is why walrep sends it."""
    prefix = new_prefix()
    store = OwningStore(s3_url(server.url(prefix)))
    with pytest.raises(StoreUnavailable, match="damaged"):
        async with store._place.asking("put", "a") as client:
            await client.api.put_object(Bucket=BUCKET, Key=f"{prefix}/a", Body=b"x", ContentMD5=MD5_OF_NOTHING)
    assert await list_all(store) == []
    await store.aclose()


USES: dict[str, Callable[[Store], Awaitable[object]]] = {
    "put": lambda store: store.put("a", b"x"),
    "get": lambda store: store.get("a"),
    "list": list_all,
    "delete": lambda store: store.delete(["a", "b"]),
}


@pytest.mark.parametrize("verb", USES)
async def test_a_bucket_that_does_not_exist_is_missing(server: S3Server, verb: str) -> None:
    store = OwningStore(s3_url(server.url("x").replace(BUCKET, "no-such-bucket")))
    with pytest.raises(StoreMissing, match="no-such-bucket"):
        await USES[verb](store)
    await store.aclose()


@pytest.mark.parametrize("verb", USES)
async def test_a_wrong_secret_is_denied(rclone: S3Server, verb: str) -> None:
    """ministack lets everybody in."""
    text = rclone.url("x")
    store = OwningStore(s3_url(text.replace("secret%2B1", "wrong").replace("secret+1", "wrong")))
    with pytest.raises(AccessDenied) as caught:
        await USES[verb](store)
    assert "access-key-id" in caught.value.hint
    await store.aclose()


PARENT = """
import sys
from pathlib import Path
from tests.store.servers import running
with running("rclone", Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def test_a_server_dies_with_whoever_started_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        descriptor = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    ready, _, _ = select.select([descriptor], [], [], 30)
    os.close(descriptor)
    assert ready == [descriptor], "it runs on"
