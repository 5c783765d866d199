"""What a listing and the ends of the segments say a replica holds."""

from __future__ import annotations

import msgspec
import pytest

from walrep.core.coverage import find_ranges
from walrep.core.history import Damage, History, SegmentEnds, Timeline, build_history
from walrep.core.names import segment_key, snapshot_key
from walrep.core.units import Checksum, Position, Txid
from walrep.testing.history import HistoryBuilder, history_of

PAGE = 512


def page(value: int) -> bytes:
    return bytes([value]) * PAGE


def build(segments: int = 4, per_segment: int = 2) -> HistoryBuilder:
    """A base and segments 2 to `segments` + 1 of `per_segment` transactions, a second apart."""
    builder = HistoryBuilder(PAGE)
    builder.begin({1: page(1), 2: page(2)}, 1000)
    for _segment in range(segments):
        for _transaction in range(per_segment):
            builder.commit([(1, page(builder.txid % 250 + 1))], 2, 2000 + builder.txid * 1000)
        builder.seal()
    return builder


def kinds(history: History) -> list[str]:
    return [problem.kind for problem in history.problems]


def ranges(timeline: Timeline) -> list[tuple[int, int]]:
    return [(each.first_txid, each.last_txid) for each in timeline.ranges]


def test_a_whole_history_is_one_range_without_problems() -> None:
    builder = build()
    history = history_of(builder.objects, builder.replica)
    (timeline,) = history.timelines
    assert kinds(history) == []
    assert (timeline.number, timeline.reason, timeline.parent) == (1, "new replica", None)
    assert (timeline.begin_seq, timeline.begin_ms, timeline.tip_txid) == (1, 1000, 8)
    assert ranges(timeline) == [(0, 8)]
    assert (timeline.ranges[0].first_seen_ms, timeline.ranges[0].last_seen_ms) == (1000, 9000)
    assert history.object_count == 7
    assert history.object_bytes == sum(map(len, builder.objects.values()))


def test_behind_a_missing_segment_nothing_is_restorable() -> None:
    builder = build()
    del builder.objects[segment_key(3)]
    history = history_of(builder.objects)
    assert kinds(history) == ["missing-segment", "broken-chain"]
    assert ranges(history.timelines[0]) == [(0, 2)]
    assert history.timelines[0].tip_txid == 8


def test_a_later_snapshot_covers_what_is_behind_a_missing_segment() -> None:
    builder = build(segments=2)
    builder.snapshot(6000)
    for _segment in range(2):
        builder.commit([(1, page(9))], 2, 7000 + builder.txid)
        builder.seal()
    del builder.objects[segment_key(3)]
    history = history_of(builder.objects)
    assert ranges(history.timelines[0]) == [(0, 2), (4, 6)]
    assert history.timelines[0].ranges[1].first_seen_ms == 6000


def test_a_snapshot_whose_segments_were_deleted_is_restorable_itself() -> None:
    builder = build(segments=2)
    builder.snapshot(6000)
    for seq in (1, 2, 3):
        del builder.objects[segment_key(seq)]
    history = history_of(builder.objects)
    assert kinds(history) == ["missing-start"]
    assert ranges(history.timelines[0]) == [(0, 0), (4, 4)]


def test_a_checksum_that_does_not_continue_breaks_the_chain() -> None:
    mine, other = build(), HistoryBuilder(PAGE)
    other.begin({1: page(1), 2: page(77)}, 1000)
    for _segment in range(4):
        for _transaction in range(2):
            other.commit([(1, page(5))], 2, 2000 + other.txid * 1000)
        other.seal()
    mine.objects[segment_key(4)] = other.objects[segment_key(4)]
    history = history_of(mine.objects)
    assert kinds(history) == ["broken-chain", "broken-chain"]
    assert "checksum" in history.problems[0].message
    assert ranges(history.timelines[0]) == [(0, 4)]


@pytest.mark.parametrize("cut", [10, 100, -1])
def test_a_segment_that_cannot_be_read_is_a_hole(cut: int) -> None:
    builder = build()
    builder.objects[segment_key(3)] = builder.objects[segment_key(3)][:cut]
    history = history_of(builder.objects)
    assert kinds(history) == ["damaged-segment", "broken-chain"]
    assert history.unreadable == (3,)
    assert ranges(history.timelines[0]) == [(0, 2)]


