"""The object of a full snapshot beside the database, as a host keeps it once it is stored."""

from __future__ import annotations

import shutil
from pathlib import Path

from walrep.core.snapshot import SnapshotPages, read_snapshot, snapshot_name
from walrep.core.snapshots import FullSnapshot
from walrep.core.units import Checksum
from walrep.disk.full import FullHashes
from walrep.disk.kept import KeptFull, open_kept
from walrep.disk.peek import snapshot_ends

__all__ = ["KeptObject", "delta_pgnos", "plain_pgnos"]


class KeptObject:
    """A copy of a full snapshot's file that is kept, and the hashes of its pages."""

    def __init__(self, path: Path, hashes: bytes) -> None:
        header, footer = snapshot_ends(path)
        snapshot = FullSnapshot(
            replica=header.replica,
            name=snapshot_name(header, footer),
            page_size=header.page_size,
            checksum=Checksum(footer.checksum),
        )
        self.full = FullHashes(snapshot=snapshot, hashes=hashes)
        self.path = path.parent / "full.snapshot"
        shutil.copy(path, self.path)

    def open(self) -> KeptFull | None:
        """Return what a snapshot finds of it."""
        return open_kept(self.path.parent, self.full, bytes_max=1 << 30)


def delta_pgnos(path: Path) -> list[int]:
    """Return the pages of a snapshot file that are compressed against the full one's, in order."""
    return [pgno for block in _blocks(path) if block.is_delta for pgno in block.pgnos]


def plain_pgnos(path: Path) -> list[int]:
    """Return its other pages, in order."""
    return [pgno for block in _blocks(path) if not block.is_delta for pgno in block.pgnos]


def _blocks(path: Path) -> list[SnapshotPages]:
    with path.open("rb") as file:
        return [item for item in read_snapshot(file.read) if isinstance(item, SnapshotPages)]
