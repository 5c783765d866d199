"""How long to wait before trying again: exponential backoff with full jitter.

The delay is drawn evenly from nothing to min(cap, first · 2^n) after n + 1 failures, so that clients that failed
together do not come back together. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import msgspec

from walrep.errors import check

__all__ = ["BackoffPolicy", "backoff_delay_s"]

_DOUBLINGS_MAX = 62


class BackoffPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The longest delay after the first failure, and the longest of all."""

    first_delay_s: float = 0.5
    delay_s_max: float = 30.0


def backoff_delay_s(policy: BackoffPolicy, failure_count: int, fraction: float) -> float:
    """Return the delay after `failure_count` failures in a row (from 1), for a random `fraction` in [0, 1)."""
    check(failure_count >= 1, "a backoff without a failure")
    # Capped before it is used, since 2.0 ** 1100 overflows: an outage may last that many attempts.
    doublings = min(failure_count - 1, _DOUBLINGS_MAX)
    return fraction * min(policy.delay_s_max, policy.first_delay_s * 2.0**doublings)
