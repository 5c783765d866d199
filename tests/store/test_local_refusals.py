"""The store in a folder follows no links and tells what the operating system has against it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from walrep.disk.atomic import FileCalls
from walrep.errors import AccessDenied, SpoolError, StoreError, StoreUnavailable
from walrep.runner import InlineRunner
from walrep.store.local import LocalStore
from walrep.testing.files import FileTrace


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


@pytest.mark.parametrize("target", ["file", "folder"])
def test_symbolic_links_are_refused_never_followed(tmp_path: Path, root: Path, store: LocalStore, target: str) -> None:
    put(store, "replica")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(outside / "secret" if target == "file" else outside)
    key = "link" if target == "file" else "link/secret"
    calls: tuple[Callable[[], object], ...] = (
        lambda: get(store, key),
        lambda: asyncio.run(store.head(key)),
        lambda: put(store, key),
        lambda: put(store, key, if_absent=True),
        lambda: asyncio.run(store.delete([key])),
        lambda: keys(store),
        lambda: keys(store, "li"),
        lambda: keys(store, "link"),
        lambda: keys(store, start_after=key[:-1]),
    )
    for call in calls:
        with pytest.raises(AccessDenied, match="symbolic link") as caught:
            call()
        assert str(root / "link") in caught.value.detail
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert keys(store, "rep") == ["replica"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "root", InlineRunner())
    put(store, "a/b")
    assert keys(store) == ["a/b"]
    assert (tmp_path / "real" / "a" / "b").exists()


DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
MISSHAPEN = {
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EXDEV,
    errno.ENOTSUP,
}


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_os_error_is_an_error_of_the_store(root: Path, code: int) -> None:
    with pytest.raises(StoreError, match="cannot put object") as caught:
        put(LocalStore(root, InlineRunner(), calls=fail_at("rename", code)), "object")
    expected = AccessDenied if code in DENIED else StoreError if code in MISSHAPEN else StoreUnavailable
    assert type(caught.value) is expected
    assert os.strerror(code) in caught.value.detail
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_reading_tells_a_failure_from_an_object_that_is_not_there(root: Path, code: int) -> None:
    put(LocalStore(root, InlineRunner()), "object")
    with pytest.raises(AccessDenied if code == errno.EACCES else StoreUnavailable, match="cannot get object"):
        get(LocalStore(root, InlineRunner(), calls=fail_at("open", code)), "object")


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_where_the_folder_should_be_is_no_empty_store(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    store = LocalStore(tmp_path / "file" / below, InlineRunner())
    calls: tuple[Callable[[], object], ...] = (
        lambda: keys(store),
        lambda: keys(store, "a/"),
        lambda: get(store, "a"),
        lambda: asyncio.run(store.head("a/b")),
        lambda: asyncio.run(store.delete(["a"])),
        lambda: put(store, "a"),
    )
    for call in calls:
        with pytest.raises(StoreError) as caught:
            call()
        assert type(caught.value) is StoreError
        assert "file where a folder should be" in caught.value.hint or "cannot be both" in caught.value.hint


@pytest.mark.parametrize("if_absent", [False, True])
def test_a_key_cannot_be_the_folder_of_others(store: LocalStore, *, if_absent: bool) -> None:
    put(store, "a/b")
    for key in ("a", "a/b/c"):
        with pytest.raises(StoreError, match="cannot put") as caught:
            put(store, key, if_absent=if_absent)
        assert type(caught.value) is StoreError
    assert keys(store) == ["a/b"]


def test_a_source_that_cannot_be_read_is_trouble_of_the_spool(tmp_path: Path, root: Path, store: LocalStore) -> None:
    for source in (tmp_path / "missing", tmp_path):
        with pytest.raises(SpoolError, match="cannot read"):
            put(store, "a", source)
    assert keys(store) == []
    assert list((root / ".tmp").iterdir()) == []
