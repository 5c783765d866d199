"""Snapshots: pages in any order, the last one counts, and nothing that contradicts itself."""

from __future__ import annotations

import io
import random
import struct

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from walrep.core.container import BlockType, encode_block, encode_struct_block
from walrep.core.objects import SnapshotFooter, SnapshotHeader, Writer
from walrep.core.snapshot import (
    SnapshotPages,
    delta_block_pages,
    encode_snapshot_end,
    encode_snapshot_pages,
    encode_snapshot_start,
    read_snapshot,
    read_snapshot_block,
    scan_snapshot,
    snapshot_block_pages,
)
from walrep.core.units import PAGE_SIZES, Checksum, Position, Seq, TimelineId, Txid
from walrep.errors import CorruptObject, InvariantViolated

HEADER = SnapshotHeader(
    replica="r", timeline=TimelineId("00001-00000000"), writer=Writer(nonce="n"), created_ms=5, page_size=512
)
FOOTER = SnapshotFooter(txid=Txid(0), seq=Seq(1), seen_ms=5, checksum=9, page_count=3, block_count=2)


def page(number: int) -> bytes:
    return random.Random(number).randbytes(512)


BLOCKS = (encode_snapshot_pages([1, 2, 3], [page(1), page(2), page(3)]), encode_snapshot_pages([2], [page(4)]))


def encode(
    header: SnapshotHeader = HEADER, blocks: tuple[bytes, ...] = BLOCKS, footer: SnapshotFooter = FOOTER
) -> bytes:
    data = encode_snapshot_start(header) + b"".join(blocks)
    return data + encode_snapshot_end(footer, len(data))


def read(data: bytes) -> list[SnapshotHeader | SnapshotPages | SnapshotFooter]:
    return list(read_snapshot(io.BytesIO(data).read))


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptObject) as caught:
        read(data)
    assert 0 <= caught.value.offset <= len(data)
    return str(caught.value)


def test_a_snapshot_round_trips() -> None:
    header, first, second, footer = read(encode())
    assert (header, footer) == (HEADER, FOOTER)
    assert isinstance(first, SnapshotPages)
    assert isinstance(second, SnapshotPages)
    assert (first.pgnos, first.decode(512)) == ([1, 2, 3], page(1) + page(2) + page(3))
    assert (second.pgnos, second.decode(512)) == ([2], page(4))


@settings(deadline=None)
@given(st.lists(st.integers(1, (1 << 32) - 2), min_size=1, max_size=64, unique=True))
def test_page_numbers_round_trip_as_runs(pgnos: list[int]) -> None:
    block = encode_snapshot_pages(pgnos, [bytes(512)] * len(pgnos))
    found = read(encode(blocks=(block,), footer=msgspec.structs.replace(FOOTER, block_count=1)))[1]
    assert isinstance(found, SnapshotPages)
    assert found.pgnos == pgnos


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_block_has_at_most_64_pages_and_1_mib(page_size: int) -> None:
    assert snapshot_block_pages(page_size) == min(64, (1 << 20) // page_size)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_footer_that_counts_other_blocks_is_refused(count: int) -> None:
    assert "number of blocks" in refusal(encode(footer=msgspec.structs.replace(FOOTER, block_count=count)))


@pytest.mark.parametrize("block_type", [BlockType.HEADER, BlockType.CHUNK])
def test_a_block_that_has_no_place_in_a_snapshot_is_refused(block_type: BlockType) -> None:
    assert "unexpected" in refusal(encode(blocks=(BLOCKS[0], encode_struct_block(block_type, HEADER))))


@pytest.mark.parametrize("page_size", [0, 100, 131072])
def test_an_impossible_page_size_is_refused(page_size: int) -> None:
    assert "page size" in refusal(encode(msgspec.structs.replace(HEADER, page_size=page_size)))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\1\0\0\0",
        struct.pack("<II", 0, 1),
        struct.pack("<II", 1, 0),
        struct.pack("<II", 1, 65),
        struct.pack("<4I", 1, 33, 100, 32),
        struct.pack("<II", 1, 0xFFFF_FFFF),
        struct.pack("<II", 1, 1) + b"\0",
    ],
)
def test_malformed_runs_are_refused_before_they_are_expanded(head: bytes) -> None:
    assert "page runs" in refusal(encode(blocks=(encode_block(BlockType.PAGES, head, b""), BLOCKS[1])))


