"""A spool with a model beside it, and copies of its directory as a kill at each step would leave it.

`kill_points` copies the directory before every call that opens, renames or removes a file in it. What Python itself
still buffers is not in the copy, as it would not be after a kill. The interpreter tells of such calls (`sys.audit`),
so nothing of the product is replaced.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.core.test_encoder import FakeLog, Frame
from walrep.core.journal import entry_from_job
from walrep.core.names import segment_key, snapshot_key
from walrep.core.objects import SnapshotFooter, SnapshotHeader, TimelineStart, Writer
from walrep.core.snapshot import (
    encode_snapshot_end,
    encode_snapshot_pages,
    encode_snapshot_start,
    snapshot_name,
)
from walrep.core.state import STATE_FORMAT, CaptureMark, LocalState
from walrep.core.units import Checksum, Position, Seq, TimelineId, Txid, make_timeline_id
from walrep.disk.outbox import OutboxItem
from walrep.disk.peek import snapshot_ends
from walrep.disk.spool import BASE_PART, SNAPSHOT_PART, Recovered, Sealed, Spool
from walrep.disk.state import StateDirectory
from walrep.testing.replay import ReplayedState, list_timelines, replay

__all__ = ["BASE", "SpoolRig", "kill_points", "mark_after", "page", "restored_images"]

NONCE = "0011223344556677"
PAGE_SIZE = 512


def page(number: int) -> bytes:
    """Return the content of a page, which tells it from others."""
    return random.Random(number).randbytes(PAGE_SIZE)


BASE = {pgno: page(pgno) for pgno in range(1, 6)}
"""What the database of a rig has at first."""

_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir"})
_watching: list[Callable[[], None]] = []


def _audit(event: str, _arguments: tuple[object, ...]) -> None:
    if event in _EVENTS and _watching:
        # Copying opens files too.
        watch = _watching.pop()
        watch()
        _watching.append(watch)


sys.addaudithook(_audit)


@contextmanager
def kill_points(directory: Path, into: Path) -> Iterator[list[Path]]:
    """Copy `directory` before each step of what runs inside, and at its end; yield the list of the copies."""
    copies: list[Path] = []
    into.mkdir(exist_ok=True)

    def copy() -> None:
        copies.append(into / f"{len(copies):03d}")
        shutil.copytree(directory, copies[-1])

    _watching.append(copy)
    try:
        yield copies
    finally:
        _watching.clear()
    copy()


def mark_after(txid: int) -> CaptureMark:
    """Return a mark that tells its transaction."""
    return CaptureMark((7, 8), txid, (txid, 1))


class SpoolRig:
    """A spool, what was committed into it, and the database after each transaction."""

    def __init__(self, path: Path, *, outbox_bytes_max: int = 1 << 30) -> None:
        self.directory = StateDirectory(path)
        fresh = LocalState(format=STATE_FORMAT, replica="r", url="memory", writer=Writer(nonce=NONCE))
        self.spool = Spool(self.directory, self.directory.load() or fresh, outbox_bytes_max=outbox_bytes_max)
        self.log = FakeLog({})
        self.pages: dict[int, bytes] = {}
        self.images: list[bytes] = []
        self.checksums: list[int] = []

    def begin(self, pages: dict[int, bytes]) -> OutboxItem:
        """Begin a timeline with this base."""
        self.open()
        return self.publish_base(pages)

    def open(self) -> OutboxItem:
        """Put the segment that opens the next timeline into the outbox."""
        state = self.spool.state
        timeline = make_timeline_id(state.timeline_number + 1, NONCE)
        start = TimelineStart(reason="test", parent=state.position() or state.parent)
        return self.spool.open_timeline(timeline, start, PAGE_SIZE, 1000)

    def publish_base(self, pages: dict[int, bytes], *, under: Position | None = None) -> OutboxItem:
        """Make this the base of the timeline that was opened; a differential one leans on a full one there."""
        self.pages, self.log = dict(pages), FakeLog(pages)
        hashes, spool = self.log.encoder.hashes, self.spool
        timeline = make_timeline_id(spool.state.timeline_number, NONCE)
        path = self._write_snapshot(BASE_PART, timeline, under)
        state = msgspec.structs.replace(
            spool.state,
            timeline=timeline,
            parent=None,
            page_size=PAGE_SIZE,
            txid=Txid(0),
            checksum=Checksum(hashes.checksum),
            page_count=hashes.page_count,
            mark=mark_after(0),
            snapshot_txid=Txid(0),
            snapshot_ms=1000,
        )
        item = spool.begin_timeline(path, state, hashes.to_bytes(), full=under is None)
        self.images, self.checksums = [self.image()], [hashes.checksum]
        return item

    def commit(self, *frames: tuple[int, bytes], page_count: int = 0, seen_ms: int = 1000) -> None:
        """Capture a transaction of these pages, after which the database has `page_count` pages (0: as before)."""
        size = page_count or self.log.encoder.hashes.page_count
        last = len(frames) - 1
        run: list[Frame] = [
            (pgno, size if index == last else 0, content) for index, (pgno, content) in enumerate(frames)
        ]
        for job in self.log.encoder.add(self.log.run(run, seen_ms=seen_ms, looked_ms=seen_ms - 10), self.log):
            self.spool.append(entry_from_job(job, mark_after(self.log.encoder.txid)))
        self.pages |= dict(frames)
        self.pages = {pgno: content for pgno, content in self.pages.items() if pgno <= size}
        self.images.append(self.image())
        self.checksums.append(self.log.encoder.hashes.checksum)

    def seal(self) -> Sealed | None:
        """Seal the open segment."""
        return self.spool.seal(5000)

    def recover(self) -> Recovered | None:
        """Recover, and go on from there with the model's pages."""
        recovered = self.spool.recover()
        if recovered is not None:
            self.log.encoder.start(recovered.hashes, recovered.txid)
            self.log.encoder.begin_generation()
            self.log.file = dict(self.pages)
        return recovered

    def go_on_from(self, other: SpoolRig, txid: int) -> None:
        """Take the model of another rig, as it was after transaction `txid`."""
        self.images, self.checksums = other.images[: txid + 1], other.checksums[: txid + 1]
        image = self.images[-1]
        self.pages = {at // PAGE_SIZE + 1: image[at : at + PAGE_SIZE] for at in range(0, len(image), PAGE_SIZE)}
        self.log = FakeLog(self.pages)

    def image(self) -> bytes:
        """Return the database of the model."""
        return b"".join(self.pages.get(pgno, bytes(PAGE_SIZE)) for pgno in range(1, max(self.pages) + 1))

    def close(self) -> None:
        """Close everything, as a process that ends does."""
        self.spool.close()
        self.directory.close()

    def add_snapshot(self, *, full_txid: int | None = None, seen_ms: int = 7000) -> None:
        """Put a snapshot of the state after the last seal into the outbox: the last commit, that is."""
        state = self.spool.state
        assert (state.txid, state.timeline is None) == (self.log.encoder.txid, False)
        timeline, under = state.timeline or TimelineId(""), None
        if full_txid is not None:
            under = Position(timeline, Txid(full_txid), Checksum(self.checksums[full_txid]))
        path = self._write_snapshot(SNAPSHOT_PART, timeline, under, seen_ms)
        self.spool.add_snapshot(path, seen_ms, self.log.encoder.hashes.to_bytes() if full_txid is None else None)

    def _write_snapshot(
        self, name: str, timeline: TimelineId, under: Position | None = None, seen_ms: int = 1000
    ) -> Path:
        spool, encoder = self.spool, self.log.encoder
        header = SnapshotHeader(
            replica="r",
            timeline=timeline,
            writer=spool.state.writer,
            created_ms=1000,
            page_size=PAGE_SIZE,
            full=under,
        )
        pgnos = sorted(self.pages)
        # As when it changed while it was copied: a page stands there twice, and the last one counts.
        data = encode_snapshot_start(header) + encode_snapshot_pages(pgnos[:1], [bytes(PAGE_SIZE)])
        data += encode_snapshot_pages(pgnos, [self.pages[pgno] for pgno in pgnos])
        footer = SnapshotFooter(
            txid=Txid(encoder.txid),
            seq=Seq(spool.state.next_seq - 1),
            seen_ms=seen_ms,
            checksum=encoder.hashes.checksum,
            page_count=max(pgnos),
            block_count=2,
        )
        path = self.directory.path / name
        path.write_bytes(data + encode_snapshot_end(footer, len(data)))
        return path


def restored_images(directory: Path, into: Path) -> list[bytes]:
    """Ship what lies in the outbox and the cache into a folder; return the newest timeline's databases in order."""
    shutil.rmtree(into, ignore_errors=True)
    for path in sorted([*(directory / "cache").iterdir(), *(directory / "outbox").iterdir()]):
        if path.suffix in (".base", ".snapshot"):
            header, footer = snapshot_ends(path)
            target = into / snapshot_key(snapshot_name(header, footer))
        else:
            target = into / segment_key(int(path.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    images: list[bytes] = []

    def note(state: ReplayedState) -> None:
        images.append(state.image())

    replay(into, max(list_timelines(into)), after=note)
    return images
