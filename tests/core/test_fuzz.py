"""Arbitrary and damaged bytes into every decoder: each answers, or refuses with an error of ours and its place."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from xxhash import xxh3_64_intdigest

from tests.core.test_journal import make_entry
from walrep.core.chunk import FLAG_REFERENCE, decode_pages, decode_table
from walrep.core.container import parse_footer
from walrep.core.index import decode_index_rows, decompress_index, parse_index
from walrep.core.journal import decode_entry, encode_entry
from walrep.core.names import parse_pack_key, parse_segment_key, parse_snapshot_key
from walrep.core.objects import SegmentHeader, SnapshotHeader, Writer
from walrep.core.pack import IndexBlock, parse_pack_footer, read_pack, read_pack_chunks
from walrep.core.prunings import PRUNE_FORMAT, PruneRecord, decode_record, encode_record
from walrep.core.segment import SegmentChunk, read_segment
from walrep.core.snapshot import SnapshotPages, read_snapshot, read_snapshot_block, scan_snapshot
from walrep.core.units import Seq, parse_bookmark
from walrep.core.wal import parse_page_size, parse_wal_header, parse_wal_index
from walrep.core.walsum import frame_headers, valid_frame_count
from walrep.engine.lineage import read_replica_info
from walrep.errors import CorruptObject, UsageError
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.clock import SimClock
from walrep.testing.history import HistoryBuilder

QUICK = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
HEADER_BYTES = 24


def make_objects() -> dict[str, bytes]:
    """Return the objects of a small replica."""
    dice = random.Random(5)
    history = HistoryBuilder(512)
    history.begin({1: dice.randbytes(512), 2: bytes(512)}, 1000)
    for number in range(5):
        history.commit([(1, dice.randbytes(512)), (2 + number, bytes([number]) * 512)], 2 + number, 2000 + number)
    history.seal()
    history.commit([(1, dice.randbytes(512))], 2, 3000)
    history.seal()
    history.pack(history.packable(), keep=True)
    history.snapshot(3500, full_txid=0, delta=True)
    return history.objects


OBJECTS = make_objects()
SEGMENT = OBJECTS["segments/0000000000000002"]
PACK = next(data for key, data in OBJECTS.items() if key.startswith("packs/"))
SNAPSHOT = next(data for key, data in OBJECTS.items() if key.endswith("-full"))
DIFFERENTIAL = next(data for key, data in OBJECTS.items() if "-diff-" in key)
INDEX = next(item.plain for item in read_pack(io.BytesIO(PACK).read) if isinstance(item, IndexBlock))
PRUNE_RECORD = encode_record(
    PruneRecord(
        format=PRUNE_FORMAT,
        pruned_ms=9000,
        expired_ms=5000,
        by=Writer(nonce="n", host="box", pid=4),
        counts=(3, 0, 12),
        gone=((Seq(2), Seq(9)), (Seq(11), Seq(40))),
        snapshots=("snapshots/00001-00112233/1",),
    )
)
ENTRY = encode_entry(make_entry([1, 2, 9], [11, 12, 13], [(1, 2)], 9))


def read_segment_whole(data: bytes) -> None:
    """Decode everything, pages included."""
    page_size = 0
    for item in read_segment(io.BytesIO(data).read):
        if isinstance(item, SegmentHeader):
            page_size = item.page_size
        elif isinstance(item, SegmentChunk):
            references = [bytes(page_size)] * sum(1 for flag in item.table.flags if flag & FLAG_REFERENCE)
            decode_pages(
                item.body, references, page_count=len(item.table.pgnos), page_size=page_size, offset=item.offset
            )


def read_pack_whole(data: bytes) -> None:
    for item in read_pack(io.BytesIO(data).read):
        if isinstance(item, IndexBlock):
            item.rows()


def read_pack_from_its_end(data: bytes) -> None:
    """As a restore does: the footer, the index, the chunks that it tells of."""
    footer = parse_pack_footer(data, len(data))
    if footer is not None:
        index = parse_index(io.BytesIO(data[footer.index_offset :]).read, footer)
        start, length = index.byte_range(0, len(index))
        list(read_pack_chunks(io.BytesIO(data[start : start + length]).read, index, range(len(index))))


def read_snapshot_whole(data: bytes) -> None:
    page_size = 0
    for item in read_snapshot(io.BytesIO(data).read):
        if isinstance(item, SnapshotHeader):
            page_size = item.page_size
        elif isinstance(item, SnapshotPages):
            item.decode(page_size, [bytes(page_size)] * len(item.pgnos) if item.is_delta else ())


def scan_snapshot_whole(data: bytes) -> None:
    """As who has kept a full one does, block by block."""
    for offset, _pgnos in scan_snapshot(lambda at, count: data[at : at + count], 512):
        read_snapshot_block(io.BytesIO(data[offset:]).read, offset, 512).decode(512)


def read_replica(data: bytes) -> None:
    store = MemoryStore({"replica": MemoryObject(data, 0)})
    SimClock().run(read_replica_info(store))


DECODERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "segment": (read_segment_whole, SEGMENT),
    "snapshot": (read_snapshot_whole, SNAPSHOT),
    "differential": (read_snapshot_whole, DIFFERENTIAL),
    "blocks of a snapshot": (scan_snapshot_whole, SNAPSHOT),
    "pack": (read_pack_whole, PACK),
    "pack from its end": (read_pack_from_its_end, PACK),
    "index": (lambda data: decode_index_rows(decompress_index(data, offset=0), offset=0), PACK[-600:-300]),
    "index rows": (lambda data: decode_index_rows(data, offset=0), INDEX),
    "footer": (lambda data: parse_footer(data, len(data)), SEGMENT),
    "table": (lambda data: decode_table(data, page_size=512, offset=0), SEGMENT[200:300]),
    "pages": (lambda data: decode_pages(data, (), page_count=4, page_size=512, offset=0), SNAPSHOT[-200:]),
    "journal entry": (decode_entry, ENTRY),
    "record of a prune": (decode_record, PRUNE_RECORD),
}


def refuse_or_answer(decode: Callable[[bytes], object], data: bytes) -> None:
    with suppress(CorruptObject):
        decode(data)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return the object with some bytes changed, cut out, or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "overwrite"]))
        junk = draw(st.binary(min_size=1, max_size=9))
        if kind == "flip" and data:
            data[at] ^= junk[0]
        elif kind == "cut":
            del data[at : at + junk[0]]
        elif kind == "insert":
            data[at:at] = junk
        else:
            data[at : at + len(junk)] = junk
    return bytes(data)


def with_right_checksums(data: bytes) -> bytes:
    """Return the object with the checksum of every block computed anew, so that what is inside is what is tested."""
    fixed, at = bytearray(data), 16
    while at + HEADER_BYTES <= len(fixed):
        head, body = struct.unpack_from("<II", fixed, at + 4)
        end = at + HEADER_BYTES + head + body
        content = bytes(fixed[at : at + 16]) + bytes(fixed[at + HEADER_BYTES : end])
        fixed[at + 16 : at + HEADER_BYTES] = xxh3_64_intdigest(content).to_bytes(8, "little")
        at = end
    return bytes(fixed)


@pytest.mark.parametrize("name", DECODERS)
@QUICK
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes(name: str, data: bytes) -> None:
    refuse_or_answer(DECODERS[name][0], data)


@pytest.mark.parametrize("name", DECODERS)
@QUICK
@given(data=st.data())
def test_damaged_objects(name: str, data: st.DataObject) -> None:
    decode, whole = DECODERS[name]
    refuse_or_answer(decode, data.draw(damaged(whole)))


@pytest.mark.parametrize(
    "name", ["segment", "snapshot", "differential", "blocks of a snapshot", "pack", "pack from its end"]
)
@QUICK
@given(data=st.data())
def test_damage_behind_a_right_checksum(name: str, data: st.DataObject) -> None:
    """As a program with a bug, or an enemy, would write it."""
    decode, whole = DECODERS[name]
    refuse_or_answer(decode, with_right_checksums(data.draw(damaged(whole))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@QUICK
@given(st.binary(max_size=200) | damaged(OBJECTS["replica"]) | JSON.map(msgspec.json.encode))
def test_replica_objects(data: bytes) -> None:
    refuse_or_answer(read_replica, data)


@pytest.mark.parametrize(
    "data", [b'{"x":"\xff"}', b'{"format":1,"x":' + b"[" * 100_000, b'{"replica":"\\ud800"}', b"\xef\xbb\xbf{}"]
)
def test_replica_objects_of_an_enemy(data: bytes) -> None:
    with pytest.raises(CorruptObject):
        read_replica(data)


@pytest.mark.parametrize(
    "extra", [b"\x91" * 100_000 + b"\xc0", b"\xa2\xff\xfe", b"\xc1", b"\xc7\x01\x05\x00", b"\xd6\xff\xff\xff\xff\xff"]
)
def test_journal_entries_with_a_field_too_many(extra: bytes) -> None:
    """A later version may add fields; nested without end, or no MessagePack at all, they are refused."""
    fields = [msgspec.msgpack.encode(field) for field in msgspec.msgpack.decode(ENTRY)]
    refuse_or_answer(decode_entry, b"\xdc" + (len(fields) + 1).to_bytes(2, "big") + b"".join(fields) + extra)


@QUICK
@given(st.text(max_size=60) | st.from_regex(r"\d{5}-[0-9a-f]{8}-\d{16}-[0-9a-f]{16}", fullmatch=True))
def test_bookmarks(text: str) -> None:
    with suppress(UsageError):
        assert str(parse_bookmark(text)) == text.strip()


@QUICK
@given(st.text(max_size=80))
def test_keys(text: str) -> None:
    """Any key may lie in a bucket: what is not ours is passed over."""
    assert parse_segment_key(text) is None
    assert parse_snapshot_key(text) is None
    assert parse_pack_key(text) is None


@QUICK
@given(st.binary(max_size=200))
def test_headers_of_sqlite(data: bytes) -> None:
    """They are read while others write: what is not whole is None."""
    assert parse_wal_header(data) is None
    parse_wal_index(data)
    assert parse_page_size(data) in (0, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


@QUICK
@given(st.binary(max_size=1700), st.booleans())
def test_frames(data: bytes, big_endian: bool) -> None:  # noqa: FBT001  hypothesis passes it by position
    headers = frame_headers(data, 512)
    count = valid_frame_count(data, headers, page_size=512, salts=(1, 2), before=(3, 4), big_endian=big_endian)
    assert 0 <= count <= len(headers) == len(data) // 536
