"""What is read beyond a history before a restore can be planned: what is known, and what has to be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from walrep.core.chunk import Commit
from walrep.core.history import Pack, Segment, Snapshot
from walrep.core.index import PackIndex
from walrep.core.objects import SnapshotFooter, SnapshotHeader

__all__ = ["Known", "Needs", "PackChunk", "SnapshotEnds"]


class SnapshotEnds(msgspec.Struct, frozen=True):
    """The header and the footer of a snapshot."""

    header: SnapshotHeader
    footer: SnapshotFooter


class PackChunk(msgspec.Struct, frozen=True):
    """One chunk of a pack: its number in the index, and where its block lies."""

    pack: Pack
    number: int
    offset: int
    block_bytes: int

    def is_in(self, known: Known) -> bool:
        """Return whether its transactions are known."""
        return (self.pack.key, self.number) in known.chunks


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What has been read beyond the history, by key.

    All transactions of a segment, the ends of a snapshot, the index of a pack; of a pack's chunk, by key and number in
    the index, its transactions.
    """

    commits: Mapping[str, Sequence[Commit]] = {}
    snapshots: Mapping[str, SnapshotEnds] = {}
    indexes: Mapping[str, PackIndex] = {}
    chunks: Mapping[tuple[str, int], Sequence[Commit]] = {}

    def joined(self, more: Known) -> Known:
        """Return what both know."""
        return Known(
            commits={**self.commits, **more.commits},
            snapshots={**self.snapshots, **more.snapshots},
            indexes={**self.indexes, **more.indexes},
            chunks={**self.chunks, **more.chunks},
        )


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be read before the plan can be made: segments and chunks for their records, packs for their index."""

    segments: tuple[Segment, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    packs: tuple[Pack, ...] = ()
    chunks: tuple[PackChunk, ...] = ()
