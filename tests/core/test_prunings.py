"""What a record tells of what is gone, together with others, and after a run that was interrupted."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, strategies as st

from tests.core.test_retention import WEEK, A, day, full, log, opening
from walrep.core.holding import Holding, Log, Snapshot
from walrep.core.objects import Writer
from walrep.core.prunings import (
    Gone,
    PruneRecord,
    decode_record,
    encode_record,
    is_anything_leaving,
    join_records,
    merge_ranges,
    next_record,
)
from walrep.core.retention import plan_retention
from walrep.core.units import Seq, SeqRange
from walrep.errors import CorruptObject

ME = Writer(nonce="0123456789abcdef", host="here", pid=3)
RANGES = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda pair: (Seq(pair[0]), Seq(pair[0] + pair[1])))
)


def numbers(ranges: tuple[SeqRange, ...] | list[SeqRange]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


def record(*gone: tuple[int, int], **fields: object) -> PruneRecord:
    made = PruneRecord(
        format=1,
        pruned_ms=day(100),
        expired_ms=day(93),
        by=ME,
        counts=(4,),
        gone=tuple((Seq(first), Seq(last)) for first, last in gone),
    )
    return msgspec.structs.replace(made, **fields)


def numbered(logs: list[Log], snapshots: list[Snapshot]) -> Holding:
    return Holding(logs=logs, snapshots=snapshots)


def old_and_new() -> Holding:
    """Numbers 1 to 20 are old, 21 to 30 young, and a snapshot stands between; the opening has number 1, too."""
    return numbered(
        [opening(0), log(2, 10, (1, 2)), log(11, 20, (2, 3)), log(21, 30, (94, 95))], [full(1, 0), full(20, 3)]
    )


@given(RANGES)
def test_merged_ranges_hold_the_same_numbers_and_leave_gaps_between_them(ranges: list[SeqRange]) -> None:
    merged = merge_ranges(ranges)
    assert numbers(merged) == numbers(ranges)
    ends = [each for pair in merged for each in pair]
    assert ends == sorted(ends)
    assert all(after[0] > before[1] + 1 for before, after in pairwise(merged))


@given(RANGES, st.integers(0, 70), st.integers(0, 70))
def test_what_is_gone_is_told_by_numbers(ranges: list[SeqRange], one: int, two: int) -> None:
    gone = Gone(record(*merge_ranges(ranges)))
    first, last = sorted((one, two))
    assert gone.between(first, last) == bool(numbers(ranges) & set(range(first + 1, last)))
    assert gone.holds(first, last) == (set(range(first, last + 1)) <= numbers(ranges))


def test_a_record_tells_what_the_plan_deletes_and_what_was_gone_before() -> None:
    holding = old_and_new()
    plan = plan_retention(holding, WEEK, day(100))
    assert set(plan.deletions) == {"1/log/2-10", "1/log/11-20", "1/full/1"}
    made = next_record(record((40, 50), counts=(1, 2)), holding, plan, now_ms=day(100), by=ME)
    assert made == record((2, 20), (40, 50), counts=(1, 2, 3), snapshots=("1/full/1",))
    assert next_record(None, holding, plan, now_ms=day(100), by=ME).counts == (3,)


def test_the_counts_of_seven_runs_are_kept() -> None:
    holding = old_and_new()
    plan = plan_retention(holding, WEEK, day(100))
    made = next_record(record(counts=(1, 2, 3, 4, 5, 6, 7)), holding, plan, now_ms=day(100), by=ME)
    assert made.counts == (2, 3, 4, 5, 6, 7, 3)


@pytest.mark.parametrize(("before", "after"), [((9, 50), (9, 50)), ((9, 1), (9, 3))])
def test_a_run_that_was_interrupted_counts_once(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    holding = old_and_new()
    plan = plan_retention(holding, WEEK, day(100))
    last = record((2, 20), counts=before)
    assert is_anything_leaving(last, holding)
    assert next_record(last, holding, plan, now_ms=day(100), by=ME).counts == after


def test_what_is_there_and_stays_is_not_gone() -> None:
    """A run was announced and never done, and then somebody wanted more to stay."""
    holding = old_and_new()
    plan = plan_retention(holding, WEEK, day(5))
    assert not plan.deletions
    last = record((2, 20), (31, 35), snapshots=("1/full/1",))
    assert is_anything_leaving(last, holding)
    made = next_record(last, holding, plan, now_ms=day(5), by=ME)
    assert (made.gone, made.snapshots) == (((31, 35),), ())
    assert not is_anything_leaving(made, holding)


def test_a_number_that_a_kept_pack_holds_is_not_gone_with_the_segment() -> None:
    """The newest state needs the pack, from the snapshot in the middle of it on."""
    holding = numbered([opening(0), log(2, 10, (1, 2)), log(2, 30, (1, 3), key="1/pack")], [full(1, 0), full(20, 3)])
    plan = plan_retention(holding, WEEK, day(100))
    assert "1/log/2-10" in plan.deletions
    assert "1/pack" not in plan.deletions
    assert next_record(None, holding, plan, now_ms=day(100), by=ME).gone == ()


@given(RANGES, st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)), max_size=4))
def test_gone_is_what_was_gone_without_what_is_kept(ranges: list[SeqRange], kept: list[tuple[int, int]]) -> None:
    logs = [
        msgspec.structs.replace(log(1, 1, (99, 99), key=f"log/{index}"), first_seq=first, last_seq=first + more)
        for index, (first, more) in enumerate(kept)
    ]
    holding = Holding(logs=logs, snapshots=[])
    plan = plan_retention(holding, WEEK, day(100))
    assert not plan.deletions
    made = next_record(record(*merge_ranges(ranges)), holding, plan, now_ms=day(100), by=ME)
    there = {number for each in logs for number in range(each.first_seq, each.last_seq + 1)}
    assert numbers(made.gone) == numbers(ranges) - there
    assert made.gone == merge_ranges(made.gone)


def test_several_records_tell_together() -> None:
    one = record((1, 4), (9, 9), expired_ms=day(95), snapshots=("b", "a"), counts=(1,))
    two = record((5, 7), expired_ms=day(94), snapshots=("c", "a"), counts=(1, 2), pruned_ms=day(101))
    assert join_records([one, two]) == record(
        (1, 7), (9, 9), expired_ms=day(95), snapshots=("a", "b", "c"), counts=(1, 2), pruned_ms=day(101)
    )
    assert join_records([]) is None
    assert not Gone(None).between(0, 100)


@given(RANGES, st.lists(st.integers(0, 9), max_size=7), st.lists(st.text(max_size=9), max_size=3))
def test_a_record_is_read_as_it_was_written(ranges: list[SeqRange], counts: list[int], keys: list[str]) -> None:
    made = record(*merge_ranges(ranges), counts=tuple(counts), snapshots=tuple(keys))
    assert decode_record(encode_record(made)) == made


def changed(**fields: object) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(encode_record(record((1, 2)))), **fields})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[" * 5000,
        b"[]",
        b"{}",
        encode_record(record((1, 2)))[:-3],
        changed(gone=[[2, 1]]),
        changed(gone=[[0, 1]]),
        changed(gone=[[1]]),
        changed(gone="all"),
        changed(counts=[-1]),
        changed(counts=None),
        changed(expired_ms="yesterday"),
    ],
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptObject, match="record of a prune"):
        decode_record(data)


def test_a_record_of_a_newer_format_is_refused_by_its_number_whatever_it_holds() -> None:
    with pytest.raises(CorruptObject, match="of format 2, not 1"):
        decode_record(b'{"format": 2, "gone": "in another way"}')


def test_what_a_newer_version_adds_is_ignored() -> None:
    assert decode_record(changed(new="thing")) == record((1, 2))


def test_a_differential_and_its_timeline_are_told_by_keys() -> None:
    snapshot = full(1, 0)
    assert snapshot.timeline == A
    assert is_anything_leaving(record(snapshots=("1/full/1",)), numbered([], [snapshot]))
    assert not is_anything_leaving(record(snapshots=("1/full/2",)), numbered([], [snapshot]))
    assert not is_anything_leaving(None, numbered([log(1, 1, (0, 1))], [snapshot]))
