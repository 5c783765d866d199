"""What restoring takes from packs: the same transactions as from segments, and of a pack only what is needed."""

from __future__ import annotations

from copy import copy as shallow_copy
from random import Random

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from tests.core.test_restore_plan import NOW_MS, PAGE, add, build, page, plan, steady
from walrep.core.history import Pack
from walrep.core.records import Known, Needs
from walrep.core.restore import RestorePlan, plan_restore
from walrep.core.slices import PART_BYTES, Slice
from walrep.core.target import AtBookmark, AtTime, AtTxid, Latest, Target
from walrep.core.units import Txid
from walrep.errors import TargetNotFound, WalrepError
from walrep.testing.history import HistoryBuilder, history_of, known_of

LARGE = 600
"""Frames of a transaction of several chunks."""


def packed() -> HistoryBuilder:
    """Segments of 2, 1, 1 (of several chunks) and 2 transactions in one pack, and one of 2 behind it."""
    builder = build(steady(11_000, 12_000), steady(13_000))
    dice = Random(3)
    builder.commit([(1, dice.randbytes(PAGE)) for _ in range(LARGE)], 2, 14_000)
    builder.seal()
    add(builder, steady(15_000, 16_000), steady(17_000, 18_000))
    builder.pack(builder.packable()[:4])
    return builder


def rounds(builder: HistoryBuilder, target: Target) -> tuple[list[Needs], RestorePlan]:
    """Return everything that a plan asks for, and the plan."""
    history, known, asked = history_of(builder.objects), Known(), list[Needs]()
    while True:
        step = plan_restore(history, known, target, timeline=None, nearest_before=False, now_ms=NOW_MS)
        if isinstance(step, RestorePlan):
            return asked, step
        asked.append(step)
        known = known_of(builder.objects, step, known)


def kinds(slices: tuple[Slice, ...]) -> list[str]:
    return [
        ("pack" if isinstance(each.link, Pack) else "segment") + (" part" if each.index is not None else "")
        for each in slices
    ]


@pytest.mark.parametrize("txid", range(9))
def test_every_transaction_of_a_pack_is_planned_with_its_position(txid: int) -> None:
    builder = packed()
    found = plan(builder, AtTxid(Txid(txid)))
    assert found.position == builder.positions[builder.timeline, txid]
    assert found.seen_ms == 10_000 + 1000 * txid
    whole = {0: [], 6: ["pack"], 7: ["pack", "segment"], 8: ["pack", "segment"]}
    assert kinds(found.slices) == whole.get(txid, ["pack part"])
    assert plan(builder, AtTime(found.seen_ms + 500)).position == found.position
    assert plan(builder, AtBookmark(found.position)).position == found.position


def test_inside_a_pack_its_index_is_read_and_then_at_most_one_chunk() -> None:
    builder = packed()
    for txid, chunk in ((1, 0), (2, None), (3, None), (4, None), (5, 12), (6, None)):
        asked, found = rounds(builder, AtTxid(Txid(txid)))
        assert [len(each.packs) for each in asked] == ([1, 0] if chunk is not None else [1] if txid < 6 else [])
        assert [each.number for needs in asked for each in needs.chunks] == ([chunk] if chunk is not None else [])
        assert found.position.txid == txid
    for ms, chunks in ((11_500, [0]), (12_500, []), (13_500, []), (14_500, []), (15_500, [12]), (16_500, [])):
        asked, _found = rounds(builder, AtTime(ms))
        assert [each.number for needs in asked for each in needs.chunks] == chunks
        assert asked == [] if ms == 16_500 else len(asked[0].packs) == 1
    assert rounds(builder, Latest())[0] == []


