"""Capture goes on after a time without a keeper only where the files prove that nothing is missing."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import apsw
import pytest

from tests.sqlite.live import LONG_S, LiveDatabase, decide_resume
from walrep.core.pages import PageHashes
from walrep.core.resume import ResumeEvidence, ResumeKind, is_same_boot, plan_resume
from walrep.core.state import CaptureMark, CleanEnd
from walrep.core.wal import WalIndex, frame_offset

BOOT = "boot 1"
MODES = [
    apsw.SQLITE_CHECKPOINT_PASSIVE,
    apsw.SQLITE_CHECKPOINT_RESTART,
    apsw.SQLITE_CHECKPOINT_TRUNCATE,
]


def down_time(live: LiveDatabase, dice: random.Random) -> None:
    """Let the app do a few things while nobody holds a keeper."""
    for _ in range(dice.randrange(4)):
        kind = dice.random()
        if kind < 0.5:
            live.write_randomly(dice)
        elif kind < 0.8:
            live.checkpoint(dice.choice(MODES))
        else:
            live.reopen_app()


def test_a_resumed_capture_misses_nothing(tmp_path: Path) -> None:
    """Random down-times, after a clean end or a kill: where a resume is allowed the state is right.

    All four kinds occur, with a reboot and without.
    """
    kinds: Counter[tuple[ResumeKind, bool]] = Counter()
    for seed in range(16):
        folder = tmp_path / str(seed)
        folder.mkdir()
        resume_again_and_again(folder, random.Random(seed), kinds)
    proofs = set(ResumeKind) - {ResumeKind.COMPARE}
    assert set(kinds) == {(kind, same_boot) for kind in proofs for same_boot in (False, True)}, kinds


def resume_again_and_again(folder: Path, dice: random.Random, kinds: Counter[tuple[ResumeKind, bool]]) -> None:
    """Run one database through eight down-times."""
    live = LiveDatabase(folder / "app.db")
    sink = live.begin()
    for _ in range(8):
        for _ in range(dice.randrange(1, 8)):
            live.write_randomly(dice)
            for _ in range(dice.choice([0, 1, 3])):
                live.tick(dice.choice([0.01, LONG_S]))
        live.tick()
        encoder, files = live.capture.reader.encoder, live.capture.files
        mark, hashes, txid = live.capture.reader.mark, PageHashes.from_bytes(encoder.hashes.to_bytes()), encoder.txid
        inode, clean_end, boot_id = files.inode, None, live.clock.boot_id()
        if dice.random() < 0.5:
            clean_end = live.finish()
            live.let_go(remove_wal=True)
        else:
            live.kill_capture()
        if dice.random() < 0.4:
            live.clock.reboot()
        down_time(live, dice)
        capture = live.attach_again()
        plan = decide_resume(live, (mark, clean_end, inode, boot_id), hashes)
        kinds[plan.kind, boot_id == live.clock.boot_id()] += 1
        if plan.kind is ResumeKind.BROKEN:
            sink = live.begin()
            continue
        capture.reader.resume(mark if plan.kind is ResumeKind.CONTINUE else None, hashes, txid, live.clock.now_ms())
        sink.spooled_frames = 0
        capture.reader.sink = sink
        live.tick()
        assert sink.images[-1] == live.image(), plan
    live.close()


def index(salts: tuple[int, int], max_frame: int) -> WalIndex:
    return WalIndex(max_frame=max_frame, page_count=9, checksum=(0, 0), salts=salts, backfilled=0, page_size=4096)


FILE = CleanEnd(size_bytes=4096, mtime_ns=5, header_hash=6, ctime_ns=5)
OTHER_FILE = CleanEnd(size_bytes=4096, mtime_ns=7, header_hash=6, ctime_ns=7)
CHANGED_MODE = CleanEnd(size_bytes=4096, mtime_ns=5, header_hash=6, ctime_ns=7)
MARK = CaptureMark((10, 99), 20, (3, 4))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, ResumeKind.CONTINUE),
        ({"index": index((10, 99), 25)}, ResumeKind.CONTINUE),
        ({"index": index((10, 99), 19)}, ResumeKind.BROKEN),
        ({"frame_checksum": (3, 5)}, ResumeKind.BROKEN),
        ({"frame_checksum": None}, ResumeKind.BROKEN),
        ({"same_file": False}, ResumeKind.BROKEN),
        ({"index": index((11, 7), 19), "file": OTHER_FILE}, ResumeKind.RESTARTED),
        ({"index": index((11, 7), 20), "file": OTHER_FILE}, ResumeKind.BROKEN),
        ({"index": index((12, 7), 19), "file": OTHER_FILE}, ResumeKind.BROKEN),
        ({"index": index((11, 7), 19), "next_frame_continues": True, "file": OTHER_FILE}, ResumeKind.BROKEN),
        ({"index": index((11, 7), 19), "frame_checksum": (3, 5), "file": OTHER_FILE}, ResumeKind.BROKEN),
        ({"index": index((77, 7), 0)}, ResumeKind.CLEAN_END),
        ({"index": index((77, 7), 0), "file": OTHER_FILE}, ResumeKind.BROKEN),
        # Nothing was copied into the file since: all that was committed is in the log that is there.
        ({"index": index((77, 7), 1)}, ResumeKind.CLEAN_END),
        ({"index": index((11, 7), 30)}, ResumeKind.CLEAN_END),
        ({"index": index((77, 7), 1), "file": OTHER_FILE}, ResumeKind.BROKEN),
        # What a boot before this one wrote need not be there any more: the file itself has to be the captured state.
        ({"index": index((77, 7), 1), "same_boot": False}, ResumeKind.COMPARE),
        ({"index": index((77, 7), 0), "same_boot": False, "file": OTHER_FILE}, ResumeKind.COMPARE),
        ({"index": index((77, 7), 1), "same_boot": False, "differs": ""}, ResumeKind.CLEAN_END),
        ({"index": index((77, 7), 1), "same_boot": False, "differs": "page 7"}, ResumeKind.BROKEN),
        ({"index": index((11, 7), 19), "same_boot": False, "differs": "page 7"}, ResumeKind.BROKEN),
        ({"index": index((10, 99), 25), "same_boot": False}, ResumeKind.CONTINUE),
        # The mode was changed, or the mtime set back.
        ({"index": index((77, 7), 1), "file": CHANGED_MODE}, ResumeKind.COMPARE),
        ({"index": index((77, 7), 1), "file": CHANGED_MODE, "differs": ""}, ResumeKind.CLEAN_END),
        ({"index": index((77, 7), 1), "file": CHANGED_MODE, "differs": "page 7"}, ResumeKind.BROKEN),
    ],
)
def test_only_a_proof_allows_a_resume(change: dict[str, object], kind: ResumeKind) -> None:
    evidence: dict[str, object] = {
        "same_file": True,
        "index": index((10, 99), 20),
        "frame_checksum": (3, 4),
        "next_frame_continues": False,
        "file": FILE,
        "same_boot": True,
    }
    assert plan_resume(MARK, FILE, ResumeEvidence(**(evidence | change))).kind is kind  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"same_boot": True}, ResumeKind.RESTARTED),
        ({}, ResumeKind.COMPARE),
        ({"differs": ""}, ResumeKind.RESTARTED),
        ({"differs": "page 7"}, ResumeKind.BROKEN),
        ({"differs": "", "next_frame_continues": True}, ResumeKind.BROKEN),
    ],
)
def test_a_restart_in_another_boot_needs_the_file(change: dict[str, object], kind: ResumeKind) -> None:
    """With synchronous=OFF a power cut may take the frames behind the last captured one, and leave their checkpoint."""
    evidence: dict[str, object] = {
        "same_file": True,
        "index": index((11, 7), 19),
        "frame_checksum": (3, 4),
        "next_frame_continues": False,
        "file": FILE,
        "same_boot": False,
    }
    assert plan_resume(MARK, None, ResumeEvidence(**(evidence | change))).kind is kind  # type: ignore[arg-type]


@pytest.mark.parametrize(("recorded", "now", "same"), [("a", "a", True), ("a", "b", False), ("", "", False)])
def test_a_boot_that_is_not_known_is_another_one(recorded: str, now: str, *, same: bool) -> None:
    assert is_same_boot(recorded, now) is same


def test_without_a_recorded_clean_end_an_empty_log_proves_nothing() -> None:
    evidence = ResumeEvidence(
        same_file=True,
        index=index((77, 7), 0),
        frame_checksum=None,
        next_frame_continues=False,
        file=FILE,
        same_boot=True,
    )
    assert plan_resume(MARK, None, evidence).kind is ResumeKind.BROKEN


def test_a_checkpoint_during_the_down_time_makes_file_pages_newer_and_they_go_plain(tmp_path: Path) -> None:
    """Frames that were not captured were copied into the file: those pre-images are refused, and nothing is wrong."""
    live = LiveDatabase(tmp_path / "app.db")
    for n in range(200):
        live.app.execute("insert into t(id, k, v) values(?, ?, zeroblob(900))", (n, n))
    for _ in range(4):
        live.tick(LONG_S)
    live.app.execute("insert into t(k) values(1)")
    sink = live.begin()
    live.commit("update t set k = 1 where id = 3")
    live.tick()
    encoder, mark = live.capture.reader.encoder, live.capture.reader.mark
    hashes, inode = PageHashes.from_bytes(encoder.hashes.to_bytes()), live.capture.files.inode
    live.kill_capture()
    live.app.execute("update t set v = zeroblob(901) where id % 3 = 0")
    live.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
    capture = live.attach_again()
    plan = plan_resume(mark, None, capture.reader.evidence(mark, inode=inode, page_size=4096, boot_id=BOOT))
    assert plan.kind is ResumeKind.CONTINUE
    capture.reader.resume(mark, hashes, encoder.txid, 0)
    capture.reader.sink, sink.spooled_frames = sink, 0
    live.tick()
    assert capture.reader.encoder.counts.mismatches > 0
    assert sink.images[-1] == live.image()
    live.close()


def test_the_proof_of_a_clean_end_is_not_younger_than_the_clock_of_the_file_system(tmp_path: Path) -> None:
    """A write within the same tick of the file system's clock would not show in the modification time."""
    live = LiveDatabase(tmp_path / "app.db")
    live.begin()
    live.commit("insert into t(k) values(1)")
    for _ in range(3):
        live.tick(LONG_S)
    now_ms = os.stat(live.path).st_mtime_ns // 10**6
    live.clock.step_wall(now_ms - live.clock.now_ms())
    assert live.capture.finish() is not None
    assert live.clock.now_ms() - now_ms >= 40
    live.close()