def test_a_segment_of_another_replica_is_not_used() -> None:
    builder = build()
    ends: dict[str, SegmentEnds | Damage] = {
        each.key: SegmentEnds(each.header, each.footer) for each in history_of(builder.objects).timelines[0].segments
    }
    last = ends[segment_key(5)]
    assert isinstance(last, SegmentEnds)
    foreign = msgspec.structs.replace(last.header, seq=6, replica="fedcba9876543210")
    ends[segment_key(6)] = SegmentEnds(foreign, last.footer)
    sizes = {**{key: len(data) for key, data in builder.objects.items()}, segment_key(6): 100}
    history = build_history(sizes, ends, builder.replica)
    assert kinds(history) == ["foreign-segment"]
    assert history.unreadable == (6,)
    assert ranges(history.timelines[0]) == [(0, 8)]


@pytest.mark.parametrize(("seq", "txid_after"), [(5, 3), (1, 1)])
def test_a_segment_whose_ends_contradict_each_other_is_damaged(seq: int, txid_after: int) -> None:
    """It would end before it begins, or open a timeline with transactions."""
    builder = build()
    ends = {
        link.key: SegmentEnds(link.header, link.footer) for link in history_of(builder.objects).timelines[0].segments
    }
    key = segment_key(seq)
    footer = msgspec.structs.replace(ends[key].footer, txid_after=Txid(txid_after))
    ends[key] = SegmentEnds(ends[key].header, footer)
    sizes = {key: len(data) for key, data in builder.objects.items()}
    history = build_history(sizes, ends, builder.replica)
    assert "contradict each other" in next(each.message for each in history.problems if each.kind == "damaged-segment")
    assert history.unreadable == (seq,)


def test_a_range_goes_on_where_a_later_snapshot_leads_further() -> None:
    """Behind a hole in what leads up to a snapshot, it is the snapshot that the range goes on from."""
    builder = build()
    builder.snapshot(11_000)
    builder.commit([(1, page(9))], 2, 12_000)
    builder.seal()
    base, later = history_of(builder.objects).timelines[0].coverages
    shorter = msgspec.structs.replace(base, links=base.links[:-1])
    found = find_ranges([later, shorter])
    assert [(each.first_txid, each.last_txid, each.first_seen_ms, each.last_seen_ms) for each in found] == [
        (0, 9, 1000, 12_000)
    ]


def test_a_segment_under_the_wrong_key_is_damaged() -> None:
    builder = build()
    builder.objects[segment_key(6)] = builder.objects[segment_key(5)]
    history = history_of(builder.objects)
    assert kinds(history) == ["damaged-segment"]
    assert "segment 5" in history.problems[0].message


def test_an_unknown_key_is_reported_and_does_no_harm() -> None:
    builder = build()
    builder.objects["segments/12"] = b""
    builder.objects["notes.txt"] = b"hello"
    history = history_of(builder.objects)
    assert kinds(history) == ["unknown-key", "unknown-key"]
    assert ranges(history.timelines[0]) == [(0, 8)]


def test_a_timeline_without_base_has_no_range() -> None:
    builder = build()
    left = builder.positions[builder.timeline, 8]
    builder.begin({1: page(3)}, 20_000, parent=left, base=False)
    history = history_of(builder.objects)
    first, second = history.timelines
    assert kinds(history) == ["missing-base"]
    assert (second.number, second.reason, second.parent) == (2, "restore", left)
    assert (second.begin_ms, second.begin_seq, second.ranges) == (20_000, 6, ())
    assert ranges(first) == [(0, 8)]


def test_a_parent_that_lost_its_end_is_reported() -> None:
    builder = build()
    left = builder.positions[builder.timeline, 8]
    builder.begin({1: page(3)}, 20_000, parent=left)
    del builder.objects[segment_key(5)]
    history = history_of(builder.objects)
    assert kinds(history) == ["missing-segment", "parent-mismatch"]
    assert "ends at 6" in history.problems[1].message


def test_a_parent_with_another_checksum_is_reported() -> None:
    builder = build()
    left = Position(builder.timeline, Txid(8), Checksum(1))
    builder.begin({1: page(3)}, 20_000, parent=left)
    assert kinds(history_of(builder.objects)) == ["parent-mismatch"]


def test_a_snapshot_that_does_not_meet_a_segment_is_reported() -> None:
    builder = build(segments=2)
    key = builder.snapshot(6000)
    builder.commit([(1, page(9))], 2, 7000)
    builder.seal()
    wrong = msgspec.structs.replace(history_of(builder.objects).timelines[0].snapshots[1].name, seq=2)
    builder.objects[snapshot_key(wrong)] = builder.objects.pop(key)
    history = history_of(builder.objects)
    assert kinds(history) == ["misplaced-snapshot"]
    assert ranges(history.timelines[0]) == [(0, 5)]


def test_segments_whose_ends_were_not_read_are_damaged() -> None:
    history = build_history({segment_key(1): 10}, {}, "r")
    assert kinds(history) == ["damaged-segment"]
    assert history.timelines == ()
