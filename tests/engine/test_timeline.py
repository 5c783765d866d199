"""From a base to the first transaction: what the state says then, and what a base that does not fit says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from tests.disk.spooling import SpoolRig
from tests.sqlite.live import LiveDatabase
from walrep.core.units import Seq
from walrep.disk.room import DiskRoom
from walrep.engine.spooler import Spooler, SpoolerLimits
from walrep.engine.timeline import _finish_if_ready
from walrep.errors import SpoolFull
from walrep.sqlite.base import BaseCopy

P = ParamSpec("P")
T = TypeVar("T")


class DeferredExecutor(Executor):
    """Keeps calls until it is told to do them, in order."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:  # noqa: BLE001  the caller gets it
                future.set_exception(error)

        self._calls.append(call)
        return future

    def run_all(self) -> None:
        calls, self._calls = self._calls, []
        for call in calls:
            call()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveDatabase]:
    database = LiveDatabase(tmp_path / "app.db")
    database.commit("insert into t(v) values(randomblob(3000000))")
    database.tick()
    yield database
    database.close()


def copied(base: BaseCopy) -> BaseCopy:
    assert base.begin()
    while base.copy_slice():
        pass
    return base


def test_what_changed_in_the_state_while_the_base_was_completed_is_kept(live: LiveDatabase, tmp_path: Path) -> None:
    """INV-20: a store that was just seen to overwrite is not believed again."""
    rig, worker = SpoolRig(tmp_path / "state"), DeferredExecutor()
    rig.open()
    limits = SpoolerLimits(queue_bytes_max=1 << 20, segment_bytes_max=1 << 20)
    spooler = Spooler(
        rig.spool, worker, clock=live.clock, limits=limits, changed=lambda: None, failed=lambda _error: None
    )
    base = copied(live.new_base())
    noted = worker.submit(partial(rig.spool.update, creates_only=False))
    while (published := _finish_if_ready(live.capture, spooler, base)) is None:
        pass
    worker.run_all()
    assert (noted.exception(), published.exception()) == (None, None)
    assert rig.spool.state.timeline == base.header.timeline
    assert not rig.spool.state.creates_only
    rig.close()


def test_a_base_that_does_not_fit_says_how_much_room_is_worth_another_try(live: LiveDatabase, tmp_path: Path) -> None:
    free_bytes = 1000
    room = DiskRoom(tmp_path, 0, lambda _path: (free_bytes, 1 << 40))
    other = live.new_base()
    other.abandon()
    base = BaseCopy(live.capture.reader, tmp_path / "base.part", other.header, room)
    with pytest.raises(SpoolFull) as full:
        copied(base).overlay(Seq(1))
    assert full.value.room_bytes > free_bytes
    base.abandon()
    assert not base.path.exists()
