"""Reading the log of a live database: every committed frame, in order, verified, each once.

What the wal-index says is committed is read, checked against the checksums, and handed on: as chunk jobs to the sink,
or, before a timeline has its base, only noted. Nothing here moves a keeper; reading is allowed while one is held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
import numpy as np

from walrep.clock import Clock
from walrep.core.chunk import chunk_frames
from walrep.core.encoder import ChunkEncoder, ChunkJob, FrameRun
from walrep.core.events import AlarmKey
from walrep.core.pages import PageHashes
from walrep.core.resume import ResumeEvidence, is_same_boot
from walrep.core.state import CaptureMark
from walrep.core.wal import WalHeader, WalIndex
from walrep.core.walsum import (
    FRAME_HEADER_BYTES,
    FrameHeaders,
    committed_frame_count,
    frame_headers,
    unchecked_frames,
    valid_frame_count,
)
from walrep.errors import CaptureBroken, check
from walrep.sqlite.preflight import known_defect
from walrep.sqlite.walfile import WalFiles

__all__ = ["AlarmCallback", "ChunkSink", "LogReader", "ReadCounts"]

AlarmCallback = Callable[[AlarmKey, str, str], None]
"""Called with a stable key, a message and a hint."""

_RUN_BYTES = 2 << 20
_VERSION_OFFSET = 96


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


class ReadCounts(msgspec.Struct):
    """What was read since the database was attached."""

    generations: int = 0
    frames: int = 0
    unchecked_frames: int = 0
    wal_frames_max: int = 0


class LogReader:
    """The position in the log of one attached database. All methods run on the capture thread."""

    def __init__(self, files: WalFiles, *, clock: Clock, alarm: AlarmCallback) -> None:
        self.files = files
        self.clock = clock
        self.encoder = ChunkEncoder(files.page_size)
        self.counts = ReadCounts()
        self.sink: ChunkSink | None = None
        self.dirty: set[int] | None = None
        """Pages captured since the copy of a base began; None while no base is made."""
        self.put_frames = 0
        """`counts.frames` after the last frame that the sink was given; what a base holds is not given to it."""
        self.is_guarded = True
        """Whether a keeper limits what checkpoints copy to what is captured."""
        self._alarm = alarm
        self._header: WalHeader | None = None
        self._frame = 0
        self._checksum = (0, 0)
        """What stands in the header of the last captured frame; zeros also where that has no checksum."""
        self._before: tuple[tuple[int, int], ...] = ()
        """The checksums of which the next frame continues one; none where they are not known."""
        self._looked_ms = clock.now_ms()
        self._committed_s = clock.monotonic_s()
        self._untrusted_generations = 0
        self._defect_version = 0

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

    def evidence(self, mark: CaptureMark, *, inode: int, page_size: int, boot_id: str) -> ResumeEvidence:
        """Return what stands in the files now, for the decision whether capture may go on after `mark`."""
        checksum, continues = self.files.frame_evidence(mark)
        return ResumeEvidence(
            same_file=self.files.inode == inode and self.files.page_size == page_size,
            index=self.files.index(),
            frame_checksum=checksum,
            next_frame_continues=continues,
            file=self.files.file_state(),
            same_boot=is_same_boot(boot_id, self.clock.boot_id()),
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

    def distrust_file(self) -> None:
        """Expect checkpoints that copy more than is captured, because no keeper limits them now. INV-18.

        Until two more generations have begun a page of the file that is newer than the state goes plain.
        """
        self.is_guarded = False
        self._untrusted_generations = 2

    def looked(self, now_ms: int) -> None:
        """Note that nothing was committed since the last reading."""
        self._looked_ms = now_ms

    def reached(self, index: WalIndex) -> bool:
        """Say whether everything that this index says is committed has been read."""
        return index.max_frame == 0 or (index.salts == self.salts and self._frame >= index.max_frame)

    def passed(self, index: WalIndex) -> bool:
        """Say whether everything up to an earlier index has been read: also when the log was restarted since."""
        return index.max_frame == 0 or index.salts != self.salts or self._frame >= index.max_frame

    def _continue_at(self, mark: CaptureMark) -> None:
        header = self.files.wal_header()
        if header is None or header.salts != mark.salts:
            raise CaptureBroken("the log changed while capture was about to go on", detail=str(self.files.path))
        self._stand_at(header, mark.frame, mark.checksum)
        pgnos = self.files.index_pgnos(1, mark.frame)
        if len(pgnos) < mark.frame or not pgnos.all():
            raise CaptureBroken("the wal-index does not name all captured frames", detail=str(self.files.path))
        self.encoder.frame_of.update(zip(pgnos.tolist(), range(1, mark.frame + 1), strict=True))

    def _stand_at(self, header: WalHeader, frame: int, checksum: tuple[int, int]) -> None:
        self._header, self._frame = header, frame
        self._checksum, self._before = checksum, (checksum,)

    def read(self, now_ms: int, *, bounded: bool = True) -> tuple[WalIndex, bool]:
        """Read what was committed and hand it on; return the index that was read and whether all of it was captured.

        `bounded` stops where the sink has no room; the frames stay in the log, protected by the keeper.
        """
        index = self.files.index()
        if index.max_frame == 0:
            self._looked_ms = now_ms
            return index, True
        index = self._enter_generation(index)
        self._check_tail(index)
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

    def _check_tail(self, index: WalIndex) -> None:
        """Make sure that the last captured frame is still committed, and is what was captured.

        A keeper does not keep SQLite from recovering the log, which happens beside it when an app was killed while it
        wrote the wal-index. Recovery drops what checksums do not prove, such as the frames without checksums of SQLite
        before 3.50.2, and others are written in their place.
        """
        if self._frame == 0:
            return
        there = self.files.frame_checksum(self._frame)
        if index.max_frame >= self._frame and there == self._checksum:
            return
        if self.files.index().salts != self.salts:
            # Restarted between two looks: the frame that was captured has been overwritten by right.
            return
        raise CaptureBroken(
            "SQLite has recovered the log without frames that were committed and captured",
            detail=str(self.files.path),
            hint="the app's SQLite lost them in a crash; update it to 3.51.3 or later",
        )

    def _enter_generation(self, index: WalIndex) -> WalIndex:
        """Move to the generation of the index if it is another one; return an index of the generation entered."""
        while index.salts != self.salts:
            header = self.files.wal_header()
            if header is not None and header.salts == index.salts:
                self._stand_at(header, 0, header.checksum)
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
        page_size, first = self.files.page_size, self._frame + 1
        # Whole chunks, so that only the last one of a tick is small.
        step = chunk_frames(page_size) * max(1, _RUN_BYTES // (chunk_frames(page_size) * page_size))
        count = min(index.max_frame - self._frame, step)
        buffer = self.files.frames(first, count)
        headers = frame_headers(buffer, page_size)
        self._verify(headers, buffer, first, count)
        self._checksum = (int(headers[-1, 4]), int(headers[-1, 5]))
        self._before = self._continued(headers[-1:], index if first + count - 1 == index.max_frame else None)
        self._warn_of_engine(headers, buffer)
        self._hand_on(FrameRun(headers, buffer, first, now_ms, self._looked_ms))
        self._frame += count
        self.counts.frames += count

    def _verify(self, headers: FrameHeaders, buffer: bytes, first: int, count: int) -> None:
        """Make sure that frames are what was committed.

        SQLite before 3.50.2 commits some without a checksum after ROLLBACK TO. They are taken on the word of the
        wal-index: it says that they are committed, and names the same pages. Any other frame must be valid.
        """
        header, page_size = self._header, self.files.page_size
        check(header is not None, "a generation was entered")
        salts, big_endian = self.salts, bool(header and header.big_endian)
        for before in self._before:
            valid = valid_frame_count(
                buffer, headers, page_size=page_size, salts=salts, before=before, big_endian=big_endian
            )
            if valid == count:
                return
        valid, unproved = max(
            committed_frame_count(
                buffer, headers, page_size=page_size, salts=salts, before=before, big_endian=big_endian
            )
            for before in self._before or (None,)
        )
        if valid == count and not np.array_equal(self.files.index_pgnos(first, count), headers[:, 0]):
            valid = 0
        if valid < count:
            raise CaptureBroken(
                f"from frame {first + valid} on the WAL is not what was committed",
                detail=str(self.files.path),
                hint="a program changed the -wal file behind SQLite's back, or the disk is failing",
            )
        is_first = not self.counts.unchecked_frames
        self.counts.unchecked_frames += unproved
        if is_first:
            self._alarm(
                "unchecked-frames",
                "the app's SQLite committed frames without checksums; a crash of the app then loses them",
                "update the app's SQLite to 3.51.3 or later",
            )

    def _continued(self, last: FrameHeaders, index: WalIndex | None) -> tuple[tuple[int, int], ...]:
        """Return what the frame after this one may continue; `index` is the wal-index if it ends here."""
        if not unchecked_frames(last).all():
            if index is not None and index.checksum != self._checksum:
                raise CaptureBroken(
                    "the last frame does not have the checksum that the wal-index says", detail=str(self.files.path)
                )
            return (self._checksum,)
        if index is not None:
            return (index.checksum, self._checksum)
        return () if last[-1, 1] else (self._checksum,)

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
        self.put_frames = self.counts.frames + len(run.headers)
        self.sink.put(jobs, marks, self.put_frames)
        if not self._untrusted_generations and self.encoder.counts.mismatches > mismatches:
            raise CaptureBroken(
                "the database file was changed behind SQLite's back",
                detail=str(self.files.path),
                hint="something other than SQLite wrote the file, or the disk is failing; a new timeline begins",
            )

    def _warn_of_engine(self, headers: FrameHeaders, buffer: bytes) -> None:
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
