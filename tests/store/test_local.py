"""The store in a folder keeps the contract and survives kills; folders come and go with their objects."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from walrep.disk.atomic import FileCalls
from walrep.errors import ObjectNotFound, StoreUnavailable
from walrep.runner import InlineRunner, Runner, ThreadRunner
from walrep.store.base import Store
from walrep.store.local import STALE_TEMPORARY_MS, LocalStore
from walrep.testing.clock import SimClock
from walrep.testing.contract import MakeStore, StoreContract
from walrep.testing.files import FileTrace


def store_factory(root: Path, runner: Runner) -> MakeStore:
    async def make() -> Store:
        return LocalStore(root, runner)

    return make


class TestLocalStoreInline(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return store_factory(tmp_path / "deep" / "root", InlineRunner())


class TestLocalStoreInThreads(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Iterator[MakeStore]:
        runner = ThreadRunner(8, "local-store")
        yield store_factory(tmp_path / "root", runner)
        runner.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root, InlineRunner())


def put(store: LocalStore, key: str, source: bytes | Path = b"x", *, if_absent: bool = False) -> None:
    asyncio.run(store.put(key, source, if_absent=if_absent))


def get(store: LocalStore, key: str) -> bytes:
    return asyncio.run(store.get(key))


def keys(store: LocalStore, prefix: str = "", start_after: str = "") -> list[str]:
    async def collect() -> list[str]:
        return [info.key async for info in store.list(prefix, start_after=start_after)]

    return asyncio.run(collect())


def fail_at(call: str, code: int) -> FileCalls:
    def before(_number: int, current: str) -> None:
        if current == call:
            raise OSError(code, os.strerror(code))

    return FileTrace(before).calls()


@pytest.mark.parametrize(
    ("if_absent", "publication"),
    [(False, ["rename *.tmp object"]), (True, ["link *.tmp object", "unlink *.tmp"])],
)
def test_put_is_durable_folders_and_all(root: Path, *, if_absent: bool, publication: list[str]) -> None:
    trace = FileTrace()
    put(LocalStore(root, InlineRunner(), calls=trace.calls()), "a/b/object", if_absent=if_absent)
    assert trace.entries == [
        "mkdir root",
        f"open {root.parent.name}",
        f"fsync {root.parent.name}",
        "mkdir .tmp",
        "open *.tmp",
        "write *.tmp",
        "mkdir a",
        "open root",
        "fsync root",
        "mkdir b",
        "open a",
        "fsync a",
        "open *.tmp",
        "fsync *.tmp",
        *publication,
        "open b",
        "fsync b",
        "unlink *.tmp",
    ]


def test_a_folder_that_another_writer_may_not_have_synced_is_synced_once(root: Path) -> None:
    (root / "a").mkdir(parents=True)
    trace = FileTrace()
    store = LocalStore(root, InlineRunner(), calls=trace.calls())
    put(store, "a/1")
    put(store, "a/2")
    assert [entry for entry in trace.entries if entry.startswith("fsync")] == [
        f"fsync {root.parent.name}",
        "fsync root",
        "fsync *.tmp",
        "fsync a",
        "fsync *.tmp",
        "fsync a",
    ]


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from walrep.runner import InlineRunner
from walrep.store.local import LocalStore
from walrep.testing.files import FileTrace

root, kill_at, key, if_absent = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "if_absent"

def before(number, call):
    if number == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

trace = FileTrace(before)
store = LocalStore(root, InlineRunner(), calls=trace.calls())
asyncio.run(store.put(key, b"new" * 1_000_000, if_absent=if_absent))
print(len(trace.entries))
"""


def put_in_child(root: Path, kill_at: int, key: str, mode: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(kill_at), key, mode], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("mode", ["replace", "if_absent"])
def test_a_writer_killed_before_any_call_leaves_the_whole_object_or_none(tmp_path: Path, mode: str) -> None:
    calls_count = int(put_in_child(tmp_path / "dry", 0, "folder/object", mode).stdout)
    assert calls_count == 15 + (mode == "if_absent")
    seen = set()
    for number in range(1, calls_count + 1):
        root = tmp_path / str(number)
        assert put_in_child(root, number, "folder/object", mode).returncode == -signal.SIGKILL
        store = LocalStore(root, InlineRunner())
        found = keys(store)
        seen.add(tuple(found))
        if found:
            assert get(store, "folder/object") == b"new" * 1_000_000
        else:
            with pytest.raises(ObjectNotFound):
                get(store, "folder/object")
            put(store, "folder/object", b"again", if_absent=True)
            assert get(store, "folder/object") == b"again"
    assert seen == {(), ("folder/object",)}


def test_a_writer_killed_while_it_replaces_leaves_the_old_object_whole(root: Path, store: LocalStore) -> None:
    put(store, "object", b"old")
    trace = FileTrace()
    put(LocalStore(root, InlineRunner(), calls=trace.calls()), "other", b"new")
    rename_at = trace.entries.index("rename *.tmp other") + 1
    assert put_in_child(root, rename_at, "object", "replace").returncode == -signal.SIGKILL
    assert get(store, "object") == b"old"
    assert keys(store) == ["object", "other"]
    assert len(list((root / ".tmp").iterdir())) == 1, "the litter that was not to be seen"


