"""The container: what is written is read, and every other byte is refused, with the offset."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from walrep.core.container import (
    BODY_BYTES_MAX,
    PREAMBLE_BYTES,
    TAIL_BYTES,
    Block,
    BlockType,
    Kind,
    decode_struct,
    encode_block,
    encode_preamble,
    encode_struct_block,
    encode_tail,
    parse_footer,
    read_blocks,
)
from walrep.core.objects import Writer
from walrep.errors import CorruptObject, InvariantViolated

WRITER = Writer(nonce="0011223344556677", host="a", pid=5)
BLOCK_HEADER_BYTES = 24


def encode_object(middle: list[tuple[bytes, bytes]], kind: Kind = Kind.SEGMENT) -> bytes:
    """Return an object with these (head, body) chunks between a header and a footer."""
    data = encode_preamble(kind) + encode_struct_block(BlockType.HEADER, WRITER)
    for head, body in middle:
        data += encode_block(BlockType.CHUNK, head, body)
    return data + encode_struct_block(BlockType.FOOTER, WRITER) + encode_tail(len(data))


def read_all(data: bytes, kind: Kind = Kind.SEGMENT) -> list[Block]:
    return list(read_blocks(io.BytesIO(data).read, kind))


def refused(call: Callable[[], object]) -> CorruptObject:
    with pytest.raises(CorruptObject) as caught:
        call()
    return caught.value


SMALL = encode_object([(b"head", b"body of a chunk"), (b"", b"x")])


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=3000)), max_size=5), st.sampled_from(Kind))
def test_what_is_written_is_read(middle: list[tuple[bytes, bytes]], kind: Kind) -> None:
    data = encode_object(middle, kind)
    blocks = read_all(data, kind)
    assert [(block.head, block.body) for block in blocks[1:-1]] == middle
    assert [block.type for block in blocks] == [BlockType.HEADER, *[BlockType.CHUNK] * len(middle), BlockType.FOOTER]
    assert decode_struct(blocks[0], BlockType.HEADER, Writer) == WRITER
    for block in blocks:
        assert data[block.offset] == block.type
    assert parse_footer(data, len(data)) == blocks[-1]


@pytest.mark.parametrize("at", range(len(SMALL)))
def test_an_object_with_a_changed_byte_is_refused_where_it_is(at: int) -> None:
    """The offset names the block, or the field, that the byte lies in."""
    blocks = read_all(SMALL)
    bounds = [0, *[block.offset for block in blocks], len(SMALL) - TAIL_BYTES, len(SMALL) + 1]
    start = max(bound for bound in bounds if bound <= at)
    end = min(bound for bound in bounds if bound > at)
    for bit in (0x01, 0x80):
        data = bytearray(SMALL)
        data[at] ^= bit
        error = refused(lambda data=data: read_all(bytes(data)))  # type: ignore[misc]
        # A longer block is noticed where the object ends before it does.
        lies_about_length = (at - start) in range(4, 12) and start >= PREAMBLE_BYTES
        assert start <= error.offset < end or (lies_about_length and start <= error.offset <= len(SMALL)), error


@pytest.mark.parametrize("length", range(len(SMALL)))
def test_an_object_cut_short_is_refused_at_its_end_or_before(length: int) -> None:
    error = refused(lambda: read_all(SMALL[:length]))
    assert error.offset <= length
    assert error.exit_code == 6


def test_what_lies_before_a_defect_is_yielded_first() -> None:
    blocks = read_blocks(io.BytesIO(SMALL[:-20]).read, Kind.SEGMENT)
    assert [next(blocks).type for _ in range(3)] == [BlockType.HEADER, BlockType.CHUNK, BlockType.CHUNK]
    with pytest.raises(CorruptObject):
        next(blocks)


def test_bytes_after_the_tail_are_refused() -> None:
    assert refused(lambda: read_all(SMALL + b"\0")).offset == len(SMALL)


@pytest.mark.parametrize(
    ("at", "value"), [(0, 0), (8, 2), (8, 0), (9, 2), (9, 3), (10, 0), (10, 2), (11, 1), (12, 1), (15, 255)]
)
def test_a_preamble_of_something_else_is_refused_at_the_field(at: int, value: int) -> None:
    data = bytearray(SMALL)
    data[at] = value
    assert refused(lambda: read_all(bytes(data))).offset == min(at, 12)


def test_an_object_of_the_other_kind_is_refused() -> None:
    assert refused(lambda: read_all(SMALL, Kind.SNAPSHOT)).offset == 9


@pytest.mark.parametrize(("head", "body"), [((1 << 20) + 1, 0), (0, BODY_BYTES_MAX + 1), (0xFFFF_FFFF, 0xFFFF_FFFF)])
def test_a_block_over_its_limit_is_refused_before_it_is_read(head: int, body: int) -> None:
    """A damaged length must not ask for gigabytes."""
    data = encode_preamble(Kind.SEGMENT) + struct.pack("<B3xIIIQ", BlockType.HEADER, head, body, 0, 0)
    source, asked = io.BytesIO(data), []

    def read(count: int) -> bytes:
        asked.append(count)
        return source.read(count)

    error = refused(lambda: list(read_blocks(read, Kind.SEGMENT)))
    assert error.offset == PREAMBLE_BYTES + 4
    assert max(asked) == BLOCK_HEADER_BYTES


def test_a_block_over_its_limit_is_not_written() -> None:
    with pytest.raises(InvariantViolated):
        encode_block(BlockType.CHUNK, bytes((1 << 20) + 1))
    with pytest.raises(InvariantViolated):
        encode_block(BlockType.CHUNK, b"", bytes(BODY_BYTES_MAX + 1))


def test_a_block_of_an_unknown_type_is_refused() -> None:
    fixed = struct.pack("<B3xIII", 9, 0, 0, 0)
    assert refused(lambda: read_all(encode_preamble(Kind.SEGMENT) + fixed + bytes(8))).offset == PREAMBLE_BYTES


@pytest.mark.parametrize("ending_bytes", range(TAIL_BYTES, len(SMALL) + 1))
def test_a_footer_is_parsed_from_the_end_if_it_lies_there_whole(ending_bytes: int) -> None:
    footer = read_all(SMALL)[-1]
    whole = ending_bytes >= len(SMALL) - footer.offset
    assert parse_footer(SMALL[-ending_bytes:], len(SMALL)) == (footer if whole else None)


@pytest.mark.parametrize("length", range(TAIL_BYTES))
def test_an_ending_shorter_than_a_tail_is_refused(length: int) -> None:
    refused(lambda: parse_footer(SMALL[len(SMALL) - length :], len(SMALL)))


@pytest.mark.parametrize("offset", [0, 15, 16, len(SMALL) - TAIL_BYTES, len(SMALL), 1 << 63])
def test_a_tail_that_points_elsewhere_is_refused(offset: int) -> None:
    data = SMALL[:-TAIL_BYTES] + encode_tail(offset)
    assert refused(lambda: parse_footer(data, len(data))).offset in (len(data) - TAIL_BYTES, offset)
    assert refused(lambda: read_all(data)).offset == len(data) - TAIL_BYTES


def test_every_changed_byte_of_a_footer_or_tail_is_refused_by_parse_footer() -> None:
    start = read_all(SMALL)[-1].offset
    for at in range(start, len(SMALL)):
        data = bytearray(SMALL)
        data[at] ^= 0x10
        refused(lambda data=data: parse_footer(bytes(data), len(data)))  # type: ignore[misc]


def test_a_header_where_another_block_was_expected_is_refused() -> None:
    block = read_all(SMALL)[0]
    assert refused(lambda: decode_struct(block, BlockType.FOOTER, Writer)).offset == PREAMBLE_BYTES


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"nonce": 5}),
        msgspec.msgpack.encode({"pid": 5}),
        msgspec.msgpack.encode([1, 2]),
        b"\x81\xa5nonce\xa2\xff\xfe",
        b"\x82\xa5nonce\xa1a\xa1x" + b"\x91" * 100_000 + b"\xc0",
    ],
)
def test_a_map_that_does_not_fit_is_refused(head: bytes) -> None:
    """Also one that is nested without end, or has text that is not text."""
    block = Block(BlockType.HEADER, 100, head, b"")
    assert refused(lambda: decode_struct(block, BlockType.HEADER, Writer)).offset == 124


def test_unknown_keys_are_ignored() -> None:
    head = msgspec.msgpack.encode({"nonce": "n", "later": [1, {"a": None}]})
    assert decode_struct(Block(BlockType.HEADER, 0, head, b""), BlockType.HEADER, Writer) == Writer(nonce="n")
