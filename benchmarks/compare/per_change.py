"""The stand-in that streams every change as an object of its own: the pages of each commit, zstd, one PUT.

    python -m benchmarks.compare.per_change replicate PLAN
    python -m benchmarks.compare.per_change restore PLAN INDEX OUTPUT AT_MS

It follows the log as the usual tools do: a read transaction keeps frames from being discarded, and another one takes
over when the log has been begun anew. What is committed is what the wal-index says. It is as simple as it can be: it
looks every 20 ms, checks no checksums, and after a restart it would begin with a new copy of the database.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import local

import zstandard

from benchmarks.compare.bucket import Bucket, StandinPlan, Stop, newest_before, read_plan

LOOK_S = 0.02
FRAMES_MAX = 1000
UPLOADS_AT_ONCE = 4
QUEUED_MAX = 256
PAGE = struct.Struct(">II")


class Tail:
    """One database and the end of its log. Files are opened once: closing one would drop SQLite's locks on it."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.keepers = [self._keep()]
        self.wal = os.open(f"{database}-wal", os.O_RDONLY)
        self.index = os.open(f"{database}-shm", os.O_RDONLY)
        self.page_size: int = self.keepers[0].execute("pragma page_size").fetchone()[0]
        self.salts, self.frame = self._state()

    def _keep(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.database, isolation_level=None, timeout=60)
        connection.execute("begin")
        connection.execute("select count(*) from sqlite_master").fetchone()
        return connection

    def _state(self) -> tuple[bytes, int]:
        """Return the salts of the log and how many frames are committed (SQLite's wal.c, WalIndexHdr)."""
        while True:
            both = os.pread(self.index, 96, 0)
            if both[:48] == both[48:]:
                return both[32:40], int.from_bytes(both[16:20], sys.byteorder)

    def commits(self) -> Iterator[bytes]:
        """Yield what was committed since the last look: of each commit its pages, each with its number."""
        salts, last = self._state()
        if salts != self.salts:
            # The log was begun anew, which the keeper allows only when everything that it keeps is in the file. The
            # next one has to hold before this one ends.
            self.salts, self.frame = salts, 0
            self._replace_keeper()
            last = self._state()[1]
        commit: list[bytes] = []
        while self.frame < last:
            data = os.pread(self.wal, 24 + self.page_size, 32 + self.frame * (24 + self.page_size))
            number, size = PAGE.unpack_from(data)
            commit.append(PAGE.pack(number, size) + data[24:])
            self.frame += 1
            if size:
                yield b"".join(commit)
                commit = []
        if self.frame >= FRAMES_MAX:
            self._copy_log()

    def _replace_keeper(self) -> None:
        self.keepers.append(self._keep())
        old = self.keepers.pop(0)
        old.execute("commit")
        old.close()

    def _copy_log(self) -> None:
        """Have the log copied, so that the next writer begins it anew; writers wait meanwhile, so nothing is missed."""
        with_lock = sqlite3.connect(self.database, isolation_level=None, timeout=60)
        with_lock.execute("begin immediate")
        if self._state() == (self.salts, self.frame):
            # The keeper has to be at the end of the log itself: nothing behind a reader is copied.
            self._replace_keeper()
            other = sqlite3.connect(self.database, isolation_level=None)
            other.execute("pragma wal_checkpoint(passive)")
            other.close()
            # On a log that is all copied this one does not stop the next writer from beginning it anew, but it stops
            # every checkpoint after that.
            self._replace_keeper()
        with_lock.execute("rollback")
        with_lock.close()


class Uploads:
    """Puts objects, some at once, in any order: their names have one."""

    def __init__(self, plan: StandinPlan) -> None:
        self.plan = plan
        self.pool = ThreadPoolExecutor(UPLOADS_AT_ONCE)
        self.own = local()
        self.pending: list[Future[None]] = []

    def add(self, key: str, data: bytes) -> None:
        """Compress and store, when there is room in the queue."""
        self.pending = [each for each in self.pending if not each.done() or each.result()]
        while len(self.pending) >= QUEUED_MAX:
            self.pending.pop(0).result()
        self.pending.append(self.pool.submit(self._put, key, data))

    def finish(self) -> None:
        """Wait until everything is stored."""
        for each in self.pending:
            each.result()

    def _put(self, key: str, data: bytes) -> None:
        if not hasattr(self.own, "bucket"):
            self.own.bucket = Bucket(self.plan)
        self.own.bucket.put(key, zstandard.ZstdCompressor(level=3).compress(data))


def replicate(plan: StandinPlan) -> None:
    """Store a base of every database, then each commit, until stopped."""
    stop, uploads = Stop(), Uploads(plan)
    tails = [Tail(database) for database in plan.databases]
    for database, prefix in zip(plan.databases, plan.prefixes, strict=True):
        copy = sqlite3.connect(f"{database}.base")
        source = sqlite3.connect(database)
        source.backup(copy)
        copy.close()
        source.close()
        uploads.add(f"{prefix}/base/{0:015d}-base.zst", Path(f"{database}.base").read_bytes())
    counts = [0] * len(tails)
    last = False
    while not last:
        last = stop.wanted
        for index, tail in enumerate(tails):
            for commit in tail.commits():
                counts[index] += 1
                at_ms = time.time_ns() // 1_000_000
                uploads.add(f"{plan.prefixes[index]}/changes/{at_ms:015d}-{counts[index]:09d}.zst", commit)
        time.sleep(LOOK_S)
    uploads.finish()


def restore(plan: StandinPlan, index: int, output: Path, at_ms: int) -> None:
    """Lay every change up to a time over the base, in order."""
    bucket = Bucket(plan)
    prefix = plan.prefixes[index]
    data = zstandard.ZstdDecompressor().decompress(bucket.get(f"{prefix}/base/{0:015d}-base.zst"))
    page_size = int.from_bytes(data[16:18], "big") or 65536
    output.write_bytes(data)
    keys = sorted(newest_before(bucket.keys(f"{prefix}/changes/"), at_ms), key=lambda key: key.rpartition("-")[2])
    with output.open("r+b") as file:
        for key in keys:
            commit = zstandard.ZstdDecompressor().decompress(bucket.get(key))
            for start in range(0, len(commit), 8 + page_size):
                number, size = PAGE.unpack_from(commit, start)
                file.seek((number - 1) * page_size)
                file.write(commit[start + 8 : start + 8 + page_size])
                if size:
                    file.truncate(size * page_size)


def main() -> None:
    """Replicate or restore."""
    what, plan = sys.argv[1], read_plan(sys.argv[2])
    if what == "replicate":
        replicate(plan)
    else:
        restore(plan, int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))


if __name__ == "__main__":
    main()
