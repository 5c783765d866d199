"""Hints that something came or went; a directory is given back with the last who waits."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from walrep.engine.watcher import DirectoryWatcher

NAMES = frozenset({"app.db"})


@pytest.fixture
def watcher() -> Iterator[DirectoryWatcher]:
    made = DirectoryWatcher()
    yield made
    made.close()


async def hint(event: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await event.wait()
    event.clear()


async def test_an_entry_that_comes_moves_or_goes_is_told(watcher: DirectoryWatcher, tmp_path: Path) -> None:
    event = asyncio.Event()
    with watcher.watch(tmp_path, NAMES, event) as is_hinted:
        assert is_hinted
        (tmp_path / "app.db").touch()
        await hint(event)
        (tmp_path / "app.db").rename(tmp_path / "old")
        await hint(event)
        (tmp_path / "old").rename(tmp_path / "app.db")
        await hint(event)
        (tmp_path / "app.db").unlink()
        await hint(event)


async def test_other_names_and_writes_are_not(watcher: DirectoryWatcher, tmp_path: Path) -> None:
    """They would cost most of a core; the hint that follows them shows that they are through."""
    (tmp_path / "app.db").touch()
    mine, after = asyncio.Event(), asyncio.Event()
    with watcher.watch(tmp_path, NAMES, mine), watcher.watch(tmp_path, frozenset({"after"}), after):
        (tmp_path / "app.db").write_bytes(b"new")
        (tmp_path / "other").touch()
        (tmp_path / "after").touch()
        await hint(after)
        assert not mine.is_set()


async def test_each_hint_finds_its_own_directory(watcher: DirectoryWatcher, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    first, second, again = asyncio.Event(), asyncio.Event(), asyncio.Event()
    one.mkdir()
    two.mkdir()
    with watcher.watch(one, NAMES, first), watcher.watch(two, NAMES, second):
        with watcher.watch(one, NAMES, again):
            (one / "app.db").touch()
            await hint(again)
            await hint(first)
        # Who left does not take the directory along.
        (one / "app.db").unlink()
        await hint(first)
        assert not second.is_set()
        assert not again.is_set()


async def test_a_directory_that_nobody_waits_for_any_more_is_not_watched(
    watcher: DirectoryWatcher, tmp_path: Path
) -> None:
    event, other = asyncio.Event(), asyncio.Event()
    (tmp_path / "other").mkdir()
    with watcher.watch(tmp_path / "other", NAMES, other):
        assert watched_count() == 1
        with watcher.watch(tmp_path, NAMES, event):
            assert watched_count() == 2
        assert watched_count() == 1


def watched_count() -> int:
    """Return how many directories inotify watches for this process."""
    count = 0
    for path in Path("/proc/self/fdinfo").iterdir():
        try:
            count += path.read_text().count("inotify wd:")
        except FileNotFoundError:
            continue
    return count


async def test_where_nothing_can_be_watched_nobody_is_told_to_count_on_it(
    watcher: DirectoryWatcher, tmp_path: Path
) -> None:
    with watcher.watch(tmp_path / "missing", NAMES, asyncio.Event()) as is_hinted:
        assert not is_hinted
    (tmp_path / "file").touch()
    with watcher.watch(tmp_path / "file", NAMES, asyncio.Event()) as is_hinted:
        assert not is_hinted


async def test_a_directory_that_is_removed_meanwhile_is_no_error(watcher: DirectoryWatcher, tmp_path: Path) -> None:
    gone, event = tmp_path / "gone", asyncio.Event()
    gone.mkdir()
    with watcher.watch(tmp_path, frozenset({"gone"}), event):
        with watcher.watch(gone, NAMES, asyncio.Event()):
            gone.rmdir()
            await hint(event)
        gone.mkdir()
        await hint(event)


async def test_a_few_directories_are_watched_at_a_time(watcher: DirectoryWatcher, tmp_path: Path) -> None:
    """Each takes a thread."""
    event = asyncio.Event()
    with ExitStack() as stack:
        for number in range(16):
            (tmp_path / str(number)).mkdir()
            assert stack.enter_context(watcher.watch(tmp_path / str(number), NAMES, event))
        assert not stack.enter_context(watcher.watch(tmp_path, NAMES, event))
        assert stack.enter_context(watcher.watch(tmp_path / "0", frozenset({"other"}), event))
    with watcher.watch(tmp_path, NAMES, event) as is_hinted:
        assert is_hinted


async def test_without_an_inotify_instance_there_are_no_hints_and_no_error(
    watcher: DirectoryWatcher, tmp_path: Path
) -> None:
    """The system refuses one as it refuses a descriptor."""
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with watcher.watch(tmp_path, NAMES, asyncio.Event()) as is_hinted:
            assert not is_hinted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with watcher.watch(tmp_path, NAMES, asyncio.Event()) as is_hinted:
        assert not is_hinted
