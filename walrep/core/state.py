"""What walrep remembers of one database between runs: state.json in its state directory.

The file is replaced atomically. Together with the open journal it says which transactions are captured; with the hash
array, what the database looked like then.
"""

from __future__ import annotations

import msgspec

from walrep.core.objects import Writer
from walrep.core.units import Checksum, Position, Seq, TimelineId, Txid

__all__ = ["STATE_FORMAT", "CaptureMark", "CleanEnd", "LocalState"]

STATE_FORMAT = 1


class CaptureMark(msgspec.Struct, frozen=True):
    """Where in the write-ahead log capture stands: `frame` frames of the generation with these salts.

    `checksum` is that of the last captured frame (of the WAL header when `frame` is 0).
    """

    salts: tuple[int, int]
    frame: int
    checksum: tuple[int, int]


class CleanEnd(msgspec.Struct, frozen=True):
    """The database file when everything captured had been copied into it and nobody was writing it.

    `ctime_ns` is 0 where an earlier version recorded it.
    """

    size_bytes: int
    mtime_ns: int
    header_hash: int
    ctime_ns: int = 0


class LocalState(msgspec.Struct, frozen=True, kw_only=True):
    """The lineage of this writer and its position after the last sealed segment.

    `timeline` is None until the timeline's base snapshot is complete on local disk; until then `parent` is the position
    that the timeline before it left. `txid` to `mark` describe the state after segment `next_seq - 1`; the open journal
    may be ahead of it. `restored` is the position to which the database was restored since, which then is the parent of
    the timeline to begin. `first_seq` is the first segment of this lineage, `fence`: it takes the replica over and is
    still to be written. `creates_only`: the store was seen to refuse to
    overwrite; where it does not, the keys of segments have the writer's nonce. `boot_id`: the boot of
    the machine in which capture stood here, empty where it is not known. `snapshot_txid`, `snapshot_ms`: the last
    snapshot, where it stands and when that was seen; `log_bytes`: of the segments since.
    """

    format: int
    replica: str
    url: str
    writer: Writer
    timeline_number: int = 0
    timeline: TimelineId | None = None
    parent: Position | None = None
    restored: Position | None = None
    next_seq: Seq = Seq(1)
    page_size: int = 0
    txid: Txid = Txid(0)
    checksum: Checksum = Checksum(0)
    page_count: int = 0
    mark: CaptureMark | None = None
    inode: int = 0
    wal_inode: int = 0
    looked_ms: int = 0
    clean_end: CleanEnd | None = None
    first_seq: Seq = Seq(1)
    fence: bool = False
    creates_only: bool = True
    boot_id: str = ""
    snapshot_txid: Txid = Txid(0)
    snapshot_ms: int = 0
    log_bytes: int = 0

    def segment_nonce(self) -> str:
        """Return what tells this writer's segments apart in the store (INV-20); empty where a create-only PUT does."""
        return "" if self.creates_only else self.writer.nonce

    def position(self) -> Position | None:
        """Return the position after the last sealed segment; None before the first base."""
        return None if self.timeline is None else Position(self.timeline, self.txid, self.checksum)
