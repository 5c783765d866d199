"""The outbox of one database: files that wait for the store, each told by its name.

<seq>           a sealed segment
<seq>.base      a base, which stands where segment <seq> ends that opened its timeline
<seq>.snapshot  another snapshot, which stands where segment <seq> ends
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from walrep.core.units import format_seq
from walrep.disk.atomic import map_os_errors

__all__ = ["Outbox", "OutboxItem"]

_BASE, _SNAPSHOT = ".base", ".snapshot"


class OutboxItem(msgspec.Struct, frozen=True, order=True):
    """A file that waits for the store; a base goes after the segment that opened its timeline.

    `is_snapshot`: a base or another snapshot.
    """

    seq: int
    is_snapshot: bool
    path: Path
    size_bytes: int


class Outbox:
    """The names in the folder, and what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def segment_path(self, seq: int) -> Path:
        """Return where a segment is."""
        return self.folder / format_seq(seq)

    def base_path(self, seq: int) -> Path:
        """Return where the base is that stands where this segment ends."""
        return self.folder / f"{format_seq(seq)}{_BASE}"

    def snapshot_path(self, seq: int) -> Path:
        """Return where the snapshot is that stands where this segment ends."""
        return self.folder / f"{format_seq(seq)}{_SNAPSHOT}"

    def in_order(self) -> list[OutboxItem]:
        """Return the segments and the bases, in the order in which they must go."""
        return self._items("", _BASE)

    def snapshots(self) -> list[OutboxItem]:
        """Return the other snapshots, for which nothing has to wait."""
        return self._items(_SNAPSHOT)

    def _items(self, *suffixes: str) -> list[OutboxItem]:
        with map_os_errors(f"read {self.folder}"):
            return sorted(
                OutboxItem(int(path.stem), path.suffix != "", path, path.stat().st_size)
                for path in self.folder.iterdir()
                if path.stem.isdigit() and path.suffix in suffixes
            )
