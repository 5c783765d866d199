"""When to make captured transactions durable: the RPO is the cost knob.

One segment at most per RPO, or at a size. The first commit after quiet goes out soon, so that a database that is
written now and then is safe at once. The deadline allows for how long uploads took lately. Nothing pending means
nothing planned: an idle database costs no request.
"""

from __future__ import annotations

import msgspec

__all__ = ["FlushPlan", "FlushPolicy", "FlushState", "plan_flush"]


class FlushPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How old or how large what is not yet durable may become."""

    rpo_s: float = 10.0
    first_commit_s: float = 1.0
    segment_bytes_max: int = 64 << 20


class FlushState(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision needs. Times are seconds of one monotonic clock; None: there is none."""

    pending_bytes: int
    oldest_commit_s: float | None
    last_flush_s: float | None
    upload_p95_s: float
    outbox_count: int


class FlushPlan(msgspec.Struct, frozen=True, kw_only=True):
    """When to seal the open segment (None: not before something changes), and why."""

    at_s: float | None
    reason: str


def plan_flush(state: FlushState, policy: FlushPolicy) -> FlushPlan:
    """Decide when the open segment is sealed.

    While a sealed segment waits for the store, the open one grows to its size limit instead of being sealed on time:
    after an outage a few large objects go out, not one for every RPO that passed.
    """
    if state.oldest_commit_s is None:
        return FlushPlan(at_s=None, reason="nothing pending")
    if state.pending_bytes >= policy.segment_bytes_max:
        return FlushPlan(at_s=state.oldest_commit_s, reason="size")
    if state.outbox_count:
        return FlushPlan(at_s=None, reason="the store has not taken the segment before")
    quiet = state.last_flush_s is None or state.oldest_commit_s - state.last_flush_s >= policy.rpo_s
    if quiet and policy.first_commit_s < policy.rpo_s:
        return FlushPlan(at_s=state.oldest_commit_s + policy.first_commit_s, reason="first commit after quiet")
    allowance_s = min(state.upload_p95_s, policy.rpo_s / 2)
    return FlushPlan(at_s=state.oldest_commit_s + policy.rpo_s - allowance_s, reason="rpo")
