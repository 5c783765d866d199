"""From WAL frames to chunks ready for compression: page hashes, pre-images, transactions.

Position n is (generation, frames captured); S(n) is the database after frame n. The keeper (`walrep.sqlite.keeper`)
guarantees that every keeper held has a read mark <= n or sits on READ-LOCK 0. Hence, for a page that exists in S(n):

    INV-07  if it has a frame <= n in this generation, that frame in the WAL is its content, and the database file
            may be older, newer or torn: the WAL comes before the file;
    INV-08  otherwise the database file is its content, and nobody is writing that page.

The page-to-frame map is void when the generation ends (INV-09). Presence is decided by S(n), never by what the file or
an old frame still holds: pages beyond the size of the last commit have no pre-image (INV-10). Every pre-image is
hashed and compared with the hash array before it is used; what does not match goes plain and is counted (INV-11).

Nothing here reads: pages come through a `PageSource`, called only while the keeper guarantees the above. What is
returned owns its bytes, so that compression can happen at any later time.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from walrep.core.chunk import FLAG_COMMIT, FLAG_REFERENCE, ChunkTable, Commit, chunk_frames
from walrep.core.pages import PageHashes
from walrep.core.walsum import FRAME_HEADER_BYTES, FrameHeaders

__all__ = ["ChunkEncoder", "ChunkJob", "EncoderCounts", "FrameRun", "PageSource"]


class PageSource(Protocol):
    """Reads pages of the live database."""

    def frame_page(self, frame: int) -> bytes:
        """Return the page in a frame of the current generation."""
        ...

    def file_page(self, pgno: int) -> bytes:
        """Return the page in the database file; less where the file ends before its end."""
        ...


class FrameRun(msgspec.Struct, frozen=True):
    """Verified frames of one generation, read in one go; `buffer` holds them whole, headers included."""

    headers: FrameHeaders
    buffer: bytes
    first_frame: int
    seen_ms: int
    looked_ms: int


class ChunkJob(msgspec.Struct, frozen=True):
    """One chunk, not yet compressed. `hashes` are the frames' new page hashes.

    `cuts` are (frame index, page count) of the commits that dropped pages.
    """

    table: ChunkTable
    hashes: list[int]
    cuts: list[tuple[int, int]]
    references: list[bytes | memoryview]
    pages: list[bytes | memoryview]
    checksum_after: int
    pages_after: int


class EncoderCounts(msgspec.Struct):
    """What the encoder has done since it began."""

    frames: int = 0
    transactions: int = 0
    from_wal: int = 0
    from_run: int = 0
    from_file: int = 0
    new_pages: int = 0
    mismatches: int = 0


class ChunkEncoder:
    """Turns the frames of one database, in order, into chunk jobs. One per database and timeline."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.frame_of: dict[int, int] = {}
        """Newest captured frame of each page in the current generation."""
        self.hashes = PageHashes()
        self.txid = 0
        self.counts = EncoderCounts()

    def begin_generation(self) -> None:
        """Forget which frame holds which page; frame numbers begin anew. INV-09."""
        self.frame_of.clear()

    def track(self, run: FrameRun) -> None:
        """Note where pages are, without encoding: before a timeline has its base."""
        for frame, (pgno, size) in enumerate(run.headers[:, :2].tolist(), run.first_frame):
            self.frame_of[pgno] = frame
            if size and size < self.hashes.page_count:
                self._forget_beyond(size)
            self.hashes.page_count = size or self.hashes.page_count

    def start(self, hashes: PageHashes, txid: int) -> None:
        """Begin to encode at the state that `hashes` describes, after transaction `txid`."""
        self.hashes = hashes
        self.txid = txid
        self._forget_beyond(hashes.page_count)

    def add(self, run: FrameRun, source: PageSource) -> list[ChunkJob]:
        """Return the run as chunk jobs, and move S(n) to its end."""
        count = len(run.headers)
        step = chunk_frames(self.page_size)
        view = memoryview(run.buffer)
        pgnos: list[int] = run.headers[:, 0].tolist()
        sizes: list[int] = run.headers[:, 1].tolist()
        self.hashes.reserve(max(pgnos))
        return [
            self._chunk(run, view, (start, pgnos[start : start + step], sizes[start : start + step]), source)
            for start in range(0, count, step)
        ]

    def _chunk(
        self, run: FrameRun, view: memoryview, part: tuple[int, list[int], list[int]], source: PageSource
    ) -> ChunkJob:
        start, pgnos, sizes = part
        stride = self.page_size + FRAME_HEADER_BYTES
        first = start * stride + FRAME_HEADER_BYTES
        pages: list[bytes | memoryview] = [
            view[offset : offset + self.page_size] for offset in range(first, first + len(pgnos) * stride, stride)
        ]
        flags = bytearray(len(pgnos))
        references = self._references(pgnos, flags, (run, view), source)
        txid_before = self.txid
        hashes, cuts, commits = self._advance(run, start, (pgnos, sizes, pages), flags)
        self.counts.frames += len(pgnos)
        self.counts.transactions += len(commits)
        table = ChunkTable(txid_before, pgnos, bytes(flags), commits)
        return ChunkJob(table, hashes, cuts, references, pages, self.hashes.checksum, self.hashes.page_count)

    def _references(
        self, pgnos: list[int], flags: bytearray, read: tuple[FrameRun, memoryview], source: PageSource
    ) -> list[bytes | memoryview]:
        """Return the pre-images S(n)[pgno] of the distinct pages, and flag the frames that have one."""
        run, view = read
        slots, frame_of, counts = self.hashes.slots, self.frame_of, self.counts
        page_size, first_frame = self.page_size, run.first_frame
        stride = page_size + FRAME_HEADER_BYTES
        references: list[bytes | memoryview] = []
        seen: set[int] = set()
        content: bytes | memoryview
        for index, pgno in enumerate(pgnos):
            if pgno in seen:
                continue
            seen.add(pgno)
            known = slots[pgno]
            if not known:
                counts.new_pages += 1
                continue
            frame = frame_of.get(pgno)
            if frame is None:
                # A page that SQLite has extended the file by, and not written yet, is all zeros.
                content = source.file_page(pgno).ljust(page_size, b"\0")
                counts.from_file += 1
            elif frame >= first_frame:
                offset = (frame - first_frame) * stride + FRAME_HEADER_BYTES
                content = view[offset : offset + page_size]
                counts.from_run += 1
            else:
                content = source.frame_page(frame)
                counts.from_wal += 1
            if (xxh3_64_intdigest(content, pgno) or 1) != known:
                counts.mismatches += 1
                continue
            references.append(content)
            flags[index] = FLAG_REFERENCE
        return references

    def _advance(
        self, run: FrameRun, start: int, frames: tuple[list[int], list[int], list[bytes | memoryview]], flags: bytearray
    ) -> tuple[list[int], list[tuple[int, int]], list[Commit]]:
        """Move the hash array, the checksum and the map over the frames; return hashes, cuts and commits."""
        state, slots, frame_of = self.hashes, self.hashes.slots, self.frame_of
        new_hashes: list[int] = []
        cuts: list[tuple[int, int]] = []
        commits: list[Commit] = []
        checksum, highest = state.checksum, state.highest
        frame = run.first_frame + start
        for index, (pgno, size, page) in enumerate(zip(*frames, strict=True)):
            new = xxh3_64_intdigest(page, pgno) or 1
            checksum ^= slots[pgno] ^ new
            slots[pgno] = new
            new_hashes.append(new)
            frame_of[pgno] = frame + index
            highest = max(highest, pgno)
            if size:
                state.checksum, state.highest = checksum, highest
                if highest > size:
                    cuts.append((index, size))
                    state.commit(size)
                    self._forget_beyond(size)
                    frame_of = self.frame_of
                    checksum, highest = state.checksum, state.highest
                state.page_count = size
                flags[index] |= FLAG_COMMIT
                self.txid += 1
                commits.append(Commit(size, checksum, run.seen_ms, run.looked_ms))
        state.checksum, state.highest = checksum, highest
        return new_hashes, cuts, commits

    def _forget_beyond(self, page_count: int) -> None:
        self.frame_of = {pgno: frame for pgno, frame in self.frame_of.items() if pgno <= page_count}
