"""Who may write to a replica, as a table."""

from __future__ import annotations

import pytest

from walrep.core.lineage import (
    ACTIVE_MS,
    Claim,
    Rivalry,
    conflict_with,
    is_proof_stale,
    judge_rival,
    plan_claim,
    refuse_active_writer,
    refuse_lost,
    unknown_names,
)
from walrep.core.names import SegmentName
from walrep.core.objects import ReplicaInfo, SegmentHeader, TimelineStart, Writer
from walrep.core.state import STATE_FORMAT, LocalState
from walrep.core.units import Seq, TimelineId, Txid
from walrep.errors import ReplicaConflict


def state(replica: str = "mine", next_seq: int = 5) -> LocalState:
    return LocalState(
        format=STATE_FORMAT, replica=replica, url="memory", writer=Writer(nonce="n"), next_seq=Seq(next_seq)
    )


def info(replica: str = "mine", version: int = 1) -> ReplicaInfo:
    writer = Writer(nonce="n", host="box")
    return ReplicaInfo(format=version, replica=replica, database="/app.db", created_ms=0, created_by=writer, walrep="1")


@pytest.mark.parametrize(
    ("mine", "there", "may_adopt", "claim"),
    [
        (None, None, False, Claim.CREATE),
        (None, None, True, Claim.CREATE),
        (state(next_seq=1), None, False, Claim.CREATE),
        (state(), None, True, Claim.CREATE),
        (state(), info(), False, Claim.CONTINUE),
        (state(next_seq=1), info(), False, Claim.CONTINUE),
        (state("other"), info(), True, Claim.ADOPT),
        (None, info(), True, Claim.ADOPT),
    ],
)
def test_a_writer_takes_up_a_replica(
    mine: LocalState | None, there: ReplicaInfo | None, *, may_adopt: bool, claim: Claim
) -> None:
    assert plan_claim(mine, there, url="memory", may_adopt=may_adopt) is claim


@pytest.mark.parametrize(
    ("mine", "there", "message"),
    [
        (None, info(), "another writer is here already"),
        (state("other"), info(), "not the replica of this database"),
        (state("other", next_seq=1), info(), "not the replica of this database"),
        (state(), None, "the replica is gone"),
    ],
)
def test_a_writer_without_lineage_is_refused(mine: LocalState | None, there: ReplicaInfo | None, message: str) -> None:
    """An ephemeral host that booted empty, or a mistyped URL, must not bury somebody's history."""
    with pytest.raises(ReplicaConflict, match=message) as refused:
        plan_claim(mine, there, url="file:///r", may_adopt=False)
    assert "file:///r" in refused.value.detail
    assert "--new-timeline" in refused.value.hint
    assert refused.value.exit_code == 5


@pytest.mark.parametrize("mine", [None, state()])
@pytest.mark.parametrize("may_adopt", [False, True])
def test_a_replica_of_a_later_format_is_never_written(mine: LocalState | None, *, may_adopt: bool) -> None:
    with pytest.raises(ReplicaConflict, match="format 2"):
        plan_claim(mine, info(version=2), url="memory", may_adopt=may_adopt)


@pytest.mark.parametrize(
    ("listed", "durable", "unknown"),
    [
        ([], 0, []),
        ([4], 4, []),
        ([4, 5], 4, [5]),
        ([4, 7, 6, 5], 4, [5, 6, 7]),
        ([1], 0, [1]),
        ([9, 8], 8, [9]),
    ],
)
def test_what_stands_behind_ones_own_newest_is_to_be_looked_at(
    listed: list[int], durable: int, unknown: list[int]
) -> None:
    found = unknown_names(names(listed), after=SegmentName(Seq(durable)), creates_only=True)
    assert found == names(unknown)


def names(seqs: list[int], nonce: str = "") -> list[SegmentName]:
    return [SegmentName(Seq(seq), nonce) for seq in seqs]


