"""A live database driven step by step in one process: the app's connections are apsw's, as walrep's own.

Capture runs inline on a clock that stands still. What it hands on is compressed, decoded again and applied to a plain
dictionary of pages, and after every commit of the app the database that SQLite itself sees is noted, so that every
transaction can be compared byte for byte.
"""

from __future__ import annotations

import fcntl
import os
import random
from pathlib import Path

import apsw
import msgspec
import numpy as np

from tests.sqlite.kept import KeptObject
from walrep.core.checkpoint import CapturePolicy
from walrep.core.chunk import FLAG_COMMIT, FLAG_REFERENCE, decode_pages, decode_table
from walrep.core.container import BlockType, Kind, encode_preamble, encode_struct_block, encode_tail, read_blocks
from walrep.core.encoder import ChunkJob
from walrep.core.journal import entry_from_job
from walrep.core.objects import SnapshotFooter, SnapshotHeader, Writer
from walrep.core.pages import PageHashes, page_hash
from walrep.core.resume import ResumeKind, ResumePlan, plan_resume
from walrep.core.snapshot import SnapshotPages, read_snapshot
from walrep.core.state import CaptureMark, CleanEnd
from walrep.core.units import Checksum, Position, Seq, TimelineId, Txid
from walrep.disk.room import DiskRoom
from walrep.sqlite.base import BaseCopy
from walrep.sqlite.capture import Capture
from walrep.sqlite.compare import FileComparison
from walrep.sqlite.keeper import Keeper
from walrep.testing.clock import SimClock

__all__ = ["DecodingSink", "LiveDatabase", "compare_file", "decide_resume", "held_lock"]


