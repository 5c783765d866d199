"""After a restore walrep goes on: in place by itself, on a new host with `--take-over`; what differs is uploaded."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from tests.e2e.test_command_line import Place, place, stored
from tests.hostile.model import read_database
from tests.hostile.processes import Sidecar, run_walrep
from tests.hostile.waiting import until

__all__ = ["place", "stored"]

pytestmark = pytest.mark.slow


def event(sidecar: Sidecar, name: str) -> dict[str, Any]:
    """Wait for an event of this name, and return the first."""
    until(lambda: name in {each["event"] for each in sidecar.events()}, name)
    return next(each for each in sidecar.events() if each["event"] == name)


def timelines(place: Place) -> list[dict[str, Any]]:
    listed = run_walrep("list", place.url, "--timelines", "--json").stdout.splitlines()
    return [json.loads(line) for line in listed]


def make_full(place: Place) -> None:
    """Have a full snapshot made of the database as it is: when it was begun it had a few pages."""
    sidecar = place.replicate()
    run = run_walrep("snapshot", str(place.database), "--full")
    assert run.returncode == 0, run.stderr
    assert sidecar.stop() == 0


def test_a_database_that_was_restored_in_place_goes_on_as_a_child(stored: Place) -> None:
    make_full(stored)
    newest = stored.restored("--dry-run")["txid"]
    target = ["--force", "--txid", str(newest - 2)]
    run = run_walrep("restore", stored.url, "-o", str(stored.database), *target, "--json")
    assert run.returncode == 0, run.stderr
    bookmark = json.loads(run.stdout)["bookmark"]
    sidecar = stored.replicate()
    began = event(sidecar, "timeline-began")
    assert (began["parent"], began["base"]) == (bookmark, "differential")
    event(sidecar, "snapshot-written")
    assert sidecar.stop() == 0
    parent, child = timelines(stored)
    assert [parent["depth"], child["depth"]] == [0, 1]
    assert child["parent"] == bookmark
    assert child["first_snapshot"]["full_timeline"] == parent["timeline"]
    assert stored.restored()["bookmark"].startswith(child["timeline"])
    restored, live = (read_database(path, integrity=True).n for path in (stored.folder / "out.db", stored.database))
    assert restored == live
    assert stored.restored("--force", "--timeline", "1")["txid"] == newest


def test_on_a_new_host_a_restored_database_goes_on_when_that_is_said(stored: Place) -> None:
    """Without local state it is refused, so that a copy on another host does not shut out the one at work."""
    make_full(stored)
    stored.database.unlink()
    shutil.rmtree(stored.folder / ".app.db-walrep")
    assert run_walrep("restore", stored.url, "-o", str(stored.database)).returncode == 0
    failure = stored.refused()
    assert (failure["error"], failure["exit_code"]) == ("ReplicaConflict", 5)
    assert "after a restore on a new host" in failure["hint"]
    sidecar = stored.replicate("--take-over")
    read = event(sidecar, "full-read")
    assert (read["failed"], read["read_bytes"] > 0) == ("", True)
    assert event(sidecar, "timeline-began")["base"] == "differential"
    written = event(sidecar, "snapshot-written")
    assert written["stored_pages"] <= written["page_count"]
    assert sidecar.stop() == 0
    assert timelines(stored)[1]["first_snapshot"]["full_txid"] > 0
    stored.restored()
    assert (stored.folder / "out.db").read_bytes() == stored.database.read_bytes()