def test_a_log_without_frames_is_no_proof_that_nothing_was_committed(tmp_path: Path) -> None:
    """Capture stood before the first frame; the app commits, closes last, and the next log is as empty as the first."""
    live = LiveDatabase(tmp_path / "app.db")
    live.let_go(remove_wal=True)
    live.reopen_app()
    live.attach_again()
    live.begin()
    mark, inode = live.capture.reader.mark, live.capture.files.inode
    assert mark.frame == 0
    live.kill_capture()
    live.app.execute("insert into t(k) values(1)")
    live.reopen_app()
    capture = live.attach_again()
    assert capture.files.index().max_frame == 0
    plan = plan_resume(mark, None, capture.reader.evidence(mark, inode=inode, page_size=4096, boot_id=BOOT))
    assert plan.kind is ResumeKind.BROKEN
    live.close()


def test_a_log_that_was_cut_inside_the_next_frame_proves_nothing(tmp_path: Path) -> None:
    """`journal_size_limit` truncates the -wal at a restart: what came after the last captured frame is not known."""
    live = LiveDatabase(tmp_path / "app.db")
    live.begin()
    for n in range(20):
        live.commit("insert into t(k, v) values(?, zeroblob(3000))", n)
    live.tick()
    mark, inode = live.capture.reader.mark, live.capture.files.inode
    live.kill_capture()
    live.app.pragma("journal_size_limit", frame_offset(mark.frame + 1, 4096) + 100)
    for n in range(20):
        live.app.execute("insert into t(k, v) values(?, zeroblob(3000))", (n,))
    live.checkpoint(apsw.SQLITE_CHECKPOINT_RESTART)
    live.app.execute("insert into t(k) values(1)")
    capture = live.attach_again()
    assert capture.files.index().salts[0] == mark.salts[0] + 1
    assert os.path.getsize(f"{live.path}-wal") == frame_offset(mark.frame + 1, 4096) + 100
    plan = plan_resume(mark, None, capture.reader.evidence(mark, inode=inode, page_size=4096, boot_id=BOOT))
    assert plan.kind is ResumeKind.BROKEN
    live.close()


