"""A file is there whole or not at all, and its name is durable only after its content."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from walrep.disk.atomic import (
    FileCalls,
    fsync_directory,
    map_os_errors,
    publish,
    publish_new,
    remove_temporaries,
    temporary_path,
    write_atomic,
    write_new,
)
from walrep.errors import SpoolError, SpoolFull
from walrep.testing.files import FileTrace


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at(number: int) -> Callable[[int, str], None]:
    def before(current: int, _call: str) -> None:
        if current == number:
            raise Killed

    return before


def fail_at(call: str, code: int) -> Callable[[int, str], None]:
    def before(_number: int, current: str) -> None:
        if current == call:
            raise OSError(code, os.strerror(code))

    return before


def test_content_is_durable_before_its_name_and_the_directory_after(tmp_path: Path) -> None:
    trace = FileTrace()
    write_atomic(tmp_path / "state", b"content", trace.calls())
    assert trace.entries == [
        "open *.tmp",
        "write *.tmp",
        "open *.tmp",
        "fsync *.tmp",
        "rename *.tmp state",
        f"open {tmp_path.name}",
        f"fsync {tmp_path.name}",
    ]
    assert (tmp_path / "state").read_bytes() == b"content"


def test_publish_syncs_the_file_then_renames_it_then_syncs_the_directory(tmp_path: Path) -> None:
    temporary, final = tmp_path / "new", tmp_path / "folder" / "final"
    final.parent.mkdir()
    final.write_bytes(b"old")
    temporary.write_bytes(b"new")
    trace = FileTrace()
    publish(temporary, final, trace.calls())
    assert trace.entries == ["open new", "fsync new", "rename new final", "open folder", "fsync folder"]
    assert final.read_bytes() == b"new"
    assert not temporary.exists()


def test_publish_new_syncs_the_file_then_links_it_then_syncs_the_directory(tmp_path: Path) -> None:
    temporary, final = tmp_path / "new", tmp_path / "folder" / "final"
    final.parent.mkdir()
    temporary.write_bytes(b"new")
    trace = FileTrace()
    publish_new(temporary, final, trace.calls())
    assert trace.entries == ["open new", "fsync new", "link new final", "unlink new", "open folder", "fsync folder"]
    assert final.read_bytes() == b"new"
    assert final.stat().st_nlink == 1


def test_publish_new_leaves_what_has_the_name(tmp_path: Path) -> None:
    temporary, final = tmp_path / "new", tmp_path / "final"
    temporary.write_bytes(b"new")
    final.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        publish_new(temporary, final)
    assert final.read_bytes() == b"old"
    assert not temporary.exists()


@pytest.mark.parametrize("call", ["open", "fsync", "link"])
def test_publish_new_removes_the_temporary_name_in_every_outcome(tmp_path: Path, call: str) -> None:
    temporary = tmp_path / "new"
    temporary.write_bytes(b"new")
    with pytest.raises(OSError, match="Input/output"):
        publish_new(temporary, tmp_path / "final", FileTrace(fail_at(call, errno.EIO)).calls())
    assert list(tmp_path.iterdir()) == []


def test_publish_new_tells_that_the_name_is_not_durable(tmp_path: Path) -> None:
    """The second fsync is the directory's: its failure must not pass for success."""
    (tmp_path / "new").write_bytes(b"new")

    def fail_second_sync(_number: int, call: str) -> None:
        if call == "fsync" and "fsync new" in failing.entries[:-1]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    failing = FileTrace(fail_second_sync)
    with pytest.raises(OSError, match="Input/output"):
        publish_new(tmp_path / "new", tmp_path / "final", failing.calls())
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("number", range(1, 8))
def test_killed_before_any_call_leaves_the_old_content_or_the_new(tmp_path: Path, number: int) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old content")
    with pytest.raises(Killed):
        write_atomic(path, b"new", FileTrace(kill_at(number)).calls())
    renamed = number > 5
    assert path.read_bytes() == (b"new" if renamed else b"old content")
    write_atomic(path, b"newer")
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_write_atomic_leaves_no_temporary_file_when_it_fails(tmp_path: Path, call: str) -> None:
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "state", b"new", FileTrace(fail_at(call, errno.ENOSPC)).calls())
    assert list(tmp_path.iterdir()) == []


def test_a_short_write_goes_on_where_it_stopped(tmp_path: Path) -> None:
    calls = FileCalls(write=lambda descriptor, data: os.write(descriptor, data[:3]))
    write_new(tmp_path / "file", (b"0123456789", memoryview(b"abcd")), calls)
    assert (tmp_path / "file").read_bytes() == b"0123456789abcd"


def test_what_walrep_writes_is_private(tmp_path: Path) -> None:
    write_atomic(tmp_path / "state", b"content")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600


def test_write_new_does_not_touch_a_file_that_exists(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "file", (b"new",))
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize(("code", "is_passed_over"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_sync_a_directory_is_put_up_with(
    tmp_path: Path, code: int, *, is_passed_over: bool
) -> None:
    trace = FileTrace(fail_at("fsync", code))
    if is_passed_over:
        fsync_directory(tmp_path, trace.calls())
    else:
        with pytest.raises(OSError, match="Input/output"):
            fsync_directory(tmp_path, trace.calls())
    assert trace.entries[-1] == f"fsync {tmp_path.name}"


def test_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    old, young, other = temporary_path(tmp_path, "a"), temporary_path(tmp_path, "a"), tmp_path / "kept"
    for path, seconds in ((old, 100), (young, 200), (other, 100)):
        path.write_bytes(b"x")
        os.utime(path, (seconds, seconds))
    assert old != young
    assert remove_temporaries(tmp_path, modified_before_ms=200_000) == 1
    assert {path.name for path in tmp_path.iterdir()} == {young.name, "kept"}
    assert remove_temporaries(tmp_path / "missing", modified_before_ms=1) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_spool_full(code: int) -> None:
    with pytest.raises(SpoolFull, match="cannot write the state") as caught, map_os_errors("write the state"):
        raise OSError(code, os.strerror(code), "/var/lib/walrep/state")
    assert "/var/lib/walrep/state" in caught.value.detail
    assert caught.value.hint


@pytest.mark.parametrize("code", sorted(set(errno.errorcode) - {errno.ENOSPC, errno.EDQUOT}))
def test_every_other_os_error_is_a_spool_error_with_path_and_hint(code: int) -> None:
    with pytest.raises(SpoolError) as caught, map_os_errors("write the state"):
        raise OSError(code, os.strerror(code), "/some/path")
    assert not isinstance(caught.value, SpoolFull)
    assert caught.value.detail == f"/some/path: {os.strerror(code)}"
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, OSError)
