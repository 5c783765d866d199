"""Segments beside the packs that replace them: compaction may leave one there, and it goes with the last such pack."""

from __future__ import annotations

from walrep.core.inventory import Listed, take_inventory
from walrep.core.names import PackName, SnapshotName, pack_key, segment_key, snapshot_key
from walrep.core.retention import RetentionPlan, RetentionPolicy, plan_retention
from walrep.core.stored import SegmentFact
from walrep.core.units import Seq, TimelineId, Txid, make_timeline_id

DAY = 86_400_000
NOW_MS = 100 * DAY
WEEK = RetentionPolicy(window_s=7 * 86_400.0, snapshots_min=0, grace_s=0.0)
OLD, YOUNG = make_timeline_id(1, "a1b2c3d4"), make_timeline_id(2, "a1b2c3d4")


def pack(timeline: TimelineId, first_seq: int, last_seq: int, day: int) -> str:
    return pack_key(
        PackName(
            timeline=timeline,
            first_txid=Txid(first_seq),
            last_txid=Txid(last_seq),
            first_seen_ms=day * DAY,
            last_seen_ms=day * DAY + 1,
            first_seq=Seq(first_seq),
            last_seq=Seq(last_seq),
        )
    )


def base(timeline: TimelineId, day: int) -> str:
    return snapshot_key(SnapshotName(timeline=timeline, txid=Txid(0), seen_ms=day * DAY, seq=Seq(1)))


def listed(*keys: str) -> list[Listed]:
    return [Listed(key=key, size_bytes=10, stored_ms=0) for key in keys]


def plan(*keys: str) -> RetentionPlan:
    """Plan for these, an old timeline's base, and the base and the opening of a young one."""
    opening = SegmentFact(
        key=segment_key(9),
        timeline=YOUNG,
        seq=Seq(9),
        size_bytes=10,
        page_size=512,
        txid_before=Txid(0),
        txid_after=Txid(0),
        checksum_before=1,
        checksum_after=1,
        first_seen_ms=50 * DAY,
        seen_ms=(50 * DAY,) * 2,
        is_opening=True,
    )
    keys = (*keys, base(OLD, 1), base(YOUNG, 50), opening.key)
    return plan_retention(take_inventory(listed(*keys), {opening.key: opening}), WEEK, NOW_MS)


def test_an_inventory_tells_the_packs_that_replace_a_segment() -> None:
    other, within, beyond = segment_key(3, "ffffffffffffffff"), segment_key(4), segment_key(6)
    packs = pack(OLD, 2, 4, 1), pack(OLD, 2, 5, 1)
    holding = take_inventory(listed(other, within, beyond, *packs), {})
    assert holding.beside == {within: packs}
    assert set(holding.others) == {other, within, beyond}


def test_it_goes_with_its_pack() -> None:
    gone, kept = segment_key(4), segment_key(8)
    old, young = pack(OLD, 2, 4, 2), pack(YOUNG, 6, 8, 99)
    found = plan(gone, kept, old, young)
    assert found.deletions == (gone, old, base(OLD, 1))
    reasons = {each.key: each.reason for each in found.verdicts}
    assert reasons[gone] == "the pack that replaces it is deleted"
    assert reasons[kept] == "a pack that is kept replaces it: compaction decides"


def test_it_stays_with_the_last_of_its_packs() -> None:
    """Two packs of one segment, of which the narrower one expired."""
    segment, narrow, wide = segment_key(3), pack(OLD, 2, 3, 2), pack(YOUNG, 3, 8, 99)
    assert plan(segment, narrow, wide).deletions == (narrow, base(OLD, 1))


def test_what_no_pack_replaces_stays() -> None:
    assert segment_key(5) not in plan(segment_key(5), pack(OLD, 2, 4, 2), pack(YOUNG, 6, 8, 99)).deletions
