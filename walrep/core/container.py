r"""The container that every binary object of a replica is: a preamble, blocks, a footer and a tail.

All integers are little-endian. Preamble, 16 bytes:

    0   8   magic 89 77 61 6c 72 65 70 0a ("\x89walrep\n")
    8   1   format version: 1
    9   1   kind: 1 segment, 2 snapshot, 3 pack
    10  1   compression of bodies: 1 zstd
    11  1   encryption: 0 none
    12  4   zero

Block, 24 bytes of header, then the head, then the body:

    0   1   type: 1 header, 2 chunk, 3 pages, 4 footer, 5 index, 6 delta pages
    1   3   zero
    4   4   head bytes, at most 1 MiB
    8   4   body bytes, at most 8 MiB
    12  4   zero
    16  8   xxh3-64 of the 16 bytes above, the head and the body

The first block is the header, the last the footer; both are MessagePack maps in their head, with no body. A reader
ignores map keys that it does not know. Tail, 16 bytes, so that a footer can be fetched without the rest:

    0   8   offset of the footer block
    8   8   magic 77 72 65 70 65 6e 64 0a ("wrepend\n")

A reader refuses everything else, and names the offset.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
from xxhash import xxh3_64

from walrep.errors import CorruptObject, check

__all__ = [
    "BLOCK_HEADER_BYTES",
    "BODY_BYTES_MAX",
    "HEAD_BYTES_MAX",
    "KIND_OFFSET",
    "PREAMBLE_BYTES",
    "TAIL_BYTES",
    "Block",
    "BlockType",
    "Kind",
    "decode_struct",
    "encode_block",
    "encode_preamble",
    "encode_struct_block",
    "encode_tail",
    "parse_footer",
    "read_block",
    "read_blocks",
    "scan_blocks",
]

FORMAT_VERSION = 1
PREAMBLE_BYTES = 16
KIND_OFFSET = 9
TAIL_BYTES = 16
BLOCK_HEADER_BYTES = 24
HEAD_BYTES_MAX = 1 << 20
BODY_BYTES_MAX = 8 << 20

_MAGIC = b"\x89walrep\n"
_END_MAGIC = b"wrepend\n"
_PREAMBLE = struct.Struct("<8s4BI")
_BLOCK = struct.Struct("<B3xIII")
_TAIL = struct.Struct("<Q8s")
_COMPRESSION_ZSTD = 1
_ENCRYPTION_NONE = 0

T = TypeVar("T")


class Kind(enum.IntEnum):
    """What a container holds."""

    SEGMENT = 1
    SNAPSHOT = 2
    PACK = 3


class BlockType(enum.IntEnum):
    """What a block holds."""

    HEADER = 1
    CHUNK = 2
    PAGES = 3
    FOOTER = 4
    INDEX = 5
    DELTA = 6


class Block(msgspec.Struct, frozen=True):
    """One verified block; `offset` is where it begins in its object."""

    type: BlockType
    offset: int
    head: bytes
    body: bytes

    @property
    def end(self) -> int:
        """The offset after it."""
        return self.offset + BLOCK_HEADER_BYTES + len(self.head) + len(self.body)


def encode_preamble(kind: Kind) -> bytes:
    """Return the first 16 bytes of an object."""
    return _PREAMBLE.pack(_MAGIC, FORMAT_VERSION, kind, _COMPRESSION_ZSTD, _ENCRYPTION_NONE, 0)


def encode_block(block_type: BlockType, head: bytes, body: bytes = b"") -> bytes:
    """Return one block."""
    check(len(head) <= HEAD_BYTES_MAX and len(body) <= BODY_BYTES_MAX, "block over its limit")
    fixed = _BLOCK.pack(block_type, len(head), len(body), 0)
    digest = xxh3_64(fixed)
    digest.update(head)
    digest.update(body)
    return b"".join((fixed, digest.intdigest().to_bytes(8, "little"), head, body))


def encode_struct_block(block_type: BlockType, value: msgspec.Struct) -> bytes:
    """Return a header or footer block that holds `value`."""
    return encode_block(block_type, msgspec.msgpack.encode(value))


def encode_tail(footer_offset: int) -> bytes:
    """Return the last 16 bytes of an object whose footer block begins at `footer_offset`."""
    return _TAIL.pack(footer_offset, _END_MAGIC)


def decode_struct(block: Block, expected: BlockType, struct_type: type[T]) -> T:
    """Decode a header or footer block.

    Raises:
        CorruptObject: the block is of another type, or its map does not fit `struct_type`.

    """
    if block.type != expected:
        raise CorruptObject(
            f"expected a {expected.name.lower()} block, found {block.type.name.lower()}", offset=block.offset
        )
    try:
        return msgspec.msgpack.decode(block.head, type=struct_type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject(
            f"malformed {expected.name.lower()}", offset=block.offset + BLOCK_HEADER_BYTES, detail=str(error)
        ) from error


def read_blocks(read: Callable[[int], bytes], expected: Kind) -> Iterator[Block]:
    """Yield the blocks of an object front to back, each verified, and check the tail after the footer.

    `read(n)` returns the next n bytes, fewer only at the end. Blocks before a defect are yielded before it raises.

    Raises:
        CorruptObject: anything malformed.

    """
    _check_preamble(read(PREAMBLE_BYTES), expected)
    offset = PREAMBLE_BYTES
    while True:
        block = read_block(read, offset)
        yield block
        if block.type == BlockType.FOOTER:
            tail = read(TAIL_BYTES)
            if tail != encode_tail(offset):
                raise CorruptObject("malformed tail", offset=block.end)
            if read(1):
                raise CorruptObject("bytes after the tail", offset=block.end + TAIL_BYTES)
            return
        offset = block.end


def parse_footer(ending: bytes, object_bytes: int) -> Block | None:
    """Return the footer block if it lies whole in `ending`, the last bytes of an object of this size; else None.

    Raises:
        CorruptObject: the tail or the footer is malformed.

    """
    if len(ending) < TAIL_BYTES:
        raise CorruptObject("object is shorter than a tail", offset=0)
    footer_offset, magic = _TAIL.unpack(ending[-TAIL_BYTES:])
    end = object_bytes - TAIL_BYTES
    if magic != _END_MAGIC or not PREAMBLE_BYTES <= footer_offset < end:
        raise CorruptObject("malformed tail", offset=end)
    start = footer_offset - (object_bytes - len(ending))
    if start < 0:
        return None
    view = ending[start:-TAIL_BYTES]
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        position += count
        return view[position - count : position]

    block = read_block(read, footer_offset)
    if block.end != end or block.type != BlockType.FOOTER:
        raise CorruptObject("the tail does not point at a footer", offset=end)
    return block


def read_block(read: Callable[[int], bytes], offset: int) -> Block:
    """Return the block that begins at `offset` in its object, which is where `read` stands.

    Raises:
        CorruptObject: it is malformed, or its checksum does not match.

    """
    header = read(BLOCK_HEADER_BYTES)
    block_type, head_bytes, body_bytes = _parse_block_header(header, offset)
    head = read(head_bytes)
    body = read(body_bytes)
    if len(head) < head_bytes or len(body) < body_bytes:
        raise CorruptObject("object ends inside a block", offset=offset + BLOCK_HEADER_BYTES + len(head) + len(body))
    digest = xxh3_64(header[:16])
    digest.update(head)
    digest.update(body)
    if digest.intdigest() != int.from_bytes(header[16:], "little"):
        raise CorruptObject("block checksum does not match", offset=offset)
    return Block(block_type, offset, head, body)


def scan_blocks(read_at: Callable[[int, int], bytes], expected: Kind) -> Iterator[Block]:
    """Yield the blocks of an object up to its footer, without their bodies, and therefore unverified.

    `read_at(offset, n)` returns n bytes, fewer only at the end. Whoever uses a block reads it with `read_block`.

    Raises:
        CorruptObject: anything malformed.

    """
    _check_preamble(read_at(0, PREAMBLE_BYTES), expected)
    offset = PREAMBLE_BYTES
    while True:
        block_type, head_bytes, body_bytes = _parse_block_header(read_at(offset, BLOCK_HEADER_BYTES), offset)
        head = read_at(offset + BLOCK_HEADER_BYTES, head_bytes)
        if len(head) < head_bytes:
            raise CorruptObject("object ends inside a block", offset=offset + BLOCK_HEADER_BYTES + len(head))
        yield Block(block_type, offset, head, b"")
        if block_type == BlockType.FOOTER:
            return
        offset += BLOCK_HEADER_BYTES + head_bytes + body_bytes


def _parse_block_header(header: bytes, offset: int) -> tuple[BlockType, int, int]:
    """Return type, head bytes and body bytes of the block at `offset`."""
    if len(header) < BLOCK_HEADER_BYTES:
        raise CorruptObject("object ends before its footer", offset=offset + len(header))
    block_type, head_bytes, body_bytes, zero = _BLOCK.unpack(header[:16])
    if header[1:4] != b"\0\0\0" or zero or block_type not in BlockType._value2member_map_:
        raise CorruptObject("malformed block header", offset=offset)
    if head_bytes > HEAD_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
        raise CorruptObject("block over its limit", offset=offset + 4)
    return BlockType(block_type), head_bytes, body_bytes


def _check_preamble(preamble: bytes, expected: Kind) -> None:
    if len(preamble) < PREAMBLE_BYTES:
        raise CorruptObject("object is shorter than its preamble", offset=len(preamble))
    magic, version, kind, compression, encryption, zero = _PREAMBLE.unpack(preamble)
    if magic != _MAGIC:
        raise CorruptObject("not a walrep object", offset=0)
    if version != FORMAT_VERSION:
        raise CorruptObject(
            f"format version {version} is not known to this walrep", offset=8, hint="use the version that wrote it"
        )
    if kind != expected:
        raise CorruptObject(f"object kind {kind} where a {expected.name.lower()} was expected", offset=9)
    if compression != _COMPRESSION_ZSTD:
        raise CorruptObject(f"compression {compression} is not known to this walrep", offset=10)
    if encryption != _ENCRYPTION_NONE:
        raise CorruptObject(f"encryption {encryption} is not known to this walrep", offset=11)
    if zero:
        raise CorruptObject("reserved bytes are not zero", offset=12)
