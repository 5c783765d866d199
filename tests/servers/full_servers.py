"""The contract, and the main job, on servers that people run: MinIO (create-only PUT) and Garage (without).

Not part of `make test`: they are built from source, by the Go and the Rust tools, which takes some minutes once.
`make test-servers` runs this file. Where a tool is missing the tests fail; nothing is skipped.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.hostile.model import Shape
from tests.hostile.processes import AppProcess, Sidecar, run_walrep
from tests.hostile.waiting import until
from tests.hostile.writers import AppPlan
from tests.store.buckets import OneClient, OwningStore, new_prefix, s3_url
from tests.store.servers import ENVIRONMENTS
from tests.store.uploads import CONTENT, SIZES, LossyApi
from walrep.clock import SystemClock
from walrep.engine.prove import prove_store
from walrep.errors import PreconditionFailed
from walrep.store.base import Store
from walrep.store.retry import Retries, RetryPolicy
from walrep.store.s3_client import S3Clients
from walrep.testing.contract import MakeStore, StoreContract
from walrep.testing.contract_use import use

BUCKET = "walrep-tests"
MINIO = ("go", "install", "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c")
GARAGE = ("cargo", "install", "garage", "--version", "2.5.0", "--locked", "--quiet")
MINIO_KEY, MINIO_SECRET = "walrep-tester", "walrep-test-secret"
GARAGE_CONFIG = """
metadata_dir = "{folder}/meta"
data_dir = "{folder}/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "1799bccfd7411eddcf9ebd316bc1f5287ad12a68094e1c6ac6abde7e6feae1ec"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{port}"
root_domain = ".s3.garage"
"""


def program(name: str, install: tuple[str, ...]) -> Path:
    """Return a server's program, built if it is not there."""
    folder = ENVIRONMENTS / name
    found = folder / "bin" / name
    if not found.exists():
        tool = shutil.which(install[0])
        assert tool, f"{install[0]} is needed to build {name}"
        variables = {**os.environ, "GOBIN": str(found.parent), "GOFLAGS": ""}
        root = ("--root", str(folder)) if install[0] == "cargo" else ()
        subprocess.run([tool, *install[1:], *root], env=variables, check=True)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def started(command: list[str], endpoint: str, log: Path, variables: dict[str, str]) -> Iterator[None]:
    """Run a server while the context lasts."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=output, stderr=output)
    try:
        until(lambda: answers(endpoint), f"{command[0]} answers", 60.0)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run MinIO; return the URL of its bucket, with a blank for the prefix."""
    folder = tmp_path_factory.mktemp("minio")
    # A folder of its data folder is a bucket.
    (folder / "data" / BUCKET).mkdir(parents=True)
    port = free_port()
    command = [str(program("minio", MINIO)), "server", "--address", f"127.0.0.1:{port}", str(folder / "data")]
    variables = {"MINIO_ROOT_USER": MINIO_KEY, "MINIO_ROOT_PASSWORD": MINIO_SECRET, "MINIO_BROWSER": "off"}
    with started(command, f"http://127.0.0.1:{port}", folder / "log", variables):
        yield (
            f"s3://{BUCKET}/{{prefix}}?endpoint=http://127.0.0.1:{port}&provider=minio"
            f"&access-key-id={MINIO_KEY}&secret-access-key={MINIO_SECRET}"
        )


