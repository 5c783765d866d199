"""Short versions of every hostile scenario; `python -m tests.hostile` (`make soak`) runs them for longer."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import msgspec
import pytest

from tests.hostile.catalogue import SCENARIOS
from tests.hostile.harness import run_scenario
from tests.hostile.model import Shape
from tests.hostile.processes import AppProcess, Sidecar
from tests.hostile.verify import differing_pages
from tests.hostile.writers import AppPlan

SEED = int(os.environ.get("WALREP_HOSTILE_SEED", "1"))
SECONDS = 2.0
RESTORES = 8


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_transaction_survives(name: str, tmp_path: Path) -> None:
    """What the app committed is restored, transaction by transaction, whatever app, walrep and SQLite went through."""
    seed = SEED * 1000 + zlib.crc32(name.encode()) % 1000
    record = run_scenario(name, tmp_path / "run", seed=seed, seconds=SECONDS, restores=RESTORES)
    assert record.problems == [], f"seed {seed}: {msgspec.json.encode(record).decode()}"
    assert record.verdict.restores_checked > RESTORES / 2


@pytest.mark.slow
@pytest.mark.parametrize("autocheckpoint", [1000, 50])
def test_the_database_has_no_byte_of_walrep(tmp_path: Path, autocheckpoint: int) -> None:
    """The same transactions leave the same file, byte for byte, with walrep beside them and without."""
    shape = Shape(seed=SEED, bulk_every=60, delete_every=7, ddl_every=36, blob_every=50, blob_bytes=100_000)
    images = [run_workload(tmp_path / name, shape, autocheckpoint) for name in ("without", "with")]
    assert differing_pages(*images) == 0


def run_workload(folder: Path, shape: Shape, autocheckpoint: int) -> bytes:
    """Run the app, and walrep in a folder called `with`; return the database file that they leave."""
    folder.mkdir()
    database = folder / "app.db"
    plan = AppPlan(path=str(database), shape=shape, transactions=3000, rollback_every=9, autocheckpoint=autocheckpoint)
    app = AppProcess(plan)
    sidecar = None
    if folder.name == "with":
        sidecar = Sidecar(database, f"file://{folder}/replica", folder / "log", ["--rpo", "1s"])
        sidecar.wait_until_protecting()
    app.finished()
    app.stop()
    if sidecar is not None:
        assert sidecar.stop() == 0
    assert sorted(path.name for path in folder.glob("app.db*")) == ["app.db"]
    return database.read_bytes()