def test_pages_that_are_not_there_are_refused_when_they_are_decoded() -> None:
    short = encode_block(BlockType.PAGES, struct.pack("<II", 1, 2), BLOCKS[1][-40:])
    found = read(encode(blocks=(short, BLOCKS[1])))[1]
    assert isinstance(found, SnapshotPages)
    with pytest.raises(CorruptObject):
        found.decode(512)


def test_every_changed_byte_and_every_length_of_a_snapshot_is_refused() -> None:
    blocks = (encode_snapshot_pages([1], [bytes(512)]), encode_snapshot_pages([7], [bytes(512)]))
    data = encode(blocks=blocks)
    for at in range(len(data)):
        refusal(data[:at])
        refusal(data[:at] + bytes([data[at] ^ 0x08]) + data[at + 1 :])


# -- delta blocks ------------------------------------------------------------------------------------------------------

ON_TOP = msgspec.structs.replace(HEADER, full=Position(TimelineId("00001-00000000"), Txid(0), Checksum(9)))
DELTA = encode_snapshot_pages([4, 5, 9], [page(14), page(15), page(19)], [page(4), page(5), page(9)])


def parts(*blocks: bytes) -> list[SnapshotPages]:
    """Return the blocks of a differential snapshot that has these."""
    footer = msgspec.structs.replace(FOOTER, block_count=len(blocks))
    _header, *found, _footer = read(encode(ON_TOP, blocks, footer))
    return [each for each in found if isinstance(each, SnapshotPages)]


def test_pages_against_those_of_the_full_one_round_trip() -> None:
    first, delta, last = parts(BLOCKS[0], DELTA, encode_snapshot_pages([5], [page(25)]))
    assert [each.is_delta for each in (first, delta, last)] == [False, True, False]
    assert delta.pgnos == [4, 5, 9]
    assert delta.decode(512, [page(4), page(5), page(9)]) == page(14) + page(15) + page(19)
    assert last.decode(512) == page(25)


