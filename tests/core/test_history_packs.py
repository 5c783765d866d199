"""What a listing says when packs hold what segments held, beside them or alone."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from walrep.core.history import History, Segment, Timeline
from walrep.core.names import PackName, pack_key, parse_pack_key, segment_key, snapshot_key
from walrep.core.rivals import find_lineages
from walrep.core.units import Seq, TimelineId, Txid
from walrep.testing.history import HistoryBuilder, history_of

PAGE = 512


def page(value: int) -> bytes:
    return bytes([value % 251]) * PAGE


def build(segments: int = 6, nonce: str = "a1b2c3d4e5f60718") -> HistoryBuilder:
    """A base and segments 2 to `segments` + 1 of two transactions, a second apart."""
    builder = HistoryBuilder(PAGE, nonce=nonce)
    builder.begin({1: page(1), 2: page(2)}, 1000)
    add(builder, segments)
    return builder


def add(builder: HistoryBuilder, segments: int) -> None:
    for _segment in range(segments):
        for _transaction in range(2):
            builder.commit([(1, page(builder.txid))], 2, 2000 + builder.txid * 1000)
        builder.seal()


def kinds(history: History) -> list[str]:
    return [problem.kind for problem in history.problems]


def ranges(timeline: Timeline) -> list[tuple[int, int]]:
    return [(each.first_txid, each.last_txid) for each in timeline.ranges]


def chain(timeline: Timeline) -> list[tuple[str, int, int]]:
    """The links that count: what each is, and the transactions around it."""
    return [
        ("s" if isinstance(link, Segment) else "p", link.header.txid_before, link.footer.txid_after)
        for link in timeline.chain
    ]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_a_pack_stands_for_its_segments_whether_they_are_there_or_not(keep: bool, skip: bool) -> None:  # noqa: FBT001
    builder = build()
    keys = builder.packable()
    pack = builder.pack(keys[1:4], keep=keep)
    history = history_of(builder.objects, builder.replica, skip_replaced=skip)
    (timeline,) = history.timelines
    assert kinds(history) == []
    assert chain(timeline) == [("s", 0, 0), ("s", 0, 2), ("p", 2, 8), ("s", 8, 10), ("s", 10, 12)]
    assert ranges(timeline) == [(0, 12)]
    assert timeline.tip_txid == 12
    assert [each.key for each in timeline.packs] == [pack]
    assert sorted(each.key for each in timeline.spares) == (keys[1:4] if keep else [])
    assert {each.replaced_by for each in timeline.spares} == ({pack} if keep else set())
    assert len(timeline.segments) == (7 if keep and not skip else 4)
    assert history.object_count == len(builder.objects)


def test_a_day_pack_stands_for_packs_and_segments_that_are_there_still() -> None:
    builder = build()
    keys = builder.packable()
    first, second = builder.pack(keys[:2], keep=True), builder.pack(keys[2:4], keep=True)
    day = builder.pack([first, second], keep=True)
    history = history_of(builder.objects)
    (timeline,) = history.timelines
    assert kinds(history) == []
    assert chain(timeline) == [("s", 0, 0), ("p", 0, 8), ("s", 8, 10), ("s", 10, 12)]
    assert {each.key: each.replaced_by for each in timeline.spares} == dict.fromkeys([*keys[:4], first, second], day)


@pytest.mark.parametrize("keep", [False, True])
def test_a_damaged_pack_is_told_and_what_it_replaced_is_used(keep: bool) -> None:  # noqa: FBT001
    builder = build()
    pack = builder.pack(builder.packable()[1:4], keep=keep)
    builder.objects[pack] = builder.objects[pack][:-1]
    history = history_of(builder.objects, skip_replaced=True)
    (timeline,) = history.timelines
    assert kinds(history) == (["damaged-pack"] if keep else ["damaged-pack", "broken-chain"])
    assert pack in history.problems[0].message
    assert history.problems[0].timeline == builder.timeline
    assert ranges(timeline) == ([(0, 12)] if keep else [(0, 2)])
    assert timeline.tip_txid == 12


def test_a_damaged_pack_at_the_end_still_says_how_far_the_timeline_went() -> None:
    builder = build()
    pack = builder.pack(builder.packable()[3:])
    builder.objects[pack] = b""
    (timeline,) = history_of(builder.objects).timelines
    assert (timeline.tip_txid, timeline.readable_txid) == (12, 6)
    assert ranges(timeline) == [(0, 6)]


def test_a_timeline_of_which_only_a_damaged_pack_is_left_is_still_one() -> None:
    builder = build()
    pack = builder.pack(builder.packable())
    builder.objects = {pack: b"x"}
    history = history_of(builder.objects)
    (timeline,) = history.timelines
    assert kinds(history) == ["damaged-pack", "missing-start", "missing-base"]
    assert (timeline.begin_ms, timeline.tip_txid, timeline.ranges) == (2000, 12, ())


@pytest.mark.parametrize("change", ["first_seq", "last_seq", "last_seen_ms", "first_txid", "timeline"])
def test_a_pack_under_another_name_than_its_own_is_damaged(change: str) -> None:
    builder = build()
    pack = builder.pack(builder.packable()[1:4], keep=True)
    name = parse_pack_key(pack)
    assert name is not None
    other = TimelineId("00002-a1b2c3d4") if change == "timeline" else getattr(name, change) - 1
    builder.objects[renamed(name, **{change: other})] = builder.objects.pop(pack)
    history = history_of(builder.objects)
    assert kinds(history)[0] == "damaged-pack"
    assert ranges(history.timelines[0]) == [(0, 12)]


def renamed(name: PackName, **changes: object) -> str:
    return pack_key(msgspec.structs.replace(name, **changes))


def test_a_pack_of_another_replica_is_not_used() -> None:
    builder, other = build(), HistoryBuilder(PAGE, replica="fedcba9876543210")
    other.begin({1: page(1), 2: page(2)}, 1000)
    add(other, 6)
    pack = other.pack(other.packable()[1:4])
    builder.objects[pack] = other.objects[pack]
    history = history_of(builder.objects, builder.replica)
    assert kinds(history) == ["foreign-pack"]
    assert ranges(history.timelines[0]) == [(0, 12)]


def test_a_pack_that_does_not_fit_gives_way_to_segments_that_do() -> None:
    """Right in itself, but not the continuation: its checksums are of another history with the same numbers."""
    builder, other = build(), HistoryBuilder(PAGE)
    other.begin({1: page(1), 2: page(77)}, 1000)
    add(other, 6)
    pack = other.pack(other.packable()[1:4])
    builder.objects[pack] = other.objects[pack]
    history = history_of(builder.objects)
    assert kinds(history) == ["unused-object"]
    assert pack in history.problems[0].message
    assert ranges(history.timelines[0]) == [(0, 12)]
    assert all(kind == "s" for kind, _before, _after in chain(history.timelines[0]))


def test_packs_that_overlap_are_used_where_they_lead_furthest() -> None:
    builder = build()
    keys = builder.packable()
    packs = [builder.pack(keys[first:last], keep=True) for first, last in ((0, 4), (2, 6), (0, 2))]
    history = history_of(builder.objects)
    (timeline,) = history.timelines
    assert chain(timeline) == [("s", 0, 0), ("p", 0, 8), ("s", 8, 10), ("s", 10, 12)]
    assert [(each.kind, packs[1] in each.message) for each in history.problems] == [("unused-object", True)]
    for key in keys[4:]:
        del builder.objects[key]
    history = history_of(builder.objects)
    (timeline,) = history.timelines
    assert chain(timeline) == [("s", 0, 0), ("p", 0, 4), ("p", 4, 12)]
    assert ranges(timeline) == [(0, 12)]
    assert [(each.kind, packs[0] in each.message) for each in history.problems] == [("unused-object", True)]


def test_numbers_that_a_pack_holds_are_not_missing() -> None:
    builder = build()
    keys = builder.packable()
    builder.pack(keys[1:4])
    del builder.objects[keys[5]]
    add(builder, 1)
    history = history_of(builder.objects)
    assert [each.message for each in history.problems if each.kind == "missing-segment"] == ["segment 7 is missing"]
    del builder.objects[keys[4]]
    history = history_of(builder.objects)
    messages = [each.message for each in history.problems if each.kind == "missing-segment"]
    assert messages == ["segments 6 to 7 are missing"]


def test_a_hole_behind_a_pack_ends_the_run_and_a_pack_behind_the_hole_is_there() -> None:
    builder = build()
    keys = builder.packable()
    builder.pack(keys[0:2])
    builder.pack(keys[3:5])
    del builder.objects[keys[2]]
    history = history_of(builder.objects)
    (timeline,) = history.timelines
    assert kinds(history) == ["missing-segment", "broken-chain"]
    assert chain(timeline) == [("s", 0, 0), ("p", 0, 4), ("p", 6, 10), ("s", 10, 12)]
    assert ranges(timeline) == [(0, 4)]


def test_a_snapshot_inside_a_pack_covers_what_follows() -> None:
    builder = build(3)
    key = builder.snapshot(7500)
    add(builder, 3)
    builder.pack(builder.packable())
    del builder.objects[min(each for each in builder.objects if each.startswith("snapshots/"))]
    history = history_of(builder.objects)
    (timeline,) = history.timelines
    assert kinds(history) == []
    (coverage,) = timeline.coverages
    assert coverage.snapshot.key == key
    assert ranges(timeline) == [(6, 12)]
    assert [link.header.txid_before for link in coverage.links] == [0]


def test_a_snapshot_whose_number_is_inside_a_pack_and_whose_transaction_is_not_is_reported() -> None:
    builder = build(3)
    key = builder.snapshot(7500)
    add(builder, 3)
    builder.pack(builder.packable()[:3])
    (timeline,) = history_of(builder.objects).timelines
    wrong = msgspec.structs.replace(timeline.snapshots[1].name, seq=Seq(2))
    builder.objects[snapshot_key(wrong)] = builder.objects.pop(key)
    history = history_of(builder.objects)
    assert kinds(history) == ["misplaced-snapshot"]


def test_lineages_are_told_by_packs_alone() -> None:
    """On a store without create-only PUT two writers wrote at once, and most of what they wrote was packed since."""
    first, second = build(6), build(0, nonce="ffffffff00000000")
    second.seq = 3
    second.objects.clear()
    timeline = second.begin({1: page(9), 2: page(9)}, 9000)
    add(second, 4)
    first.pack(first.packable())
    second.pack(second.packable())
    objects = {**first.objects, **{key: data for key, data in second.objects.items() if key != segment_key(4)}}
    history = history_of(objects)
    one, two = history.lineages
    assert (one.nonce, one.first_seq, one.last_seq, one.timelines) == ("a1b2c3d4", 1, 7, (first.timeline,))
    assert (two.nonce, two.first_seq, two.last_seq, two.timelines) == ("ffffffff", 5, 8, (timeline,))
    assert (one.host, two.host) == ("test", "an unknown host")
    assert "rival-writers" in kinds(history)


def test_a_pack_belongs_to_who_wrote_its_segments_not_to_who_packed_them() -> None:
    builder = build()
    segments = history_of(builder.objects).timelines[0].segments
    headers = [each.header for each in segments]
    name = parse_pack_key(builder.pack(builder.packable()))
    assert name is not None
    (lineage,) = find_lineages(headers[:1], [name])
    assert lineage == find_lineages(headers)[0]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_packs_are_there_every_transaction_is_in_the_chain_once(data: st.DataObject) -> None:
    builder = build(8)
    parts = builder.packable()
    for _round in range(data.draw(st.integers(0, 5))):
        first = data.draw(st.integers(0, len(parts) - 1))
        last = data.draw(st.integers(first + 1, len(parts)))
        key = builder.pack(parts[first:last], keep=True)
        parts[first:last] = [key]
    # What a part of the chain replaces may be gone, in any order.
    spares = sorted(key for key in builder.objects if key not in parts and ("segments" in key or "packs" in key))
    for key in data.draw(st.lists(st.sampled_from(spares), unique=True)) if spares else []:
        if key != segment_key(1):
            del builder.objects[key]
    history = history_of(builder.objects, skip_replaced=data.draw(st.booleans()))
    (timeline,) = history.timelines
    assert kinds(history) == []
    assert [link.key for link in timeline.chain if link.transaction_count] == parts
    assert ranges(timeline) == [(0, 16)]
    found = {each.key for each in timeline.spares} | {link.key for link in timeline.chain}
    assert found == {key for key in builder.objects if key.startswith(("segments/", "packs/"))}
    assert timeline.tip_txid == Txid(16)
