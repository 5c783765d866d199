"""A snapshot of a live database is SQLite's own image of it at one transaction, whatever the app does meanwhile."""

from __future__ import annotations

import random
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.sqlite.live import LONG_S, LiveDatabase
from tests.sqlite.snapshotting import FILL, Snapshots, at_rest, begin_log_anew, copy_all, overwrite
from walrep.core.units import PAGE_SIZES, lock_byte_page

MODES = [
    apsw.SQLITE_CHECKPOINT_PASSIVE,
    apsw.SQLITE_CHECKPOINT_FULL,
    apsw.SQLITE_CHECKPOINT_RESTART,
    apsw.SQLITE_CHECKPOINT_TRUNCATE,
]


class App:
    """What the app does between two steps of a snapshot, by a seed."""

    def __init__(self, live: LiveDatabase, dice: random.Random) -> None:
        self.live, self.dice = live, dice

    def disturb(self) -> None:
        for _ in range(self.dice.randrange(6)):
            self._write()
            for _ in range(self.dice.choice([0, 1, 3])):
                self.live.tick(self.dice.choice([0.01, 0.6]))
            if self.dice.random() < 0.4:
                self.live.checkpoint(self.dice.choice(MODES))

    def _write(self) -> None:
        live, kind = self.live, self.dice.random()
        if kind < 0.5:
            live.write_randomly(self.dice)
        elif kind < 0.65:
            live.commit("update t set v = randomblob(700) where id % 5 = ?", self.dice.randrange(5))
        elif kind < 0.75:
            live.commit(FILL.format(self.dice.randrange(1, 300), 900))
        elif kind < 0.85:
            live.commit("delete from t where id > (select max(id) * 0.7 from t)")
        elif kind < 0.9:
            live._before()
            live.app.execute("pragma incremental_vacuum").fetchall()
            live.note()
        else:
            live.app.pragma("cache_size", 3)
            live.app.execute("begin; update t set v = randomblob(1200) where id % 3 = 0; rollback")
            live.app.pragma("cache_size", 2000)


def check_interleaved(folder: Path, page_size: int, auto_vacuum: int, seed: int) -> None:
    """Make two full and two differential snapshots while the app is at work, and restore all of them at the end."""
    dice = random.Random(seed)
    # The log is copied in each pause, and a pause is shorter than what a snapshot may be held up.
    live = LiveDatabase(folder / "app.db", page_size=page_size, auto_vacuum=auto_vacuum, idle_s=0.5)
    live.app.execute(FILL.format(900, 900))
    live.begin()
    snapshots, app = Snapshots(live), App(live, dice)
    txids = []
    for differential in (False, True, True, False, True):
        app.disturb()
        # One that leans on another has something that is newer.
        live.commit(FILL.format(1, 20))
        copy = snapshots.new(differential=differential)
        while not copy.begin():
            live.tick(0.05)
        app.disturb()
        while copy.copy_slice():
            app.disturb()
        app.disturb()
        while not copy.overlay():
            copy.write_overlay()
            if dice.random() < 0.3:
                app.disturb()
            live.tick(0.05)
        # It is valid where it was complete; what is committed from then on is not part of it.
        app.disturb()
        snapshots.store(copy)
        txids.append(copy.txid)
        assert copy.txid >= max(txids)
    live.tick()
    assert live.sink is not None
    assert live.sink.images == live.expected
    for txid in txids:
        assert snapshots.restored(txid) == live.expected[txid]
    assert live.capture.reader.encoder.counts.mismatches == 0
    live.close()


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("auto_vacuum", [0, 1, 2])
def test_a_snapshot_alone_restores_the_database_where_it_stands(
    tmp_path: Path, page_size: int, auto_vacuum: int
) -> None:
    """INV-27."""
    check_interleaved(tmp_path, page_size, auto_vacuum, seed=page_size + auto_vacuum)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(page_size=st.sampled_from(PAGE_SIZES), auto_vacuum=st.integers(0, 2), seed=st.integers(0, 1 << 32))
def test_a_snapshot_restores_after_any_interleaving(
    tmp_path_factory: pytest.TempPathFactory, page_size: int, auto_vacuum: int, seed: int
) -> None:
    check_interleaved(tmp_path_factory.mktemp("live"), page_size, auto_vacuum, seed)


def test_a_differential_snapshot_holds_only_what_differs(live: LiveDatabase, snapshots: Snapshots) -> None:
    snapshots.make()
    live.commit("update t set v = randomblob(1500) where id = 77")
    copy = snapshots.make(differential=True)
    assert copy.header.full is not None
    assert (copy.txid, copy.header.full.txid) == (1, 0)
    assert snapshots.size_bytes() < 20_000 < snapshots.size_bytes(0)
    assert snapshots.restored(1, check="full") == live.expected[1]
    assert snapshots.restored(0, check="full") == live.expected[0]


