"""The base of a timeline is the database at one position, whatever happens while it is copied."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import apsw
import pytest

from tests.sqlite.live import LONG_S, LiveDatabase
from walrep.core.objects import SnapshotHeader, Writer
from walrep.core.units import Seq, TimelineId
from walrep.disk.room import DiskRoom
from walrep.errors import CaptureBroken
from walrep.sqlite.snapshot import SnapshotCopy
from walrep.sqlite.walfile import read_fully

MODES = [
    apsw.SQLITE_CHECKPOINT_PASSIVE,
    apsw.SQLITE_CHECKPOINT_FULL,
    apsw.SQLITE_CHECKPOINT_RESTART,
    apsw.SQLITE_CHECKPOINT_TRUNCATE,
]


@pytest.mark.parametrize("seed", range(8))
def test_a_base_is_the_database_where_encoding_begins(tmp_path: Path, seed: int) -> None:
    """The app writes, checkpoints, vacuums and restarts the WAL between the slices and between the overlays."""
    dice = random.Random(seed)
    live = LiveDatabase(tmp_path / "app.db", page_size=dice.choice([512, 4096]), auto_vacuum=dice.choice([0, 1, 2]))
    live.app.execute(
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 4000) "
        "insert into t(k, v) select i, randomblob(1500) from n"
    )
    base = live.new_base()
    assert base.begin()

    def disturb() -> None:
        for _ in range(dice.randrange(6)):
            live.write_randomly(dice)
            for _ in range(dice.choice([0, 1, 3])):
                live.tick(dice.choice([0.01, LONG_S]))
            if dice.random() < 0.4:
                live.checkpoint(dice.choice(MODES))

    disturb()
    while base.copy_slice():
        disturb()
    disturb()
    sink = live.end_base(base)
    assert sink.images[0] == live.expected[0]
    for _ in range(30):
        disturb()
    live.tick()
    assert sink.images == live.expected
    assert live.capture.reader.encoder.counts.mismatches == 0
    live.close()


def test_a_read_that_returns_less_is_not_the_end_of_the_file() -> None:
    """The kernel answers so when a later sector cannot be read; the next read then fails."""
    content = bytes(range(100))
    asked: list[tuple[int, int]] = []

    def pread(_descriptor: int, count: int, offset: int) -> bytes:
        asked.append((count, offset))
        return content[offset : offset + min(count, 30)]

    assert read_fully(0, 80, 10, pread) == content[10:90]
    assert read_fully(0, 80, 50, pread) == content[50:]
    assert read_fully(0, 80, 100, pread) == b""

    def failing(_descriptor: int, _count: int, offset: int) -> bytes:
        if offset:
            raise OSError(errno.EIO, "unreadable")
        return content[:30]

    with pytest.raises(OSError, match="unreadable"):
        read_fully(0, 80, 0, failing)


@pytest.mark.parametrize("page", [3, 700])
def test_a_base_that_lacks_a_page_is_refused(tmp_path: Path, page: int) -> None:
    """The file was cut: what stands behind is in no log either, and would be restored as zeros."""
    live = LiveDatabase(tmp_path / "app.db")
    for n in range(800):
        live.app.execute("insert into t(k, v) values(?, randomblob(3900))", (n,))
    for _ in range(4):
        live.tick(LONG_S)
    live.app.execute("insert into t(k) values(1)")
    assert live.capture.files.index().backlog
    base = live.new_base()
    assert base.begin()
    os.truncate(live.path, (page - 1) * 4096 + 100)
    while base.copy_slice():
        pass
    with pytest.raises(CaptureBroken, match=f"page {page} of"):
        base.overlay(Seq(1))
    assert base.footer is None
    base.abandon()
    live.capture.keeper.close(remove_wal=False)


def test_a_snapshot_of_a_state_that_lacks_a_page_is_refused(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    live.commit("insert into t(k, v) values(1, randomblob(20000))")
    live.begin()
    hashes = live.capture.reader.encoder.hashes
    hashes.set(4, 0)
    header = SnapshotHeader(
        replica="r", timeline=TimelineId("00001-00000000"), writer=Writer(nonce="0"), created_ms=0, page_size=4096
    )
    snapshot = SnapshotCopy(live.capture.reader, tmp_path / "snapshot", header, DiskRoom(tmp_path, 0))
    assert snapshot.begin()
    while snapshot.copy_slice():
        pass
    with pytest.raises(CaptureBroken, match="page 4 of"):
        snapshot.overlay()
    snapshot.abandon()
    live.close()


def test_frames_from_before_the_attach_are_part_of_the_base(tmp_path: Path) -> None:
    """Pages that were in the WAL, and not in the file, before walrep looked for the first time are overlaid."""
    live = LiveDatabase(tmp_path / "app.db")
    for n in range(50):
        live.app.execute("insert into t(k, v) values(?, randomblob(2000))", (n,))
    base = live.new_base()
    assert base.begin()
    while base.copy_slice():
        pass
    sink = live.end_base(base)
    assert sink.images == live.expected
    # Each of them once, though the file has most of them, too.
    assert base.written_pages == base.page_count
    live.close()


def test_pages_settle_from_the_file_when_the_wal_restarts_before_the_overlay(tmp_path: Path) -> None:
    """INV-14: after a restart the frames in the WAL are others; the file has the captured state."""
    live = LiveDatabase(tmp_path / "app.db")
    for n in range(50):
        live.app.execute("insert into t(k, v) values(?, randomblob(2000))", (n,))
    base = live.new_base()
    assert base.begin()
    while base.copy_slice():
        pass
    for _ in range(4):
        live.tick(LONG_S)
    frame_of = dict(live.capture.reader.encoder.frame_of)
    expected = {pgno: live.capture.files.file_page(pgno) for pgno in frame_of}
    for n in range(50):
        live.app.execute("update t set v = randomblob(2000) where k = ?", (n,))
    assert live.capture.files.index().salts != live.capture.reader.salts
    assert base._settled(sorted(expected)) == [expected[pgno] for pgno in sorted(expected)]
    base.abandon()
    live.close()


def test_a_database_without_any_frame_has_a_base(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    live.capture.keeper.close(remove_wal=True)
    live.app.close()
    again = LiveDatabase(tmp_path / "app.db", prepare=False)
    assert again.capture.files.index().max_frame == 0
    sink = again.begin()
    assert sink.images[0] == (tmp_path / "app.db").read_bytes()
    again.commit("insert into t(k) values(1)")
    again.tick()
    assert sink.images == again.expected
    again.close()
