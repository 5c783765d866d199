"""The header and the footer of a segment or snapshot in a local file, without reading what is between."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TypeVar

import msgspec

from walrep.core.container import BlockType, Kind, decode_struct, parse_footer, read_blocks
from walrep.core.objects import SegmentFooter, SegmentHeader, SnapshotFooter, SnapshotHeader
from walrep.disk.atomic import map_os_errors
from walrep.errors import CorruptObject

__all__ = ["parse_segment_header", "segment_ends", "snapshot_ends"]

_END_BYTES = 64 << 10

H = TypeVar("H", bound=msgspec.Struct)
F = TypeVar("F", bound=msgspec.Struct)


def segment_ends(path: Path) -> tuple[SegmentHeader, SegmentFooter]:
    """Return the header and the footer of a segment file; raises `CorruptObject`."""
    return _ends(path, Kind.SEGMENT, SegmentHeader, SegmentFooter)


def snapshot_ends(path: Path) -> tuple[SnapshotHeader, SnapshotFooter]:
    """Return the header and the footer of a snapshot file; raises `CorruptObject`."""
    return _ends(path, Kind.SNAPSHOT, SnapshotHeader, SnapshotFooter)


def parse_segment_header(start: bytes) -> SegmentHeader:
    """Return the header of a segment from its first bytes; raises `CorruptObject`."""
    return decode_struct(next(read_blocks(io.BytesIO(start).read, Kind.SEGMENT)), BlockType.HEADER, SegmentHeader)


def _ends(path: Path, kind: Kind, header_type: type[H], footer_type: type[F]) -> tuple[H, F]:
    with map_os_errors(f"read {path}"), path.open("rb") as file:
        header = decode_struct(next(read_blocks(file.read, kind)), BlockType.HEADER, header_type)
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _END_BYTES))
        block = parse_footer(file.read(), size)
    if block is None:
        raise CorruptObject("the footer is larger than expected", offset=size)
    return header, decode_struct(block, BlockType.FOOTER, footer_type)
