"""Building packs: every chunk as it was, from sources that continue one another, and proved."""

from __future__ import annotations

import io
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from tests.core.packs import build, chunks_of, packed, read
from walrep.core.names import pack_key
from walrep.core.packing import build_pack, verify_pack
from walrep.core.units import Seq, TimelineId
from walrep.errors import CorruptObject
from walrep.testing.history import HistoryBuilder
from walrep.testing.packs import make_pack

SHAPES = st.lists(st.lists(st.sampled_from([1, 2, 63, 64, 65, 130]), min_size=1, max_size=4), min_size=1, max_size=5)


@given(SHAPES)
@settings(max_examples=40, deadline=None)
def test_a_pack_has_the_chunks_of_its_sources_byte_for_byte(shape: list[list[int]]) -> None:
    builder = build(*shape)
    built, data = packed(builder)
    assert chunks_of(data) == [chunk for key in builder.packable() for chunk in chunks_of(builder.objects[key])]
    # The test kit's pack was written from the format's description.
    assert (pack_key(built.name), data) == make_pack(builder.objects, builder.packable())
    verify_pack(io.BytesIO(data).read, built)
    assert built.size_bytes == len(data)
    assert (built.name.first_txid, built.name.last_txid) == (1, builder.txid)
    assert (built.name.first_seen_ms, built.name.last_seen_ms) == (11_000, 10_000 + 1000 * builder.txid)


@given(SHAPES, st.data())
@settings(max_examples=40, deadline=None)
def test_a_pack_of_packs_is_the_pack_of_all_their_segments(shape: list[list[int]], data: st.DataObject) -> None:
    builder = build(*shape)
    _built, whole = packed(builder)
    keys, parts = builder.packable(), []
    while keys:
        count = data.draw(st.integers(1, len(keys)))
        # Segments and packs may stand side by side.
        parts += keys[:1] if count == 1 else [builder.pack(keys[:count])]
        keys = keys[count:]
    assert packed(builder, parts)[1] == whole


def refused(builder: HistoryBuilder, keys: Sequence[str], **changes: object) -> str:
    with pytest.raises(CorruptObject) as caught:
        packed(builder, keys, **changes)
    return str(caught.value)


def test_sources_that_do_not_continue_one_another_are_refused() -> None:
    builder = build([1], [1], [1], [1])
    one, two, three, four = builder.packable()
    assert "segment 5 does not continue" in refused(builder, [one, two, four])
    assert "does not continue" in refused(builder, [one, three, two, four])
    assert "does not continue" in refused(builder, [one, one, two])
    assert "segment 5 is missing" in refused(builder, [one, two, three], last_seq=Seq(5))
    assert "does not continue" in refused(builder, [two, three], first_seq=Seq(2))
    assert "does not continue" in refused(builder, [two, three], checksum_before=1)
    assert "does not continue" in refused(builder, [two, three], pages_before=1)
    pack = builder.pack([two, three])
    assert "does not continue" in refused(builder, [one, pack], last_seq=Seq(3))
    assert "segment 2 does not continue" in refused(builder, [pack, one], last_seq=Seq(4))


def test_a_segment_of_another_history_with_the_right_numbers_is_refused() -> None:
    builder, other = build([1], [1]), build([1], [1], seed=2)
    one, two = builder.packable()
    builder.objects[two] = other.objects[two]
    assert "does not continue" in refused(builder, [one, two])


@pytest.mark.parametrize("changes", [{"replica": "other"}, {"timeline": TimelineId("00009-00000000")}])
def test_sources_of_another_replica_or_timeline_are_refused(changes: dict[str, object]) -> None:
    builder = build([1], [1])
    assert "another replica, timeline" in refused(builder, builder.packable(), **changes)


def test_opening_segments_are_not_packed() -> None:
    builder = build([1])
    assert "stays" in refused(builder, ["segments/0000000000000001", *builder.packable()])


def test_a_damaged_source_is_refused() -> None:
    builder = build([1], [1])
    one, two = builder.packable()
    builder.objects[two] = builder.objects[two][:-8] + bytes(8)
    sources = [io.BytesIO(builder.objects[key]).read for key in (one, two)]
    header = msgspec.structs.replace(packed(builder, [one])[0].footer.header, last_seq=Seq(3))
    with pytest.raises(CorruptObject, match="malformed tail"):
        build_pack(sources, io.BytesIO().write, header)


def test_a_written_pack_that_is_another_one_does_not_verify() -> None:
    """Right in itself is not enough: a body that was exchanged has a right checksum, too."""
    builder, other = build([2], [2]), build([2], [2], seed=3)
    built, data = packed(builder)
    verify_pack(io.BytesIO(data).read, built)
    for wrong in (packed(other)[1], make_pack(builder.objects, builder.packable(), created_ms=9)[1]):
        read(wrong)
        with pytest.raises(CorruptObject, match="not what its sources held"):
            verify_pack(io.BytesIO(wrong).read, built)
    with pytest.raises(CorruptObject):
        verify_pack(io.BytesIO(data[:-1]).read, built)
    with pytest.raises(CorruptObject, match="not what its sources held"):
        verify_pack(io.BytesIO(data).read, msgspec.structs.replace(built, chunks_digest=bytes(16)))
