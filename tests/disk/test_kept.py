"""The object of the last full snapshot: the very one that is remembered, proved page by page, or none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.disk.spooling import SpoolRig, kill_points
from walrep.core.names import SnapshotName
from walrep.core.objects import SnapshotFooter, SnapshotHeader, Writer
from walrep.core.pages import PageHashes, page_hash
from walrep.core.snapshot import encode_snapshot_end, encode_snapshot_pages, encode_snapshot_start
from walrep.core.snapshots import FullSnapshot
from walrep.core.units import Checksum, Seq, TimelineId, Txid
from walrep.disk.full import FullHashes, drop_kept, forget_full, load_full, save_full
from walrep.disk.kept import KeptFull, open_kept
from walrep.disk.outbox import OutboxItem
from walrep.disk.room import DiskRoom

PAGE = 512
COUNT = 300
TIMELINE = TimelineId("00001-01234567")


def page(number: int) -> bytes:
    return Random(number).randbytes(PAGE)


PAGES = {pgno: page(pgno) for pgno in range(1, COUNT + 1)}


def full_of(pages: dict[int, bytes] = PAGES) -> FullHashes:
    """Return what is remembered of a full snapshot of these pages."""
    hashes = PageHashes()
    for pgno, content in pages.items():
        hashes.set(pgno, page_hash(content, pgno))
    hashes.commit(max(pages))
    name = SnapshotName(timeline=TIMELINE, txid=Txid(7), seen_ms=9000, seq=Seq(3))
    snapshot = FullSnapshot(replica="r", name=name, page_size=PAGE, checksum=Checksum(hashes.checksum))
    return FullHashes(snapshot=snapshot, hashes=hashes.to_bytes())


FULL = full_of()


def object_of(full: FullHashes, blocks: list[tuple[int, ...]], pages: dict[int, bytes] = PAGES) -> bytes:
    """Return the object of a snapshot, in these blocks; negative page numbers have other contents."""
    snapshot = full.snapshot
    header = SnapshotHeader(
        replica=snapshot.replica,
        timeline=snapshot.name.timeline,
        writer=Writer(nonce="n"),
        created_ms=1,
        page_size=snapshot.page_size,
    )
    data = encode_snapshot_start(header)
    for block in blocks:
        data += encode_snapshot_pages(
            list(map(abs, block)), [page(pgno) if pgno < 0 else pages[pgno] for pgno in block]
        )
    footer = SnapshotFooter(
        txid=snapshot.name.txid,
        seq=snapshot.name.seq,
        seen_ms=snapshot.name.seen_ms,
        checksum=snapshot.checksum,
        page_count=COUNT,
        block_count=len(blocks),
    )
    return data + encode_snapshot_end(footer, len(data))


IN_ORDER = [tuple(range(start, min(start + 64, COUNT + 1))) for start in range(1, COUNT + 1, 64)]
WHOLE = object_of(FULL, IN_ORDER)


def put(folder: Path, data: bytes = WHOLE) -> Path:
    path = folder / "full.snapshot"
    path.write_bytes(data)
    return path


def opened(folder: Path, full: FullHashes = FULL, bytes_max: int = 1 << 30) -> KeptFull | None:
    return open_kept(folder, full, bytes_max=bytes_max)


def must_open(folder: Path) -> KeptFull:
    kept = opened(folder)
    assert kept is not None
    return kept


def test_every_page_is_found(tmp_path: Path) -> None:
    put(tmp_path)
    kept = must_open(tmp_path)
    for pgno in [*range(1, COUNT + 1), *Random(5).sample(range(1, COUNT + 1), 40)]:
        assert kept.page(pgno) == PAGES[pgno]
    assert [kept.page(pgno) for pgno in (0, COUNT + 1, 1 << 31)] == [None] * 3


def test_of_a_page_that_stands_there_twice_the_last_counts(tmp_path: Path) -> None:
    """Also within one block, and one beyond the size is of no concern."""
    blocks = [(-7, 8, -9), (7, 9, 9), *IN_ORDER[1:], (-COUNT - 5,)]
    put(tmp_path, object_of(FULL, blocks))
    kept = must_open(tmp_path)
    assert [kept.page(pgno) for pgno in (7, 8, 9, 10, 200, COUNT + 5)] == [
        *(PAGES[pgno] for pgno in (7, 8, 9)),
        None,
        PAGES[200],
        None,
    ]


replace = msgspec.structs.replace
OTHERS = {
    "replica": replace(FULL.snapshot, replica="other"),
    "timeline": replace(FULL.snapshot, name=replace(FULL.snapshot.name, timeline=TimelineId("00002-01234567"))),
    "transaction": replace(FULL.snapshot, name=replace(FULL.snapshot.name, txid=Txid(8))),
    "segment": replace(FULL.snapshot, name=replace(FULL.snapshot.name, seq=Seq(4))),
    "checksum": replace(FULL.snapshot, checksum=Checksum(FULL.snapshot.checksum ^ 1)),
    "page size": replace(FULL.snapshot, page_size=1024),
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_object_of_another_snapshot_is_not_used_and_removed(tmp_path: Path, what: str) -> None:
    """INV-34: it is the very full snapshot on top of which the differential one is put."""
    path = put(tmp_path)
    assert opened(tmp_path, replace(FULL, snapshot=OTHERS[what])) is None
    assert not path.exists()
    assert opened(tmp_path) is None


def test_one_over_the_limit_is_not_used_and_removed(tmp_path: Path) -> None:
    path = put(tmp_path)
    assert opened(tmp_path, bytes_max=len(WHOLE)) is not None
    assert opened(tmp_path, bytes_max=len(WHOLE) - 1) is None
    assert not path.exists()


def test_one_that_is_cut_off_is_removed(tmp_path: Path) -> None:
    for length in range(0, len(WHOLE), 997):
        path = put(tmp_path, WHOLE[:length])
        assert opened(tmp_path) is None
        assert not path.exists()


def test_a_damaged_byte_anywhere_costs_pages_and_changes_none(tmp_path: Path) -> None:
    removed = 0
    for at in range(0, len(WHOLE), 701):
        path = put(tmp_path, WHOLE[:at] + bytes([WHOLE[at] ^ 0x20]) + WHOLE[at + 1 :])
        kept = opened(tmp_path)
        found = [None if kept is None else kept.page(pgno) for pgno in PAGES]
        assert all(content in (None, PAGES[pgno]) for pgno, content in zip(PAGES, found, strict=True))
        assert None not in found or not path.exists()
        removed += not path.exists()
    assert removed > len(WHOLE) // 701 - 3


def test_a_page_that_is_not_what_the_hashes_say_is_no_reference(tmp_path: Path) -> None:
    """INV-34: whole, with the right ends, and yet another content."""
    path = put(tmp_path, object_of(FULL, IN_ORDER, {**PAGES, 70: page(7000)}))
    kept = must_open(tmp_path)
    assert kept.page(69) == PAGES[69]
    assert kept.page(70) is None
    assert not path.exists()
    assert kept.page(69) is None


def test_one_that_is_removed_or_replaced_meanwhile_has_no_pages_any_more(tmp_path: Path) -> None:
    path = put(tmp_path)
    kept = must_open(tmp_path)
    path.unlink()
    assert kept.page(1) is None
    put(tmp_path)
    kept = must_open(tmp_path)
    other = tmp_path / "other"
    other.write_bytes(WHOLE[:-1])
    other.rename(path)
    assert kept.page(1) is None
    assert path.exists()


def test_what_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "full.snapshot").mkdir()
    assert opened(tmp_path) is None


def test_with_what_is_remembered_goes_its_object(tmp_path: Path) -> None:
    save_full(tmp_path, FULL)
    put(tmp_path)
    forget_full(tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- from the outbox ---------------------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SpoolRig]:
    made = SpoolRig(tmp_path / "state")
    made.begin({pgno: page(pgno) for pgno in range(1, 61)})
    yield made
    made.close()


def store(rig: SpoolRig, item: OutboxItem, limit: int = 1 << 30) -> None:
    rig.spool.keep(item, cache_bytes_max=1 << 30, full_bytes_max=limit)


def base(rig: SpoolRig) -> OutboxItem:
    return next(item for item in rig.spool.outbox() if item.is_snapshot)


def kept_txid(directory: Path) -> int | None:
    """Return of which transaction there is an object that can be used."""
    full = load_full(directory)
    if full is None or opened(directory, full) is None:
        return None
    return int(full.snapshot.name.txid)


def add_snapshot(rig: SpoolRig, number: int, full_txid: int | None = None) -> OutboxItem:
    rig.commit((number, page(1000 + number)))
    rig.seal()
    rig.add_snapshot(full_txid=full_txid)
    return rig.spool.snapshots()[-1]


def test_full_snapshots_are_kept_when_they_are_stored_the_newest_in_place_of_the_one_before(rig: SpoolRig) -> None:
    directory = rig.directory.path
    first = base(rig)
    data = first.path.read_bytes()
    store(rig, first)
    assert (directory / "full.snapshot").read_bytes() == data
    assert kept_txid(directory) == 0
    store(rig, add_snapshot(rig, 2, full_txid=0))
    assert (directory / "full.snapshot").read_bytes() == data
    second = add_snapshot(rig, 3)
    # That one goes as soon as nothing leans on it, also before the next one is stored.
    assert not (directory / "full.snapshot").exists()
    data = second.path.read_bytes()
    store(rig, second)
    assert (directory / "full.snapshot").read_bytes() == data
    assert kept_txid(directory) == 2
    assert [item for item in rig.spool.outbox() if item.is_snapshot] == rig.spool.snapshots() == []


@pytest.mark.parametrize("limit", [0, 100])
def test_what_is_over_the_limit_is_not_kept(rig: SpoolRig, limit: int) -> None:
    item = base(rig)
    put(rig.directory.path)
    store(rig, item, limit)
    assert not item.path.exists()
    assert not (rig.directory.path / "full.snapshot").exists()


def test_one_that_is_not_remembered_is_not_kept(rig: SpoolRig) -> None:
    """An outage has two of them wait, and the first one is stored when later ones lean on the second."""
    waiting = base(rig)
    newest = add_snapshot(rig, 2)
    store(rig, waiting)
    assert not (rig.directory.path / "full.snapshot").exists()
    store(rig, newest)
    assert kept_txid(rig.directory.path) == 1
    assert not waiting.path.exists()


def test_one_that_cannot_be_moved_is_removed(rig: SpoolRig) -> None:
    (rig.directory.path / "full.snapshot").mkdir()
    item = base(rig)
    store(rig, item)
    assert not item.path.exists()


def test_a_kill_at_any_step_of_keeping_one_leaves_it_where_it_was_or_where_it_goes(
    rig: SpoolRig, tmp_path: Path
) -> None:
    store(rig, base(rig))
    item = add_snapshot(rig, 2)
    shutil.copy(item.path, tmp_path / "object")
    with kill_points(rig.directory.path, tmp_path / "killed") as copies:
        store(rig, item)
    places = set()
    for copy in copies:
        again = SpoolRig(copy)
        found = [*(each.path for each in again.spool.snapshots()), *copy.glob("full.snapshot")]
        assert [path.read_bytes() for path in found] == [(tmp_path / "object").read_bytes()]
        places.add(found[0].name)
        again.close()
    assert places == {item.path.name, "full.snapshot"}


def test_when_the_disk_is_short_it_goes_before_anything_is_refused_or_evicted(rig: SpoolRig) -> None:
    directory = rig.directory.path
    item = next(each for each in rig.spool.outbox() if not each.is_snapshot)
    store(rig, base(rig))
    store(rig, item)
    kept = directory / "full.snapshot"

    def space(_folder: Path) -> tuple[int, int]:
        return (900 if kept.exists() else 9_000), 1 << 40

    rig.spool.room = DiskRoom(directory, 2_000, space, partial(drop_kept, directory))
    rig.commit((2, page(1002)))
    assert not kept.exists()
    assert len(list(rig.spool.cache.iterdir())) == 1
    rig.commit((3, page(1003)))


def test_whoever_asks_the_spool_for_room_has_it_removed_when_there_is_none(rig: SpoolRig) -> None:
    store(rig, base(rig))
    room = rig.spool.new_room()
    assert room.allows(1)
    assert (rig.directory.path / "full.snapshot").exists()
    assert not room.allows(1 << 62)
    assert not (rig.directory.path / "full.snapshot").exists()
