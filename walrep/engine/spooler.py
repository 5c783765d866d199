"""The bounded queue between the capture thread and the spool: compression runs here, on copies.

The capture thread puts chunk jobs; one worker thread compresses them and appends them to the journal, in order. The
queue is bounded in bytes: where it is full, capture leaves frames in the log, and the keepers stay (INV-12).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor

import msgspec

from walrep.clock import Clock
from walrep.core.encoder import ChunkJob
from walrep.core.journal import entry_from_job
from walrep.core.state import CaptureMark
from walrep.disk.spool import Sealed, Spool

__all__ = ["PendingCommits", "Spooler"]


class PendingCommits(msgspec.Struct, frozen=True):
    """What the open segment holds: bytes, and when its oldest commit was seen (monotonic; None: no commit)."""

    bytes: int
    oldest_s: float | None


class Spooler:
    """Takes chunk jobs from capture, and seals segments in the order of what was put before."""

    def __init__(
        self,
        spool: Spool,
        worker: Executor,
        *,
        clock: Clock,
        queue_bytes_max: int,
        segment_bytes_max: int,
        changed: Callable[[], None],
    ) -> None:
        self.spool = spool
        self.failure: Exception | None = None
        """What the worker met; nothing is taken after it."""
        self._worker = worker
        self._clock = clock
        self._queue_bytes_max = queue_bytes_max
        self._segment_bytes_max = segment_bytes_max
        self._changed = changed
        self._guard = threading.Lock()
        self._queued_bytes = 0
        self._spooled_frames = 0
        self._oldest_s: float | None = None
        self._full = False

    @property
    def spooled_frames(self) -> int:
        """How many frames, of all that were put, are in the journal."""
        return self._spooled_frames

    def room_bytes(self) -> int:
        """Return how many more bytes of pages the queue takes now."""
        return self._queue_bytes_max - self._queued_bytes

    def pending(self) -> PendingCommits:
        """Return what the open segment holds."""
        return PendingCommits(self.spool.pending_bytes, self._oldest_s)

    def put(self, jobs: list[ChunkJob], marks: list[CaptureMark], frames_total: int) -> None:
        """Queue chunks; raises what made the worker fail before."""
        if self.failure is not None:
            raise self.failure
        cost = sum(len(page) for job in jobs for page in job.pages)
        with self._guard:
            self._queued_bytes += cost
        seen_s = self._clock.monotonic_s()
        self._worker.submit(self._append, jobs, marks, (cost, frames_total, seen_s))

    def seal(self) -> Sealed | None:
        """Seal the open segment; call it on the worker thread, behind what was put before."""
        if self.failure is not None:
            raise self.failure
        sealed = self.spool.seal(self._clock.now_ms())
        self._oldest_s = None
        self._full = False
        return sealed

    def note_recovered(self) -> None:
        """Count what a start found in the journal as pending from now on. Before anything is put."""
        if self.spool.totals.commit_count:
            self._oldest_s = self._clock.monotonic_s()
            self._changed()

    def _append(self, jobs: list[ChunkJob], marks: list[CaptureMark], put: tuple[int, int, float]) -> None:
        cost, frames_total, seen_s = put
        try:
            if self.failure is not None:
                return
            for job, mark in zip(jobs, marks, strict=True):
                self.spool.append(entry_from_job(job, mark))
            # Only now may the keeper that protects these frames in the log be let go. INV-12
            self._spooled_frames = frames_total
        except Exception as error:  # noqa: BLE001  told to capture at the next put, whatever it is
            self.failure = error
        finally:
            with self._guard:
                self._queued_bytes -= cost
        self._tell(seen_s)

    def _tell(self, seen_s: float) -> None:
        """Wake the engine where its decision may change: the first commit, the size limit, a failure."""
        first = self._oldest_s is None and self.spool.totals.commit_count > 0
        full = not self._full and self.spool.pending_bytes >= self._segment_bytes_max
        if first:
            self._oldest_s = seen_s
        self._full = self._full or full
        if first or full or self.failure is not None:
            self._changed()