def test_unfinished_objects_are_invisible_and_cleared_away_when_stale(root: Path) -> None:
    clock = SimClock()
    litter = root / ".tmp"
    litter.mkdir(parents=True)
    for name, age_ms in (("put.young.tmp", STALE_TEMPORARY_MS - 1000), ("put.stale.tmp", STALE_TEMPORARY_MS + 1000)):
        (litter / name).write_bytes(b"unfinished")
        modified_s = (clock.now_ms() - age_ms) / 1000
        os.utime(litter / name, (modified_s, modified_s))
    store = LocalStore(root, InlineRunner(), clock=clock)
    assert keys(store) == []
    assert len(list(litter.iterdir())) == 2, "a reader removes nothing"
    put(store, "a")
    assert keys(store) == ["a"]
    assert [path.name for path in litter.iterdir()] == ["put.young.tmp"]


@pytest.mark.parametrize("call", ["open", "write", "mkdir", "fsync", "rename"])
def test_a_put_that_fails_leaves_no_litter(root: Path, call: str) -> None:
    with pytest.raises(StoreUnavailable):
        put(LocalStore(root, InlineRunner(), calls=fail_at(call, errno.EIO)), "object")
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_missing_folder_is_an_empty_store_and_stays_missing(root: Path, store: LocalStore) -> None:
    assert keys(store) == []
    assert keys(store, "segments/") == []
    asyncio.run(store.delete(["a/b"]))
    with pytest.raises(ObjectNotFound):
        get(store, "a")
    assert not root.exists()


def test_a_folder_that_vanishes_under_a_writer_is_not_made_anew(root: Path, store: LocalStore) -> None:
    """An unmounted disk must not be mistaken for an empty one."""
    put(store, "a")
    (root / "a").unlink()
    (root / ".tmp").rmdir()
    root.rmdir()
    with pytest.raises(StoreUnavailable, match="cannot put b") as caught:
        put(store, "b")
    assert "mounted" in caught.value.hint
    assert not root.exists()


def test_empty_folders_go_with_their_last_object_and_are_never_seen(root: Path, store: LocalStore) -> None:
    for key in ("a/b/1", "a/b/2", "c/1"):
        put(store, key)
    (root / "empty").mkdir()
    assert keys(store) == ["a/b/1", "a/b/2", "c/1"]
    asyncio.run(store.delete(["a/b/1"]))
    assert (root / "a" / "b").is_dir()
    asyncio.run(store.delete(["a/b/2", "c/1"]))
    assert sorted(path.name for path in root.iterdir()) == [".tmp", "empty"]


def test_puts_and_deletes_in_one_folder_do_not_meet(root: Path) -> None:
    async def churn(store: LocalStore, number: int) -> None:
        for _ in range(30):
            await store.put(f"a/b/{number}", b"x")
            await store.delete([f"a/b/{number}"])

    async def body() -> None:
        runner = ThreadRunner(4, "churn")
        store = LocalStore(root, runner)
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(churn(store, number))
        assert [info async for info in store.list("")] == []
        runner.close()

    asyncio.run(body())


def test_what_walrep_stores_is_private(root: Path, store: LocalStore) -> None:
    put(store, "a/b")
    assert {path.stat().st_mode & 0o777 for path in (root, root / "a")} == {0o700}
    assert (root / "a" / "b").stat().st_mode & 0o777 == 0o600


def test_list_goes_through_large_folders_in_batches(root: Path, store: LocalStore) -> None:
    names = [f"{number:05d}" for number in Random(1).sample(range(100_000), 2_500)]
    (root / "s").mkdir(parents=True)
    for name in names:
        (root / "s" / name).touch()
    expected = [f"s/{name}" for name in sorted(names)]
    assert keys(store) == expected
    assert keys(store, "s/", start_after=expected[1_234]) == expected[1_235:]


def test_what_is_deleted_while_it_is_listed_is_passed_over(root: Path, store: LocalStore) -> None:
    (root / "s").mkdir(parents=True)
    for number in range(1_500):
        (root / "s" / f"{number:05d}").touch()

    async def body() -> list[str]:
        found = []
        async for info in store.list(""):
            found.append(info.key)
            if len(found) == 1_000:
                await store.delete([f"s/{number:05d}" for number in range(1_500)])
        return found

    assert asyncio.run(body()) == [f"s/{number:05d}" for number in range(1_000)]


def test_names_that_no_key_has_are_passed_over(root: Path, store: LocalStore) -> None:
    put(store, "a")
    (root / "lost+found").mkdir()
    (root / "lost+found" / "x").touch()
    (root / "with space").touch()
    (root / os.fsdecode(b"\xff")).touch()
    os.mkfifo(root / "pipe")
    assert keys(store) == ["a"]
    with pytest.raises(ObjectNotFound):
        get(store, "pipe")
