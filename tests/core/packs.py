"""Packs for tests: made by the product, read whole or from their ends."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from walrep.core.index import PackIndex, parse_index
from walrep.core.objects import PackFooter, PackHeader, SegmentHeader, Writer
from walrep.core.pack import (
    parse_pack_footer,
    read_pack,
    read_source,
)
from walrep.core.packing import BuiltPack, build_pack, pack_header
from walrep.core.segment import SegmentChunk
from walrep.errors import CorruptObject
from walrep.testing.history import HistoryBuilder

__all__ = ["PAGE", "build", "chunks_of", "ends_of", "packed", "read", "refusal"]

PAGE = 512
WRITER = Writer(nonce="fedcba9876543210", host="packer", pid=2)


def build(*segments: Sequence[int], seed: int = 1) -> HistoryBuilder:
    """A timeline whose segments have transactions of so many frames each, a second apart."""
    dice = random.Random(seed)
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: dice.randbytes(PAGE) for pgno in range(1, 20)}, 10_000)
    for segment in segments:
        for frames in segment:
            pages = [(dice.randrange(1, 20), dice.randbytes(PAGE)) for _ in range(frames)]
            builder.commit(pages, 19, 11_000 + 1000 * builder.txid)
        builder.seal()
    return builder


def packed(builder: HistoryBuilder, keys: Sequence[str] | None = None, **changes: object) -> tuple[BuiltPack, bytes]:
    """Build a pack with the product's builder."""
    keys = keys or builder.packable()
    sources = [io.BytesIO(builder.objects[key]).read for key in keys]
    ends = [next(read_source(io.BytesIO(builder.objects[key]).read)) for key in (keys[0], keys[-1])]
    first, last = ends
    assert isinstance(first, SegmentHeader | PackHeader)
    assert isinstance(last, SegmentHeader | PackHeader)
    header = pack_header(first, last.seq if isinstance(last, SegmentHeader) else last.last_seq, WRITER, 0)
    written = io.BytesIO()
    built = build_pack(sources, written.write, msgspec.structs.replace(header, **changes))
    return built, written.getvalue()


def read(data: bytes) -> list[Any]:
    return list(read_pack(io.BytesIO(data).read))


def chunks_of(data: bytes) -> list[bytes]:
    """Return the chunk blocks of an object."""
    items = read_source(io.BytesIO(data).read)
    return [data[item.offset : item.offset + item.block_bytes] for item in items if isinstance(item, SegmentChunk)]


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptObject) as caught:
        read(data)
    assert 0 <= caught.value.offset <= len(data)
    return str(caught.value)


def ends_of(data: bytes) -> tuple[PackFooter, PackIndex]:
    """Return footer and index, read from the end of the object as a restore does."""
    footer = parse_pack_footer(data[-4096:], len(data))
    assert footer is not None
    return footer, parse_index(io.BytesIO(data[footer.index_offset :]).read, footer)
