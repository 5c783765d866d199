"""A few seconds of what `python -m benchmarks.month --real s3` does in a quarter of an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.month.real import RATE, run_real


@pytest.mark.slow
def test_a_writer_a_supervisor_and_a_real_server_in_scaled_time(tmp_path: Path) -> None:
    result = run_real(tmp_path, seed=7, seconds=5.0, restores=5)
    assert result.alarms == []
    assert result.restored.wrong == []
    assert result.restored.count >= 5
    assert result.restored.by_tier["segment"] > 0
    assert result.commit_count == 5 * RATE
    assert result.tail.requests.bytes_down == 0
    assert result.tail.segment_bytes > 0