def test_frames_that_were_not_captured_yet_are_not_overwritten_after_the_attach(tmp_path: Path) -> None:
    """All is copied, so a keeper would sit on READ-LOCK 0, and the next commit would begin the log anew over them."""
    live = LiveDatabase(tmp_path / "app.db")
    sink = live.begin()
    live.commit("insert into t(k) values(1)")
    live.tick()
    encoder = live.capture.reader.encoder
    mark, hashes, txid = live.capture.reader.mark, PageHashes.from_bytes(encoder.hashes.to_bytes()), encoder.txid
    inode = live.capture.files.inode
    live.kill_capture()
    live.app.execute("insert into t(k, v) values(2, zeroblob(9000))")
    assert live.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
    capture = live.attach_again()
    assert capture.files.index().backlog == 0
    evidence = capture.reader.evidence(mark, inode=inode, page_size=4096, boot_id=BOOT)
    live.app.execute("insert into t(k) values(3)")
    plan = plan_resume(mark, None, evidence)
    assert plan.kind is ResumeKind.CONTINUE
    capture.reader.resume(mark, hashes, txid, live.clock.now_ms())
    sink.spooled_frames = 0
    capture.reader.sink = sink
    live.tick()
    assert encoder.txid + 2 == capture.reader.encoder.txid
    assert sink.images[-1] == live.image()
    live.close()
