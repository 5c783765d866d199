"""Who may write to a replica, as a table."""

from __future__ import annotations

import pytest

from walrep.core.lineage import (
    ACTIVE_MS,
    Claim,
    Rivalry,
    check_sequence,
    conflict_with,
    judge_rival,
    plan_claim,
    refuse_active_writer,
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
    ("listed", "durable", "outbox", "foreign"),
    [
        ([], 0, [], None),
        ([], 0, [1], None),
        ([1], 0, [1], None),
        ([4], 4, [], None),
        ([4], 4, [5, 6], None),
        ([4, 5], 4, [5, 6], None),
        ([4, 5], 4, [], 5),
        ([4, 5, 6, 7], 4, [5, 6], 7),
        ([1], 0, [], 1),
        ([9, 8], 8, [], 9),
    ],
)
def test_a_segment_that_is_not_ours_is_found(
    listed: list[int], durable: int, outbox: list[int], foreign: int | None
) -> None:
    waiting = [Seq(seq) for seq in outbox]
    found = check_sequence(names(listed), durable=Seq(durable), outbox=waiting, nonce="")
    assert found.foreign == (None if foreign is None else SegmentName(Seq(foreign)))


def names(seqs: list[int], nonce: str = "") -> list[SegmentName]:
    return [SegmentName(Seq(seq), nonce) for seq in seqs]


@pytest.mark.parametrize(
    ("theirs", "foreign"), [([], None), ([3], None), ([4], 4), ([5], 5), ([6], 6), ([4, 9], 4), ([9, 8], 8)]
)
def test_where_keys_have_a_nonce_a_number_of_ours_may_be_another_writers_too(
    theirs: list[int], foreign: int | None
) -> None:
    listed = [name for name in names([4, 5], "ours") + names(theirs, "theirs") if name.seq >= 4]
    found = check_sequence(listed, durable=Seq(4), outbox=[Seq(5), Seq(6)], nonce="ours")
    assert found.foreign == (None if foreign is None else SegmentName(Seq(foreign), "theirs"))


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
        check_sequence(names(listed), durable=Seq(4), outbox=[Seq(5)], nonce="")


def test_one_before_a_segment_that_was_stored_unknown_may_be_in_a_pack() -> None:
    """Whether the one behind it is another writer's, its PUT tells."""
    assert check_sequence(names([5]), durable=Seq(4), outbox=[Seq(5)], nonce="", replaced=True).foreign is None
