"""The spool of one database: what is captured, on local disk, until the store has it and a while longer.

    journal-<seq>         append log of the open segment's chunks (`walrep.core.journal`)
    outbox/, cache/       sealed segments and snapshots (`walrep.disk.outbox`)

All methods run on one thread, the spool worker. Every step can be the last one before a kill, and is done so that the
next start finds either the state before it or the state after it:

    seal    the segment is published in the outbox; the hash array's changes are synced; the state names the next
            segment; the new journal is begun and the old one removed. Killed in between, the journal is still there
            and is sealed again: nothing was uploaded before the state was saved (INV-15).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from walrep.core.journal import JournalEntry, apply_entry
from walrep.core.objects import SegmentFooter, SegmentHeader, TimelineStart, Writer
from walrep.core.pages import PageHashes
from walrep.core.segment import encode_segment_end, encode_segment_start
from walrep.core.state import CaptureMark, LocalState
from walrep.core.units import Checksum, Seq, TimelineId, Txid, timeline_number
from walrep.disk.atomic import map_os_errors, publish, remove_temporaries, temporary_path
from walrep.disk.full import drop_kept, forget_full, remember_full
from walrep.disk.journal import Journal, SegmentTotals
from walrep.disk.kept import keep_full
from walrep.disk.outbox import Outbox, OutboxItem
from walrep.disk.room import DiskRoom
from walrep.disk.state import HashStore, StateDirectory
from walrep.errors import SpoolFull, check

__all__ = ["BASE_PART", "DISK_RESERVE_BYTES", "SNAPSHOT_PART", "Recovered", "Sealed", "Spool"]


DISK_RESERVE_BYTES = 64 << 20
"""What the spool leaves free of its disk, unless told otherwise."""

BASE_PART = "base.part"
"""Name in the state directory of a base that is being made."""

SNAPSHOT_PART = "snapshot.part"
"""The same of a snapshot of a timeline that is captured."""

_OPENING_BYTES = 4096
"""More than a segment takes that only opens a timeline."""


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that was sealed."""

    item: OutboxItem
    header: SegmentHeader
    footer: SegmentFooter


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What local disk proves: the state after the last complete transaction in state and journal."""

    hashes: PageHashes
    txid: Txid
    mark: CaptureMark


class Spool:
    """Journal, outbox, cache and hash array of one database, and the state that ties them together."""

    def __init__(
        self,
        directory: StateDirectory,
        state: LocalState,
        *,
        outbox_bytes_max: int,
        disk_reserve_bytes: int = DISK_RESERVE_BYTES,
    ) -> None:
        self.directory = directory
        self.state = state
        self._disk_reserve_bytes = disk_reserve_bytes
        self.room = self.new_room()
        self.hash_store = HashStore(directory.path)
        self._outbox_bytes_max = outbox_bytes_max
        self._journal = Journal(directory.path)
        with map_os_errors(f"use {directory.path}"):
            self._outbox = Outbox(directory.path)
            remove_temporaries(directory.path, modified_before_ms=1 << 62)
            for name in (BASE_PART, SNAPSHOT_PART):
                (directory.path / name).unlink(missing_ok=True)
            self._discard_unsaved()

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def cache(self) -> Path:
        """The folder of durable segments that are kept."""
        return self._outbox.cache

    @property
    def pending_bytes(self) -> int:
        """Bytes of the open segment."""
        return self._journal.size_bytes

    @property
    def totals(self) -> SegmentTotals:
        """What the footer of the open segment would say."""
        return self._journal.totals

    @property
    def outbox_bytes(self) -> int:
        """Bytes that the store has not acknowledged, the open segment included."""
        return self._outbox.segment_bytes + self.pending_bytes

    @property
    def sealed_bytes(self) -> int:
        """Bytes of sealed segments that the store has not acknowledged. Snapshots are as large as the database is."""
        return self._outbox.segment_bytes

    def new_room(self) -> DiskRoom:
        """Return a look at the same disk for somebody else, on another thread, who has the same reserve to leave."""
        spare = partial(drop_kept, self.directory.path)
        return DiskRoom(self.directory.path, self._disk_reserve_bytes, spare=spare)

    def outbox(self) -> list[OutboxItem]:
        """Return the segments and bases that wait for the store, in the order in which they must go.

        A segment that the state does not name yet, because saving the state failed, will be sealed again. INV-15
        """
        next_seq = self.state.next_seq
        return [item for item in self._outbox.in_order() if item.seq < next_seq]

    def snapshots(self) -> list[OutboxItem]:
        """Return the other snapshots that wait for the store, for which nothing has to wait."""
        return self._outbox.snapshots()

    def recover(self) -> Recovered | None:
        """Rebuild the position and the hash array from disk and go on with the journal; None if they do not agree."""
        state = self.state
        # A log whose sync failed is of no use any more; opened again it shows what the disk has.
        self.hash_store.close()
        if state.timeline is None:
            # What was captured behind a base that could not be published belongs to no timeline.
            self._journal.begin(state.next_seq)
            return None
        hashes, mark, txid = self.hash_store.load(), state.mark, int(state.txid)
        checksum, page_count = int(state.checksum), state.page_count
        # Also without a hash array: what the journal holds can be sealed, and is not lost.
        for entry in self._journal.recover(state.next_seq):
            if hashes is not None:
                apply_entry(hashes, entry)
            mark, txid = entry.mark, entry.txid_after
            checksum, page_count = entry.checksum_after, entry.pages_after
        if hashes is None or mark is None:
            return None
        hashes.commit(page_count)
        hashes.rebuild()
        if hashes.checksum != checksum:
            return None
        return Recovered(hashes=hashes, txid=Txid(txid), mark=mark)

    @property
    def is_known(self) -> bool:
        """Whether it is known what the journal holds: not after its recovery has failed."""
        return self._journal.is_open

    @property
    def in_transaction(self) -> bool:
        """Whether the journal ends within a transaction."""
        return self._journal.in_transaction

    # -- writing ----------------------------------------------------------------------------------------------------

    def append(self, entry: JournalEntry) -> None:
        """Write one chunk to the journal; it survives a kill when this returns, a power cut when it is sealed.

        Raises:
            SpoolFull: the outbox is at its limit, or the disk is full but for its reserve.

        """
        if self.outbox_bytes > self._outbox_bytes_max:
            raise SpoolFull(
                "the outbox is at its limit",
                detail=f"{self.directory.path}: {self.outbox_bytes >> 20} MiB wait for the store",
                hint="make the store reachable, or raise outbox-limit",
            )
        self._require_room(len(entry.block) + len(entry.hashes) + len(entry.pgnos))
        self._journal.append(entry)

    def seal(self, created_ms: int) -> Sealed | None:
        """Turn the journal into a segment in the outbox and begin the next.

        None if nothing is pending, if the journal ends within a transaction, which a segment does not, or if there is
        no timeline, because its base could not be published.
        """
        totals = self.totals
        if totals.last is None or self.in_transaction or self.state.timeline is None:
            return None
        header = self._header(created_ms)
        footer = totals.footer()
        # A segment that can go out makes room in the end, so it may use half of the reserve.
        self._require_room(self.pending_bytes, reserve_share=0.5)
        path = self._outbox.segment_path(header.seq)
        with map_os_errors(f"seal segment {header.seq}"):
            size_bytes = self._write_segment(path, header, footer, self._journal.lasting_entries())
        self.hash_store.sync()
        last = totals.last
        self._save(
            next_seq=Seq(header.seq + 1),
            txid=Txid(last.txid_after),
            checksum=Checksum(last.checksum_after),
            page_count=last.pages_after,
            mark=last.mark,
            looked_ms=last.last_seen_ms,
            clean_end=None,
            log_bytes=self.state.log_bytes + size_bytes,
        )
        item = self._outbox.count(header.seq, path)
        self._journal.begin(self.state.next_seq)
        return Sealed(item=item, header=header, footer=footer)

    def open_timeline(self, timeline: TimelineId, start: TimelineStart, page_size: int, created_ms: int) -> OutboxItem:
        """Put the segment that opens a timeline into the outbox. The state keeps the old timeline until the base is."""
        check(self.totals.last is None, "what the old timeline captured is sealed first")
        self._require_room(_OPENING_BYTES)
        seq = self.state.next_seq
        header = SegmentHeader(
            replica=self.state.replica,
            seq=seq,
            timeline=timeline,
            writer=self.state.writer,
            created_ms=created_ms,
            page_size=page_size,
            txid_before=Txid(0),
            checksum_before=0,
            pages_before=0,
            start=start,
            fence=self.state.fence,
        )
        footer = SegmentFooter(
            txid_after=Txid(0),
            checksum_after=0,
            pages_after=0,
            first_looked_ms=created_ms,
            first_seen_ms=created_ms,
            last_seen_ms=created_ms,
            earliest_seen_ms=created_ms,
            latest_seen_ms=created_ms,
            chunk_count=0,
            frame_count=0,
        )
        path = self._outbox.segment_path(seq)
        with map_os_errors(f"write segment {seq}"):
            self._write_segment(path, header, footer, iter(()))
        self._save(
            next_seq=Seq(seq + 1),
            timeline_number=timeline_number(timeline),
            timeline=None,
            parent=start.parent,
            mark=None,
            clean_end=None,
            fence=False,
        )
        item = self._outbox.count(seq, path)
        self._journal.begin(self.state.next_seq)
        return item

    def begin_timeline(self, base: Path, state: LocalState, hashes: bytes, *, full: bool) -> OutboxItem:
        """Make a base and the state after it the place to go on from; `state.next_seq` is the first segment's.

        `full`: later snapshots lean on this one. On the one before, none does: retention may delete that from now on.
        """
        final = self._outbox.base_path(state.next_seq - 1)
        if full:
            forget_full(self.directory.path)
        self.hash_store.reset(hashes)
        with map_os_errors(f"keep {final}"):
            publish(base, final)
        self.directory.save(state)
        self.state = state
        if full:
            remember_full(self.directory.path, state, hashes)
        item = self._outbox.count(state.next_seq - 1, final, is_snapshot=True)
        self._journal.begin(state.next_seq)
        return item

    def add_snapshot(self, path: Path, seen_ms: int, full_hashes: bytes | None) -> None:
        """Put a snapshot of the state after the last sealed segment into the outbox.

        `full_hashes` are those of its pages, if it is a full one: later ones lean on it, and none on the one before,
        which may be deleted from now on.
        """
        check(self.totals.last is None, "a snapshot stands where a segment ends")
        seq = self.state.next_seq - 1
        final = self._outbox.snapshot_path(seq)
        if full_hashes is not None:
            forget_full(self.directory.path)
        with map_os_errors(f"keep {final}"):
            publish(path, final)
        self._save(snapshot_txid=self.state.txid, snapshot_ms=seen_ms, log_bytes=0)
        if full_hashes is not None:
            remember_full(self.directory.path, self.state, full_hashes)

    def keep(self, item: OutboxItem, *, cache_bytes_max: int, full_bytes_max: int = 0) -> None:
        """Keep what the store acknowledged for a while, or remove it.

        Segments go to the cache, of which the oldest is evicted beyond the limit; of snapshots the last full one is
        kept, if it is not too large.
        """
        if not item.is_snapshot or not keep_full(self.directory.path, item.path, bytes_max=full_bytes_max):
            self._outbox.keep(item, cache_bytes_max=cache_bytes_max)

    def discard_snapshot(self, item: OutboxItem) -> None:
        """Remove a snapshot that cannot be stored; nothing leans on it."""
        forget_full(self.directory.path)
        with map_os_errors(f"remove {item.path}"):
            item.path.unlink()

    def update(self, **changes: object) -> None:
        """Change fields of the state, durably."""
        self._save(**changes)

    def close(self) -> None:
        """Close the files."""
        self._journal.close()
        self.hash_store.close()

    def _discard_unsaved(self) -> None:
        """Remove what was published just before a kill and before the state named it, and count the rest. INV-15."""
        state = self.state
        for item in self._outbox.in_order():
            unsaved_base = item.is_snapshot and state.timeline is None and item.seq == state.next_seq - 1
            if item.seq >= state.next_seq or unsaved_base:
                item.path.unlink()
            else:
                self._outbox.count(item.seq, item.path, is_snapshot=item.is_snapshot)

    def _require_room(self, size_bytes: int, *, reserve_share: float = 1.0) -> None:
        """Refuse to use up the disk that the app writes to, too; the cache goes first."""
        if self.room.allows(size_bytes, reserve_share=reserve_share):
            return
        self._outbox.evict(0)
        if not self.room.allows(size_bytes, reserve_share=reserve_share):
            raise SpoolFull(
                "the disk is almost full",
                detail=str(self.directory.path),
                hint="make room, or move the state with state-dir; disk-reserve is what walrep leaves to others",
            )

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _save(self, **changes: object) -> None:
        state = msgspec.structs.replace(self.state, **changes)
        self.directory.save(state)
        self.state = state

    def _header(self, created_ms: int) -> SegmentHeader:
        state = self.state
        check(state.timeline is not None, "a segment belongs to a timeline")
        return SegmentHeader(
            replica=state.replica,
            seq=state.next_seq,
            timeline=state.timeline or TimelineId(""),
            writer=Writer(nonce=state.writer.nonce, host=state.writer.host, pid=state.writer.pid),
            created_ms=created_ms,
            page_size=state.page_size,
            txid_before=state.txid,
            checksum_before=state.checksum,
            pages_before=state.page_count,
        )

    def _write_segment(
        self, path: Path, header: SegmentHeader, footer: SegmentFooter, entries: Iterator[JournalEntry]
    ) -> int:
        """Copy chunks into a segment, one at a time, and note them in the hash store; return how large it is."""
        temporary = temporary_path(path.parent, path.name)
        try:
            with temporary.open("wb") as file:
                offset = file.write(encode_segment_start(header))
                for entry in entries:
                    offset += file.write(entry.block)
                    self.hash_store.append([entry])
                offset += file.write(encode_segment_end(footer, offset))
            publish(temporary, path)
        except BaseException:
            # Nothing counts it, and a spool that fails on a full disk is tried again and again.
            with suppress(OSError):
                temporary.unlink()
            raise
        return offset
