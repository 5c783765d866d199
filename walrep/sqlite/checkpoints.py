"""The checkpoints that walrep runs: PASSIVE, and one with the writers stopped for its tail where they never pause.

What to do when is decided in `walrep.core.checkpoint`.
"""

from __future__ import annotations

import msgspec

from walrep.clock import Clock
from walrep.core.checkpoint import CapturePolicy, WriteLockAdvice, next_passive_wait, plan_write_lock
from walrep.core.wal import WalIndex
from walrep.core.walsum import FRAME_HEADER_BYTES
from walrep.errors import CaptureBroken
from walrep.sqlite.keeper import Keeper
from walrep.sqlite.locks import describe_long_reader
from walrep.sqlite.reader import AlarmCallback, LogReader

__all__ = ["CaptureCounts", "Checkpoints"]

_ALARM_AGAIN_S = 60.0
_STARVED_MAX = 20
_LONG_READER_S = 2.0
"""Writers hold read marks too, for a moment; a reader is long when it has been in the way for so long."""


class CaptureCounts(msgspec.Struct):
    """What the keeper did since the database was attached."""

    hand_overs: int = 0
    passives: int = 0
    probe_waits: int = 0
    write_locks: int = 0
    write_locks_refused: int = 0
    starved: int = 0
    write_lock_longest_s: float = 0.0


class Checkpoints:
    """The checkpoints of one attached database. All methods run on the capture thread."""

    def __init__(
        self, keeper: Keeper, reader: LogReader, *, policy: CapturePolicy, clock: Clock, alarm: AlarmCallback
    ) -> None:
        self.counts = CaptureCounts()
        self.wait_s = policy.passive_wait_min_s
        """How long to wait between two PASSIVEs now."""
        self.passive_s = self.write_lock_s = clock.monotonic_s()
        """When the last PASSIVE began, and when the last try to stop the writers."""
        self._keeper = keeper
        self._reader = reader
        self._files = keeper.files
        self._policy = policy
        self._clock = clock
        self._alarm = alarm
        self._rounds = 0
        self._alarm_s = self.passive_s - _ALARM_AGAIN_S
        self._starved_in_row = 0
        self._starved_since_s: float | None = None

    def passive(self, now_s: float) -> int | None:
        """Run a PASSIVE; return how many frames are backfilled, None if the lock was not free."""
        self.passive_s = now_s
        self.counts.passives += 1
        before = self._files.index().backfilled
        done = self._keeper.passive()
        progress = done is not None and done > before
        self.wait_s = next_passive_wait(self.wait_s, progress=progress, policy=self._policy)
        return done

    def relieve(self, now_s: float) -> bool:
        """Stop the writers for the tail of a checkpoint, if nothing less ends a log that is too long. INV-06.

        Return whether a hand-over comes next instead: all is copied, or more can be without stopping anyone.
        """
        done = self.passive(now_s)
        index = self._files.index()
        if index.backlog == 0:
            # Nobody is writing: all was copied without stopping anyone.
            self._rounds = 0
            return True
        advice = plan_write_lock(
            backfilled=done,
            keeper_frame=self._keeper.view.max_frame,
            index=index,
            rounds=self._rounds,
            policy=self._policy,
        )
        if advice is WriteLockAdvice.CONVERGE:
            self._rounds += 1
            return True
        self._rounds = 0
        self.write_lock_s = now_s
        if advice is WriteLockAdvice.STARVED:
            # The longer it lasts the less often it is worth trying.
            self._starved_in_row = min(self._starved_in_row + 1, _STARVED_MAX)
            self.write_lock_s += self._starved_in_row * self._policy.write_lock_interval_s
            if done is not None:
                self.counts.starved += 1
                self._starved_since_s = self._starved_since_s or now_s
                lasts = now_s - self._starved_since_s > _LONG_READER_S
                if lasts and index.max_frame > self._policy.reader_alarm_frames:
                    self._alarm_of_reader(now_s, index)
            return False
        self._starved_in_row, self._starved_since_s = 0, None
        try:
            self._stop_writers()
        except BaseException as error:
            if not self._keeper.abandon_write_lock():
                raise CaptureBroken("the keeper was lost", detail=f"{self._files.path}: {error}") from error
            raise
        return False

    def _stop_writers(self) -> None:
        # Not under the lock: there SQLite then syncs only the pages that it copies there.
        self._files.sync_database()
        if not self._keeper.lock_writers(self._policy.write_lock_wait_s):
            self.counts.write_locks_refused += 1
            return
        began_s = self._clock.monotonic_s()
        if self._files.index().max_frame - self._reader.mark.frame > 4 * self._policy.write_lock_tail_frames:
            self._keeper.abandon_write_lock()
            self.counts.write_locks_refused += 1
            return
        now_ms = self._clock.now_ms()
        self._reader.read(now_ms, bounded=False)
        self._keeper.release_reader()
        while self._keeper.passive_under_lock() is None:
            if self._clock.monotonic_s() - began_s > self._policy.write_lock_budget_s:
                break
            self._clock.pause(0.0005)
        self._keeper.begin_under_lock()
        self._reader.read(now_ms, bounded=False)
        self._keeper.unlock_writers()
        held_s = self._clock.monotonic_s() - began_s
        self.counts.write_locks += 1
        self.counts.write_lock_longest_s = max(self.counts.write_lock_longest_s, held_s)

    def _alarm_of_reader(self, now_s: float, index: WalIndex) -> None:
        if now_s - self._alarm_s < _ALARM_AGAIN_S:
            return
        self._alarm_s = now_s
        wal_bytes = index.max_frame * (self._files.page_size + FRAME_HEADER_BYTES)
        self._alarm("long-reader", *describe_long_reader(self._files.shm_fd, wal_bytes))
