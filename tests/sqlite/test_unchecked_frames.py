"""SQLite before 3.50.2 commits frames without salts and checksum after some ROLLBACK TO; other frames need theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.sqlite.live import LiveDatabase
from walrep.core.checkpoint import CapturePolicy
from walrep.core.wal import frame_offset
from walrep.core.walsum import FRAME_HEADER_BYTES, checksum_words
from walrep.errors import CaptureBroken
from walrep.sqlite.capture import Capture
from walrep.sqlite.keeper import Keeper
from walrep.testing.clock import SimClock

STRIDE = 4096 + FRAME_HEADER_BYTES

OLD_ENGINE_VERSION = "import sqlite3; print(sqlite3.sqlite_version)"
OLD_ENGINE = """
import random, sqlite3, sys
random.seed(int(sys.argv[2]))
app = sqlite3.connect(sys.argv[1], isolation_level=None)
for each in ("journal_mode=wal", "wal_autocheckpoint=0", "cache_size=5"):
    app.execute(f"pragma {each}")
app.execute("create table t(id integer primary key, v blob)")
change = "update t set v = randomblob(2500) where id = abs(random()) % (select max(id) from t) + 1"
print("ready", flush=True)
add = "insert into t(v) values(randomblob(?))"
for line in sys.stdin:
    for n in range(int(line)):
        app.execute("begin")
        for _ in range(random.randrange(4)):
            app.execute(add, (random.randrange(3000),))
        app.execute("savepoint s")
        for _ in range(random.randrange(1, 40)):
            app.execute(add, (random.randrange(3000),))
        for _ in range(random.randrange(8)):
            app.execute(change)
        app.execute("rollback to s")
        for _ in range(random.choice([0, 0, 1, 5])):
            app.execute(add, (1500,))
        app.execute("commit")
    print("done", flush=True)
