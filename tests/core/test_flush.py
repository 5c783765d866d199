"""When the open segment is sealed, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from walrep.core.budget import Pace
from walrep.core.flush import FlushPlan, FlushPolicy, FlushState, plan_flush

POLICY = FlushPolicy(rpo_s=10.0, first_commit_s=1.0, segment_bytes_max=1000)


def state(
    *,
    pending_bytes: int = 100,
    oldest_commit_s: float | None = 50.0,
    last_flush_s: float | None = 45.0,
    upload_p95_s: float = 0.0,
    outbox_count: int = 0,
    pace: Pace | None = None,
) -> FlushState:
    return FlushState(
        pending_bytes=pending_bytes,
        oldest_commit_s=oldest_commit_s,
        last_flush_s=last_flush_s,
        upload_p95_s=upload_p95_s,
        outbox_count=outbox_count,
        pace=pace,
    )


@pytest.mark.parametrize(
    ("given_state", "at_s", "reason"),
    [
        (state(oldest_commit_s=None), None, "nothing pending"),
        (state(oldest_commit_s=None, pending_bytes=5000), None, "nothing pending"),
        (state(), 60.0, "rpo"),
        (state(upload_p95_s=2.0), 58.0, "rpo"),
        (state(upload_p95_s=30.0), 55.0, "rpo"),
        (state(last_flush_s=None), 51.0, "first commit after quiet"),
        (state(last_flush_s=40.0), 51.0, "first commit after quiet"),
        (state(last_flush_s=40.1), 60.0, "rpo"),
        (state(pending_bytes=999), 60.0, "rpo"),
        (state(pending_bytes=1000), 50.0, "size"),
        (state(pending_bytes=1000, outbox_count=3), 50.0, "size"),
        (state(outbox_count=1), None, "the store has not taken the segment before"),
        (state(outbox_count=1, last_flush_s=None), None, "the store has not taken the segment before"),
    ],
)
def test_a_segment_is_sealed(given_state: FlushState, at_s: float | None, reason: str) -> None:
    assert plan_flush(given_state, POLICY) == FlushPlan(at_s=at_s, reason=reason, rpo_s=10.0)


def test_a_first_commit_does_not_wait_longer_than_the_rpo() -> None:
    policy = FlushPolicy(rpo_s=0.5, first_commit_s=1.0)
    assert plan_flush(state(last_flush_s=None), policy).at_s == 50.5


@given(
    oldest=st.floats(0, 1e6),
    last=st.none() | st.floats(0, 1e6),
    p95=st.floats(0, 1e3),
    rpo=st.floats(0.1, 1e4),
    first=st.floats(0, 1e4),
)
def test_nothing_that_is_pending_becomes_older_than_the_rpo(
    oldest: float, last: float | None, p95: float, rpo: float, first: float
) -> None:
    """While the store takes what it is given."""
    policy = FlushPolicy(rpo_s=rpo, first_commit_s=first)
    plan = plan_flush(state(oldest_commit_s=oldest, last_flush_s=last, upload_p95_s=p95), policy)
    assert plan.at_s is not None
    assert oldest <= plan.at_s <= oldest + rpo


def paced(not_before_s: float, *, is_eased: bool = False) -> Pace:
    return Pace(not_before_s=not_before_s, interval_s=290.0, is_eased=is_eased, reason="budget")


def limited(at_s: float | None, reason: str) -> FlushPlan:
    return FlushPlan(at_s=at_s, reason=reason, rpo_s=290.0, is_limited=True, limit="budget")


@pytest.mark.parametrize(
    ("given_state", "expected"),
    [
        (state(pace=paced(300.0)), limited(300.0, "budget")),
        (state(pace=paced(55.0)), FlushPlan(at_s=60.0, reason="rpo", rpo_s=10.0, is_limited=None)),
        (state(pace=paced(55.0, is_eased=True)), FlushPlan(at_s=60.0, reason="rpo", rpo_s=10.0)),
        (state(pace=paced(300.0), last_flush_s=None), limited(300.0, "budget")),
        (state(pace=paced(300.0), pending_bytes=1000), limited(50.0, "size")),
        (state(pace=paced(55.0), pending_bytes=1000), FlushPlan(at_s=50.0, reason="size", rpo_s=10.0, is_limited=None)),
        (state(pace=paced(300.0), outbox_count=1), limited(None, "the store has not taken the segment before")),
        (
            state(pace=paced(300.0, is_eased=True), oldest_commit_s=None),
            FlushPlan(at_s=None, reason="nothing pending", rpo_s=10.0, is_limited=None),
        ),
    ],
)
def test_a_segment_waits_for_its_turn_in_a_budget(given_state: FlushState, expected: FlushPlan) -> None:
    """But one that is full is sealed: the journal does not grow for ever."""
    assert plan_flush(given_state, POLICY) == expected
