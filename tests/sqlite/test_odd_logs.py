"""Logs that are rare in the field: big-endian checksums, and a database that grows over the lock-byte page."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw
import numpy as np
import pytest

from tests.sqlite.live import LONG_S, LiveDatabase
from walrep.core.units import Seq, lock_byte_page
from walrep.core.walsum import checksum_words
from walrep.errors import DatabaseReplaced

HEADER_BYTES, FRAME_BYTES = 32, 24 + 4096


def make_big_endian(wal: bytes) -> bytes:
    """Return the same log with checksums over big-endian words, as a big-endian machine writes it."""
    magic = (int.from_bytes(wal[:4], "big") | 1).to_bytes(4, "big")
    head = magic + wal[4:24]
    sums = checksum_words(np.frombuffer(head, ">u4").tolist())
    out = [head, np.array(sums, ">u4").tobytes()]
    for at in range(HEADER_BYTES, len(wal), FRAME_BYTES):
        frame = wal[at : at + FRAME_BYTES]
        words = np.frombuffer(frame[:8] + frame[24:], ">u4").tolist()
        sums = checksum_words(words, *sums)
        out += [frame[:16], np.array(sums, ">u4").tobytes(), frame[24:]]
    return b"".join(out)


def test_a_log_with_big_endian_checksums_is_captured(tmp_path: Path) -> None:
    """SQLite appends to such a log in its byte order until the next restart."""
    first = apsw.Connection(str(tmp_path / "first.db"))
    first.pragma("journal_mode", "wal")
    first.pragma("wal_autocheckpoint", 0)
    first.execute("create table t(id integer primary key, k int, v blob)")
    for n in range(20):
        first.execute("insert into t(k, v) values(?, randomblob(700))", (n,))
    shutil.copy(tmp_path / "first.db", tmp_path / "app.db")
    (tmp_path / "app.db-wal").write_bytes(make_big_endian((tmp_path / "first.db-wal").read_bytes()))
    expected = first.serialize("main")
    first.close()
    live = LiveDatabase(tmp_path / "app.db", prepare=False)
    assert live.image() == expected
    sink = live.begin()
    header = live.capture.files.wal_header()
    assert header is not None
    assert header.big_endian
    for n in range(20):
        live.commit("update t set k = ? where id = ?", n, n + 1)
        live.capture.reader.read(live.clock.now_ms())
    assert live.capture.reader.counts.unchecked_frames == 0
    for _ in range(4):
        live.tick(LONG_S)
    live.commit("insert into t(k) values(1)")
    live.tick()
    assert sink.images == live.expected
    live.close()


@pytest.mark.slow
def test_a_database_that_grows_over_the_lock_byte_page_has_a_hole_there(tmp_path: Path) -> None:
    """SQLite never writes page 16385 of 64 KiB pages, which lies at 1 GiB; its neighbours are ordinary pages."""
    live = LiveDatabase(tmp_path / "app.db", page_size=65536)
    sink = live.begin()
    sink.keeps_images = False
    hole = lock_byte_page(65536)
    for n in range(17):
        live.app.execute("insert into t(k, v) values(?, zeroblob(67000000))", (n,))
        for _ in range(3):
            live.tick(LONG_S)
    live.app.execute("insert into t(k, v) values(1, randomblob(200000))")
    live.tick()
    assert sink.page_count > hole
    assert hole not in sink.pages
    assert {hole - 1, hole + 1} <= sink.pages.keys()
    for _ in range(4):
        live.tick(LONG_S)
    assert live.capture.files.index().backlog == 0
    with live.path.open("rb") as file:
        for pgno in range(1, sink.page_count + 1):
            assert file.read(65536) == sink.pages.get(pgno, bytes(65536)), pgno
    live.capture.reader.sink = None
    base = live.new_base()
    assert base.begin()
    while base.copy_slice():
        pass
    assert base.overlay(Seq(1))
    assert base.footer is not None
    assert (base.footer.checksum, base.footer.page_count) == (sink.rolling, sink.page_count)
    base.close()
    live.close()


def test_a_removed_wal_is_noticed(tmp_path: Path) -> None:
    live = LiveDatabase(tmp_path / "app.db")
    live.begin()
    os.unlink(f"{live.path}-wal")
    with pytest.raises(DatabaseReplaced):
        live.tick(1.0)
    live.close()
