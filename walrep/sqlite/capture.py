"""One attached database: look, read what was committed, and move the keeper as `walrep.core.checkpoint` decides.

`tick` is called again and again by the one capture thread. Between the start and the base of a timeline frames are
only noted, not encoded (see `walrep.sqlite.base`).
"""

from __future__ import annotations

import apsw
import msgspec

from walrep.clock import Clock
from walrep.core.checkpoint import (
    CapturePolicy,
    Standstill,
    Step,
    TickView,
    WriteLockAdvice,
    next_passive_wait,
    note_locks,
    plan_tick,
    plan_write_lock,
)
from walrep.core.state import CleanEnd
from walrep.core.wal import WAL_INDEX_HEADER_BYTES, WalIndex
from walrep.core.walsum import FRAME_HEADER_BYTES
from walrep.errors import CaptureBroken, DatabaseBusy, DatabaseReplaced
from walrep.sqlite.keeper import Keeper
from walrep.sqlite.locks import describe_long_reader
from walrep.sqlite.reader import AlarmCallback, LogReader

__all__ = ["Capture", "CaptureCounts"]

_REPLACED_CHECK_S = 0.5
_STEPS_PER_TICK = 4
_UNREADABLE_S_MAX = 10.0
_ALARM_AGAIN_S = 60.0
_STARVED_MAX = 20
_LONG_READER_S = 2.0
"""Writers hold read marks too, for a moment; a reader is long when it has been in the way for so long."""
_BEGIN_FAILURES_MAX = 100
_MTIME_REST_NS = 50_000_000
_MTIME_PAUSES_MAX = 20


class CaptureCounts(msgspec.Struct):
    """What the keeper did since the database was attached."""

    hand_overs: int = 0
    passives: int = 0
    probe_waits: int = 0
    write_locks: int = 0
    write_locks_refused: int = 0
    starved: int = 0
    write_lock_longest_s: float = 0.0