"""


class OldEngine:
    """Leaves the log of an app as an SQLite before 3.50.2 leaves it."""

    def __init__(self, live: LiveDatabase) -> None:
        self._live = live
        # Closed with the process: closing one before would drop SQLite's locks.
        self._shm = os.open(f"{live.path}-shm", os.O_RDWR)
        self._wal = os.open(f"{live.path}-wal", os.O_RDWR)

    def commit_unchecked(self, leaves: tuple[int, int]) -> None:
        """Commit a transaction of one frame that has none; the wal-index then has a checksum that stands nowhere."""
        self._live.commit("update t set k = k + 1 where id = 1")
        os.pwrite(self._wal, bytes(16), frame_offset(self._last(), 4096) + 8)
        self._write_index(leaves)

    def commit_after(self, before: tuple[int, int]) -> None:
        """Commit a transaction of one frame whose checksum continues this one."""
        self._live.commit("update t set k = k + 1 where id = 1")
        offset = frame_offset(self._last(), 4096)
        content = os.pread(self._wal, 8, offset) + os.pread(self._wal, 4096, offset + FRAME_HEADER_BYTES)
        checksum = checksum_words(np.frombuffer(content, "<u4").tolist(), *before)
        os.pwrite(self._wal, np.array(checksum, ">u4").tobytes(), offset + 16)
        self._write_index(checksum)

    def commit(self) -> None:
        """Commit a transaction of several frames, which continue the checksum of the wal-index."""
        self._live.commit("insert into t(k, v) values(1, zeroblob(20000))")

    def overwrite(self, from_end: int, at: int, content: bytes) -> None:
        """Damage a frame, counted from the last one."""
        os.pwrite(self._wal, content, frame_offset(self._last() - from_end, 4096) + at)

    def damage(self, from_end: int, at: int) -> None:
        """Change one byte of a frame, counted from the last one."""
        byte = os.pread(self._wal, 1, frame_offset(self._last() - from_end, 4096) + at)
        self.overwrite(from_end, at, bytes([byte[0] ^ 0x5A]))

    def _last(self) -> int:
        return self._live.capture.files.index().max_frame

    def _write_index(self, checksum: tuple[int, int]) -> None:
        words: list[int] = np.frombuffer(os.pread(self._shm, 40, 0), "=u4").tolist()
        words[6:8] = checksum
        words += checksum_words(words)
        os.pwrite(self._shm, np.array(2 * words, "=u4").tobytes(), 0)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveDatabase]:
    database = LiveDatabase(tmp_path / "app.db")
    database.app.execute("insert into t(id, k) values(1, 0)")
    yield database
    database.close()


def test_frames_without_checksums_are_captured_with_an_alarm(live: LiveDatabase) -> None:
    """The wal-index says that they are committed, and names the same pages. It is told once."""
    sink = live.begin()
    old = OldEngine(live)
    for _ in range(2):
        old.commit_unchecked(leaves=(7, 8))
        live.tick()
        old.commit_unchecked(leaves=(8, 9))
        live.tick()
        old.commit()
        live.tick()
    assert live.capture.reader.counts.unchecked_frames == 4
    assert live.alarms == ["unchecked-frames"]
    assert sink.images == live.expected


def test_a_transaction_behind_them_in_the_same_look_is_captured(live: LiveDatabase) -> None:
    """What its first frame continues stood in the wal-index before walrep looked: nothing proves that frame either."""
    sink = live.begin()
    old = OldEngine(live)
    old.commit_unchecked(leaves=(7, 8))
    old.commit()
    old.commit()
    live.tick()
    assert live.capture.reader.counts.unchecked_frames == 2
    assert sink.images == live.expected


def test_a_transaction_behind_them_in_the_next_look_must_continue_the_index(live: LiveDatabase) -> None:
    live.begin()
    old = OldEngine(live)
    old.commit_unchecked(leaves=(7, 8))
    live.tick()
    old.commit_after((8, 8))
    with pytest.raises(CaptureBroken, match="not what was committed"):
        live.tick()


def test_a_transaction_behind_them_may_continue_their_zeros(live: LiveDatabase) -> None:
    """As it does where it has written its first frame twice."""
    sink = live.begin()
    old = OldEngine(live)
    for look in (False, True):
        old.commit_unchecked(leaves=(7, 8))
        if look:
            live.tick()
        old.commit_after((0, 0))
        live.tick()
    assert live.capture.reader.counts.unchecked_frames == 2
    assert sink.images == live.expected


@pytest.mark.parametrize("at", [4, 8, 12, 16, 23, FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + 2000])
@pytest.mark.parametrize("from_end", [0, 1])
@pytest.mark.parametrize("looks_before", [False, True])
@pytest.mark.parametrize("unchecked_before", [False, True])
def test_a_damaged_frame_is_not_captured(
    live: LiveDatabase, at: int, from_end: int, *, looks_before: bool, unchecked_before: bool
) -> None:
    """Its page number is right, which once was enough; also after frames without checksums the rule stays."""
    sink = live.begin()
    old = OldEngine(live)
    if unchecked_before:
        old.commit_unchecked(leaves=(7, 8))
    if looks_before:
        live.tick()
    captured = len(sink.images)
    old.commit()
    old.damage(from_end, at)
    with pytest.raises(CaptureBroken, match="not what was committed"):
        live.tick()
    assert len(sink.images) == captured


def test_a_frame_without_a_checksum_must_have_the_page_that_the_index_names(live: LiveDatabase) -> None:
    live.begin()
    old = OldEngine(live)
    old.commit_unchecked(leaves=(7, 8))
    old.overwrite(0, 0, (77).to_bytes(4, "big"))
    with pytest.raises(CaptureBroken, match="not what was committed"):
        live.tick()


def test_the_frame_after_one_within_its_transaction_continues_the_zeros(live: LiveDatabase) -> None:
    """So a frame that lost its checksum does not pass as one that never had any."""
    live.begin()
    old = OldEngine(live)
    old.commit()
    old.overwrite(1, 8, bytes(16))
    with pytest.raises(CaptureBroken, match="not what was committed"):
        live.tick()


def test_the_last_frame_must_have_the_checksum_of_the_index_also_after_them(live: LiveDatabase) -> None:
    """The one frame that could continue anything is compared with what the wal-index has."""
    live.begin()
    old = OldEngine(live)
    old.commit_unchecked(leaves=(7, 8))
    old.commit_after((7, 8))
    old.damage(0, 16)
    with pytest.raises(CaptureBroken, match="the wal-index says"):
        live.tick()


@pytest.mark.skipif(
    subprocess.check_output([sys.executable, "-c", OLD_ENGINE_VERSION], text=True) >= "3.50.2",
    reason="the machine's SQLite writes no such frames",
)
@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_the_log_of_a_real_old_engine_is_captured(tmp_path: Path, at_once: int) -> None:
    """Whether walrep looks after every transaction or after many."""
    path = tmp_path / "app.db"
    with subprocess.Popen(
        [sys.executable, "-c", OLD_ENGINE, path, str(at_once)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as app:
        assert app.stdin is not None
        assert app.stdout is not None
        assert app.stdout.readline() == "ready\n"
        alarms: list[str] = []
        capture = Capture(
            Keeper(path), policy=CapturePolicy(), clock=SimClock(), alarm=lambda key, _text, _hint: alarms.append(key)
        )
        for _ in range(300 // at_once):
            app.stdin.write(f"{at_once}\n")
            app.stdin.flush()
            assert app.stdout.readline() == "done\n"
            capture.tick()
            assert capture.reader.reached(capture.files.index())
        assert capture.reader.counts.unchecked_frames > 10
        assert "unchecked-frames" in alarms
        capture.close(remove_wal=False)
        app.stdin.close()