@settings(deadline=None)
@given(st.data())
def test_small_changes_of_many_pages_round_trip_in_few_bytes(data: st.DataObject) -> None:
    page_size = data.draw(st.sampled_from(PAGE_SIZES))
    dice = random.Random(data.draw(st.integers(0, 1 << 32)))
    count = data.draw(st.integers(1, delta_block_pages(page_size)))
    pgnos = sorted(dice.sample(range(1, 10_000), count))
    under = [dice.randbytes(page_size) for _ in pgnos]
    changed = [content[:100] + dice.randbytes(8) + content[108:] for content in under]
    block = encode_snapshot_pages(pgnos, changed, under)
    header = msgspec.structs.replace(ON_TOP, page_size=page_size)
    _header, delta, _footer = read(encode(header, (block,), msgspec.structs.replace(FOOTER, block_count=1)))
    assert isinstance(delta, SnapshotPages)
    assert delta.decode(page_size, under) == b"".join(changed)
    assert len(block) < 200 + 60 * count


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_delta_block_has_what_the_window_of_zstd_holds(page_size: int) -> None:
    assert delta_block_pages(page_size) == min(64, (256 << 10) // page_size)
    count = delta_block_pages(page_size) + 1
    content = [bytes(page_size)] * count
    data = encode_snapshot_start(msgspec.structs.replace(ON_TOP, page_size=page_size))
    offset = len(data)
    data += encode_snapshot_pages(range(1, count + 1), content, content)
    with pytest.raises(CorruptObject, match="page runs") as caught:
        read(data)
    assert caught.value.offset == offset


def refused_at(blocks: tuple[bytes, ...], header: SnapshotHeader = ON_TOP) -> tuple[str, int]:
    """Return why a snapshot of these blocks is refused, and at which of them."""
    footer = msgspec.structs.replace(FOOTER, block_count=len(blocks))
    starts = [len(encode_snapshot_start(header) + b"".join(blocks[:index])) for index in range(len(blocks))]
    with pytest.raises(CorruptObject) as caught:
        read(encode(header, blocks, footer))
    return caught.value.message.partition(" (at")[0], starts.index(caught.value.offset)


def test_a_page_that_stood_in_an_earlier_block_is_refused_in_a_delta() -> None:
    """INV-34: a reader has that one in the place of the full one's by then."""
    plain, again = encode_snapshot_pages([9], [page(1)]), encode_snapshot_pages([5], [page(1)], [page(5)])
    assert refused_at((plain, DELTA)) == ("page 9 of a delta block stands in an earlier one", 1)
    assert refused_at((DELTA, BLOCKS[0], again)) == ("page 5 of a delta block stands in an earlier one", 2)
    twice = encode_snapshot_pages([7, 8, 7], [page(1)] * 3, [page(7), page(8), page(7)])
    assert refused_at((DELTA, twice)) == ("page 7 of a delta block stands in an earlier one", 1)
    far = [1, 1023, 1024, 1 << 31, (1 << 32) - 2]
    assert refused_at(
        (encode_snapshot_pages(far, [page(1)] * 5), encode_snapshot_pages([1 << 31], [page(1)], [page(2)]))
    ) == (f"page {1 << 31} of a delta block stands in an earlier one", 1)


def test_a_delta_in_a_full_snapshot_is_refused() -> None:
    assert refused_at((BLOCKS[0], DELTA), HEADER) == ("a full snapshot has a delta block", 1)


def test_page_0_of_a_delta_is_refused() -> None:
    block = encode_block(BlockType.DELTA, struct.pack("<II", 0, 1), b"")
    assert refused_at((block,)) == ("malformed page runs", 0)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_delta_is_decoded_with_a_reference_for_each_page(count: int) -> None:
    (delta,) = parts(DELTA)
    with pytest.raises(InvariantViolated):
        delta.decode(512, [page(4)] * count)
    with pytest.raises(InvariantViolated):
        parts(BLOCKS[0])[0].decode(512, [page(1)] * 3)


def test_every_changed_byte_of_a_delta_is_refused() -> None:
    data = encode(ON_TOP, (DELTA,), msgspec.structs.replace(FOOTER, block_count=1))
    for at in range(len(data)):
        refusal(data[:at] + bytes([data[at] ^ 0x08]) + data[at + 1 :])


# -- where the pages of a full one lie ---------------------------------------------------------------------------------


def scan(data: bytes) -> list[tuple[int, list[int]]]:
    return list(scan_snapshot(lambda offset, count: data[offset : offset + count], 512))


def test_a_scan_tells_where_each_block_lies() -> None:
    data = encode()
    found = scan(data)
    assert [pgnos for _offset, pgnos in found] == [[1, 2, 3], [2]]
    for offset, pgnos in found:
        block = read_snapshot_block(io.BytesIO(data[offset:]).read, offset, 512)
        assert (block.pgnos, block.offset) == (pgnos, offset)
        assert block.decode(512)


def test_a_scan_of_what_is_cut_off_is_refused() -> None:
    """What lies behind the head of the footer is of no concern."""
    data = encode()
    for length in range(len(data) - 16):
        with pytest.raises(CorruptObject) as caught:
            scan(data[:length])
        assert caught.value.offset <= len(data)


def test_a_scan_of_a_differential_snapshot_is_refused() -> None:
    with pytest.raises(CorruptObject, match="delta"):
        scan(encode(ON_TOP, (DELTA,)))
