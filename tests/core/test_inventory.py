"""What of a listing retention decides on, and what it must leave alone."""

from __future__ import annotations

import msgspec
import pytest

from walrep.core.history import Segment
from walrep.core.holding import Holding, Log, Point, Snapshot
from walrep.core.inventory import Listed, take_inventory, unknown_segments
from walrep.core.names import PackName, PinName, pack_key, parse_pack_key, pin_key, segment_key
from walrep.core.stored import SegmentFact, segment_fact
from walrep.core.units import Checksum, Position, Seq, TimelineId, Txid, make_timeline_id
from walrep.testing.history import HistoryBuilder, history_of

PAGE = 512
STORED_MS = 5_000_000
T1 = make_timeline_id(1, "a1b2c3d4")


def page(value: int) -> bytes:
    return bytes([value]) * PAGE


def listed(*keys: str) -> list[Listed]:
    return [Listed(key=key, size_bytes=10, stored_ms=STORED_MS) for key in keys]


def fact(seq: int, nonce: str = "") -> SegmentFact:
    return SegmentFact(
        key=segment_key(seq, nonce),
        timeline=make_timeline_id(1, nonce or "a1b2c3d4"),
        seq=Seq(seq),
        size_bytes=10,
        page_size=PAGE,
        checksum_before=seq,
        checksum_after=seq + 1,
        txid_before=Txid(seq),
        txid_after=Txid(seq + 1),
        first_seen_ms=seq,
    )


def pack(first_seq: int, last_seq: int, times: tuple[int, int] = (1000, 2000)) -> str:
    return pack_key(
        PackName(
            timeline=T1,
            first_txid=Txid(first_seq),
            last_txid=Txid(last_seq),
            first_seen_ms=times[0],
            last_seen_ms=times[1],
            first_seq=Seq(first_seq),
            last_seq=Seq(last_seq),
        )
    )


def facts_of(builder: HistoryBuilder) -> dict[str, SegmentFact]:
    found = [each for timeline in history_of(builder.objects).timelines for each in timeline.segments]
    assert all(isinstance(each, Segment) for each in found)
    return {each.key: segment_fact(each.key, each.header, each.footer, each.size_bytes) for each in found}


def logs(holding: Holding) -> dict[str, Log]:
    return {log.key: log for log in holding.logs}


def test_every_kind_of_object_is_what_its_key_or_its_ends_tell() -> None:
    builder = HistoryBuilder(PAGE)
    builder.begin({1: page(1)}, 1000)
    builder.commit([(1, page(2))], 1, 9000)
    builder.commit([(1, page(3))], 1, 8000)
    first = builder.seal()
    left = builder.positions[builder.timeline, 1]
    second = builder.begin({1: page(4)}, 10_000, parent=left, base=False)
    builder.objects[pin_key(PinName("it", left))] = b""
    sizes = {key: len(data) for key, data in builder.objects.items()}
    holding = take_inventory(
        (Listed(key=key, size_bytes=size, stored_ms=STORED_MS) for key, size in sizes.items()), facts_of(builder)
    )
    found = logs(holding)
    one = found[first]
    # The clock stepped back between the two transactions.
    assert (one.first_seen_ms, one.last_seen_ms, one.stored_ms) == (8000, 9000, STORED_MS)
    assert (one.first_txid, one.last_txid, one.first_seq, one.last_seq, one.is_opening) == (1, 2, 2, 2, False)
    opening = found[segment_key(3)]
    assert (opening.timeline, opening.is_opening, opening.is_fence) == (second, True, False)
    assert (opening.first_txid, opening.last_txid) == (1, 0)
    assert opening.left == Point(left.timeline, Txid(1))
    (base,) = holding.snapshots
    assert isinstance(base, Snapshot)
    assert (base.timeline, base.txid, base.seen_ms, base.seq, base.stored_ms) == (T1, 0, 1000, 1, STORED_MS)
    assert [(pin.name, pin.point) for pin in holding.pins] == [("it", Point(left.timeline, Txid(1)))]
    assert set(holding.others) == {"replica", pin_key(PinName("it", left))}
    assert holding.sizes() == sizes


def test_both_ends_of_a_pack_count_where_the_clock_stepped() -> None:
    (log,) = take_inventory(listed(pack(2, 5, (9000, 4000))), {}).logs
    assert (log.first_seen_ms, log.last_seen_ms, log.newest_ms) == (4000, 9000, STORED_MS)


@pytest.mark.parametrize(
    "key",
    [
        "replica",
        segment_key(7),
        "pins/no bookmark/x",
        "pruned/20261121T093000123Z",
        "packs/what",
        "snapshots/of/something-diff",
        "probe/0123456789abcdef",
    ],
)
def test_what_is_not_known_is_none_of_retentions_business(key: str) -> None:
    holding = take_inventory(listed(key), {})
    assert (holding.logs, holding.snapshots, holding.pins) == ([], [], [])
    assert holding.others == {key: 10}


def test_the_newest_segment_is_reserved_also_beside_a_pack_of_its_number() -> None:
    facts = {each.key: each for each in (fact(3), fact(4))}
    holding = take_inventory(listed(*facts, pack(2, 4)), facts)
    assert set(holding.reserved) == {segment_key(4), pack(2, 4)}


def test_the_newest_segment_of_the_writer_that_took_over_is_reserved_and_that_with_the_highest_number() -> None:
    """INV-24: it looks for its own at its next start; the other one was shut out, and went on for a while."""
    ours, theirs = "1" * 16, "2" * 16
    old = [msgspec.structs.replace(fact(seq, theirs), timeline=make_timeline_id(1, theirs)) for seq in (2, 8, 9)]
    new = [msgspec.structs.replace(fact(seq, ours), timeline=make_timeline_id(2, ours)) for seq in (3, 4)]
    facts = {each.key: each for each in (*old, *new)}
    expected = {segment_key(4, ours), segment_key(9, theirs)}
    assert set(take_inventory(listed(*facts), facts).reserved) == expected


def test_a_segment_that_is_not_known_and_in_no_pack_is_to_be_read() -> None:
    known = fact(2)
    there = listed(known.key, segment_key(3), segment_key(4), segment_key(9), pack(4, 6), "segments/what")
    assert unknown_segments(there, {known.key: known}) == {segment_key(3), segment_key(9)}


def test_a_segment_of_another_writer_is_in_no_pack_of_this_one() -> None:
    name = parse_pack_key(pack(4, 6))
    assert name is not None
    own, other = segment_key(5, "a1b2c3d4" + "0" * 8), segment_key(5, "2" * 16)
    assert unknown_segments(listed(own, other, pack(4, 6)), {}) == {other}


def test_pins_of_one_position_under_two_names_count_both() -> None:
    position = Position(TimelineId("00001-a1b2c3d4"), Txid(3), Checksum(7))
    keys = [pin_key(PinName(name, position)) for name in ("a", "b")]
    assert [pin.name for pin in take_inventory(listed(*keys), {}).pins] == ["a", "b"]
