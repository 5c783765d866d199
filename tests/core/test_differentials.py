"""Differential snapshots by their keys: in a history, in the plan of a restore, and in what retention keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.core.test_names import NUMBERS, TIMELINES, TIMES
from walrep.core.holding import Holding
from walrep.core.inventory import Listed, take_inventory
from walrep.core.names import FullName, SnapshotName, parse_snapshot_key, snapshot_key
from walrep.core.pages import PageHashes
from walrep.core.records import Known
from walrep.core.restore import RestorePlan, plan_restore
from walrep.core.retention import RetentionPlan, RetentionPolicy, plan_retention
from walrep.core.target import AtTxid
from walrep.core.units import Seq, Txid, make_timeline_id, timeline_number
from walrep.errors import InvariantViolated
from walrep.store.keys import check_key
from walrep.testing.history import HistoryBuilder, history_of, known_of

PAGE = 512
DAY = 86_400_000
KEY = "snapshots/00001-5f3a9c21/0000000000000012-20261121T093000123Z-0000000000000007-diff-00001-5f3a9c21-{:016}"


@st.composite
def differential_names(draw: st.DrawFn) -> SnapshotName:
    full, txid = sorted(draw(st.sets(NUMBERS, min_size=2, max_size=2)))
    timeline = draw(TIMELINES)
    under = FullName(timeline, Txid(full))
    if draw(st.booleans()) and timeline_number(timeline):
        number = draw(st.integers(0, timeline_number(timeline) - 1))
        under = FullName(
            make_timeline_id(number, draw(st.text("0123456789abcdef", min_size=16, max_size=16))), Txid(draw(NUMBERS))
        )
    return SnapshotName(timeline=timeline, txid=Txid(txid), seen_ms=draw(TIMES), seq=Seq(draw(NUMBERS)), full=under)


@given(differential_names())
def test_a_key_that_is_built_is_parsed(name: SnapshotName) -> None:
    key = snapshot_key(name)
    check_key(key)
    assert parse_snapshot_key(key) == name


@pytest.mark.parametrize("full", [12, 13, 10**16 - 1])
def test_one_that_leans_on_itself_or_on_a_later_one_is_no_key(full: int) -> None:
    assert parse_snapshot_key(KEY.format(11)) is not None
    assert parse_snapshot_key(KEY.format(full)) is None


@pytest.mark.parametrize(
    "key", [KEY.format(11)[:-1], KEY.format(11) + "0", KEY.format(11)[:-17], KEY.format(11).replace("-diff-", "-full-")]
)
def test_junk_is_no_key(key: str) -> None:
    assert parse_snapshot_key(key) is None


def build() -> HistoryBuilder:
    """A base at 0, a transaction a day; differential snapshots on the base at 2 and 4, full at 6, differential at 8."""
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: bytes([pgno]) * PAGE for pgno in range(1, 20)}, 1000)
    for txid in range(1, 10):
        builder.commit([(txid, bytes([100 + txid]) * PAGE)], 19, txid * DAY)
        builder.seal()
        if txid in (2, 4, 6, 8):
            builder.snapshot(txid * DAY + 10, full_txid={2: 0, 4: 0, 6: None, 8: 6}[txid])
    return builder


def key_of(builder: HistoryBuilder, txid: int) -> str:
    (key,) = [key for key in builder.objects if key.startswith(f"snapshots/{builder.timeline}/{txid:016}-")]
    return key


def plan(builder: HistoryBuilder, txid: int) -> RestorePlan:
    history, known = history_of(builder.objects), Known()
    while True:
        step = plan_restore(history, known, AtTxid(Txid(txid)), timeline=None, nearest_before=False, now_ms=1000 * DAY)
        if isinstance(step, RestorePlan):
            return step
        known = known_of(builder.objects, step, known)


@pytest.mark.parametrize(("txid", "snapshots"), [(1, [0]), (3, [0, 2]), (5, [0, 4]), (6, [6]), (9, [6, 8])])
def test_a_restore_takes_the_newest_and_the_full_one_under_it(txid: int, snapshots: list[int]) -> None:
    builder = build()
    found = plan(builder, txid)
    assert [each.name.txid for each in found.snapshots] == snapshots
    assert (found.under is None) == (len(snapshots) == 1)
    sizes = [len(builder.objects[key_of(builder, each)]) for each in snapshots]
    assert (found.requests, found.download_bytes) == (len(snapshots), sum(sizes))
    leans = found.under is not None and f"leans on that of transaction {snapshots[0]}" in found.reasons[-1]
    assert leans == (len(snapshots) == 2)


def test_one_whose_full_one_is_missing_is_reported_and_not_used() -> None:
    builder = build()
    del builder.objects[key_of(builder, 6)]
    history = history_of(builder.objects)
    (problem,) = history.problems
    assert (problem.kind, problem.timeline) == ("orphan-snapshot", builder.timeline)
    assert key_of(builder, 8) in problem.message
    assert plan(builder, 9).snapshot.name.txid == 4


def test_what_an_orphan_alone_would_reach_is_not_restorable() -> None:
    """The transactions before it are gone: that it is there makes nothing restorable, and is not forgotten either."""
    builder = build()
    for key in [*builder.packable(), *(key_of(builder, txid) for txid in (2, 4, 6))]:
        del builder.objects[key]
    (timeline,) = history_of(builder.objects).timelines
    assert [(each.first_txid, each.last_txid) for each in timeline.ranges] == [(0, 0)]
    assert (timeline.tip_txid, timeline.readable_txid) == (8, 8)


def holding_of(builder: HistoryBuilder) -> Holding:
    listed = [Listed(key=key, size_bytes=len(data), stored_ms=0) for key, data in builder.objects.items()]
    return take_inventory(listed, {})


def test_an_inventory_tells_what_leans_on_what() -> None:
    builder = build()
    del builder.objects[key_of(builder, 6)]
    found = {each.txid: (each.kind, each.base_key) for each in holding_of(builder).snapshots}
    base = key_of(builder, 0)
    assert found == {
        0: ("full", ""),
        2: ("differential", base),
        4: ("differential", base),
        8: ("differential", ""),
    }


def retain(builder: HistoryBuilder, now_day: float) -> RetentionPlan:
    """Keep a day."""
    policy = RetentionPolicy(window_s=DAY / 1000, grace_s=0.0, snapshots_min=0)
    return plan_retention(holding_of(builder), policy, round(now_day * DAY))


def test_the_full_one_under_a_differential_one_that_is_kept_stays() -> None:
    """Whatever its own age."""
    builder = build()
    kept = {each.key for each in retain(builder, 4.5).verdicts if each.keep}
    assert {key_of(builder, txid) for txid in (0, 4, 6, 8)} <= kept
    assert key_of(builder, 2) not in kept
    kept = {each.key for each in retain(builder, 100).verdicts if each.keep}
    assert {key for key in kept if key.startswith("snapshots/")} == {key_of(builder, 6), key_of(builder, 8)}


def test_what_leans_on_a_full_one_is_deleted_before_it() -> None:
    """So that a run that is cut short leaves no orphan."""
    builder = build()
    deletions = [key for key in retain(builder, 100).deletions if key.startswith("snapshots/")]
    assert set(deletions) == {key_of(builder, txid) for txid in (0, 2, 4)}
    assert deletions[-1] == key_of(builder, 0)


def hashes_of(*slots: int) -> PageHashes:
    return PageHashes.from_bytes(np.array([0, *slots], np.uint64).tobytes())


def test_pages_that_differ_are_told_with_their_hashes() -> None:
    hashes = hashes_of(5, 6, 0, 8)
    pgnos, values = hashes.differing(np.array([0, 5, 7, 3, 8], np.uint64))
    assert (pgnos.tolist(), values.tolist()) == ([2, 3], [6, 0])
    # Nothing that was returned keeps the array from growing.
    hashes.set(1000, 1)
    assert pgnos.tolist() == [2, 3]


def test_arrays_of_databases_of_different_sizes_are_not_compared() -> None:
    with pytest.raises(InvariantViolated):
        hashes_of(5, 6).differing(np.zeros(2, np.uint64))