@pytest.fixture(scope="session")
def garage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Garage; return the URL of its bucket, with a blank for the prefix."""
    folder = tmp_path_factory.mktemp("garage")
    port, config = free_port(), folder / "garage.toml"
    config.write_text(GARAGE_CONFIG.format(folder=folder, port=port, rpc=free_port()))
    command = [str(program("garage", GARAGE)), "-c", str(config)]

    def ask(*words: str) -> str:
        return subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout

    with started([*command, "server"], f"http://127.0.0.1:{port}", folder / "log", {"RUST_LOG": "warn"}):
        node = ask("node", "id", "-q").split("@")[0].strip()
        ask("layout", "assign", "-z", "here", "-c", "1G", node)
        ask("layout", "apply", "--version", "1")
        ask("bucket", "create", BUCKET)
        made = ask("key", "create", "tester")
        (key,) = re.findall(r"Key ID:\s+(\S+)", made)
        (secret,) = re.findall(r"Secret key:\s+(\S+)", made)
        ask("bucket", "allow", "--read", "--write", BUCKET, "--key", "tester")
        yield (
            f"s3://{BUCKET}/{{prefix}}?endpoint=http://127.0.0.1:{port}&provider=garage"
            f"&access-key-id={key}&secret-access-key={secret}"
        )


class TestMinio(StoreContract):
    @pytest.fixture
    def make_store(self, minio: str) -> MakeStore:
        url = s3_url(minio.format(prefix=new_prefix()))

        async def make() -> Store:
            return OwningStore(url)

        return make

    @pytest.mark.parametrize("seed", range(3))
    def test_list_begins_after_start_after(self, make_store: MakeStore, seed: int) -> None:
        """After keys and their beginnings only: MinIO refuses a text with a component `.`, which no key has."""
        dice = random.Random(seed)
        keys = sorted({f"{dice.choice('ab')}/{dice.choice('ab')}{dice.randrange(99)}" for _ in range(25)})

        async def body(store: Store) -> None:
            for key in keys:
                await store.put(key, b"x")
            for _ in range(100):
                prefix = dice.choice(keys)[: dice.randrange(4)]
                after = dice.choice(keys)[: dice.randrange(1, 6)]
                found = [info.key async for info in store.list(prefix, start_after=after)]
                assert found == [key for key in keys if key.startswith(prefix) and key > after], (prefix, after)

        use(make_store, body)


class TestGarage(StoreContract):
    creates_only = False

    @pytest.fixture
    def make_store(self, garage: str) -> MakeStore:
        url = s3_url(garage.format(prefix=new_prefix()))

        async def make() -> Store:
            return OwningStore(url)

        return make


@pytest.fixture(params=["minio", "garage"])
def url(request: pytest.FixtureRequest) -> str:
    blank: str = request.getfixturevalue(request.param)
    return blank.format(prefix=new_prefix())


async def test_what_it_does_is_proved(url: str) -> None:
    store = OwningStore(s3_url(url))
    facts = await prove_store(store, SystemClock(), "0123456789abcdef")
    await store.aclose()
    assert facts.creates_only == ("provider=minio" in url)
    assert facts.ranges
    assert facts.clock_ahead_ms == 0


@pytest.mark.parametrize("if_absent", [False, True])
async def test_a_large_object_is_stored_although_the_answer_to_its_completion_was_lost(
    url: str, *, if_absent: bool
) -> None:
    """Both forget an upload that is complete: the tag of the object tells; or the caller, if it had to be created."""
    place, clients = s3_url(url), S3Clients({})
    api = LossyApi((await clients.get(clients.resolve(place))).api)
    retries = Retries(SystemClock(), RetryPolicy(), random.Random(0), lambda _error, _delay_s: None)
    store = OwningStore(place, clients=OneClient(api), sizes=SIZES, retries=retries)  # type: ignore[arg-type]
    with pytest.raises(PreconditionFailed) if if_absent else nullcontext():
        await store.put("a", CONTENT, if_absent=if_absent)
    assert api.completion_count == 2
    assert await store.get("a") == CONTENT
    await clients.aclose()


def test_the_main_job(url: str, tmp_path: Path) -> None:
    """Replicate an app that writes, and restore its newest state byte for byte, and an earlier one."""
    database = tmp_path / "app.db"
    app = AppProcess(AppPlan(path=str(database), shape=Shape(seed=1), pause_s=0.01))
    sidecar = Sidecar(database, url, tmp_path / "log", ["--rpo", "500ms"])
    try:
        until(lambda: sum(event["event"] == "flushed" for event in sidecar.events()) >= 5, "five segments", 30.0)
        app.stop()
        assert sidecar.stop() == 0
    finally:
        app.process.kill()
        sidecar.process.kill()
    run = run_walrep("restore", url, "-o", str(tmp_path / "latest.db"), "--json")
    txid = json.loads(run.stdout.splitlines()[-1])["txid"]
    assert (tmp_path / "latest.db").read_bytes() == database.read_bytes()
    run = run_walrep("restore", url, "-o", str(tmp_path / "earlier.db"), "--json", "--txid", str(txid // 2))
    assert json.loads(run.stdout.splitlines()[-1])["txid"] == txid // 2
