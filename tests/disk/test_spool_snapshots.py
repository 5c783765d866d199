"""Snapshots in the spool: beside the outbox's limit, and whole or not there after a kill at any step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disk.spooling import SpoolRig, kill_points, page, restored_images
from walrep.disk.full import load_full
from walrep.disk.peek import snapshot_ends
from walrep.errors import SpoolError, SpoolFull

BASE = {pgno: page(pgno) for pgno in range(1, 61)}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SpoolRig]:
    made = SpoolRig(tmp_path / "state")
    made.begin(BASE)
    commit(made, 1)
    yield made
    made.close()


def commit(rig: SpoolRig, number: int) -> None:
    rig.commit((number % 7 + 1, page(1000 + number)))
    rig.seal()


def full_txid(directory: Path) -> int | None:
    full = load_full(directory)
    return None if full is None else int(full.snapshot.name.txid)


def test_a_snapshot_waits_beside_what_goes_in_order(rig: SpoolRig) -> None:
    before = rig.spool.outbox()
    assert [(item.seq, item.is_snapshot) for item in before] == [(1, False), (1, True), (2, False)]
    rig.add_snapshot()
    assert rig.spool.outbox() == before
    (item,) = rig.spool.snapshots()
    assert (item.seq, item.is_snapshot, item.size_bytes) == (2, True, item.path.stat().st_size)
    _header, footer = snapshot_ends(item.path)
    assert (footer.txid, footer.seq) == (1, 2)
    rig.spool.keep(item, cache_bytes_max=1 << 30)
    assert rig.spool.snapshots() == []
    assert [path.name for path in rig.spool.cache.iterdir()] == []


def test_the_state_tells_when_the_last_one_was_made_and_what_came_since(rig: SpoolRig) -> None:
    assert (rig.spool.state.snapshot_txid, rig.spool.state.snapshot_ms) == (0, 1000)
    assert rig.spool.state.log_bytes == rig.spool.outbox()[-1].size_bytes
    rig.add_snapshot(seen_ms=8000)
    state = rig.spool.state
    assert (state.snapshot_txid, state.snapshot_ms, state.log_bytes) == (1, 8000, 0)
    commit(rig, 2)
    commit(rig, 3)
    sizes = [item.size_bytes for item in rig.spool.outbox()[-2:]]
    assert rig.spool.state.log_bytes == sum(sizes)


def test_snapshots_do_not_count_against_the_limit_of_the_outbox(tmp_path: Path) -> None:
    """They are as large as the database: one that is larger than the limit must not end the timeline."""
    rig = SpoolRig(tmp_path / "state", outbox_bytes_max=6_000)
    base = rig.begin(BASE)
    assert base.size_bytes > 4 * 6_000
    commit(rig, 1)
    rig.add_snapshot()
    assert rig.spool.outbox_bytes < 6_000
    commit(rig, 2)
    rig.close()
    again = SpoolRig(tmp_path / "state", outbox_bytes_max=6_000)
    again.go_on_from(rig, 2)
    assert again.recover() is not None
    assert again.spool.outbox_bytes == rig.spool.outbox_bytes
    commit(again, 3)
    for number in range(4, 200):
        try:
            commit(again, number)
        except SpoolFull:
            break
    assert 6_000 < again.spool.outbox_bytes < 8_000
    again.close()


@pytest.mark.parametrize("kind", ["full", "differential"])
def test_a_kill_at_any_step_of_adding_one_leaves_it_or_not(rig: SpoolRig, tmp_path: Path, kind: str) -> None:
    """And never the full one before as what later ones lean on: retention may delete that from now on."""
    rig.add_snapshot(seen_ms=6000)
    rig.spool.keep(rig.spool.snapshots()[0], cache_bytes_max=1 << 30)
    commit(rig, 2)
    commit(rig, 3)
    with kill_points(rig.directory.path, tmp_path / "killed") as copies:
        rig.add_snapshot(full_txid=None if kind == "full" else 1)
    outcomes = []
    for copy in copies:
        again = SpoolRig(copy)
        assert not (copy / "snapshot.part").exists()
        waiting, state = again.spool.snapshots(), again.spool.state
        assert [snapshot_ends(item.path)[1].txid for item in waiting] == [3][: len(waiting)]
        assert state.snapshot_txid == 1 or waiting
        remembered = full_txid(copy)
        if kind == "differential":
            assert remembered == 1
        else:
            assert remembered != 1 or not waiting
            assert remembered != 3 or state.snapshot_txid == 3
        again.go_on_from(rig, 3)
        assert again.recover() is not None
        commit(again, 4)
        again.add_snapshot()
        assert (again.spool.state.snapshot_txid, full_txid(copy)) == (4, 4)
        assert restored_images(copy, tmp_path / "store") == again.images
        outcomes.append((len(waiting), int(state.snapshot_txid), remembered))
        again.close()
    first, last = (0, 1, 1), (1, 3, 3 if kind == "full" else 1)
    assert (outcomes[0], outcomes[-1]) == (first, last)
    assert (1, 1, None if kind == "full" else 1) in outcomes


def test_a_base_is_leant_on_until_there_is_a_full_one(rig: SpoolRig) -> None:
    assert full_txid(rig.directory.path) == 0
    rig.add_snapshot(full_txid=0)
    assert full_txid(rig.directory.path) == 0
    commit(rig, 2)
    rig.add_snapshot()
    full = load_full(rig.directory.path)
    assert full is not None
    assert full.snapshot.position == rig.spool.state.position()
    assert full.hashes == rig.log.encoder.hashes.to_bytes()


def test_one_that_is_discarded_is_not_leant_on(rig: SpoolRig) -> None:
    rig.add_snapshot()
    rig.spool.discard_snapshot(rig.spool.snapshots()[0])
    assert rig.spool.snapshots() == []
    assert load_full(rig.directory.path) is None


def test_no_full_one_is_published_before_the_one_before_is_forgotten(rig: SpoolRig) -> None:
    """A differential one goes on the one before."""
    record = rig.directory.path / "full"
    record.unlink()
    record.mkdir()
    with pytest.raises(SpoolError):
        rig.add_snapshot()
    rig.add_snapshot(full_txid=0)
    assert len(rig.spool.snapshots()) == 1
    waiting = rig.spool.outbox()
    with pytest.raises(SpoolError):
        rig.begin(BASE)
    assert [item.is_snapshot for item in rig.spool.outbox()[len(waiting) :]] == [False]
    assert rig.spool.state.timeline is None


@pytest.mark.parametrize("full", [True, False])
def test_a_kill_at_any_step_of_beginning_a_timeline_leaves_its_base_or_not(
    rig: SpoolRig, tmp_path: Path, *, full: bool
) -> None:
    """A differential base goes on the full one before, and so do later ones; a full one replaces it."""
    changed, record = {**BASE, 3: page(3000)}, load_full(rig.directory.path)
    assert record is not None
    under = record.snapshot.position
    rig.open()
    with kill_points(rig.directory.path, tmp_path / "killed") as copies:
        rig.publish_base(changed, under=None if full else under)
    outcomes = set()
    for copy in copies:
        again = SpoolRig(copy)
        record, has_begun = load_full(copy), again.spool.state.timeline is not None
        where = None if record is None else str(record.snapshot.name.timeline)
        assert has_begun == any(item.is_snapshot and item.seq == 3 for item in again.spool.outbox())
        if full:
            assert where is None or where.startswith("00002" if has_begun else "00001")
            if record is not None and has_begun:
                assert record.snapshot.position == again.spool.state.position()
        else:
            assert where is not None
            assert where.startswith("00001")
        outcomes.add((has_begun, None if where is None else where[:5]))
        again.close()
    assert (True, "00002" if full else "00001") in outcomes
    assert (True, None) in outcomes or not full


def test_what_a_killed_run_had_begun_is_removed(rig: SpoolRig, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(rig.directory.path, copy)
    (copy / "snapshot.part").write_bytes(b"half")
    SpoolRig(copy).close()
    assert not (copy / "snapshot.part").exists()