def test_of_a_pack_only_the_chunks_up_to_the_transaction_are_downloaded() -> None:
    builder = packed()
    (pack,) = (data for key, data in builder.objects.items() if key.startswith("packs/"))
    lengths = []
    for txid in range(1, 6):
        found = plan(builder, AtTxid(Txid(txid)))
        (part,) = found.slices
        assert part.index is not None
        assert part.rows == range(part.rows.stop)
        first = part.index.row(0)
        assert part.start == first.offset
        last = part.index.row(part.rows.stop - 1)
        assert part.start + part.length == last.offset + last.block_bytes
        assert last.txid_after >= txid > last.txid_before
        lengths.append(part.length)
        # The chunk in which the transaction is not the last was read for the plan, and is kept.
        kept = last.block_bytes if last.txid_after > txid else 0
        assert part.kept_from == (last.offset if kept else None)
        assert found.download_bytes == found.snapshot.size_bytes + part.length - kept
        assert found.requests == 1 + (part.length > kept)
        assert sum(length for _start, length in part.parts()) == part.length == part.size_bytes
    assert lengths == sorted(lengths)
    assert lengths[0] < len(pack) // 4
    whole = plan(builder, AtTxid(Txid(6)))
    assert [(each.start, each.length, each.index) for each in whole.slices] == [(0, len(pack), None)]
    assert (whole.requests, whole.download_bytes) == (2, whole.snapshot.size_bytes + len(pack))
    assert "6 transactions in 1 pack" in whole.reasons[-1]


def test_what_was_read_with_the_end_of_a_pack_is_not_asked_for_again() -> None:
    builder = build(*[steady(10_000 + 1000 * n) for n in range(1, 9)])
    builder.pack(builder.packable())
    for target in (AtTxid(Txid(3)), Latest()):
        found = plan(builder, target)
        assert (found.requests, found.download_bytes) == (1, found.snapshot.size_bytes)


def test_a_large_slice_comes_in_parts_and_what_was_read_is_one_of_its_own() -> None:
    found = plan(packed(), AtTxid(Txid(5))).slices[0]
    part = Slice(
        link=msgspec.structs.replace(found.link, size_bytes=3 * PART_BYTES),
        start=100,
        length=2 * PART_BYTES,
        index=found.index,
        rows=found.rows,
        kept_from=PART_BYTES + 107,
    )
    end = 100 + 2 * PART_BYTES
    assert part.parts() == [(100, PART_BYTES), (PART_BYTES + 100, 7), (PART_BYTES + 107, end - PART_BYTES - 107)]
    assert part.parts_to_get() == part.parts()[:2]


def with_snapshot_inside(*, at: int = 2) -> HistoryBuilder:
    """A snapshot after transaction `at` of 6, two of them in each segment, all in one pack."""
    builder = build()
    for txid in range(1, 7):
        builder.commit([(1, page(txid))], 2, 10_000 + 1000 * txid)
        if txid % 2 == 0:
            builder.seal()
        if txid == at:
            builder.snapshot(10_000 + 1000 * txid)
    builder.pack(builder.packable())
    return builder


def test_from_a_snapshot_inside_a_pack_only_what_follows_is_needed() -> None:
    builder = with_snapshot_inside()
    for txid in (3, 4, 5, 6):
        found = plan(builder, AtTxid(Txid(txid)))
        assert found.snapshot.name.txid == 2
        (part,) = found.slices
        assert part.index is not None
        assert part.rows == range(1, 2 if txid < 5 else 3)
        assert part.state_before[:2] == (2, builder.positions[builder.timeline, 2].checksum)
        assert found.position == builder.positions[builder.timeline, txid]
    at_snapshot = plan(builder, AtTxid(Txid(2)))
    assert (at_snapshot.snapshot.name.txid, at_snapshot.slices) == (2, ())
    assert at_snapshot.position == builder.positions[builder.timeline, 2]
    assert plan(builder, AtTxid(Txid(1))).snapshot.name.txid == 0


def misplaced() -> HistoryBuilder:
    """As `with_snapshot_inside`, but the snapshot was taken after transaction 1, in the middle of a chunk."""
    builder, other = with_snapshot_inside(at=0), build()
    other.commit([(1, page(1))], 2, 11_000)
    other.seal()
    key = other.snapshot(11_000)
    builder.objects[key] = other.objects[key]
    return builder


def test_a_snapshot_within_a_chunk_is_not_built_on_and_that_is_said() -> None:
    builder = misplaced()
    found = plan(builder, AtTxid(Txid(4)))
    assert found.snapshot.name.txid == 0
    assert found.position == builder.positions[builder.timeline, 4]
    (notice,) = found.notices
    assert "within a chunk" in notice
    # Its own position is restorable, whatever follows.
    at_snapshot = plan(builder, AtTxid(Txid(1)))
    assert (at_snapshot.snapshot.name.txid, at_snapshot.slices) == (1, ())
    assert at_snapshot.position == builder.positions[builder.timeline, 1]


