"""walrep's capture and spool without its engine: one database, ticked and sealed by hand, at a base of its own."""

from __future__ import annotations

import threading
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from walrep.clock import SystemClock
from walrep.core.checkpoint import CapturePolicy
from walrep.core.objects import SnapshotHeader, TimelineStart, Writer
from walrep.core.state import STATE_FORMAT, LocalState
from walrep.core.units import Seq, make_timeline_id
from walrep.disk.spool import Spool
from walrep.disk.state import StateDirectory
from walrep.engine.spooler import Spooler, SpoolerLimits
from walrep.engine.timeline import state_changes
from walrep.sqlite.base import BaseCopy
from walrep.sqlite.capture import Capture
from walrep.sqlite.keeper import Keeper

QUEUE_BYTES_MAX = 16 << 20
NONCE = "0123456789abcdef"


class Rig:
    """A database that is captured into a spool. Nothing else may write it while this is made."""

    def __init__(self, database: Path, folder: Path, worker: Executor) -> None:
        self.clock = SystemClock()
        self.worker = worker
        writer = Writer(nonce=NONCE, host="benchmark", pid=1)
        self.directory = StateDirectory(folder)
        state = LocalState(format=STATE_FORMAT, replica=NONCE, url="file:///benchmark", writer=writer)
        self.spool = Spool(self.directory, state, outbox_bytes_max=1 << 40)
        keeper = Keeper(database)
        self.capture = Capture(keeper, policy=CapturePolicy(), clock=self.clock, alarm=lambda *_: None)
        self.room = threading.Event()
        self.spooler = Spooler(
            self.spool,
            worker,
            clock=self.clock,
            limits=SpoolerLimits(queue_bytes_max=QUEUE_BYTES_MAX, segment_bytes_max=1 << 40),
            changed=self.room.set,
            failed=lambda _error: self.room.set(),
        )
        self._begin_timeline(writer)

    def seal(self) -> int:
        """Seal what is pending; return the size of the segment."""
        sealed = self.spooler.seal(final=True).result()
        if sealed is None:
            return 0
        self.spool.keep(sealed.item, cache_bytes_max=1 << 40)
        return sealed.item.size_bytes

    def drain(self) -> None:
        """Capture all that was committed, through the bounded queue, and wait until it is in the spool."""
        while True:
            index, complete = self.capture.reader.read(self.clock.now_ms())
            if complete and self.capture.reader.mark.frame >= index.max_frame:
                break
            self.clock.pause(0.0005)
        self.worker.submit(lambda: None).result()

    def close(self) -> None:
        """Let the database go."""
        self.capture.keeper.close(remove_wal=False)
        self.spool.close()
        self.directory.close()

    def _begin_timeline(self, writer: Writer) -> None:
        now_ms, page_size = self.clock.now_ms(), self.capture.files.page_size
        timeline = make_timeline_id(1, NONCE)
        self.spool.open_timeline(timeline, TimelineStart(reason="benchmark"), page_size, now_ms)
        header = SnapshotHeader(replica=NONCE, timeline=timeline, writer=writer, created_ms=now_ms, page_size=page_size)
        base = BaseCopy(self.capture.reader, self.directory.path / "base.part", header, self.spool.room)
        # A keeper begins at a sweep; until then a lock stands in for it, and no base is made.
        while not base.begin():
            self.capture.tick()
        while base.copy_slice():
            pass
        while not base.overlay(Seq(self.spool.state.next_seq - 1)):
            self.capture.tick()
        base.close()
        state = msgspec.structs.replace(self.spool.state, **state_changes(self.capture, base))
        self.spool.begin_timeline(base.path, state, self.capture.reader.encoder.hashes.to_bytes(), full=True)
        self.capture.reader.sink = self.spooler
