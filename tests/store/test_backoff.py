"""The delay before the next attempt is a pure function."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from walrep.core.backoff import BackoffPolicy, backoff_delay_s
from walrep.errors import InvariantViolated

POLICY = BackoffPolicy(first_delay_s=0.5, delay_s_max=30)


@pytest.mark.parametrize(
    ("failure_count", "ceiling_s"), [(1, 0.5), (2, 1), (3, 2), (6, 16), (7, 30), (8, 30), (10_000_000, 30)]
)
def test_the_ceiling_doubles_up_to_its_cap(failure_count: int, ceiling_s: float) -> None:
    assert backoff_delay_s(POLICY, failure_count, 0.5) == ceiling_s / 2
    assert backoff_delay_s(POLICY, failure_count, 0.0) == 0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_within_its_bounds(failure_count: int, fraction: float) -> None:
    assert 0 <= backoff_delay_s(POLICY, failure_count, fraction) < 30


def test_there_is_no_backoff_without_a_failure() -> None:
    with pytest.raises(InvariantViolated):
        backoff_delay_s(POLICY, 0, 0.5)
