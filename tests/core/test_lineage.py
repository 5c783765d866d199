"""Who may write to a replica, as a table."""

from __future__ import annotations

import pytest

from walrep.core.lineage import Claim, check_sequence, plan_claim
from walrep.core.objects import ReplicaInfo, Writer
from walrep.core.state import STATE_FORMAT, LocalState
from walrep.core.units import Seq
from walrep.errors import ReplicaConflict


def state(replica: str = "mine", next_seq: int = 5) -> LocalState:
    return LocalState(
        format=STATE_FORMAT, replica=replica, url="memory", writer=Writer(nonce="n"), next_seq=Seq(next_seq)
    )


def info(replica: str = "mine", version: int = 1) -> ReplicaInfo:
    writer = Writer(nonce="n", host="box")
    return ReplicaInfo(format=version, replica=replica, database="/app.db", created_ms=0, created_by=writer, walrep="1")


@pytest.mark.parametrize(
    ("mine", "there", "new_timeline", "claim"),
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
    mine: LocalState | None, there: ReplicaInfo | None, *, new_timeline: bool, claim: Claim
) -> None:
    assert plan_claim(mine, there, url="memory", new_timeline=new_timeline) is claim


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
        plan_claim(mine, there, url="file:///r", new_timeline=False)
    assert "file:///r" in refused.value.detail
    assert "--new-timeline" in refused.value.hint
    assert refused.value.exit_code == 5


@pytest.mark.parametrize("mine", [None, state()])
@pytest.mark.parametrize("new_timeline", [False, True])
def test_a_replica_of_a_later_format_is_never_written(mine: LocalState | None, *, new_timeline: bool) -> None:
    with pytest.raises(ReplicaConflict, match="format 2"):
        plan_claim(mine, info(version=2), url="memory", new_timeline=new_timeline)


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
    found = check_sequence([Seq(seq) for seq in listed], durable=Seq(durable), outbox=[Seq(seq) for seq in outbox])
    assert found.foreign == foreign


@pytest.mark.parametrize("listed", [[], [5], [5, 6]])
def test_a_store_that_lost_what_it_acknowledged_is_refused(listed: list[int]) -> None:
    with pytest.raises(ReplicaConflict, match="segment 4 is missing"):
        check_sequence([Seq(seq) for seq in listed], durable=Seq(4), outbox=[Seq(5)])