class Capture:
    """One attached database. All methods run on the capture thread."""

    def __init__(self, keeper: Keeper, *, policy: CapturePolicy, clock: Clock, alarm: AlarmCallback) -> None:
        self.keeper = keeper
        self.files = keeper.files
        self.policy = policy
        self.clock = clock
        self.reader = LogReader(keeper.files, clock=clock, alarm=alarm)
        self.reader.is_guarded = not keeper.aside
        self.counts = CaptureCounts()
        self._alarm = alarm
        self._raw = b""
        self._at_rest = False
        self._target: WalIndex | None = None
        self._target_frames: int | None = None
        self._rounds = 0
        self._begin_failures = 0
        now_s = clock.monotonic_s()
        self._passive_s = self._write_lock_s = self._checked_s = now_s
        self._passive_wait_s = policy.passive_wait_min_s
        self._unreadable_since_s: float | None = None
        self._standstill: Standstill | None = None
        self._asides_in_row = 0
        self._aside_since_s = now_s
        self._aside_index: WalIndex | None = None
        self._reader_alarm_s = now_s - _ALARM_AGAIN_S
        self._starved_in_row = 0
        self._starved_since_s: float | None = None

    def finish(self) -> CleanEnd | None:
        """Copy all that can be copied; return what proves the end of the log, if everything in it was captured.

        Nothing more is captured. A keeper is still held. Call it when the spool has everything.
        """
        try:
            return self._finish()
        except (apsw.Error, DatabaseBusy):
            return None

    def _finish(self) -> CleanEnd | None:
        # A keeper that began before the last frames holds the checkpoint back: where a hand-over is under way, another
        # one has to follow it.
        for _ in range(1 + self.keeper.overlapping):
            if not self.keeper.overlapping:
                self.keeper.begin_next()
            if not self.reader.reached(self.files.index()):
                return None
            self.keeper.end_previous()
        self.keeper.passive()
        index = self.files.index()
        if not self.reader.reached(index) or (index.max_frame and index.backlog):
            return None
        # The proof compares modification times, whose clock ticks every few ms: let a write just before be older.
        for _ in range(_MTIME_PAUSES_MAX):
            if self.clock.now_ms() * 1_000_000 - self.files.file_state().mtime_ns >= _MTIME_REST_NS:
                return self.files.file_state()
            self.clock.pause(0.01)
        return None

    def idle_end(self) -> CleanEnd | None:
        """Return what proves the end of a log without frames, which stays so while the keeper is held."""
        old_enough_ns = self.clock.now_ms() * 1_000_000 - _MTIME_REST_NS
        state = self.files.file_state()
        return state if self.files.index().max_frame == 0 and state.mtime_ns <= old_enough_ns else None

    def close(self, *, remove_wal: bool) -> None:
        """Let the database go; `remove_wal` has SQLite remove the log if nobody else is left and all was captured.

        Something may have been committed since `finish`: it stays in the log, where the next start finds it.
        """
        self.keeper.close(remove_wal=remove_wal and self._has_all())

    def _has_all(self) -> bool:
        try:
            return self.reader.reached(self.files.index())
        except DatabaseBusy:
            return False

    # -- one tick ---------------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Capture what was committed and move the keeper; return whether anything is going on.

        Raises:
            CaptureBroken: the log does not continue what was captured.
            DatabaseReplaced: the path names another file; what the old one committed is captured.

        """
        now_s = self.clock.monotonic_s()
        try:
            active = self._look(now_s, self.clock.now_ms())
        except DatabaseBusy as error:
            return self._wait_for_index(now_s, error)
        self._unreadable_since_s = None
        return active

    def _look(self, now_s: float, now_ms: int) -> bool:
        raw = self.files.raw_index()
        changed = raw != self._raw
        self._note_locks(now_s, raw)
        if self._at_rest and not changed and not self._is_waited_for(now_s):
            self.reader.looked(now_ms)
            self._check_replaced(now_s)
            return self._standstill is not None
        self._raw, self._at_rest = raw, False
        # Where the queue was full not everything is captured. The keeper moves all the same: it stops at what was
        # committed when it began, so that checkpoints go on while writers outrun the compression.
        index, _complete = self.reader.read(now_ms)
        self._check_replaced(now_s)
        handed_over = False
        if self.keeper.overlapping:
            handed_over = self._try_end_hand_over()
            if not handed_over:
                return True
        self._move_keeper(now_s, index, handed_over=handed_over)
        return changed or self.keeper.overlapping or self.keeper.aside

    def _wait_for_index(self, now_s: float, error: DatabaseBusy) -> bool:
        """A writer is stopped, or died, half-way through publishing: the keeper that is held protects what there is."""
        if self._unreadable_since_s is None:
            self._unreadable_since_s = now_s
        waited_s = now_s - self._unreadable_since_s
        if waited_s > _UNREADABLE_S_MAX:
            raise CaptureBroken(error.message, detail=error.detail, hint=error.hint) from error
        if waited_s > _UNREADABLE_S_MAX / 10 and not self.keeper.overlapping:
            self.keeper.recover_index()
        self._at_rest = False
        return True

    # -- the keeper -------------------------------------------------------------------------------------------------

    def _move_keeper(self, now_s: float, index: WalIndex, *, handed_over: bool) -> None:
        if self.keeper.aside:
            if self._may_step_back(now_s, index):
                self._hand_over()
            return
        for _ in range(_STEPS_PER_TICK):
            view = TickView(
                index=index,
                keeper=self.keeper.view,
                idle_s=now_s - self.reader.last_commit_s,
                since_passive_s=now_s - self._passive_s,
                passive_wait_s=self._passive_wait_s,
                since_write_lock_s=now_s - self._write_lock_s,
                waited_for=self._is_waited_for(now_s),
                handed_over=handed_over,
            )
            step = plan_tick(view, self.policy)
            if step is Step.NOTHING:
                at_end = index.max_frame == 0 or index.backlog == 0
                self._at_rest = at_end and self.reader.reached(index)
                return
            if step is Step.PROBE:
                if not self._probed(now_s):
                    return
                step = Step.HAND_OVER
            if step is Step.HAND_OVER:
                handed_over = self._hand_over()
            elif step is Step.STEP_ASIDE:
                self._step_aside(now_s, index)
                return
            elif step is Step.PASSIVE:
                self._passive(now_s)
            else:
                self._relieve_wal(now_s)
            if self.keeper.overlapping:
                return
            index = self.files.index()
            if index.salts != self.reader.salts:
                return

    def _is_waited_for(self, now_s: float) -> bool:
        """Say whether a blocking checkpoint of the app has been waiting for a while, perhaps for our keeper."""
        return self._standstill is not None and self._standstill.lasts(now_s, self.policy)

    def _note_locks(self, now_s: float, raw: bytes) -> None:
        checkpointer, writer = self.files.checkpoint_holders()
        header = raw[:WAL_INDEX_HEADER_BYTES]
        self._standstill = note_locks(
            self._standstill, now_s=now_s, header=header, checkpointer=checkpointer, writer=writer
        )
        if self._standstill is None:
            self._asides_in_row = 0

    def _step_aside(self, now_s: float, index: WalIndex) -> None:
        """Let a blocking checkpoint have the read mark that our keepers are on. INV-18."""
        self._standstill = None
        if self.keeper.step_aside(self._asides_in_row):
            self._asides_in_row += 1
            self.reader.distrust_file()
            self._aside_since_s, self._aside_index = now_s, index

    def _may_step_back(self, now_s: float, index: WalIndex) -> bool:
        """Say whether the checkpoint has got on, as the index tells, is gone, or has had time enough."""
        got_on = index != self._aside_index
        return got_on or self._standstill is None or now_s - self._aside_since_s > self.policy.aside_s_max

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
        self._standstill = None
        self._target = self._target_frames = None
        self.counts.hand_overs += 1
        self.reader.read(self.clock.now_ms())
        return self._try_end_hand_over()

    def _try_end_hand_over(self) -> bool:
        """End the previous keeper once everything that the next one's beginning saw is in the spool. INV-01, INV-12."""
        if self._target is None:
            self._target = self.files.index()
        if self._target_frames is None:
            if not self.reader.passed(self._target):
                return False
            # Not `counts.frames`: what is in a base never reaches the sink, which would be waited for until a commit.
            self._target_frames = self.reader.put_frames
        sink = self.reader.sink
        if sink is not None and sink.spooled_frames < self._target_frames:
            return False
        self.keeper.end_previous()
        self.reader.is_guarded = True
        self._target = self._target_frames = None
        return True

    def _probed(self, now_s: float) -> bool:
        """Say whether READ-LOCK 0 may be left: the checkpoint lock was seen free after the restart. INV-05.

        Or its holder waits for us: every commit, and so the restart, begins the grace anew.
        """
        if self.keeper.passive() is not None:
            return True
        self.counts.probe_waits += 1
        return self._is_waited_for(now_s)

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
        if index.backlog == 0:
            # Nobody is writing: all was copied without stopping anyone.
            self._rounds = 0
            self._hand_over()
            return
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
            # The longer it lasts the less often it is worth trying.
            self._starved_in_row = min(self._starved_in_row + 1, _STARVED_MAX)
            self._write_lock_s += self._starved_in_row * self.policy.write_lock_interval_s
            if done is not None:
                self.counts.starved += 1
                self._starved_since_s = self._starved_since_s or now_s
                lasts = now_s - self._starved_since_s > _LONG_READER_S
                if lasts and index.max_frame > self.policy.reader_alarm_frames:
                    self._alarm_of_reader(now_s, index)
            return
        self._starved_in_row, self._starved_since_s = 0, None
        try:
            self._stop_writers()
        except BaseException as error:
            if not self.keeper.abandon_write_lock():
                raise CaptureBroken("the keeper was lost", detail=f"{self.files.path}: {error}") from error
            raise

    def _stop_writers(self) -> None:
        # Not under the lock: there SQLite then syncs only the pages that it copies there.
        self.files.sync_database()
        if not self.keeper.lock_writers(self.policy.write_lock_wait_s):
            self.counts.write_locks_refused += 1
            return
        began_s = self.clock.monotonic_s()
        if self.files.index().max_frame - self.reader.mark.frame > 4 * self.policy.write_lock_tail_frames:
            self.keeper.abandon_write_lock()
            self.counts.write_locks_refused += 1
            return
        now_ms = self.clock.now_ms()
        self.reader.read(now_ms, bounded=False)
        self.keeper.release_reader()
        while self.keeper.passive_under_lock() is None:
            if self.clock.monotonic_s() - began_s > self.policy.write_lock_budget_s:
                break
            self.clock.pause(0.0005)
        self.keeper.begin_under_lock()
        self.reader.read(now_ms, bounded=False)
        self.keeper.unlock_writers()
        held_s = self.clock.monotonic_s() - began_s
        self.counts.write_locks += 1
        self.counts.write_lock_longest_s = max(self.counts.write_lock_longest_s, held_s)

    # -- alarms -----------------------------------------------------------------------------------------------------

    def _alarm_of_reader(self, now_s: float, index: WalIndex) -> None:
        if now_s - self._reader_alarm_s < _ALARM_AGAIN_S:
            return
        self._reader_alarm_s = now_s
        wal_bytes = index.max_frame * (self.files.page_size + FRAME_HEADER_BYTES)
        self._alarm("long-reader", *describe_long_reader(self.files.shm_fd, wal_bytes))

    def _check_replaced(self, now_s: float) -> None:
        if now_s - self._checked_s < _REPLACED_CHECK_S:
            return
        self._checked_s = now_s
        reason = self.files.replaced()
        if reason is not None:
            self.reader.read(self.clock.now_ms(), bounded=False)
            raise DatabaseReplaced(
                reason,
                detail=str(self.files.path),
                hint="stop the app and use `walrep detach` before replacing a database by hand",
            )
