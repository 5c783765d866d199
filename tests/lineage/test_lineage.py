"""A few restarts and rebuilds: small uploads, and no wrong restore."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from tests.lineage.life import Life


@pytest.mark.parametrize("seed", [1, 2])
async def test_restarts_and_rebuilds_ship_what_differs_and_lose_nothing(tmp_path: Path, seed: int) -> None:
    life = Life(tmp_path, seed, rows=4000)
    try:
        await life.run(5)
        await life.compare_all(20)
    finally:
        life.close()
    assert life.problems == []
    shares = [each.share for each in life.restarts[1:] if each.kind != "resumed"]
    assert median(shares) < 0.1
    assert life.restored > 20
