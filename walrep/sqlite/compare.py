"""Is the database file what was captured? Page for page, against the hash array.

While this goes on a lock of ours on a read mark forbids a restart of the log, but no checkpoint: a page that one writes
meanwhile differs, which costs a new timeline and is never wrong. A blocking checkpoint of the app would wait for that
lock, and all writers with it, so the comparison is given up for one.
"""

from __future__ import annotations

from walrep.clock import Clock
from walrep.core.checkpoint import CapturePolicy, Standstill, note_locks
from walrep.core.pages import PageHashes, page_hash
from walrep.core.units import lock_byte_page
from walrep.core.wal import WAL_INDEX_HEADER_BYTES
from walrep.sqlite.failures import map_database_errors
from walrep.sqlite.walfile import WalFiles

__all__ = ["FileComparison"]

_SLICE_BYTES = 4 << 20


class FileComparison:
    """Compares a database file with a hash array, a slice at a time, on any thread."""

    def __init__(
        self,
        files: WalFiles,
        hashes: PageHashes,
        *,
        clock: Clock,
        policy: CapturePolicy,
        slice_bytes: int = _SLICE_BYTES,
    ) -> None:
        self.differs = ""
        """How the file differs, as far as it was compared."""
        self._files = files
        self._hashes = hashes
        self._clock = clock
        self._policy = policy
        self._lock_page = lock_byte_page(files.page_size)
        self._slice_pages = max(1, slice_bytes // files.page_size)
        self._next_pgno = 1
        self._standstill: Standstill | None = None

    def step(self) -> bool:
        """Compare the next slice; False when nothing is left to compare."""
        if self._is_waited_for():
            self.differs = "a checkpoint of the app had to wait before all of it was compared"
            return False
        first, page_size = self._next_pgno, self._files.page_size
        count = min(self._slice_pages, self._hashes.page_count + 1 - first)
        with map_database_errors(self._files.path):
            view = memoryview(self._files.file_pages(first, count))
        self._next_pgno += count
        for index in range(count):
            page = view[index * page_size : (index + 1) * page_size]
            if not self._is_captured(first + index, page):
                self.differs = f"page {first + index}"
                return False
        return self._next_pgno <= self._hashes.page_count

    def _is_captured(self, pgno: int, page: memoryview) -> bool:
        if pgno == self._lock_page:
            return True
        return len(page) == self._files.page_size and page_hash(page, pgno) == self._hashes.slots[pgno]

    def _is_waited_for(self) -> bool:
        now_s = self._clock.monotonic_s()
        checkpointer, writer = self._files.checkpoint_holders()
        header = self._files.raw_index()[:WAL_INDEX_HEADER_BYTES]
        self._standstill = note_locks(
            self._standstill, now_s=now_s, header=header, checkpointer=checkpointer, writer=writer
        )
        return self._standstill is not None and self._standstill.lasts(now_s, self._policy)
