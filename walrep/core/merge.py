"""Merging the small chunks of a trickle of commits into full ones.

Capture hands on what every look finds, often one transaction. Each goes to the journal at once as a chunk of its own;
the open chunk collects them, and when it is full, or the segment is sealed, one chunk of all replaces them. The
reference of a page is the one of its first appearance: what came before the open chunk's first frame.
"""

from __future__ import annotations

from walrep.core.chunk import FLAG_COMMIT, FLAG_REFERENCE, ChunkTable, Commit, chunk_frames
from walrep.core.encoder import ChunkJob
from walrep.errors import check

__all__ = ["OpenChunk"]


class OpenChunk:
    """Chunk jobs that follow one another, as one."""

    def __init__(self, page_size: int) -> None:
        self.job_count = 0
        self.frames_max = chunk_frames(page_size)
        self._txid_before = 0
        self._pgnos: list[int] = []
        self._flags = bytearray()
        self._commits: list[Commit] = []
        self._hashes: list[int] = []
        self._cuts: list[tuple[int, int]] = []
        self._references: list[bytes | memoryview] = []
        self._pages: list[bytes | memoryview] = []
        self._present: set[int] = set()
        self._last: ChunkJob | None = None

    def fits(self, job: ChunkJob) -> bool:
        """Say whether the job's frames fit."""
        return len(self._pgnos) + len(job.pages) <= self.frames_max

    def add(self, job: ChunkJob) -> None:
        """Add a job; its pages and references are copied, so that the buffer they lie in can go."""
        check(self.fits(job), "an open chunk takes no more frames than a chunk has")
        if not self.job_count:
            self._txid_before = job.table.txid_before
        references = iter(job.references)
        for pgno, flag in zip(job.table.pgnos, job.table.flags, strict=True):
            kept = flag & FLAG_COMMIT
            if flag & FLAG_REFERENCE:
                reference = next(references)
                if pgno not in self._present:
                    self._references.append(bytes(reference))
                    kept |= FLAG_REFERENCE
            self._present.add(pgno)
            self._flags.append(kept)
        offset = len(self._pgnos)
        self._cuts.extend((offset + index, page_count) for index, page_count in job.cuts)
        self._pgnos.extend(job.table.pgnos)
        self._commits.extend(job.table.commits)
        self._hashes.extend(job.hashes)
        self._pages.extend(bytes(page) for page in job.pages)
        self._last = job
        self.job_count += 1

    def merged(self) -> ChunkJob:
        """Return all of it as one job."""
        last = self._last
        check(last is not None, "an open chunk has frames")
        return ChunkJob(
            ChunkTable(self._txid_before, self._pgnos, bytes(self._flags), self._commits),
            self._hashes,
            self._cuts,
            self._references,
            self._pages,
            last.checksum_after if last else 0,
            last.pages_after if last else 0,
        )
