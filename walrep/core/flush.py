"""When to make captured transactions durable: the RPO is the cost knob.

One segment at most per RPO, or at a size. The first commit after quiet goes out soon, so that a database that is
written now and then is safe at once. The deadline allows for how long uploads took lately. Nothing pending means
nothing planned: an idle database costs no request.

Where a budget of PUTs (`walrep.core.budget`) is spent faster than the day goes by, the next segment waits for its turn:
the RPO in force is then the time between two of them, and the plan says so.
"""

from __future__ import annotations

import msgspec

from walrep.core.budget import Pace

__all__ = ["FlushPlan", "FlushPolicy", "FlushState", "plan_flush"]


class FlushPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How old or how large what is not yet durable may become."""

    rpo_s: float = 10.0
    first_commit_s: float = 1.0
    segment_bytes_max: int = 64 << 20


class FlushState(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision needs. Times are seconds of one monotonic clock; None: there is none.

    `pace`: when the budget has room for the next segment.
    """

    pending_bytes: int
    oldest_commit_s: float | None
    last_flush_s: float | None
    upload_p95_s: float
    outbox_count: int
    pace: Pace | None = None


class FlushPlan(msgspec.Struct, frozen=True, kw_only=True):
    """When to seal the open segment (None: not before something changes), and why.

    `rpo_s` is the RPO in force. `is_limited`: whether a budget keeps it wider than was asked for, and `limit` says why;
    None: that is not over yet, and does not hold up this segment.
    """

    at_s: float | None
    reason: str
    rpo_s: float
    is_limited: bool | None = False
    limit: str = ""


def plan_flush(state: FlushState, policy: FlushPolicy) -> FlushPlan:
    """Decide when the open segment is sealed.

    While a sealed segment waits for the store, the open one grows to its size limit instead of being sealed on time:
    after an outage a few large objects go out, not one for every RPO that passed.
    """
    plan = _plan_by_rpo(state, policy)
    pace = state.pace
    if pace is None:
        return plan
    if state.oldest_commit_s is None or pace.not_before_s <= _due_by_rpo(state, policy).at_s:
        is_eased = state.oldest_commit_s is not None and pace.is_eased
        return msgspec.structs.replace(plan, is_limited=False if is_eased else None)
    if plan.at_s is not None and state.pending_bytes < policy.segment_bytes_max:
        plan = msgspec.structs.replace(plan, at_s=pace.not_before_s, reason=pace.reason)
    # What is full is sealed all the same, and waits in the outbox, as what was sealed before does already.
    rpo_s = max(policy.rpo_s, pace.interval_s)
    return msgspec.structs.replace(plan, rpo_s=rpo_s, is_limited=True, limit=pace.reason)


class _Due(msgspec.Struct, frozen=True):
    at_s: float
    reason: str


def _plan_by_rpo(state: FlushState, policy: FlushPolicy) -> FlushPlan:
    rpo_s = policy.rpo_s
    if state.oldest_commit_s is None:
        return FlushPlan(at_s=None, reason="nothing pending", rpo_s=rpo_s)
    if state.pending_bytes >= policy.segment_bytes_max:
        return FlushPlan(at_s=state.oldest_commit_s, reason="size", rpo_s=rpo_s)
    if state.outbox_count:
        return FlushPlan(at_s=None, reason="the store has not taken the segment before", rpo_s=rpo_s)
    due = _due_by_rpo(state, policy)
    return FlushPlan(at_s=due.at_s, reason=due.reason, rpo_s=rpo_s)


def _due_by_rpo(state: FlushState, policy: FlushPolicy) -> _Due:
    """Return when what is pending has to go, if nothing holds it up."""
    oldest_s, last_s = state.oldest_commit_s or 0.0, state.last_flush_s
    if (last_s is None or oldest_s - last_s >= policy.rpo_s) and policy.first_commit_s < policy.rpo_s:
        return _Due(oldest_s + policy.first_commit_s, "first commit after quiet")
    return _Due(oldest_s + policy.rpo_s - min(state.upload_p95_s, policy.rpo_s / 2), "rpo")