@pytest.mark.parametrize(
    ("theirs", "creates_only", "unknown"),
    [([], False, []), ([4, 9], False, []), ([4], True, [4]), ([9, 8], True, [8, 9])],
)
def test_where_keys_have_a_nonce_those_of_others_are_judged_by_what_they_hold(
    theirs: list[int],
    creates_only: bool,  # noqa: FBT001  a row of the table
    unknown: list[int],
) -> None:
    """Where they have none any more, whoever has one is another writer."""
    listed = names([4, 5], "ours") + names(theirs, "theirs")
    found = unknown_names(listed, after=SegmentName(Seq(4), "ours"), creates_only=creates_only)
    assert found == sorted(names([5], "ours") + names(unknown, "theirs"))


def header(
    seq: int, nonce: str, start: TimelineStart | None = None, *, fence: bool = False, created_ms: int = 0
) -> SegmentHeader:
    return SegmentHeader(
        replica="mine",
        seq=Seq(seq),
        timeline=TimelineId("00002-00000000"),
        writer=Writer(nonce=nonce, host="box", pid=7),
        created_ms=created_ms,
        page_size=4096,
        txid_before=Txid(0),
        checksum_before=0,
        pages_before=0,
        start=start,
        fence=fence,
    )


START = TimelineStart(reason="")


@pytest.mark.parametrize(
    ("theirs", "first_seq", "verdict"),
    [
        # It took over behind us, or at the same number and its nonce is the higher one.
        (header(9, "b", START, fence=True), 1, Rivalry.YIELD),
        (header(9, "b", START, fence=True), 9, Rivalry.YIELD),
        (header(9, "a", START, fence=True), 9, Rivalry.GO_ON),
        # It was shut out, and goes on, perhaps with a timeline of its own.
        (header(10, "b"), 9, Rivalry.GO_ON),
        (header(10, "b", START), 9, Rivalry.GO_ON),
        # Both created the replica.
        (header(1, "b", START), 1, Rivalry.YIELD),
        (header(1, "a", START), 1, Rivalry.GO_ON),
    ],
)
def test_of_two_writers_exactly_one_goes_on(theirs: SegmentHeader, first_seq: int, verdict: Rivalry) -> None:
    own = "aa"
    assert judge_rival(theirs, first_seq=Seq(first_seq), nonce=own) is verdict
    if theirs.start is not None and first_seq == theirs.seq:
        mirrored = header(first_seq, own, theirs.start, fence=theirs.fence)
        assert judge_rival(mirrored, first_seq=theirs.seq, nonce=theirs.writer.nonce) is not verdict


def test_a_writer_at_work_a_moment_ago_is_not_buried() -> None:
    with pytest.raises(ReplicaConflict, match="30s ago") as refused:
        refuse_active_writer(header(9, "b", created_ms=70_000), own_nonce="a", now_ms=100_000)
    assert "process 7 on box" in refused.value.detail
    assert "--take-over" in refused.value.hint
    refuse_active_writer(header(9, "a", created_ms=70_000), own_nonce="a", now_ms=100_000)
    refuse_active_writer(header(9, "b", created_ms=70_000), own_nonce="a", now_ms=70_001 + ACTIVE_MS)


def test_the_one_that_was_shut_out_learns_by_whom_and_when() -> None:
    conflict = conflict_with(header(9, "b", START, fence=True, created_ms=1_795_253_400_123))
    assert "process 7 on box wrote segment 9 at 2026-11-21T09:30:00.123Z" in conflict.detail
    assert conflict.exit_code == 5


@pytest.mark.parametrize("listed", [[], [5], [5, 6]])
def test_a_store_that_lost_what_it_acknowledged_is_refused(listed: list[int]) -> None:
    with pytest.raises(ReplicaConflict, match="segment 4 is missing"):
        refuse_lost(names(listed), SegmentName(Seq(4)))


@pytest.mark.parametrize(("listed", "durable", "replaced"), [([], 0, False), ([4, 5], 4, False), ([5], 4, True)])
def test_what_is_there_or_accounted_for_is_not_lost(listed: list[int], durable: int, replaced: bool) -> None:  # noqa: FBT001
    refuse_lost(names(listed), SegmentName(Seq(durable)), replaced=replaced)


def test_a_proof_is_stale_long_before_a_number_can_be_freed() -> None:
    assert not is_proof_stale(299.0, 600.0)
    assert is_proof_stale(300.0, 600.0)
