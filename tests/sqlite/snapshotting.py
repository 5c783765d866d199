"""Snapshots of a live database, step by step, and what a restore makes of nothing but them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from tests.sqlite.live import LiveDatabase
from walrep.core.names import SnapshotName, snapshot_key
from walrep.core.objects import SnapshotHeader
from walrep.core.target import AtTxid
from walrep.core.units import Seq, Txid
from walrep.disk.room import DiskRoom
from walrep.engine.restorer import RestoreRequest
from walrep.sqlite.snapshot import SnapshotCopy
from walrep.sqlite.target import Check
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import restore_inline

__all__ = ["Snapshots"]


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
        self.keys: list[str] = []

    def new(self, *, differential: bool = False, room: DiskRoom | None = None) -> SnapshotCopy:
        """Return a copy that has not begun; a differential one leans on the last full one that was completed."""
        live, full = self.live, self.full if differential else None
        header = SnapshotHeader(
            replica="r", timeline=self.timeline, writer=self.builder_writer, created_ms=0, page_size=self.page_size
        )
        path, room = live.path.with_suffix(".snapshot"), room or DiskRoom(live.path.parent, 0)
        if full is None:
            assert not differential
            return SnapshotCopy(live.capture.reader, path, header, room)
        header = msgspec.structs.replace(header, full_txid=full.txid)
        return SnapshotCopy(live.capture.reader, path, header, room, np.frombuffer(full.hashes(), np.uint64))

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
        name = SnapshotName(
            timeline=self.timeline,
            txid=copy.txid,
            seen_ms=copy.seen_ms,
            seq=Seq(1),
            full_txid=copy.header.full_txid,
        )
        self.keys.append(snapshot_key(name))
        self.objects[self.keys[-1]] = copy.path.read_bytes()
        if copy.header.full_txid is None:
            self.full = copy

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
