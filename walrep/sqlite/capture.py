"""Capture of one live database: every committed frame, in order, verified, each once.

`tick` is called again and again by the one capture thread. It reads what was committed, hands it on as chunk jobs, and
moves the keeper as `walrep.core.checkpoint` decides. Between the start and the base of a timeline frames are only
tracked, not encoded (see `walrep.sqlite.base`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import apsw
import msgspec
import numpy as np

from walrep.clock import Clock
from walrep.core.checkpoint import CapturePolicy, Step, TickView, WriteLockAdvice, next_passive_wait, plan_tick, plan_write_lock
from walrep.core.chunk import chunk_frames
from walrep.core.encoder import ChunkEncoder, ChunkJob, FrameRun
from walrep.core.pages import PageHashes
from walrep.core.resume import ResumeEvidence
from walrep.core.state import CaptureMark, CleanEnd
from walrep.core.wal import WalHeader, WalIndex
from walrep.core.walsum import FRAME_HEADER_BYTES, frame_headers, valid_frame_count
from walrep.errors import CaptureBroken, DatabaseReplaced, check
from walrep.sqlite.keeper import Keeper
from walrep.sqlite.locks import readers_of
from walrep.sqlite.preflight import known_defect
from walrep.sqlite.walfile import CHECKPOINT_LOCK, WRITE_LOCK

__all__ = ["AlarmCallback", "Capture", "CaptureCounts", "ChunkSink"]

AlarmCallback = Callable[[str, str, str], None]
"""Called with a stable key, a message and a hint."""

_RUN_BYTES = 2 << 20
_REPLACED_CHECK_S = 0.25
_STEPS_PER_TICK = 4
_VERSION_OFFSET = 96
_BEGIN_FAILURES_MAX = 100
_MTIME_REST_NS = 50_000_000


class ChunkSink(Protocol):
    """Where chunk jobs go: a bounded queue in front of the spool."""

    def room_bytes(self) -> int:
        """Return how many more bytes of pages it takes now."""
        ...

    def put(self, jobs: list[ChunkJob], marks: list[CaptureMark], frames_total: int) -> None:
        """Take jobs; when they are in the spool, `spooled_frames` becomes `frames_total`."""
        ...

    @property
    def spooled_frames(self) -> int:
        """How many frames, of all that were captured, are in the spool."""
        ...


class CaptureCounts(msgspec.Struct):
    """What capture has done since it attached."""

    generations: int = 0
    frames: int = 0
    unchecked_frames: int = 0
    hand_overs: int = 0
    passives: int = 0
    probe_waits: int = 0
    write_locks: int = 0
    write_locks_refused: int = 0
    starved: int = 0
    wal_frames_max: int = 0
    write_lock_longest_s: float = 0.0
    write_lock_total_s: float = 0.0


class Capture:
    """One attached database. All methods run on the capture thread."""

    def __init__(self, keeper: Keeper, *, policy: CapturePolicy, clock: Clock, alarm: AlarmCallback) -> None:
        self.keeper = keeper
        self.files = keeper.files
        self.policy = policy
        self.clock = clock
        self.encoder = ChunkEncoder(self.files.page_size)
        self.counts = CaptureCounts()
        self.sink: ChunkSink | None = None
        self.dirty: set[int] | None = None
        """Pages captured since the copy of a base began; None while no base is made."""
        self._alarm = alarm
        self._header: WalHeader | None = None
        self._frame = 0
        self._checksum = (0, 0)
        self._looked_ms = clock.now_ms()
        self._raw = b""
        self._at_rest = False
        self._target: WalIndex | None = None
        self._target_frames: int | None = None
        self._rounds = 0
        self._begin_failures = 0
        now_s = clock.monotonic_s()
        self._committed_s = self._passive_s = self._write_lock_s = self._checked_s = now_s
        self._passive_wait_s = policy.passive_wait_min_s
        self._probe_since_s: float | None = None
        self._defect_version = 0
        self._untrusted_generations = 0

    # -- position ---------------------------------------------------------------------------------------------------

    @property
    def salts(self) -> tuple[int, int]:
        """The generation that is being captured; zeros before the first."""
        return self._header.salts if self._header else (0, 0)

    @property
    def mark(self) -> CaptureMark:
        """Where in the log capture stands."""
        return CaptureMark(self.salts, self._frame, self._checksum)

    @property
    def looked_ms(self) -> int:
        """When all that was committed had last been captured."""
        return self._looked_ms

    @property
    def last_commit_s(self) -> float:
        """When a commit was last captured (or the database attached), on the monotonic clock."""
        return self._committed_s

    def evidence(self, mark: CaptureMark, *, inode: int, page_size: int) -> ResumeEvidence:
        """Return what stands in the files now, for the decision whether capture may go on after `mark`."""
        checksum, continues = self.files.frame_evidence(mark)
        return ResumeEvidence(
            same_file=self.files.inode == inode and self.files.page_size == page_size,
            index=self.files.index(),
            frame_checksum=checksum,
            next_frame_continues=continues,
            file=self.files.file_state(),
        )

    def resume(self, mark: CaptureMark | None, hashes: PageHashes, txid: int, looked_ms: int) -> None:
        """Go on from a state that disk proves, last looked at then.

        With a mark, within its generation, after its frame; else at the first frame of the generation to come.
        """
        if mark is not None:
            self._continue_at(mark)
        self.encoder.start(hashes, txid)
        self._looked_ms = looked_ms
        # While nobody held a keeper a checkpoint may have copied frames of the generation that is there now and that
        # are not captured yet, so that pages of the file are newer than the state; each is compared with the hash
        # array, and goes plain if so. From the next generation on a mismatch means that something else wrote the file.
        self._untrusted_generations = 1 if mark is not None else 2

    def finish(self) -> CleanEnd | None:
        """Copy all that can be copied and end a hand-over; return what proves the end of the log, if anything does.

        The keeper is still held. Call it when the spool has everything.
        """
        if self.keeper.overlapping and not self._try_end_hand_over():
            return None
        self.keeper.passive()
        index = self.files.index()
        if self._behind(index) or (index.max_frame and index.backlog):
            return None
        # The proof compares modification times, whose clock ticks every few ms: let a write just before be older.
        while self.clock.now_ms() * 1_000_000 - self.files.file_state().mtime_ns < _MTIME_REST_NS:
            self.clock.pause(0.01)
        return self.files.file_state()

    def _continue_at(self, mark: CaptureMark) -> None:
        header = self.files.wal_header()
        if mark.frame == 0 and (header is None or header.salts != mark.salts):
            return
        if header is None or header.salts != mark.salts:
            raise CaptureBroken("the log changed while capture was about to go on", detail=str(self.files.path))
        self._header, self._frame, self._checksum = header, mark.frame, mark.checksum
        step = max(1, _RUN_BYTES // (self.files.page_size + FRAME_HEADER_BYTES))
        for first in range(1, mark.frame + 1, step):
            count = min(step, mark.frame + 1 - first)
            headers = frame_headers(self.files.frames(first, count), self.files.page_size)
            self.encoder.frame_of.update(zip(headers[:, 0].tolist(), range(first, first + count), strict=True))

    # -- one tick ---------------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Capture what was committed and move the keeper; return whether anything is going on.

        Raises:
            CaptureBroken: the log does not continue what was captured.
            DatabaseReplaced: the path names another file; what the old one committed is captured.

        """
        now_s, now_ms = self.clock.monotonic_s(), self.clock.now_ms()
        raw = self.files.raw_index()
        changed = raw != self._raw
        if self._at_rest and not changed:
            self._looked_ms = now_ms
            self._check_replaced(now_s)
            return False
        self._raw, self._at_rest = raw, False
        index, complete = self.capture(now_ms)
        self._check_replaced(now_s)
        handed_over = False
        if self.keeper.overlapping:
            handed_over = self._try_end_hand_over()
            if not handed_over:
                return True
        if complete:
            self._move_keeper(now_s, index, handed_over=handed_over)
        return changed or self.keeper.overlapping

    def capture(self, now_ms: int, *, bounded: bool = True) -> tuple[WalIndex, bool]:
        """Read what was committed and hand it on; return the index that was read and whether all of it was captured.

        `bounded` stops where the sink has no room; the frames stay in the log, protected by the keeper.
        """
        index = self.files.index()
        if index.max_frame == 0:
            self._looked_ms = now_ms
            return index, True
        index = self._enter_generation(index)
        before = self._frame
        self.counts.wal_frames_max = max(self.counts.wal_frames_max, index.max_frame)
        while self._frame < index.max_frame:
            if bounded and self.sink is not None and self.sink.room_bytes() <= 0:
                return index, False
            self._read_run(index, now_ms)
        if self._frame != before:
            self._committed_s = self.clock.monotonic_s()
        self._looked_ms = now_ms
        return index, True

    def _enter_generation(self, index: WalIndex) -> WalIndex:
        """Move to the generation of the index if it is another one; return an index of the generation entered."""
        while index.salts != self.salts:
            header = self.files.wal_header()
            if header is not None and header.salts == index.salts:
                self._header, self._frame, self._checksum = header, 0, header.checksum
                self.encoder.begin_generation()
                self._untrusted_generations = max(0, self._untrusted_generations - 1)
                self.counts.generations += 1
                break
            again = self.files.index()
            if again.salts == index.salts:
                raise CaptureBroken(
                    "the WAL's header does not match the wal-index",
                    detail=str(self.files.path),
                    hint="a program changed the -wal file behind SQLite's back",
                )
            index = again
        return index

    def _read_run(self, index: WalIndex, now_ms: int) -> None:
        """Read, verify and hand on the next frames of the generation."""
        header, page_size, first = self._header, self.files.page_size, self._frame + 1
        check(header is not None, "a generation was entered")
        # Whole chunks, so that only the last one of a tick is small.
        step = chunk_frames(page_size) * max(1, _RUN_BYTES // (chunk_frames(page_size) * page_size))
        count = min(index.max_frame - self._frame, step)
        buffer = self.files.frames(first, count)
        headers = frame_headers(buffer, page_size)
        valid = valid_frame_count(
            buffer,
            headers,
            page_size=page_size,
            salts=index.salts,
            before=self._checksum,
            big_endian=bool(header and header.big_endian),
        )
        if valid < count:
            self._accept_unchecked(headers, first, count, valid)
        self._checksum = (int(headers[-1, 4]), int(headers[-1, 5]))
        if first + count - 1 == index.max_frame and not self.counts.unchecked_frames:
            if self._checksum != index.checksum:
                raise CaptureBroken(
                    "the last frame does not have the checksum that the wal-index says", detail=str(self.files.path)
                )
        self._warn_of_engine(headers, buffer)
        self._hand_on(FrameRun(headers, buffer, first, now_ms, self._looked_ms))
        self._frame += count
        self.counts.frames += count

    def _accept_unchecked(self, headers: np.ndarray, first: int, count: int, valid: int) -> None:
        """Accept committed frames without checksums, which SQLite before 3.50.2 writes after some ROLLBACK TO.

        The wal-index is the authority: the frames are committed, and it names the same pages.
        """
        same = len(headers) == count and bool((self.files.index_pgnos(first, count) == headers[:, 0]).all())
        if not same:
            raise CaptureBroken(
                f"frame {first + valid} of the WAL is not what was committed",
                detail=str(self.files.path),
                hint="a program changed the -wal file behind SQLite's back, or the disk is failing",
            )
        self.counts.unchecked_frames += count - valid
        self._alarm(
            "unchecked-frames",
            "the app's SQLite committed frames without checksums; a crash of the app now would lose them",
            "update the app's SQLite to 3.51.3 or later",
        )

    def _hand_on(self, run: FrameRun) -> None:
        if self.sink is None:
            self.encoder.track(run)
            if self.dirty is not None:
                self.dirty.update(run.headers[:, 0].tolist())
            return
        mismatches = self.encoder.counts.mismatches
        jobs = self.encoder.add(run, self.files)
        marks: list[CaptureMark] = []
        frame = run.first_frame - 1
        for job in jobs:
            frame += len(job.pages)
            at = frame - run.first_frame
            marks.append(CaptureMark(self.salts, frame, (int(run.headers[at, 4]), int(run.headers[at, 5]))))
        self.sink.put(jobs, marks, self.counts.frames + len(run.headers))
        if not self._untrusted_generations and self.encoder.counts.mismatches > mismatches:
            raise CaptureBroken(
                "the database file was changed behind SQLite's back",
                detail=str(self.files.path),
                hint="something other than SQLite wrote the file, or the disk is failing; a new timeline begins",
            )

    # -- the keeper -------------------------------------------------------------------------------------------------

    def _move_keeper(self, now_s: float, index: WalIndex, *, handed_over: bool) -> None:
        for _ in range(_STEPS_PER_TICK):
            view = TickView(
                index=index,
                keeper=self.keeper.view,
                idle_s=now_s - self._committed_s,
                since_passive_s=now_s - self._passive_s,
                passive_wait_s=self._passive_wait_s,
                since_write_lock_s=now_s - self._write_lock_s,
                handed_over=handed_over,
            )
            step = plan_tick(view, self.policy)
            if step is Step.NOTHING:
                self._at_rest = index.max_frame == 0 or index.backlog == 0
                return
            if step is Step.PROBE:
                if not self._probed(now_s):
                    return
                step = Step.HAND_OVER
            if step is Step.HAND_OVER:
                handed_over = self._hand_over()
            elif step is Step.PASSIVE:
                self._passive(now_s)
            else:
                self._relieve_wal(now_s)
            if self.keeper.overlapping:
                return
            index = self.files.index()
            if self._behind(index):
                return

    def _behind(self, index: WalIndex) -> bool:
        return index.max_frame > 0 and (index.salts != self.salts or index.max_frame > self._frame)

    def _hand_over(self) -> bool:
        """Begin the next keeper and capture all it sees; end the previous one if that is spooled already."""
        try:
            self.keeper.begin_next()
        except apsw.Error as error:
            # Recovery or a lock of the app is in the way for a moment; the keeper that is held goes on protecting.
            self._begin_failures += 1
            if self._begin_failures > _BEGIN_FAILURES_MAX:
                raise CaptureBroken("no read transaction can be begun", detail=f"{self.files.path}: {error}") from error
            return False
        self._begin_failures = 0
        self._target, self._target_frames = self.files.index(), None
        self.counts.hand_overs += 1
        self.capture(self.clock.now_ms())
        return self._try_end_hand_over()

    def _try_end_hand_over(self) -> bool:
        """End the previous keeper once everything that the next one's beginning saw is in the spool. INV-01, INV-12."""
        target = self._target
        check(target is not None, "a hand-over has a target")
        if target is None:
            return False
        if self._target_frames is None:
            reached = target.max_frame == 0 or target.salts != self.salts or self._frame >= target.max_frame
            if not reached:
                return False
            self._target_frames = self.counts.frames
        if self.sink is not None and self.sink.spooled_frames < self._target_frames:
            return False
        self.keeper.end_previous(target)
        self._target = self._target_frames = None
        return True

    def _probed(self, now_s: float) -> bool:
        """Say whether READ-LOCK 0 may be left: the checkpoint lock was seen free after the restart. INV-05."""
        if self.keeper.passive() is None:
            self.counts.probe_waits += 1
            if self._probe_since_s is None:
                self._probe_since_s = now_s
            checkpointer = self.files.lock_holder(CHECKPOINT_LOCK)
            blocking = checkpointer is not None and checkpointer == self.files.lock_holder(WRITE_LOCK)
            if not blocking or now_s - self._probe_since_s < self.policy.probe_grace_s:
                return False
        self._probe_since_s = None
        return True

    def _passive(self, now_s: float) -> int | None:
        self._passive_s = now_s
        self.counts.passives += 1
        before = self.files.index().backfilled
        done = self.keeper.passive()
        progress = done is not None and done > before
        self._passive_wait_s = next_passive_wait(self._passive_wait_s, progress=progress, policy=self.policy)
        return done

    def _relieve_wal(self, now_s: float) -> None:
        """The WAL is too long because writers never pause: stop them for the tail of one checkpoint. INV-06."""
        done = self._passive(now_s)
        index = self.files.index()
        advice = plan_write_lock(
            backfilled=done,
            keeper_frame=self.keeper.view.max_frame,
            index=index,
            rounds=self._rounds,
            policy=self.policy,
        )
        if advice is WriteLockAdvice.CONVERGE:
            self._rounds += 1
            self._hand_over()
            return
        self._rounds = 0
        self._write_lock_s = now_s
        if advice is WriteLockAdvice.STARVED:
            if done is not None:
                self.counts.starved += 1
                self._alarm_of_reader(index)
            return
        self._stop_writers()

    def _stop_writers(self) -> None:
        if not self.keeper.lock_writers(self.policy.write_lock_wait_s):
            self.counts.write_locks_refused += 1
            return
        began_s = self.clock.monotonic_s()
        if self.files.index().max_frame - self._frame > 4 * self.policy.write_lock_tail_frames:
            self.keeper.abandon_write_lock()
            self.counts.write_locks_refused += 1
            return
        now_ms = self.clock.now_ms()
        self.capture(now_ms, bounded=False)
        self.keeper.release_reader()
        while self.keeper.passive_under_lock() is None:
            if self.clock.monotonic_s() - began_s > self.policy.write_lock_budget_s:
                break
            self.clock.pause(0.0005)
        self.keeper.begin_under_lock()
        index, _ = self.capture(now_ms, bounded=False)
        self.keeper.unlock_writers(index)
        held_s = self.clock.monotonic_s() - began_s
        self.counts.write_locks += 1
        self.counts.write_lock_total_s += held_s
        self.counts.write_lock_longest_s = max(self.counts.write_lock_longest_s, held_s)

    # -- alarms -----------------------------------------------------------------------------------------------------

    def _alarm_of_reader(self, index: WalIndex) -> None:
        pids = readers_of(self.files.shm_fd)
        who = f" of process {', '.join(map(str, pids))}" if pids else ""
        size = index.max_frame * (self.files.page_size + FRAME_HEADER_BYTES)
        self._alarm(
            "long-reader",
            f"a long read transaction{who} keeps the WAL from being checkpointed; it has {size >> 20} MiB",
            "end that transaction; nothing else helps, and walrep takes no lock meanwhile",
        )

    def _warn_of_engine(self, headers: np.ndarray, buffer: bytes) -> None:
        """Tell once when the SQLite that wrote page 1 has a known data-loss bug."""
        firsts = np.flatnonzero(headers[:, 0] == 1)
        if len(firsts) == 0:
            return
        at = int(firsts[-1]) * (self.files.page_size + FRAME_HEADER_BYTES) + FRAME_HEADER_BYTES + _VERSION_OFFSET
        version = int.from_bytes(buffer[at : at + 4], "big")
        if version == self._defect_version:
            return
        self._defect_version = version
        defect = known_defect(version)
        if defect:
            self._alarm(
                "app-sqlite", defect, "update the app's SQLite; while walrep runs, the WAL-reset bug cannot strike"
            )

    def _check_replaced(self, now_s: float) -> None:
        if now_s - self._checked_s < _REPLACED_CHECK_S:
            return
        self._checked_s = now_s
        reason = self.files.replaced()
        if reason is not None:
            self.capture(self.clock.now_ms(), bounded=False)
            raise DatabaseReplaced(
                reason,
                detail=str(self.files.path),
                hint="stop the app and use `walrep detach` before replacing a database by hand",
            )
