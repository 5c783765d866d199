"""The spool of one database: what is captured, on local disk, until the store has it and a while longer.

    journal-<seq>         append log of the open segment's chunks (`walrep.core.journal`)
    outbox/<seq>          a sealed segment that the store has not acknowledged
    outbox/<seq>.base     the base snapshot of the timeline that segment <seq> opened
    cache/<seq>           a durable segment, kept so that packs need no download; evicted first, at no loss

All methods run on one thread, the spool worker. Every step can be the last one before a kill, and is done so that the
next start finds either the state before it or the state after it:

    seal    the segment is published in the outbox; the hash array's changes are synced; the state names the next
            segment; the new journal is begun and the old one removed. Killed in between, the journal is still there
            and is sealed again: nothing was uploaded before the state was saved (INV-15).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from walrep.core.journal import JournalEntry, apply_entry, decode_entry, encode_entry
from walrep.core.objects import SegmentFooter, SegmentHeader, TimelineStart, Writer
from walrep.core.pages import PageHashes
from walrep.core.segment import encode_segment_end, encode_segment_start
from walrep.core.state import CaptureMark, LocalState
from walrep.core.units import Checksum, Seq, TimelineId, Txid, format_seq, timeline_number
from walrep.disk.atomic import map_os_errors, publish, remove_temporaries, temporary_path
from walrep.disk.log import HEADER_BYTES, AppendLog, read_records
from walrep.disk.state import HashStore, StateDirectory
from walrep.errors import SpoolFull, check

__all__ = ["OutboxItem", "Recovered", "Sealed", "Spool"]


class OutboxItem(msgspec.Struct, frozen=True, order=True):
    """A file that waits for the store; a base goes after the segment that opened its timeline."""

    seq: int
    is_base: bool
    path: Path
    size_bytes: int


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

    def __init__(self, directory: StateDirectory, state: LocalState, *, outbox_bytes_max: int) -> None:
        self.directory = directory
        self.state = state
        self.hash_store = HashStore(directory.path)
        self._outbox_bytes_max = outbox_bytes_max
        self._outbox = directory.path / "outbox"
        self._cache = directory.path / "cache"
        self._journal: AppendLog | None = None
        self._entries: list[JournalEntry] = []
        self.totals = SegmentTotals()
        with map_os_errors(f"use {directory.path}"):
            for folder in (self._outbox, self._cache):
                folder.mkdir(mode=0o700, exist_ok=True)
                remove_temporaries(folder, modified_before_ms=1 << 62)
            self._discard_unsaved()
        self._outbox_bytes = sum(item.size_bytes for item in self.outbox())

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Bytes of the open segment."""
        return 0 if self._journal is None else self._journal.size_bytes - HEADER_BYTES

    @property
    def outbox_bytes(self) -> int:
        """Bytes that the store has not acknowledged, the open segment included."""
        return self._outbox_bytes + self.pending_bytes

    def outbox(self) -> list[OutboxItem]:
        """Return what waits for the store, in the order in which it must go."""
        items = []
        for path in self._outbox.iterdir():
            stem, dot, suffix = path.name.partition(".")
            if stem.isdigit() and suffix in ("", "base"):
                items.append(OutboxItem(int(stem), bool(dot), path, path.stat().st_size))
        return sorted(items)

    def recover(self) -> Recovered | None:
        """Rebuild the position and the hash array from disk and go on with the journal; None if they do not agree."""
        state = self.state
        hashes = self.hash_store.load()
        mark = state.mark
        if state.timeline is None or hashes is None or mark is None:
            return None
        path = self._journal_path(state.next_seq)
        txid = int(state.txid)
        checksum, page_count = int(state.checksum), state.page_count
        if path.exists():
            self._drop_unfinished(path)
            for entry in self._read_journal(path):
                apply_entry(hashes, entry)
                self.totals.add(entry)
                mark, txid = entry.mark, entry.txid_after
                checksum, page_count = entry.checksum_after, entry.pages_after
        else:
            self._open_journal()
        hashes.commit(page_count)
        hashes.rebuild()
        if hashes.checksum != checksum:
            return None
        return Recovered(hashes=hashes, txid=Txid(txid), mark=mark)

    # -- writing ----------------------------------------------------------------------------------------------------

    def append(self, entry: JournalEntry) -> None:
        """Write one chunk to the journal; it survives a kill when this returns, a power cut when it is sealed.

        Raises:
            SpoolFull: the outbox is at its limit, or the disk is full.

        """
        if self.outbox_bytes > self._outbox_bytes_max:
            raise SpoolFull(
                "the outbox is at its limit",
                detail=f"{self.directory.path}: {self.outbox_bytes >> 20} MiB wait for the store",
                hint="make the store reachable, or raise outbox-limit",
            )
        self._open_journal().append([encode_entry(entry)])
        self.totals.add(entry)

    def seal(self, created_ms: int) -> Sealed | None:
        """Turn the journal into a segment in the outbox and begin the next; None if nothing is pending."""
        totals = self.totals
        if totals.last is None:
            return None
        check(totals.last.ends_transaction, "a segment ends with a transaction")
        header = self._header(created_ms)
        footer = totals.footer()
        journal = self._open_journal()
        path = self._outbox / format_seq(header.seq)
        with map_os_errors(f"seal segment {header.seq}"):
            self._write_segment(path, header, footer, journal.path)
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
        )
        self.totals = SegmentTotals()
        self._drop_journal()
        self._open_journal()
        item = OutboxItem(seq=header.seq, is_base=False, path=path, size_bytes=path.stat().st_size)
        self._outbox_bytes += item.size_bytes
        return Sealed(item=item, header=header, footer=footer)

    def open_timeline(self, timeline: TimelineId, start: TimelineStart, page_size: int, created_ms: int) -> OutboxItem:
        """Put the segment that opens a timeline into the outbox. The state keeps the old timeline until the base is."""
        check(self.totals.last is None, "what the old timeline captured is sealed first")
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
        )
        footer = SegmentFooter(
            txid_after=Txid(0),
            checksum_after=0,
            pages_after=0,
            first_looked_ms=created_ms,
            first_seen_ms=created_ms,
            last_seen_ms=created_ms,
            chunk_count=0,
            frame_count=0,
        )
        path = self._outbox / format_seq(seq)
        with map_os_errors(f"write segment {seq}"):
            self._write_segment(path, header, footer, None)
        self._save(
            next_seq=Seq(seq + 1),
            timeline_number=timeline_number(timeline),
            timeline=None,
            parent=start.parent,
            mark=None,
            clean_end=None,
        )
        self._drop_journal()
        item = OutboxItem(seq=seq, is_base=False, path=path, size_bytes=path.stat().st_size)
        self._outbox_bytes += item.size_bytes
        return item

    def begin_timeline(self, base: Path, state: LocalState, hashes: bytes) -> OutboxItem:
        """Make a base and the state after it the place to go on from; `state.next_seq` is the first segment's."""
        final = self._outbox / f"{format_seq(state.next_seq - 1)}.base"
        self.hash_store.reset(hashes)
        with map_os_errors(f"keep {final}"):
            publish(base, final)
        self._drop_journal()
        self.state = state
        self.directory.save(state)
        self._open_journal()
        item = OutboxItem(seq=state.next_seq - 1, is_base=True, path=final, size_bytes=final.stat().st_size)
        self._outbox_bytes += item.size_bytes
        return item

    def keep(self, item: OutboxItem, *, cache_bytes_max: int) -> None:
        """Move what the store acknowledged to the cache, and evict the oldest beyond the limit."""
        with map_os_errors(f"keep {item.path}"):
            self._outbox_bytes -= item.size_bytes
            if item.is_base:
                item.path.unlink()
                return
            item.path.rename(self._cache / item.path.name)
            cached = sorted(self._cache.iterdir())
            total = sum(path.stat().st_size for path in cached)
            for path in cached:
                if total <= cache_bytes_max:
                    break
                total -= path.stat().st_size
                path.unlink()

    def update(self, **changes: object) -> None:
        """Change fields of the state, durably."""
        self._save(**changes)

    def sync(self) -> None:
        """Make the journal durable."""
        if self._journal is not None:
            self._journal.sync()

    def close(self) -> None:
        """Close the files."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self.hash_store.close()

    def _discard_unsaved(self) -> None:
        """Remove what was published just before a kill and before the state named it. INV-15."""
        state = self.state
        for item in self.outbox():
            unsaved_base = item.is_base and state.timeline is None and item.seq == state.next_seq - 1
            if item.seq >= state.next_seq or unsaved_base:
                item.path.unlink()

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _save(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        self.directory.save(self.state)

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

    def _write_segment(self, path: Path, header: SegmentHeader, footer: SegmentFooter, journal: Path | None) -> None:
        """Copy a journal's chunks into a segment, one at a time, and note them in the hash store."""
        temporary = temporary_path(self._outbox, path.name)
        with temporary.open("wb") as file:
            offset = file.write(encode_segment_start(header))
            for entry in self._read_journal(journal) if journal else ():
                offset += file.write(entry.block)
                self.hash_store.append([entry])
            file.write(encode_segment_end(footer, offset))
        publish(temporary, path)

    def _read_journal(self, path: Path) -> Iterator[JournalEntry]:
        return map(decode_entry, read_records(path))

    def _drop_unfinished(self, path: Path) -> None:
        """Cut a transaction that was not captured to its end off the journal."""
        log, records = AppendLog.open(path)
        count = complete = 0
        for record in records:
            count += 1
            complete = count if decode_entry(record).ends_transaction else complete
        if complete == count:
            self._journal = log
            return
        log.close()
        temporary = temporary_path(path.parent, path.name)
        shorter = AppendLog.create(temporary)
        for _, record in zip(range(complete), read_records(path), strict=False):
            shorter.append([record])
        shorter.close()
        with map_os_errors(f"replace {path}"):
            publish(temporary, path)
        self._journal, _ = AppendLog.open(path)

    def _open_journal(self) -> AppendLog:
        if self._journal is None:
            path = self._journal_path(self.state.next_seq)
            self._journal = AppendLog.open(path)[0] if path.exists() else AppendLog.create(path)
        return self._journal

    def _drop_journal(self) -> None:
        """Remove every journal; the one for the next segment is begun when it is needed."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        with map_os_errors(f"clean {self.directory.path}"):
            for path in self.directory.path.glob("journal-*"):
                path.unlink()

    def _journal_path(self, seq: int) -> Path:
        return self.directory.path / f"journal-{format_seq(seq)}"


class SegmentTotals(msgspec.Struct):
    """What the footer of the open segment will say."""

    chunk_count: int = 0
    frame_count: int = 0
    commit_count: int = 0
    first_looked_ms: int = 0
    first_seen_ms: int = 0
    last_seen_ms: int = 0
    last: JournalEntry | None = None

    def add(self, entry: JournalEntry) -> None:
        """Count one chunk."""
        if entry.commit_count:
            if not self.commit_count:
                self.first_looked_ms, self.first_seen_ms = entry.first_looked_ms, entry.first_seen_ms
            self.last_seen_ms = entry.last_seen_ms
        self.chunk_count += 1
        self.frame_count += len(entry.pgnos) // 4
        self.commit_count += entry.commit_count
        self.last = msgspec.structs.replace(entry, block=b"", pgnos=b"", hashes=b"", cuts=[])

    def footer(self) -> SegmentFooter:
        """Return the footer."""
        last = self.last
        check(last is not None, "a segment has chunks")
        return SegmentFooter(
            txid_after=Txid(last.txid_after if last else 0),
            checksum_after=last.checksum_after if last else 0,
            pages_after=last.pages_after if last else 0,
            first_looked_ms=self.first_looked_ms,
            first_seen_ms=self.first_seen_ms,
            last_seen_ms=self.last_seen_ms,
            chunk_count=self.chunk_count,
            frame_count=self.frame_count,
        )
