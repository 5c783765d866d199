"""The journal of the open segment on disk: `journal-<seq>`, an append log of `walrep.core.journal` entries.

Small chunks are journaled at once, and again as part of a merged one that supersedes them. What lasts, for the segment,
are the entries that none after them supersedes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from walrep.core.journal import JournalEntry, decode_entry, encode_entry
from walrep.core.objects import SegmentFooter
from walrep.core.units import Txid, format_seq
from walrep.disk.atomic import map_os_errors, publish, temporary_path
from walrep.disk.log import HEADER_BYTES, AppendLog, read_records
from walrep.errors import check

__all__ = ["Journal", "SegmentTotals"]


class SegmentTotals(msgspec.Struct):
    """What the footer of the open segment will say."""

    chunk_count: int = 0
    frame_count: int = 0
    commit_count: int = 0
    first_looked_ms: int = 0
    first_seen_ms: int = 0
    last_seen_ms: int = 0
    earliest_seen_ms: int = 0
    latest_seen_ms: int = 0
    last: JournalEntry | None = None

    def add(self, entry: JournalEntry) -> None:
        """Count one entry."""
        if entry.commit_count:
            if not self.commit_count:
                self.first_looked_ms, self.first_seen_ms = entry.first_looked_ms, entry.first_seen_ms
                self.earliest_seen_ms = self.latest_seen_ms = entry.first_seen_ms
            self.earliest_seen_ms = min(self.earliest_seen_ms, entry.earliest_seen_ms)
            self.latest_seen_ms = max(self.latest_seen_ms, entry.latest_seen_ms)
            self.last_seen_ms = entry.last_seen_ms
        self.chunk_count += 1 - entry.supersedes
        if not entry.supersedes:
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
            earliest_seen_ms=self.earliest_seen_ms,
            latest_seen_ms=self.latest_seen_ms,
            chunk_count=self.chunk_count,
            frame_count=self.frame_count,
        )


class Journal:
    """The journal of one segment; `begin` and `recover` say of which."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log: AppendLog | None = None
        self._forget()

    @property
    def size_bytes(self) -> int:
        """Bytes of its records."""
        # Asked for from other threads too, while the log may be closed.
        log = self._log
        return 0 if log is None else log.size_bytes - HEADER_BYTES

    @property
    def in_transaction(self) -> bool:
        """Whether it ends within a transaction."""
        return self.totals.last is not None and not self.totals.last.ends_transaction

    def begin(self, seq: int) -> None:
        """Begin the journal of a segment; every other one is removed."""
        self.close()
        path = self._path(seq)
        with map_os_errors(f"clean {self._directory}"):
            for other in self._directory.glob("journal-*"):
                other.unlink()
        self._log = AppendLog.create(path)

    @property
    def is_open(self) -> bool:
        """Whether it is known what the journal holds: not after its recovery has failed."""
        return self._log is not None

    def recover(self, seq: int) -> Iterator[JournalEntry]:
        """Go on with the journal of a segment, up to its last complete transaction; yield its entries.

        It begins anew if there is none. The caller takes all entries before it appends.
        """
        self.close()
        path = self._path(seq)
        with map_os_errors(f"look for {path}"):
            exists = path.exists()
        if not exists:
            self.begin(seq)
            return
        self._log = _without_unfinished(path)
        for record in read_records(path, size_bytes=self._log.size_bytes):
            entry = decode_entry(record)
            self._count(entry)
            yield entry

    def append(self, entry: JournalEntry) -> None:
        """Write an entry; it survives a kill when this returns."""
        check(self._log is not None, "the journal has begun")
        if self._log is not None:
            self._log.append([encode_entry(entry)])
            self._count(entry)

    def lasting_entries(self) -> Iterator[JournalEntry]:
        """Yield the entries that no merged one supersedes, one in memory at a time."""
        if self._log is None:
            return
        ranges = iter([*self._superseded, (self._entry_count, self._entry_count)])
        first, end = next(ranges)
        for index, record in enumerate(read_records(self._log.path, size_bytes=self._log.size_bytes)):
            if index >= end and end < self._entry_count:
                first, end = next(ranges)
            if not first <= index < end:
                yield decode_entry(record)

    def close(self) -> None:
        """Close the file; it stays."""
        if self._log is not None:
            self._log.close()
            self._log = None
        self._forget()

    def _forget(self) -> None:
        self.totals = SegmentTotals()
        self._entry_count = 0
        self._superseded: list[tuple[int, int]] = []
        """Ranges of entries (first, end) that a merged one after them supersedes, in order."""

    def _count(self, entry: JournalEntry) -> None:
        if entry.supersedes:
            self._superseded.append((self._entry_count - entry.supersedes, self._entry_count))
        self._entry_count += 1
        self.totals.add(entry)

    def _path(self, seq: int) -> Path:
        return self._directory / f"journal-{format_seq(seq)}"


def _without_unfinished(path: Path) -> AppendLog:
    """Open a journal, and cut off a transaction that was not captured to its end."""
    log, records = AppendLog.open(path)
    count = complete = 0
    for record in records:
        count += 1
        complete = count if decode_entry(record).ends_transaction else complete
    if complete == count:
        return log
    log.close()
    temporary = temporary_path(path.parent, path.name)
    try:
        shorter = AppendLog.create(temporary)
        for _, record in zip(range(complete), read_records(path), strict=False):
            shorter.append([record])
        shorter.close()
        with map_os_errors(f"replace {path}"):
            publish(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return AppendLog.open(path)[0]
