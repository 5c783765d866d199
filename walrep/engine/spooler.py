"""The bounded queue between the capture thread and the spool: compression runs here, on copies.

The capture thread puts chunk jobs; one worker thread compresses them and appends them to the journal, in order. The
queue is bounded in bytes: where it is full, capture leaves frames in the log, and the keepers stay (INV-12).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TypeVar

import msgspec

from walrep.clock import Clock
from walrep.core.encoder import ChunkJob
from walrep.core.journal import entry_from_job
from walrep.core.merge import OpenChunk
from walrep.core.state import CaptureMark
from walrep.disk.spool import Sealed, Spool
from walrep.errors import SpoolError, SpoolFull, check

__all__ = ["PendingCommits", "Spooler", "SpoolerLimits"]

T = TypeVar("T")


class PendingCommits(msgspec.Struct, frozen=True):
    """What the open segment holds: bytes, and when its oldest commit was seen (monotonic; None: no commit)."""

    bytes: int
    oldest_s: float | None


class SpoolerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of pages that may wait for compression, and bytes at which a segment is full."""

    queue_bytes_max: int
    segment_bytes_max: int


class Spooler:
    """Takes chunk jobs from capture, and seals segments in the order of what was put before."""

    def __init__(
        self,
        spool: Spool,
        worker: Executor,
        *,
        clock: Clock,
        limits: SpoolerLimits,
        changed: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.spool = spool
        self.failure: Exception | None = None
        """What the worker met; nothing is taken after it."""
        self._worker = worker
        self._clock = clock
        self._limits = limits
        self._changed = changed
        self._failed = failed
        self._guard = threading.Lock()
        self._queued_bytes = 0
        self._spooled_frames = 0
        self._oldest_s: float | None = None
        self._full = False
        self._open: tuple[OpenChunk, CaptureMark] | None = None
        self._seals_waiting: list[Future[Sealed | None]] = []
        self._ended = False

    @property
    def spooled_frames(self) -> int:
        """How many frames, of all that were put, are in the journal."""
        return self._spooled_frames

    def room_bytes(self) -> int:
        """Return how many more bytes of pages the queue takes now."""
        return self._limits.queue_bytes_max - self._queued_bytes

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

    def seal(self, *, final: bool) -> Future[Sealed | None]:
        """Seal the open segment behind what was put before, at the end of the transaction that is under way.

        A transaction may be put in many parts, and a segment ends with a whole one. With `final` nothing more will be
        put: a transaction that was not captured to its end stays in the journal, and the next start cuts it off.
        """
        sealed: Future[Sealed | None] = Future()
        # It cannot be cancelled: whoever stops waiting for it does not stop the worker from setting its result.
        sealed.set_running_or_notify_cancel()
        self._worker.submit(self._seal_or_wait, sealed, final=final)
        return sealed

    def end(self) -> None:
        """Note that capture has broken: the transaction that is under way may never end, and nobody waits for that."""
        self._worker.submit(self._end)

    def begin_with(self, call: Callable[[], T]) -> Future[T]:
        """Make a call before anything is taken that is put from now on; if it fails, nothing is."""

        def work() -> T:
            try:
                return call()
            except Exception as error:
                self._fail(error)
                raise

        return self._worker.submit(work)

    def seal_then(self, call: Callable[[Sealed | None], T]) -> Future[T]:
        """Seal behind what was put before, which ends with a whole transaction, and make a call with the segment."""

        def work() -> T:
            check(not self.spool.in_transaction, "what was put ends with a whole transaction")
            sealed = self._seal_now()
            if self.failure is not None:
                raise self.failure
            return call(sealed)

        return self._worker.submit(work)

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
                self._append_one(job, mark)
            # Only now may the keeper that protects these frames in the log be let go. INV-12
            self._spooled_frames = frames_total
            if not self.spool.in_transaction:
                self._settle_seals()
        except Exception as error:  # noqa: BLE001  told to capture at the next put, whatever it is
            self._fail(error)
            self._settle_seals()
        finally:
            with self._guard:
                self._queued_bytes -= cost
        self._tell(seen_s)

    def _append_one(self, job: ChunkJob, mark: CaptureMark) -> None:
        """Journal a chunk, and collect small ones that follow one another into one that will replace them."""
        if self._open is not None and not self._open[0].fits(job):
            self._close_chunk()
        # Where writers outrun the worker the log grows, which harms the app more than a few bytes do the store.
        hasty = self._queued_bytes > self._limits.queue_bytes_max // 2
        self.spool.append(entry_from_job(job, mark, hasty=hasty))
        chunk = self._open[0] if self._open is not None else OpenChunk(self.spool.state.page_size)
        if len(job.pages) < chunk.frames_max:
            chunk.add(job)
            self._open = (chunk, mark)

    def _close_chunk(self) -> None:
        if self._open is not None:
            chunk, mark = self._open
            self._open = None
            if chunk.job_count > 1:
                # Where there is no room for the merged chunk, the small ones are as good.
                with suppress(SpoolFull):
                    self.spool.append(entry_from_job(chunk.merged(), mark, supersedes=chunk.job_count))

    def _end(self) -> None:
        self._ended = True
        self._settle_seals()

    def _seal_or_wait(self, sealed: Future[Sealed | None], *, final: bool) -> None:
        self._seals_waiting.append(sealed)
        if final or self._ended or self.failure is not None or not self.spool.in_transaction:
            self._settle_seals()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._failed(error)

    def _settle_seals(self) -> None:
        """Seal, and answer all who asked for it: the first gets the segment."""
        waiting, self._seals_waiting = self._seals_waiting, []
        for each in waiting:
            try:
                each.set_result(self._seal_now())
            except Exception as error:  # noqa: BLE001  whoever waits for the segment gets it
                each.set_exception(error)

    def _seal_now(self) -> Sealed | None:
        if self.failure is not None:
            return None
        self._close_chunk()
        try:
            sealed = self.spool.seal(self._clock.now_ms())
        except SpoolError as error:
            self._fail(error)
            return None
        if sealed is not None:
            self._oldest_s = None
            self._full = False
        return sealed

    def _tell(self, seen_s: float) -> None:
        """Wake the engine where its decision may change: the first commit, the size limit, a failure."""
        first = self._oldest_s is None and self.spool.totals.commit_count > 0
        full = not self._full and self.spool.pending_bytes >= self._limits.segment_bytes_max
        if first:
            self._oldest_s = seen_s
        self._full = self._full or full
        if first or full or self.failure is not None:
            self._changed()