def test_without_another_snapshot_one_within_a_chunk_is_refused() -> None:
    builder = misplaced()
    del builder.objects[min(key for key in builder.objects if key.startswith("snapshots/"))]
    for txid in (2, 4, 6):
        with pytest.raises(TargetNotFound, match=f"transaction {txid} ") as caught:
            plan(builder, AtTxid(Txid(txid)))
        assert "within a chunk" in caught.value.detail
    assert plan(builder, AtTxid(Txid(1))).slices == ()


def test_latest_is_never_older_data_because_the_last_pack_is_damaged() -> None:
    builder = build(steady(11_000, 12_000), steady(13_000), steady(14_000))
    key = builder.pack(builder.packable()[1:])
    builder.objects[key] = builder.objects[key][:-1]
    for target in (Latest(), AtTime(12_000), AtTime(13_000), AtTime(99_000), AtTxid(Txid(3))):
        for nearest_before in (False, True):
            with pytest.raises(TargetNotFound) as caught:
                plan(builder, target, nearest_before=nearest_before)
            assert "--txid 2" in caught.value.hint or key in caught.value.hint
    assert plan(builder, AtTime(11_500)).position.txid == 1
    assert plan(builder, AtTxid(Txid(2))).position.txid == 2


def test_a_pack_that_is_gone_is_a_hole() -> None:
    builder = build(steady(11_000), steady(12_000), steady(13_000), steady(14_000))
    keys = builder.packable()
    key = builder.pack(keys[1:3])
    del builder.objects[key]
    with pytest.raises(TargetNotFound):
        plan(builder, Latest())
    with pytest.raises(TargetNotFound):
        plan(builder, AtTime(12_500))
    assert plan(builder, AtTxid(Txid(1))).position.txid == 1


def test_a_time_between_two_timelines_whose_segments_are_all_packed() -> None:
    builder = build(steady(11_000, 12_000), steady(13_000))
    first = builder.timeline
    second = builder.begin({1: page(7)}, 14_000, parent=builder.positions[first, 3])
    add(builder, steady(15_000, 16_000), steady(17_000))
    for timeline in (first, second):
        builder.pack(builder.packable(timeline))
    for ms, timeline, txid in ((12_500, first, 2), (13_999, first, 3), (14_500, second, 0), (16_200, second, 2)):
        assert plan(builder, AtTime(ms)).position == builder.positions[timeline, txid]


SEGMENTS = st.lists(
    st.lists(st.tuples(st.integers(10_001, 30_000), st.integers(0, 4000)), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)


def outcome(builder: HistoryBuilder, target: Target) -> object:
    """Return the position that is planned, or what was refused."""
    try:
        found = plan(builder, target)
    except WalrepError as error:
        return type(error), error.message
    return found.position, found.seen_ms, found.page_count


@given(SEGMENTS, st.data())
@settings(deadline=None, max_examples=200)
def test_packs_change_nothing_about_what_a_target_means(
    segments: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    """However the clock stepped, wherever snapshots stand; packs beside what they hold, and packs of packs."""
    stretches = [[(seen, seen - gap) for seen, gap in segment] for segment in segments]
    plain = build()
    for stretch in stretches:
        add(plain, stretch)
        if data.draw(st.booleans()):
            plain.snapshot(stretch[-1][0])
    snapshots = sorted(key for key in plain.objects if key.startswith("snapshots/"))
    if len(snapshots) > 1 and data.draw(st.booleans()):
        del plain.objects[snapshots[0]]
    builder = copy(plain)
    parts = builder.packable()
    for _round in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, len(parts) - 1))
        last = data.draw(st.integers(first + 1, len(parts)))
        parts[first:last] = [builder.pack(parts[first:last], keep=data.draw(st.booleans()))]
    times = st.integers(9_000, 31_000) | st.sampled_from([seen for stretch in stretches for seen, _looked in stretch])
    for _target in range(5):
        target = AtTime(data.draw(times))
        assert outcome(builder, target) == outcome(plain, target)
    for txid in range(plain.txid + 2):
        assert outcome(builder, AtTxid(Txid(txid))) == outcome(plain, AtTxid(Txid(txid)))
    assert outcome(builder, Latest()) == outcome(plain, Latest())


def copy(builder: HistoryBuilder) -> HistoryBuilder:
    """Return a builder that can pack without changing the other one's objects."""
    other = shallow_copy(builder)
    other.objects = dict(builder.objects)
    return other
