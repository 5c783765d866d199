"""One attached database: look, read what was committed, and move the keeper as `walrep.core.checkpoint` decides.

`tick` is called again and again by the one capture thread. Between the start and the base of a timeline frames are
only noted, not encoded (see `walrep.sqlite.base`).
"""

from __future__ import annotations

from math import inf

import apsw

from walrep.clock import Clock
from walrep.core.checkpoint import (
    CapturePolicy,
    Growth,
    Standstill,
    Step,
    TickView,
    Urgency,
    note_growth,
    note_locks,
    plan_tick,
)
from walrep.core.state import CleanEnd
from walrep.core.wal import WAL_INDEX_HEADER_BYTES, WalIndex
from walrep.errors import CaptureBroken, DatabaseBusy, DatabaseReplaced
from walrep.sqlite.checkpoints import Checkpoints
from walrep.sqlite.keeper import Keeper
from walrep.sqlite.reader import AlarmCallback, LogReader

__all__ = ["Capture"]

_REPLACED_CHECK_S = 0.5
_STEPS_PER_TICK = 4
_UNREADABLE_S_MAX = 10.0
_BEGIN_FAILURES_MAX = 100
_MTIME_REST_NS = 50_000_000
_MTIME_PAUSES_MAX = 20


class Capture:
    """One attached database. All methods run on the capture thread."""

    def __init__(self, keeper: Keeper, *, policy: CapturePolicy, clock: Clock, alarm: AlarmCallback) -> None:
        self.keeper = keeper
        self.files = keeper.files
        self.policy = policy
        self.clock = clock
        self.reader = LogReader(keeper.files, clock=clock, alarm=alarm)
        self.reader.is_guarded = not keeper.aside
        self._checkpoints = Checkpoints(keeper, self.reader, policy=policy, clock=clock, alarm=alarm)
        self.counts = self._checkpoints.counts
        self._raw = b""
        self._growth = Growth(clock.monotonic_s(), 0)
        self._rest_until_s = -inf
        """Until then there is nothing to do while the wal-index stays as it is."""
        self._nobody_waits = False
        """Whether, while the wal-index stays as it is, no checkpoint can be waiting for our keeper."""
        self._target: WalIndex | None = None
        self._target_frames: int | None = None
        self._begin_failures = 0
        self._checked_s = self._aside_since_s = clock.monotonic_s()
        self._unreadable_since_s: float | None = None
        self._standstill: Standstill | None = None
        self._asides_in_row = 0
        self._aside_index: WalIndex | None = None

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

    def tick(self) -> Urgency:
        """Capture what was committed and move the keeper; return how soon to look again.

        Raises:
            CaptureBroken: the log does not continue what was captured.
            DatabaseReplaced: the path names another file; what the old one committed is captured.

        """
        now_s = self.clock.monotonic_s()
        try:
            urgency = self._look(now_s, self.clock.now_ms())
        except DatabaseBusy as error:
            return self._wait_for_index(now_s, error)
        self._unreadable_since_s = None
        return urgency

    def _look(self, now_s: float, now_ms: int) -> Urgency:
        raw = self.files.raw_index()
        changed = raw != self._raw
        if changed or not self._nobody_waits:
            self._note_locks(now_s, raw)
        if now_s < self._rest_until_s and not changed and not self._is_waited_for(now_s):
            self.reader.looked(now_ms)
            self._check_replaced(now_s)
            return Urgency.QUIET if self._standstill is None else Urgency.HURRY
        self._raw, self._rest_until_s, self._nobody_waits = raw, -inf, False
        # Where the queue was full not everything is captured. The keeper moves all the same: it stops at what was
        # committed when it began, so that checkpoints go on while writers outrun the compression.
        index, _complete = self.reader.read(now_ms)
        self._check_replaced(now_s)
        handed_over = False
        if self.keeper.overlapping:
            handed_over = self._try_end_hand_over()
        if handed_over or not self.keeper.overlapping:
            self._move_keeper(now_s, index, handed_over=handed_over)
        frames = self.reader.counts.frames
        self._growth = note_growth(self._growth, now_s=now_s, frames=frames, policy=self.policy)
        if self._growth.is_fast or self._standstill is not None or self.keeper.aside:
            return Urgency.HURRY
        return Urgency.ACTIVE if changed or self._rest_until_s < now_s else Urgency.QUIET

    def _wait_for_index(self, now_s: float, error: DatabaseBusy) -> Urgency:
        """A writer is stopped, or died, half-way through publishing: the keeper that is held protects what there is."""
        if self._unreadable_since_s is None:
            self._unreadable_since_s = now_s
        waited_s = now_s - self._unreadable_since_s
        if waited_s > _UNREADABLE_S_MAX:
            raise CaptureBroken(error.message, detail=error.detail, hint=error.hint) from error
        if waited_s > _UNREADABLE_S_MAX / 10 and not self.keeper.overlapping:
            self.keeper.recover_index()
        self._rest_until_s = -inf
        return Urgency.HURRY

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
                since_passive_s=now_s - self._checkpoints.passive_s,
                passive_wait_s=self._checkpoints.wait_s,
                since_write_lock_s=now_s - self._checkpoints.write_lock_s,
                waited_for=self._is_waited_for(now_s),
                handed_over=handed_over,
            )
            step = plan_tick(view, self.policy)
            if step is Step.WAIT or (step is Step.PROBE and not self._probed(now_s)):
                return
            if step is Step.REST:
                self._rest(index)
                return
            if step is Step.STEP_ASIDE:
                self._step_aside(now_s, index)
                return
            if step in {Step.PROBE, Step.HAND_OVER}:
                handed_over = self._hand_over()
            else:
                self._checkpoint(step, now_s)
            if self.keeper.overlapping:
                return
            index = self.files.index()
            if index.salts != self.reader.salts:
                return

    def _checkpoint(self, step: Step, now_s: float) -> None:
        if step is Step.PASSIVE:
            self._checkpoints.passive(now_s)
        elif self._checkpoints.relieve(now_s):
            self._hand_over()

    def _rest(self, index: WalIndex) -> None:
        """Do nothing while the wal-index stays as it is, if everything in it is captured."""
        if not self.reader.reached(index):
            return
        copied = index.backlog == 0
        self._rest_until_s = inf if copied else self.reader.last_commit_s + self.policy.idle_s
        # A checkpoint that has nothing to copy waits for read marks only. A keeper that began while a checkpointer held
        # READ-LOCK 0 is on one, though all was copied; so the lock is asked for.
        self._nobody_waits = copied and self.files.is_on_read_lock_0()
        if self._nobody_waits:
            self._standstill = None

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
