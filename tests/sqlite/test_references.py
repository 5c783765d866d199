"""INV-34: what a differential snapshot has against the full one's pages is restored byte for byte, or is not used."""

from __future__ import annotations

import io
import random
from pathlib import Path

import apsw
import pytest

from tests.sqlite.kept import KeptObject, delta_pgnos, plain_pgnos
from tests.sqlite.live import LiveDatabase
from tests.sqlite.snapshotting import FILL, Snapshots, at_rest, copy_all
from walrep.core.objects import SnapshotFooter, SnapshotHeader
from walrep.core.snapshot import (
    SnapshotPages,
    encode_snapshot_end,
    encode_snapshot_pages,
    encode_snapshot_start,
    read_snapshot,
)
from walrep.core.units import PAGE_SIZES, Seq
from walrep.disk.room import DiskRoom
from walrep.errors import InvariantViolated
from walrep.sqlite.base import BaseCopy
from walrep.sqlite.snapshot import SnapshotCopy


@pytest.fixture
def snapshots(live: LiveDatabase) -> Snapshots:
    made = Snapshots(live)
    made.make()
    return made


def change(live: LiveDatabase, every: int = 20) -> None:
    """Change a little on many pages."""
    live.commit("update t set k = k + 1 where id % ? = 0", every)


def check(snapshots: Snapshots, copy: SnapshotCopy) -> None:
    assert snapshots.restored(copy.txid, check="full") == snapshots.live.expected[copy.txid]


def must_keep(snapshots: Snapshots) -> KeptObject:
    assert snapshots.kept is not None
    return snapshots.kept


def test_pages_are_against_those_of_the_full_one(live: LiveDatabase, snapshots: Snapshots) -> None:
    change(live)
    at_rest(live)
    must_keep(snapshots).path.rename(live.path.parent / "elsewhere")
    plain = snapshots.make(differential=True)
    assert delta_pgnos(plain.path) == []
    pgnos, size_bytes = plain_pgnos(plain.path), snapshots.size_bytes()
    assert len(pgnos) > 50
    (live.path.parent / "elsewhere").rename(must_keep(snapshots).path)
    copy = snapshots.make(differential=True)
    assert (delta_pgnos(copy.path), plain_pgnos(copy.path)) == (pgnos, [])
    assert snapshots.size_bytes() < size_bytes / 10
    check(snapshots, copy)


def test_pages_that_stand_in_the_log_alone_are_against_them_too(live: LiveDatabase, snapshots: Snapshots) -> None:
    """They are left out where the file is read, and written with what was held for them."""
    at_rest(live)
    change(live)
    assert live.capture.files.index().backlog > 50
    copy = snapshots.make(differential=True)
    assert len(delta_pgnos(copy.path)) > 50
    assert plain_pgnos(copy.path) == []
    check(snapshots, copy)


def test_a_page_that_changes_while_it_is_copied_is_written_again_plain(
    live: LiveDatabase, snapshots: Snapshots
) -> None:
    """A reader has the one that was copied first in the place of the full one's by then."""
    change(live)
    at_rest(live)
    copy = snapshots.new(differential=True)
    assert copy.begin()
    copy_all(copy)
    for _ in range(3):
        change(live, 100)
        live.tick()
        copy.overlay()
        copy.write_overlay()
    snapshots.complete(copy)
    delta, plain = delta_pgnos(copy.path), plain_pgnos(copy.path)
    assert set(plain) < set(delta)
    assert len(plain) > len(set(plain)) > 5
    check(snapshots, copy)


def test_few_pages_are_held_for_those_that_are_left_out(tmp_path: Path) -> None:
    """8 MiB of them; what is beyond goes plain."""
    live = LiveDatabase(tmp_path / "app.db", page_size=65536)
    live.app.execute(FILL.format(3000, 4000))
    live.begin()
    snapshots = Snapshots(live)
    snapshots.make()
    at_rest(live)
    change(live, 1)
    copy = snapshots.make(differential=True)
    assert len(delta_pgnos(copy.path)) == (8 << 20) // 65536
    assert len(plain_pgnos(copy.path)) > 40
    check(snapshots, copy)
    live.close()


def test_new_pages_are_plain(live: LiveDatabase, snapshots: Snapshots) -> None:
    live.commit(FILL.format(200, 1500))
    at_rest(live)
    copy = snapshots.make(differential=True)
    full = snapshots.full
    assert full is not None
    assert min(plain_pgnos(copy.path)) > full.page_count >= max(delta_pgnos(copy.path))
    check(snapshots, copy)


# -- the object that is kept -------------------------------------------------------------------------------------------


def rewritten(data: bytes, pgno: int) -> bytes:
    """Return a full snapshot with the same ends, whole, in which one page has another content."""
    header, *items, footer = read_snapshot(io.BytesIO(data).read)
    assert isinstance(header, SnapshotHeader)
    assert isinstance(footer, SnapshotFooter)
    made = encode_snapshot_start(header)
    for item in items:
        assert isinstance(item, SnapshotPages)
        size = header.page_size
        content = item.decode(size)
        pages = [content[at : at + size] for at in range(0, len(content), size)]
        other = [
            page if number != pgno else page[:-4] + b"else" for number, page in zip(item.pgnos, pages, strict=True)
        ]
        made += encode_snapshot_pages(item.pgnos, other)
    return made + encode_snapshot_end(footer, len(made))


