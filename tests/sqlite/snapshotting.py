"""Snapshots of a live database, step by step, and what a restore makes of nothing but them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np

from tests.sqlite.kept import KeptObject
from tests.sqlite.live import LONG_S, LiveDatabase
from walrep.core.names import FullName, SnapshotName, snapshot_key
from walrep.core.objects import SnapshotHeader
from walrep.core.target import AtTxid
from walrep.core.units import Checksum, Position, Seq, Txid
from walrep.disk.room import DiskRoom
from walrep.engine.restorer import RestoreRequest
from walrep.sqlite.snapshot import SnapshotCopy
from walrep.sqlite.target import Check
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import restore_inline

__all__ = ["FILL", "Snapshots", "at_rest", "begin_log_anew", "copy_all", "filled", "overwrite"]

FILL = (
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < {}) "
    "insert into t(k, v) select i, randomblob({}) from n"
)


class Snapshots:
    """A replica that has the opening of a timeline, and the snapshots that were made; no base, and no transaction."""

    def __init__(self, live: LiveDatabase) -> None:
        self.live = live
        self.page_size = live.capture.files.page_size
        builder = HistoryBuilder(self.page_size, replica="r", nonce="0" * 16)
        self.timeline = builder.begin({1: bytes(self.page_size)}, 1000, base=False)
        self.builder_writer = builder.writer
        self.objects = builder.objects
        self.full: SnapshotCopy | None = None
        self.kept: KeptObject | None = None
        self.keys: list[str] = []

    def new(self, *, differential: bool = False, room: DiskRoom | None = None) -> SnapshotCopy:
        """Return a copy that has not begun; a differential one leans on the last full one, whose object is kept."""
        live, full = self.live, self.full if differential else None
        header = SnapshotHeader(
            replica="r", timeline=self.timeline, writer=self.builder_writer, created_ms=0, page_size=self.page_size
        )
        path, room = live.path.with_suffix(".snapshot"), room or DiskRoom(live.path.parent, 0)
        if full is None:
            assert not differential
            return SnapshotCopy(live.capture.reader, path, header, room)
        header = msgspec.structs.replace(header, full=Position(self.timeline, full.txid, Checksum(full.checksum)))
        kept = None if self.kept is None else self.kept.open()
        return SnapshotCopy(live.capture.reader, path, header, room, np.frombuffer(full.hashes(), np.uint64), kept)

    def make(self, *, differential: bool = False) -> SnapshotCopy:
        """Make a snapshot with nothing in between."""
        copy = self.new(differential=differential)
        while not copy.begin():
            self.live.tick()
        while copy.copy_slice():
            pass
        self.complete(copy)
        return copy

    def complete(self, copy: SnapshotCopy) -> None:
        """Overlay with nothing in between, and store the snapshot."""
        while not copy.overlay():
            copy.write_overlay()
            self.live.tick()
        self.store(copy)

    def store(self, copy: SnapshotCopy) -> None:
        """Store a snapshot that is complete."""
        copy.finish(Seq(1))
        full = copy.header.full
        name = SnapshotName(
            timeline=self.timeline,
            txid=copy.txid,
            seen_ms=copy.seen_ms,
            seq=Seq(1),
            full=None if full is None else FullName(full.timeline, full.txid),
        )
        self.keys.append(snapshot_key(name))
        self.objects[self.keys[-1]] = copy.path.read_bytes()
        if full is None:
            self.full, self.kept = copy, KeptObject(copy.path, copy.hashes())

    def size_bytes(self, at: int = -1) -> int:
        """Return the size of a snapshot."""
        return len(self.objects[self.keys[at]])

    def restored(self, txid: int, *, check: Check = "none") -> bytes:
        """Return the database that a restore of that transaction makes."""
        output = self.live.path.with_suffix(".restored")
        self.restore_to(output, txid, check=check)
        image = output.read_bytes()
        output.unlink()
        return image

    def restore_to(self, output: Path, txid: int, *, check: Check = "none") -> None:
        """Restore that transaction."""
        restore_inline(self.objects, RestoreRequest(output=output, target=AtTxid(txid=Txid(txid)), check=check))


def filled(path: Path) -> LiveDatabase:
    """Return a database of 1,500 rows that is captured."""
    live = LiveDatabase(path)
    live.app.execute(FILL.format(1500, 1500))
    live.begin()
    return live


def overwrite(path: Path, offset: int, content: bytes) -> bytes:
    """Write into a file as another process does, whose closing drops no lock of this one; return what was there."""
    code = (
        "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); at = int(sys.argv[2]); data = sys.stdin.buffer.read();"
        "sys.stdout.buffer.write(os.pread(fd, len(data), at)); os.pwrite(fd, data, at)"
    )
    command = [sys.executable, "-c", code, str(path), str(offset)]
    return subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True).stdout


def at_rest(live: LiveDatabase) -> None:
    """Let capture and its checkpoints come to rest: the file is the database."""
    for _ in range(6):
        live.tick(LONG_S)
    assert live.capture.files.index().backlog == 0


def copy_all(copy: SnapshotCopy) -> None:
    """Copy from the file to the end, with nothing in between."""
    while copy.copy_slice():
        pass


def begin_log_anew(live: LiveDatabase) -> None:
    """Let the app write the first frames of a new log, so that all other pages are in the file only."""
    at_rest(live)
    live.commit("insert into t(k) values(0)")
    live.tick(0.01)
    assert 10 not in live.capture.reader.encoder.frame_of
