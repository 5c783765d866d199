"""After another boot, and where only the change time tells, the database file itself has to be what was captured."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import pytest

from tests.sqlite.live import LONG_S, LiveDatabase, compare_file, decide_resume, held_lock
from walrep.core.pages import PageHashes
from walrep.core.resume import ResumeKind, ResumePlan
from walrep.sqlite.compare import FileComparison

BOOT = "boot 1"


class Stop:
    """A clean end of a database with one table of 200 rows on many pages, and what is known of it afterwards."""

    def __init__(self, folder: Path) -> None:
        self.live = LiveDatabase(folder / "app.db")
        for n in range(200):
            self.live.app.execute("insert into t(id, k, v) values(?, 0, zeroblob(900))", (n,))
        self.sink = self.live.begin()
        self.live.commit("update t set k = 1 where id = 7")
        for _ in range(4):
            self.live.tick(LONG_S)
        reader = self.live.capture.reader
        self.mark, self.txid = reader.mark, reader.encoder.txid
        self.hashes = PageHashes.from_bytes(reader.encoder.hashes.to_bytes())
        self.inode = self.live.capture.files.inode
        self.clean_end = self.live.finish()
        assert self.clean_end is not None
        self.live.let_go(remove_wal=True)

    def checkpoint_behind_walrep(self, sql: str) -> None:
        """Commit and copy a transaction while nobody looks; a power cut takes back the times that the copying wrote."""
        before = os.stat(self.live.path)
        self.live.app.execute(sql)
        assert self.live.checkpoint(apsw.SQLITE_CHECKPOINT_RESTART)
        os.utime(self.live.path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def plan(self) -> ResumePlan:
        """Attach, and decide as the engine does."""
        self.live.attach_again()
        return decide_resume(self.live, (self.mark, self.clean_end, self.inode, BOOT), self.hashes)


@pytest.mark.parametrize("reboots", [False, True])
@pytest.mark.parametrize("covered", [False, True])
def test_a_checkpoint_whose_time_was_lost_is_noticed(tmp_path: Path, *, reboots: bool, covered: bool) -> None:
    """Generation X is in the file only, and the log has Y, perhaps with frames for every page that X changed."""
    stop = Stop(tmp_path)
    if reboots:
        stop.live.clock.reboot()
    stop.checkpoint_behind_walrep("update t set k = 2 where id = 9")
    stop.live.app.execute("update t set k = 3 where id = ?", (9 if covered else 190,))
    plan = stop.plan()
    assert plan.kind is ResumeKind.BROKEN
    assert "page " in plan.reason
    stop.live.close()


def test_a_clean_end_is_proved_by_the_file_after_a_reboot(tmp_path: Path) -> None:
    """Also where the app has written since: what it wrote is in the log."""
    stop = Stop(tmp_path)
    live = stop.live
    live.clock.reboot()
    live.app.execute("update t set k = 3 where id = 9")
    assert stop.plan() == ResumePlan(
        kind=ResumeKind.CLEAN_END, reason="the database file is as it was left, page for page"
    )
    live.capture.reader.resume(None, stop.hashes, stop.txid, live.clock.now_ms())
    stop.sink.spooled_frames = 0
    live.capture.reader.sink = stop.sink
    live.tick()
    assert live.capture.reader.encoder.txid == stop.txid + 1
    assert stop.sink.images[-1] == live.image()
    live.close()


def test_a_changed_mode_is_no_reason_for_a_new_timeline(tmp_path: Path) -> None:
    stop = Stop(tmp_path)
    stop.live.path.chmod(0o600)
    stop.live.path.chmod(0o640)
    stop.live.app.execute("update t set k = 3 where id = 9")
    assert stop.plan().kind is ResumeKind.CLEAN_END
    stop.live.close()


def test_a_file_that_was_cut_differs(tmp_path: Path) -> None:
    stop = Stop(tmp_path)
    stop.live.attach_again()
    pages = stop.live.path.stat().st_size // 4096
    os.truncate(stop.live.path, 4096 * pages - 1)
    comparison = compare_file(stop.live, stop.hashes)
    assert not comparison.step()
    assert comparison.differs == f"page {pages}"
    stop.live.capture.close(remove_wal=False)


def test_a_comparison_is_given_up_for_a_checkpoint_that_waits(tmp_path: Path) -> None:
    """It would wait for the lock that stands in for the keeper, and all writers with it."""
    stop = Stop(tmp_path)
    live = stop.live
    live.attach_again()
    comparison = FileComparison(
        live.capture.files, stop.hashes, clock=live.clock, policy=live.capture.policy, slice_bytes=4096
    )
    with held_lock(live.path, 121, 120):
        for _ in range(3):
            assert comparison.step()
            live.clock.advance(0.05)
        assert not comparison.step()
    assert "checkpoint" in comparison.differs
    live.close()
