"""A configuration with a budget and a rate, as a user meets it, and all of it restored to one instant."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.model import Shape, read_database
from tests.hostile.processes import AppProcess, Sidecar, run_walrep
from tests.hostile.writers import AppPlan
from walrep.core.budget import DaySpent, day_of
from walrep.disk.spent import save_days

pytestmark = pytest.mark.slow

PUTS_MAX = 48


class Site:
    """A folder with an app, its walrep, and a configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.database, self.config = folder, folder / "app.db", folder / "walrep.toml"
        self.state_dir = folder / ".app.db-walrep"
        self.config.write_text(
            f'rpo = "500ms"\nputs-per-day-max = {PUTS_MAX}\nupload-bytes-per-day-warn = "1kB"\n'
            'limit-upload = "20MiB/s"\nshutdown-deadline = "2s"\n'
            f'[[database]]\npath = "{self.database}"\nreplica = "{folder}/replica"\n'
        )
        plan = AppPlan(path=str(self.database), shape=Shape(seed=1, stamp_every=1), pause_s=0.005)
        self.app = AppProcess(plan)
        self.sidecar = Sidecar(self.database, "", folder / "log", config=self.config)

    def restore(self, *options: str) -> dict[str, object]:
        """Restore the configuration into a folder; return the record."""
        into = self.folder / "into"
        into.mkdir(exist_ok=True)
        run = run_walrep("restore", "--config", str(self.config), "--into", str(into), "--json", *options)
        record: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
        return record


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    state_dir = tmp_path / ".app.db-walrep"
    state_dir.mkdir()
    today = day_of(int(time.time() * 1000))
    # Whether or not it is midnight in between.
    save_days(state_dir, [DaySpent(today + 1, put_count=PUTS_MAX), DaySpent(today, put_count=PUTS_MAX)])
    made = Site(tmp_path)
    yield made
    for process in (made.app, made.sidecar):
        if process.running():
            process.kill()


def test_a_spent_budget_widens_the_rpo_and_loses_nothing(site: Site) -> None:
    """The base goes beyond it, and is told; segments wait, also for a stop, and all of it is said in the log."""
    site.sidecar.wait_until_protecting()
    site.sidecar.wait_for("rpo-widened")
    site.app.stop()
    assert site.sidecar.stop() == 9
    events = list(site.sidecar.events())
    (widened,) = [event for event in events if event["event"] == "rpo-widened"]
    assert widened["reason"] == "budget: 48 PUTs a day, 0 left until 00:00 UTC -> the next segment then"
    assert widened["rpo_s"] > 0.5
    alarms = {event["key"] for event in events if event["event"] == "alarm"}
    assert {"puts-exceeded", "upload-bytes"} <= alarms
    assert not site.sidecar.has("flushed", "text")
    # The base is there, and what was captured since waits.
    record = site.restore()
    assert (record["type"], record["txid"]) == ("restore", 0)
    assert list((site.state_dir / "outbox").iterdir()) != []
    # With a budget of which this is less than an hour's share, whatever the hour is, it goes out.
    site.config.write_text(site.config.read_text().replace(str(PUTS_MAX), "10000"))
    again = Sidecar(site.database, "", site.folder / "log-again", config=site.config)
    try:
        again.wait_for("flushed")
        assert again.stop() == 0
    finally:
        if again.running():
            again.kill()
    assert "flushed" in {event["event"] for event in again.events()}
    assert all(event["rpo_s"] >= 0.5 for event in again.events() if event["event"] == "flushed")
    record = site.restore("--force")
    assert record["type"] == "restore"
    restored, there = (read_database(path, integrity=True) for path in (site.folder / "into" / "app.db", site.database))
    assert restored == there
