"""A base that leans on a full one: both together are the database at one position, whatever happens meanwhile."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.sqlite.live import LiveDatabase
from tests.sqlite.snapshotting import FILL
from tests.sqlite.test_base import MODES
from walrep.core.objects import SnapshotHeader
from walrep.core.snapshot import SnapshotPages, read_snapshot
from walrep.disk.room import DiskRoom
from walrep.errors import InvariantViolated
from walrep.sqlite.base import BaseCopy


def copied(base: BaseCopy) -> BaseCopy:
    assert base.begin()
    while base.copy_slice():
        pass
    return base


def full_base(live: LiveDatabase) -> BaseCopy:
    base = copied(live.new_base())
    live.end_base(base)
    return base


def pgnos_in(path: Path) -> list[int]:
    with path.open("rb") as file:
        return [pgno for item in read_snapshot(file.read) if isinstance(item, SnapshotPages) for pgno in item.pgnos]


def attach_again(live: LiveDatabase) -> None:
    live.attach_again()
    live.tick()
    live.tick(0.6)


@pytest.mark.parametrize("seed", range(8))
def test_with_the_full_one_under_it_it_is_the_database_where_encoding_begins(tmp_path: Path, seed: int) -> None:
    """The app writes, checkpoints, vacuums while nobody captures, and while the base is copied."""
    dice = random.Random(seed)
    live = LiveDatabase(tmp_path / "app.db", page_size=dice.choice([512, 4096]), auto_vacuum=dice.choice([0, 1, 2]))
    live.app.execute(FILL.format(3000, 1500))
    full = full_base(live)

    def disturb(*, attached: bool = True) -> None:
        for _ in range(dice.randrange(6)):
            live.write_randomly(dice)
            for _ in range(dice.choice([0, 1, 3]) if attached else 0):
                live.tick(dice.choice([0.01, 0.6]))
            if dice.random() < 0.4:
                live.checkpoint(dice.choice(MODES))

    for _ in range(2):
        live.kill_capture()
        disturb(attached=False)
        live.reopen_app()
        attach_again(live)
        base = live.new_base(full)
        assert base.begin()
        disturb()
        while base.copy_slice():
            disturb()
        disturb()
        sink = live.end_base(base, full)
        assert sink.images[0] == live.expected[0]
        assert base.footer is not None
        assert base.footer.stored_pages == len(pgnos_in(base.path))
        for _ in range(10):
            disturb()
        live.tick()
        assert sink.images == live.expected
    live.close()


def test_it_holds_what_differs_and_nothing_else(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    live.app.execute(FILL.format(3000, 1500))
    full = full_base(live)
    live.kill_capture()
    live.app.execute("update t set v = randomblob(1500) where id in (77, 2000)")
    live.checkpoint(MODES[3])
    attach_again(live)
    base = copied(live.new_base(full))
    live.end_base(base, full)
    assert base.page_count > 1000
    assert base.differing_pages <= 4
    assert 2 <= base.written_pages <= 4
    assert base.path.stat().st_size < 20_000 < full.path.stat().st_size
    live.close()


def test_what_stands_in_the_log_alone_is_taken_to_differ(tmp_path: Path) -> None:
    """The file does not show it yet."""
    live = LiveDatabase(tmp_path / "app.db")
    live.app.execute(FILL.format(3000, 1500))
    full = full_base(live)
    live.checkpoint(MODES[3])
    live.kill_capture()
    live.app.execute("vacuum")
    live.app.execute("update t set v = randomblob(1500)")
    live.attach_again()
    base = live.new_base(full)
    while not base.begin():
        live.tick(0.01)
    assert base.written_pages == 0
    assert base.differing_pages > 0.9 * base.page_count
    base.abandon()
    live.close()


def test_a_page_that_was_copied_and_is_in_the_end_what_the_full_one_has_is_written_again(tmp_path: Path) -> None:
    """The last one counts: without it, the one that was copied too early would."""
    live = LiveDatabase(tmp_path / "app.db")
    live.app.execute(FILL.format(300, 3000))
    old = live.app.execute("select v from t where id = 150").fetchall()[0][0]
    full = full_base(live)
    live.kill_capture()
    live.app.execute("update t set v = zeroblob(3000) where id = 150")
    live.checkpoint(MODES[3])
    attach_again(live)
    base = copied(live.new_base(full))
    first = pgnos_of(base, full)
    live.commit("update t set v = ? where id = 150", old)
    live.tick()
    sink = live.end_base(base, full)
    assert sink.images[0] == live.expected[0]
    twice = {pgno for pgno in first if pgnos_in(base.path).count(pgno) == 2}
    assert twice
    live.close()


def pgnos_of(base: BaseCopy, full: BaseCopy) -> set[int]:
    """Return the pages that a copy under way has written."""
    return {pgno for pgno in range(1, base.page_count + 1) if base.hashes.slots[pgno] != full.hashes.slots[pgno]}


def test_a_base_on_top_of_another_one_says_on_which(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    live.app.execute(FILL.format(3, 10))
    full = full_base(live)
    live.kill_capture()
    attach_again(live)
    base = live.new_base(full)
    header: SnapshotHeader = base.header
    base.abandon()
    with pytest.raises(InvariantViolated):
        BaseCopy(live.capture.reader, tmp_path / "x", header, DiskRoom(tmp_path, 0))
    live.close()