class DecodingSink:
    """Applies every chunk to a dictionary of pages, checks each transaction's checksum, and keeps every image."""

    def __init__(self, page_size: int, base: bytes) -> None:
        self.page_size = page_size
        self.pages = {
            index + 1: base[index * page_size : (index + 1) * page_size] for index in range(len(base) // page_size)
        }
        self.page_count = len(self.pages)
        self.rolling = 0
        for pgno, page in self.pages.items():
            self.rolling ^= page_hash(page, pgno)
        self.images = [base]
        self.keeps_images = True
        self.marks: list[CaptureMark] = []
        self.spooled_frames = 0
        self.room = 1 << 40
        self.lagging = False
        self._put_frames = 0

    def room_bytes(self) -> int:
        """Return the room that the test set."""
        return self.room

    def put(self, jobs: list[ChunkJob], marks: list[CaptureMark], frames_total: int) -> None:
        """Compress, decode and apply."""
        for job, mark in zip(jobs, marks, strict=True):
            self._apply(entry_from_job(job, mark).block)
        self.marks += marks
        self._put_frames = frames_total
        if not self.lagging:
            self.spooled_frames = frames_total

    def catch_up(self) -> None:
        """Let the spool have everything that was put."""
        self.spooled_frames = self._put_frames

    def _apply(self, encoded: bytes) -> None:
        whole = encode_preamble(Kind.SEGMENT) + encoded
        end = encode_struct_block(BlockType.FOOTER, Writer(nonce=""))
        data = whole + end + encode_tail(len(whole))
        position = 0

        def read(count: int) -> bytes:
            nonlocal position
            position += count
            return data[position - count : position]

        block = next(read_blocks(read, Kind.SEGMENT))
        table = decode_table(block.head, page_size=self.page_size, offset=0)
        references = [self.pages[p] for p, f in zip(table.pgnos, table.flags, strict=True) if f & FLAG_REFERENCE]
        size = self.page_size
        content = decode_pages(block.body, references, page_count=len(table.pgnos), page_size=size, offset=0)
        commits = iter(table.commits)
        for index, (pgno, flag) in enumerate(zip(table.pgnos, table.flags, strict=True)):
            page = content[index * size : (index + 1) * size]
            old = self.pages.get(pgno)
            self.rolling ^= page_hash(page, pgno) ^ (0 if old is None else page_hash(old, pgno))
            self.pages[pgno] = page
            if flag & FLAG_COMMIT:
                commit = next(commits)
                for gone in [p for p in self.pages if p > commit.pages_after]:
                    self.rolling ^= page_hash(self.pages.pop(gone), gone)
                self.page_count = commit.pages_after
                assert commit.checksum == self.rolling
                if self.keeps_images:
                    self.images.append(self.image())

    def image(self) -> bytes:
        """Return the database after the last transaction."""
        hole = bytes(self.page_size)
        return b"".join(self.pages.get(pgno, hole) for pgno in range(1, self.page_count + 1))


LONG_S = CapturePolicy().idle_s + 1.0
"""Quiet for so long has the log copied."""


class LiveDatabase:
    """An app with one connection, and a capture beside it."""

    def __init__(
        self,
        path: Path,
        *,
        page_size: int = 4096,
        auto_vacuum: int = 0,
        prepare: bool = True,
        idle_s: float = CapturePolicy().idle_s,
    ) -> None:
        self.path = path
        self._policy = CapturePolicy(idle_s=idle_s)
        self.clock = SimClock()
        self.alarms: list[str] = []
        self.app = apsw.Connection(str(path))
        if prepare:
            self.app.pragma("page_size", page_size)
            self.app.pragma("auto_vacuum", auto_vacuum)
            self.app.pragma("journal_mode", "wal")
            self.app.execute("create table t(id integer primary key, k int, v blob)")
        self.app.pragma("wal_autocheckpoint", 0)
        self.app.set_busy_timeout(0)
        self.expected: list[bytes] = []
        self.capture = self._attach()
        self.capture.tick()
        self.sink: DecodingSink | None = None
        self.base_hashes = b""
        """Of the last full base."""

    def _attach(self) -> Capture:
        keeper = Keeper(self.path)
        self._attached = True
        # Not of `self`: what lies in a cycle, here hundreds of MB of images, goes when the collector comes to it.
        alarms = self.alarms
        return Capture(
            keeper, policy=self._policy, clock=self.clock, alarm=lambda key, _message, _hint: alarms.append(key)
        )

    def begin(self) -> DecodingSink:
        """Make a base with nothing in between, and begin to encode."""
        if self.capture.keeper.aside:
            self.capture.tick()
        base = self.new_base()
        assert base.begin()
        while base.copy_slice():
            pass
        return self.end_base(base)

    def new_base(self, full: BaseCopy | None = None) -> BaseCopy:
        """Return a base copy that has not begun; a differential one leans on `full`, whose object is kept."""
        header = SnapshotHeader(
            replica="r",
            timeline=TimelineId("00001-00000000"),
            writer=Writer(nonce="0"),
            created_ms=0,
            page_size=self.capture.files.page_size,
        )
        path, room = self.path.with_suffix(".base" if full is None else ".diff"), DiskRoom(self.path.parent, 0)
        if full is None:
            return BaseCopy(self.capture.reader, path, header, room)
        under = Position(header.timeline, Txid(0), Checksum(full.footer.checksum if full.footer else 0))
        header = msgspec.structs.replace(header, timeline=TimelineId("00002-00000000"), full=under)
        hashes = np.frombuffer(self.base_hashes, np.uint64)
        kept = KeptObject(full.path, self.base_hashes).open()
        return BaseCopy(self.capture.reader, path, header, room, hashes, kept)

    def end_base(self, base: BaseCopy, full: BaseCopy | None = None) -> DecodingSink:
        """Overlay until the base is complete; encoding begins there."""
        while not base.overlay(Seq(1)):
            pass
        base.close()
        if full is None:
            self.base_hashes = base.hashes.to_bytes()
        image = self.read_base(base.path, None if full is None else full.path)
        self.sink = DecodingSink(self.capture.files.page_size, image)
        self.capture.reader.sink = self.sink
        self.expected = [self.image()]
        return self.sink

    def read_base(self, path: Path, under: Path | None = None) -> bytes:
        """Return the database image that a snapshot file holds, on top of the full one under it."""
        pages: dict[int, bytes] = {}
        count = 0
        size = self.capture.files.page_size
        for each in filter(None, (under, path)):
            with each.open("rb") as file:
                for item in read_snapshot(file.read):
                    if isinstance(item, SnapshotPages):
                        content = item.decode(size, [pages[p] for p in item.pgnos] if item.is_delta else ())
                        pages.update((p, content[i * size : (i + 1) * size]) for i, p in enumerate(item.pgnos))
                    elif isinstance(item, SnapshotFooter):
                        count = item.page_count
        return b"".join(pages.get(pgno, bytes(size)) for pgno in range(1, count + 1))

    def image(self) -> bytes:
        """Return the database as the app's SQLite sees it."""
        return self.app.serialize("main")

    def commit(self, sql: str, *bindings: object) -> None:
        """Run one transaction of the app and note the database after it."""
        self._before()
        self.app.execute("begin immediate")
        self.app.execute(sql, bindings)
        self.app.execute("commit")
        self.note()

    def note(self) -> None:
        """Note the database as it is after a commit, if anything was committed."""
        if self._attached and self._log_end() != self._noted:
            self.expected.append(self.image())

    def _before(self) -> None:
        if self._attached:
            self._noted = self._log_end()

    def _log_end(self) -> tuple[tuple[int, int], int]:
        index = self.capture.files.index()
        return index.salts, index.max_frame

    def tick(self, seconds: float = 0.02) -> None:
        """Let time pass and capture look once."""
        self.clock.advance(seconds)
        self.capture.tick()

    def checkpoint(self, mode: int) -> bool:
        """Run a checkpoint of the app; False if it was busy."""
        try:
            self.app.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            return False
        return True

    def write_randomly(self, dice: random.Random) -> None:
        """Commit one transaction of a random kind."""
        kind = dice.random()
        key = dice.randrange(1, 60)
        if kind < 0.45:
            self.commit("insert into t(k, v) values(?, ?)", key, dice.randbytes(dice.randrange(3000)))
        elif kind < 0.8:
            self.commit("insert or replace into t(id, k, v) values(?, ?, ?)", key, key, dice.randbytes(900))
        elif kind < 0.95:
            self.commit("delete from t where id % 7 = ?", dice.randrange(7))
        else:
            self._before()
            self.app.execute("vacuum")
            self.note()

    def finish(self) -> CleanEnd | None:
        """End the capture cleanly, a second after the last write to the file."""
        self.clock.step_wall(self.capture.files.file_state().mtime_ns // 10**6 + 1000 - self.clock.now_ms())
        return self.capture.finish()

    def kill_capture(self) -> None:
        """Let the database go as a killed walrep does: no checkpoint, the WAL stays."""
        self.let_go(remove_wal=False)

    def let_go(self, *, remove_wal: bool) -> None:
        """Close the capture; commits are no longer noted."""
        self._attached = False
        self.capture.close(remove_wal=remove_wal)

    def attach_again(self) -> Capture:
        """Attach a new capture; it has no sink yet."""
        self.capture = self._attach()
        return self.capture

    def reopen_app(self) -> None:
        """Close the app's connection, the last one perhaps, and open it again."""
        self.app.close()
        self.app = apsw.Connection(str(self.path))
        self.app.pragma("wal_autocheckpoint", 0)
        self.app.set_busy_timeout(0)

    def close(self) -> None:
        """Close the app and the capture."""
        self.capture.keeper.close(remove_wal=True)
        self.app.close()


def compare_file(live: LiveDatabase, hashes: PageHashes) -> FileComparison:
    """Return a comparison of the file, which is attached."""
    capture = live.capture
    return FileComparison(capture.files, hashes, clock=live.clock, policy=capture.policy)


def decide_resume(
    live: LiveDatabase, left: tuple[CaptureMark, CleanEnd | None, int, str], hashes: PageHashes
) -> ResumePlan:
    """Decide as the engine does, given the mark, the clean end, the inode and the boot that were recorded."""
    mark, clean_end, inode, boot_id = left
    evidence = live.capture.reader.evidence(mark, inode=inode, page_size=4096, boot_id=boot_id)
    plan = plan_resume(mark, clean_end, evidence)
    if plan.kind is not ResumeKind.COMPARE:
        return plan
    comparison = compare_file(live, hashes)
    while comparison.step():
        pass
    return plan_resume(mark, clean_end, msgspec.structs.replace(evidence, differs=comparison.differs))


class held_lock:  # noqa: N801  reads as what it is in a with statement
    """Another process that holds lock bytes of the -shm, as a checkpointer of the app does."""

    def __init__(self, path: Path, *lock_bytes: int) -> None:
        self._path, self._lock_bytes = path, lock_bytes

    def __enter__(self) -> None:
        ready_read, ready_write = os.pipe()
        self._end_read, self._end_write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            fd = os.open(f"{self._path}-shm", os.O_RDWR)
            for byte in self._lock_bytes:
                fcntl.lockf(fd, fcntl.LOCK_EX, 1, byte)
            os.write(ready_write, b"1")
            os.read(self._end_read, 1)
            os._exit(0)
        os.read(ready_read, 1)
        os.close(ready_read)
        os.close(ready_write)

    def __exit__(self, *_: object) -> None:
        os.write(self._end_write, b"1")
        os.waitpid(self._pid, 0)
        os.close(self._end_read)
        os.close(self._end_write)