def test_a_page_that_is_not_what_the_full_one_has_is_no_reference(live: LiveDatabase, snapshots: Snapshots) -> None:
    """zstd decodes against a wrong one without complaint, and the snapshot could never be restored."""
    change(live)
    at_rest(live)
    kept = must_keep(snapshots)
    kept.path.write_bytes(rewritten(kept.path.read_bytes(), 101))
    live.commit("update t set k = k + 1 where id between 195 and 205")
    at_rest(live)
    copy = snapshots.make(differential=True)
    assert 101 in plain_pgnos(copy.path)
    assert delta_pgnos(copy.path)
    assert not kept.path.exists()
    check(snapshots, copy)


@pytest.mark.parametrize("how", ["removed", "damaged", "cut"])
def test_without_the_object_pages_are_plain(live: LiveDatabase, snapshots: Snapshots, how: str) -> None:
    change(live)
    at_rest(live)
    path = must_keep(snapshots).path
    data = path.read_bytes()
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(bytes(len(data)) if how == "damaged" else data[:100])
    copy = snapshots.make(differential=True)
    assert delta_pgnos(copy.path) == []
    assert not path.exists()
    check(snapshots, copy)


def test_the_object_that_is_lost_while_pages_are_copied_costs_the_rest(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db", page_size=512)
    live.app.execute(FILL.format(20_000, 400))
    live.begin()
    snapshots = Snapshots(live)
    snapshots.make()
    change(live, 2)
    at_rest(live)
    copy = snapshots.new(differential=True)
    assert copy.begin()
    assert copy.copy_slice()
    must_keep(snapshots).path.unlink()
    copy_all(copy)
    snapshots.complete(copy)
    delta, plain = delta_pgnos(copy.path), plain_pgnos(copy.path)
    assert min(len(delta), len(plain)) > 1000
    check(snapshots, copy)
    live.close()


def test_only_a_differential_snapshot_has_references(live: LiveDatabase, snapshots: Snapshots) -> None:
    copy = snapshots.new()
    header, room, kept = copy.header, DiskRoom(live.path.parent, 0), must_keep(snapshots).open()
    copy.abandon()
    with pytest.raises(InvariantViolated):
        SnapshotCopy(live.capture.reader, live.path.with_suffix(".x"), header, room, None, kept)
    with pytest.raises(InvariantViolated):
        BaseCopy(live.capture.reader, live.path.with_suffix(".x"), header, room, None, kept)


# -- a base ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_base_is_against_the_full_one_whatever_happened_between(tmp_path: Path, page_size: int) -> None:
    """The app writes, shrinks and grows the database while nobody captures, and while the base is copied."""
    dice = random.Random(page_size)
    live = LiveDatabase(tmp_path / "app.db", page_size=page_size, auto_vacuum=1)
    live.app.execute(FILL.format(3000, 1500))
    full = copied_base(live.new_base())
    live.end_base(full)
    live.kill_capture()
    live.app.execute("delete from t where id > 2500")
    live.app.execute("update t set k = k + 1 where id % 9 = 0")
    live.app.execute(FILL.format(800, 900))
    live.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
    live.attach_again()
    live.tick()
    live.tick(0.6)
    base = live.new_base(full)
    assert base.begin()
    for _ in range(5):
        live.write_randomly(dice)
        base.copy_slice()
        live.tick()
    sink = live.end_base(copied_base(base, begins=False), full)
    assert sink.images[0] == live.expected[0]
    assert len(delta_pgnos(base.path)) > 20
    assert base.footer is not None
    assert base.footer.stored_pages == len(delta_pgnos(base.path)) + len(plain_pgnos(base.path))
    live.close()


def test_a_page_that_a_base_finds_in_the_log_is_not_twice_against_the_full_one(tmp_path: Path) -> None:
    """The file is not asked for it, and what has changed while it was written is plain."""
    live = LiveDatabase(tmp_path / "app.db")
    live.app.execute(FILL.format(3000, 1500))
    full = copied_base(live.new_base())
    live.end_base(full)
    live.kill_capture()
    live.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
    live.app.execute("update t set v = randomblob(1500)")
    live.attach_again()
    base = live.new_base(full)
    while not base.begin():
        live.tick(0.01)
    copied_base(base, begins=False)
    assert base.written_pages == 0
    assert not base.overlay(Seq(1))
    live.app.execute("update t set v = randomblob(1500) where id < 20")
    sink = live.end_base(base, full)
    assert sink.images[0] == live.expected[0]
    delta, plain = delta_pgnos(base.path), plain_pgnos(base.path)
    assert len(delta) > 1400
    assert len(delta) == len(set(delta))
    assert 5 < len(plain) < 30
    assert set(plain) < set(delta)
    live.close()


def copied_base(base: BaseCopy, *, begins: bool = True) -> BaseCopy:
    assert not begins or base.begin()
    while base.copy_slice():
        pass
    return base