def test_a_page_that_became_again_what_it_was_in_the_full_one_is_right(
    live: LiveDatabase, snapshots: Snapshots
) -> None:
    """A differential copy has taken the page as it was in between, and has to take it once more."""
    live.commit("insert into t(id, k, v) values(5000, 1, zeroblob(3000))")
    snapshots.make()
    live.commit("update t set v = randomblob(3000) where id = 5000")
    at_rest(live)
    copy = snapshots.new(differential=True)
    assert copy.begin()
    copy_all(copy)
    live.commit("update t set v = zeroblob(3000) where id = 5000")
    snapshots.complete(copy)
    assert snapshots.restored(copy.txid) == live.expected[copy.txid]


def test_pages_that_were_cut_off_and_came_back_are_right(live: LiveDatabase, snapshots: Snapshots) -> None:
    """What lies beyond the end once is absent: the full one's page there must not show through."""
    snapshots.make()
    live.commit("delete from t where id > 10")
    live._before()
    live.app.execute("vacuum")
    live.note()
    small = snapshots.make(differential=True)
    assert small.page_count < 20
    live.commit("insert into t(id, k, v) values(9000, 1, zeroblob(2000000))")
    grown = snapshots.make(differential=True)
    for copy in (small, grown):
        assert snapshots.restored(copy.txid, check="full") == live.expected[copy.txid]


def test_a_stale_page_of_the_file_is_not_taken(live: LiveDatabase, snapshots: Snapshots) -> None:
    """The newest version of every page is in the log, and the copy of the file finds the one before."""
    at_rest(live)
    live.commit("update t set v = randomblob(1400)")
    assert live.capture.files.index().backlog > 500
    copy = snapshots.new()
    assert copy.begin()
    copy_all(copy)
    assert copy._offset < 300_000
    snapshots.complete(copy)
    assert snapshots.restored(1, check="full") == live.expected[1]


def test_a_torn_page_of_the_file_is_not_taken(live: LiveDatabase, snapshots: Snapshots) -> None:
    """As a checkpoint leaves it that is writing it just now."""
    begin_log_anew(live)
    copy = snapshots.new()
    assert copy.begin()
    before = overwrite(live.path, 9 * 4096 + 2048, b"\xa5" * 2048)
    copy_all(copy)
    overwrite(live.path, 9 * 4096 + 2048, before)
    snapshots.complete(copy)
    assert snapshots.restored(1, check="full") == live.expected[1]


def test_the_log_comes_from_the_file_where_the_app_has_begun_it_anew(live: LiveDatabase, snapshots: Snapshots) -> None:
    """INV-14: frames that were captured are overwritten by those of the next generation while a round reads."""
    live.commit("update t set v = randomblob(1500) where id < 100")
    copy = snapshots.new()
    assert copy.begin()
    at_rest(live)
    reader = live.capture.reader
    frame_of = dict(reader.encoder.frame_of)
    assert frame_of
    live.commit("update t set v = randomblob(1500) where id between 100 and 200")
    assert live.capture.files.index().salts != reader.salts
    slots = reader.encoder.hashes.slots
    assert [pgno for pgno in frame_of if copy._settled(pgno, slots[pgno]) is None] == []
    copy_all(copy)
    snapshots.complete(copy)
    assert snapshots.restored(2, check="full") == live.expected[2]


def test_a_snapshot_that_is_abandoned_leaves_no_file(snapshots: Snapshots) -> None:
    copy = snapshots.new()
    assert copy.begin()
    copy.copy_slice()
    assert copy.path.exists()
    copy.abandon()
    assert not copy.path.exists()
    copy.abandon()
    made = snapshots.make()
    kept = made.path.rename(made.path.with_suffix(".kept"))
    made.abandon()
    assert kept.exists()


@pytest.mark.slow
def test_a_database_that_grows_over_the_lock_byte_page_meanwhile(tmp_path: Path) -> None:
    """SQLite never writes page 16385 of 64 KiB pages, which lies at 1 GiB: it has no content, and no hash."""
    live = LiveDatabase(tmp_path / "app.db", page_size=65536)
    sink = live.begin()
    sink.keeps_images = False
    snapshots = Snapshots(live)
    full, copy = snapshots.make(), snapshots.new()
    assert copy.begin()
    copy_all(copy)
    for n in range(17):
        live.app.execute("insert into t(k, v) values(?, zeroblob(67000000))", (n,))
        for _ in range(3):
            live.tick(LONG_S)
    live.app.execute("insert into t(k, v) values(1, randomblob(200000))")
    snapshots.complete(copy)
    assert copy.page_count > lock_byte_page(65536) > full.page_count
    at_rest(live)
    output = tmp_path / "restored"
    snapshots.restore_to(output, copy.txid)
    with live.path.open("rb") as expected, output.open("rb") as restored:
        while part := expected.read(1 << 22):
            assert restored.read(1 << 22) == part
        assert restored.read(1) == b""
    live.close()
