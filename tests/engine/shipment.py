"""A shipper on a real spool, in virtual time and inline, with a store that a test can make fail, or hold back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.disk.spooling import SpoolRig, mark_after
from walrep.core.checkpoint import CapturePolicy
from walrep.core.compaction import CompactionPolicy
from walrep.core.events import Event
from walrep.core.flush import FlushPolicy
from walrep.core.names import REPLICA_KEY
from walrep.core.objects import REPLICA_FORMAT, ReplicaInfo, SegmentHeader, Writer
from walrep.core.state import LocalState
from walrep.core.units import Seq
from walrep.disk.spool import Spool
from walrep.engine.admission import Admission
from walrep.engine.captures import CaptureThread
from walrep.engine.outage import Outage
from walrep.engine.parts import EngineParts, HeldFiles, OpenedStore
from walrep.engine.requests import Requests
from walrep.engine.settings import DatabaseSettings, SpoolLimits
from walrep.engine.shipping import Gate, Shipper
from walrep.engine.spooler import Spooler, SpoolerLimits
from walrep.engine.watcher import DirectoryWatcher
from walrep.errors import WalrepError
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.store.observe import RequestCounts
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.store.url import FileUrl
from walrep.testing.clock import SimClock
from walrep.testing.faults import Call, Fault, FaultyStore
from walrep.testing.replay import ReplayedState, list_timelines, replay
from walrep.testing.virtual import InlineExecutor

__all__ = ["RecordedFaults", "Shipment", "images_in"]


class RecordedFaults:
    """Records every request; while `down` all fail before their effect, and some fail as they are told."""

    def __init__(self, *faults: Fault) -> None:
        self.calls: list[Call] = []
        self.down: WalrepError | None = None
        self.faults = list(faults)
        self.denied: dict[str, WalrepError] = {}

    def fault_for(self, call: Call) -> Fault | None:
        """Return what strikes this call."""
        self.calls.append(call)
        down = self.down
        if down is not None:
            return Fault(error=lambda: down)
        refused = self.denied.get(call.verb)
        if refused is not None:
            return Fault(error=lambda: refused)
        for fault in self.faults:
            if fault.verb in (None, call.verb) and call.number == fault.number:
                return fault
        return None

    def keys(self) -> list[str]:
        """Return the keys that were put, with what they are, without what differs between runs."""
        return [call.key.split("/")[0] + "/" + call.key[-16:][-4:] for call in self.calls if call.verb == "put"]


class OpenGate:
    """Allows every upload."""

    async def admit(self, _spool: Spool) -> None:
        """Return at once."""

    @asynccontextmanager
    async def storing(self, _state: LocalState, _header: SegmentHeader) -> AsyncIterator[Callable[[], None]]:
        """Ask nobody."""
        yield lambda: None

    async def look_for_rivals(self, _state: LocalState, _uploaded: Seq) -> None:
        """Find nobody."""


class Shipment:
    """Everything that one shipper needs; time is simulated, threads are not used."""

    def __init__(self, path: Path, faults: RecordedFaults, *, flush: FlushPolicy | None = None) -> None:
        self.clock = SimClock()
        self.faults = faults
        self.memory = MemoryStore(clock=self.clock)
        self.rig = SpoolRig(path)
        self.events: list[Event] = []
        self.settings = DatabaseSettings(
            path=Path("/app.db"),
            url=FileUrl(path=Path("/memory")),
            state_dir=path,
            flush=flush or FlushPolicy(),
            spool=SpoolLimits(),
        )
        self.parts = EngineParts(
            held=HeldFiles(),
            clock=self.clock,
            report=self.events.append,
            open_store=lambda _url, notify: self.opened(notify),
            captures=CaptureThread(self.clock),
            watcher=DirectoryWatcher(),
            worker=InlineExecutor(),
            runner=InlineRunner(),
            requests=Requests(self.clock, InlineRunner()),
            capture_policy=CapturePolicy(),
            mountinfo="",
            new_writer=lambda: Writer(nonce="0"),
            rival_check_s=900.0,
            compaction=CompactionPolicy(),
        )
        self.failures: list[Exception] = []
        self._frames = 0
        self._is_guarded = False

    def guard(self) -> None:
        """Put the replica's object into the store, and from now on ask the store before uploads, as replicate does."""
        state = self.rig.spool.state
        info = ReplicaInfo(
            format=REPLICA_FORMAT,
            replica=state.replica,
            database="/app.db",
            created_ms=0,
            created_by=state.writer,
            walrep="0",
        )
        self.memory.objects[REPLICA_KEY] = MemoryObject(msgspec.json.encode(info), 0)
        self._is_guarded = True

    def opened(self, notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        """Return the store with its faults, inside retries."""
        retrying = RetryingStore(FaultyStore(self.memory, self.faults), self.clock, RetryPolicy(), Random(1), notify)
        return OpenedStore(store=retrying, upload_p95_s=lambda: 0.0, counts=RequestCounts)

    @asynccontextmanager
    async def shipping(self) -> AsyncIterator[tuple[Shipper, Spooler]]:
        """Run a shipper's loops; what they raise ends the body."""
        outage = Outage(str(self.settings.path), self.clock, self.events.append)
        opened = self.opened(outage.failed)
        gate: Gate = Admission(self.parts, self.settings, opened.store, outage) if self._is_guarded else OpenGate()
        shipper = Shipper(self.parts, self.settings, opened, self.rig.spool, gate, outage)
        spooler = Spooler(
            self.rig.spool,
            self.parts.worker,
            clock=self.clock,
            limits=SpoolerLimits(queue_bytes_max=1 << 30, segment_bytes_max=self.settings.flush.segment_bytes_max),
            changed=shipper.changed.set,
            failed=self.failures.append,
        )
        shipper.spooler = spooler
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(shipper.upload_loop()), group.create_task(shipper.seal_loop())]
            yield shipper, spooler
            for loop in loops:
                loop.cancel()

    def commit(self, spooler: Spooler, seed: int) -> None:
        """Commit a transaction that changes one page."""
        rig, content = self.rig, Random(seed).randbytes(512)
        jobs = rig.log.add((1 + seed % 5, rig.log.encoder.hashes.page_count, content))
        self._frames += sum(len(job.pages) for job in jobs)
        spooler.put(jobs, [mark_after(rig.log.encoder.txid)] * len(jobs), self._frames)
        rig.pages[1 + seed % 5] = content
        rig.images.append(rig.image())

    def run(self, body: Callable[[Shipper, Spooler], Any]) -> None:
        """Run a coroutine function beside the loops, to its end."""

        async def main() -> None:
            async with self.shipping() as (shipper, spooler):
                await body(shipper, spooler)

        self.clock.run(main())

    def close(self) -> None:
        """Close what was opened."""
        self.parts.captures.close()
        self.parts.watcher.close()
        self.rig.close()


def images_in(store: MemoryStore, into: Path) -> list[bytes]:
    """Return every state of the newest timeline in a store, by the slow replay."""
    for key, found in store.objects.items():
        path = into / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found.data)
    images: list[bytes] = []

    def note(state: ReplayedState) -> None:
        images.append(state.image())

    replay(into, max(list_timelines(into)), after=note)
    return images
