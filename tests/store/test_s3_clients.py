"""Clients: made when they are needed, shared where they are the same, closed together, bounded in time."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.store.buckets import OneClient, OwningStore, s3_url
from tests.store.scripted import OK, SECRET, Answer, Request, in_order, refusal, scripted
from walrep.errors import AccessDenied, InvariantViolated, StoreUnavailable, UsageError
from walrep.runner import InlineRunner
from walrep.store.s3 import S3Store
from walrep.store.s3_client import CONNECTIONS_MAX, S3Client, S3Clients
from walrep.store.s3_requests import seconds_for
from walrep.store.s3_settings import S3Settings
from walrep.store.s3_url import S3Access
from walrep.testing.clock import SimClock

CLIENT_LIBRARIES = ("aioboto3", "aiobotocore", "aiohttp", "boto3", "botocore")
KEYS = "access-key-id=key&secret-access-key=secret&endpoint=http://127.0.0.1:1"

USES = """
import asyncio, sys
import walrep.app, walrep.store.s3
from walrep.runner import InlineRunner
from walrep.store.s3_client import S3Clients
from walrep.store.url import parse_url
clients = S3Clients({})
store = walrep.store.s3.S3Store(parse_url("s3://bucket"), clients, InlineRunner())
print(sorted(set(sys.modules) & set(sys.argv[1:])))
asyncio.run(clients.aclose())
print(sorted(set(sys.modules) & set(sys.argv[1:])))
"""


def test_whoever_uses_no_bucket_does_not_load_the_client() -> None:
    run = subprocess.run([sys.executable, "-c", USES, *CLIENT_LIBRARIES], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["[]", "[]"]


async def test_stores_with_the_same_settings_share_a_client() -> None:
    clients = S3Clients({})
    one, other, stranger = (
        clients.resolve(s3_url(f"s3://{place}{KEYS}")) for place in ("one?", "other/x?", "one?region=eu-1&")
    )
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(clients.get(settings)) for settings in (one, other, stranger, one)]
    first, same, different, again = (task.result() for task in tasks)
    assert first is same is again
    assert different is not first
    await clients.aclose()
    with pytest.raises(InvariantViolated, match="after all were closed"):
        await clients.get(one)


async def test_a_store_that_is_closed_leaves_the_client_to_the_others() -> None:
    async with scripted(in_order(OK)) as server:
        clients = S3Clients({})
        one, other = (S3Store(server.url(prefix=prefix), clients, InlineRunner()) for prefix in ("one", "other"))
        await one.put("a", b"x")
        await one.aclose()
        await other.put("a", b"x")
        with pytest.raises(InvariantViolated, match="after it was closed"):
            await one.head("a")
        await other.aclose()
        await clients.aclose()


async def test_many_requests_at_once_share_the_connections() -> None:
    async with scripted(in_order(OK)) as server:
        store = server.store()
        async with asyncio.TaskGroup() as group:
            for number in range(5 * CONNECTIONS_MAX):
                group.create_task(store.put(str(number), b"x"))
        await store.aclose()
    assert len(server.requests) == 5 * CONNECTIONS_MAX
    assert server.connection_count == CONNECTIONS_MAX == 16


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide what the machine has for the AWS tools."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.usefixtures("bare_environment")
async def test_without_credentials_access_is_denied_with_what_to_do() -> None:
    store = OwningStore(s3_url("s3://bucket?endpoint=http://127.0.0.1:1"))
    with pytest.raises(AccessDenied, match="no usable credentials") as caught:
        await store.put("a", b"x")
    await store.aclose()
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    assert caught.value.mendable


@pytest.mark.usefixtures("bare_environment")
async def test_a_profile_that_does_not_exist_is_an_error_of_use() -> None:
    store = OwningStore(s3_url("s3://bucket?endpoint=http://127.0.0.1:1&profile=nobody"))
    with pytest.raises(UsageError, match="nobody"):
        await store.put("a", b"x")
    await store.aclose()


@pytest.mark.usefixtures("bare_environment")
async def test_credentials_are_found_where_the_aws_tools_find_them(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[backup]\naws_access_key_id = filed\naws_secret_access_key = hidden\n")
    async with scripted(in_order(OK)) as server:
        store = OwningStore(s3_url(f"s3://bucket?endpoint={server.endpoint}&profile=backup&region=here"))
        await store.put("a", b"x")
        await store.aclose()
    assert "Credential=filed/" in server.requests[0].headers["authorization"]
    assert "/here/s3/" in server.requests[0].headers["authorization"]


def filed(folder: Path, key: str) -> None:
    (folder / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = hidden\n")


def accept_only(key: str) -> Callable[[Request], Answer]:
    return lambda request: (
        OK if f"Credential={key}/" in request.headers["authorization"] else refusal(403, "InvalidAccessKeyId")
    )


@pytest.mark.usefixtures("bare_environment")
@pytest.mark.parametrize("was_wrong", [False, True])
async def test_credentials_that_are_put_right_are_found_by_the_next_attempt(tmp_path: Path, *, was_wrong: bool) -> None:
    if was_wrong:
        filed(tmp_path, "old")
    async with scripted(accept_only("new")) as server:
        store = OwningStore(s3_url(f"s3://bucket?endpoint={server.endpoint}"))
        for _ in range(3):
            with pytest.raises(AccessDenied):
                await store.put("a", b"x")
        filed(tmp_path, "new")
        await store.put("a", b"x")
        assert store.clients._retired == [], "what was given up is closed"
        await store.aclose()


@pytest.mark.usefixtures("bare_environment")
async def test_a_client_that_is_given_up_is_closed_when_nobody_uses_it(tmp_path: Path) -> None:
    filed(tmp_path, "old")
    async with scripted(accept_only("new")) as server:
        clients = S3Clients({})
        store = OwningStore(s3_url(f"s3://bucket?endpoint={server.endpoint}"), clients=clients)
        used = await clients.get(clients.resolve(s3_url(f"s3://bucket?endpoint={server.endpoint}")))
        with used.in_use():
            with pytest.raises(AccessDenied):
                await store.put("a", b"x")
            assert clients._retired == [used]
        with pytest.raises(AccessDenied):
            await store.put("a", b"x")
        assert clients._retired == []
        await store.aclose()


async def test_credentials_of_the_url_are_not_looked_for_anew() -> None:
    async with scripted(accept_only("new")) as server:
        store = server.store()
        settings = store.clients.resolve(server.url())
        client = await store.clients.get(settings)
        with pytest.raises(AccessDenied):
            await store.put("a", b"x")
        assert await store.clients.get(settings) is client
        await store.aclose()


HANGING = """[profile hangs]
credential_process = {python} -c "import os, signal; open(r'{fifo}', 'w').write(str(os.getpid())); signal.pause()"
"""


@pytest.fixture
def hanging_process(tmp_path: Path, bare_environment: None) -> Path:
    """Let the profile `hangs` ask a program that never answers; return the FIFO to which it writes its process id."""
    del bare_environment
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    (tmp_path / "config").write_text(HANGING.format(python=sys.executable, fifo=fifo))
    return fifo


@pytest.mark.usefixtures("hanging_process")
async def test_credentials_that_never_come_are_not_waited_for_for_ever() -> None:
    clients = S3Clients({}, open_s=0.05)
    store = OwningStore(s3_url("s3://bucket?endpoint=http://127.0.0.1:1&profile=hangs"), clients=clients)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="profile hangs") as caught:
            await store.put("a", b"x")
        assert "credential_process" in caught.value.hint
    await store.aclose()


async def test_a_program_for_credentials_that_nobody_waits_for_is_killed_and_holds_up_nobody_else(
    hanging_process: Path,
) -> None:
    clients = S3Clients({})
    hanging = clients.resolve(s3_url("s3://bucket?endpoint=http://127.0.0.1:1&profile=hangs"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(clients.get(hanging))
        descriptor = os.pidfd_open(int(await asyncio.to_thread(hanging_process.read_text)))
        await clients.get(clients.resolve(s3_url(f"s3://one?{KEYS}")))
        task.cancel()
    ready, _, _ = await asyncio.to_thread(select.select, [descriptor], [], [], 30)
    os.close(descriptor)
    assert ready == [descriptor], "it runs on"
    await clients.aclose()


async def test_all_clients_are_closed_although_one_fails_to() -> None:
    closed: list[str] = []

    class FailingClients(S3Clients):
        async def _open(self, settings: S3Settings) -> S3Client:
            async def close() -> None:
                closed.append(settings.access.region)
                if settings.access.region == "b":
                    raise OSError("broken")

            return S3Client(SilentApi(), settings, close)  # type: ignore[arg-type]

    clients = FailingClients({})
    for region in "abc":
        await clients.get(clients.resolve(s3_url(f"s3://one?region={region}&{KEYS}")))
    with pytest.raises(OSError, match="broken"):
        await clients.aclose()
    assert sorted(closed) == ["a", "b", "c"]


async def test_the_defaults_of_a_configuration_file_are_used() -> None:
    async with scripted(in_order(OK)) as server:
        defaults = S3Access(endpoint=server.endpoint, region="there", access_key_id="filed", secret_access_key=SECRET)
        store = OwningStore(s3_url("s3://bucket"), clients=S3Clients({}, defaults))
        await store.put("a", b"x")
        await store.aclose()
    assert "Credential=filed/" in server.requests[0].headers["authorization"]
    assert "/there/s3/" in server.requests[0].headers["authorization"]


@pytest.mark.parametrize(
    ("parameters", "host", "path"),
    [
        ("", "store.example", "/bucket/app/a"),
        ("path-style=false", "bucket.store.example", "/app/a"),
        ("provider=digitalocean", "bucket.store.example", "/app/a"),
        ("provider=digitalocean&path-style=true", "store.example", "/bucket/app/a"),
    ],
)
async def test_a_bucket_stands_where_the_url_or_the_provider_says(
    monkeypatch: pytest.MonkeyPatch, parameters: str, host: str, path: str
) -> None:
    """The server is a proxy here, which is asked for every host."""
    async with scripted(in_order(OK)) as server:
        monkeypatch.setenv("HTTP_PROXY", server.endpoint)
        text = f"s3://bucket/app?endpoint=http://store.example&access-key-id=a&secret-access-key=b&{parameters}"
        store = OwningStore(s3_url(text))
        await store.put("a", b"x")
        await store.aclose()
    assert (server.requests[0].headers["host"], server.requests[0].path) == (host, path)


class SilentApi:
    """Accepts every request and never answers."""

    async def put_object(self, **_: object) -> None:
        await asyncio.Event().wait()

    async def get_object(self, **_: object) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("size_bytes", [0, 10 << 20])
def test_a_request_takes_no_longer_than_its_size_allows(size_bytes: int) -> None:
    clock = SimClock()
    store = OwningStore(s3_url("s3://bucket"), clients=OneClient(SilentApi()))  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="in time"):
        clock.run(store.put("a", bytes(size_bytes)))
    assert clock.monotonic_s() == pytest.approx(60 + size_bytes / (64 << 10))
    assert seconds_for(size_bytes) == clock.monotonic_s()


def test_a_get_that_is_not_answered_is_given_up() -> None:
    clock = SimClock()
    store = OwningStore(s3_url("s3://bucket"), clients=OneClient(SilentApi()))  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="in time"):
        clock.run(store.get("a"))
    assert clock.monotonic_s() == pytest.approx(60)
