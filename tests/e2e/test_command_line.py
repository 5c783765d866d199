"""walrep as a user meets it: commands, exit codes, errors with hints, signals; on live databases."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.model import Shape, read_database
from tests.hostile.processes import AppProcess, Sidecar, run_walrep
from tests.hostile.waiting import until
from tests.hostile.writers import AppPlan

pytestmark = pytest.mark.slow


class Place:
    """A folder with a database, its replica, and processes that end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "app.db"
        self.url = f"file://{folder}/replica"
        self.apps: list[AppProcess] = []
        self.sidecars: list[Sidecar] = []

    def app(self, **fields: Any) -> AppProcess:  # noqa: ANN401 - fields of AppPlan
        """Start an app that writes about 200 transactions a second."""
        plan = AppPlan(path=str(self.database), shape=Shape(seed=1, stamp_every=1), **{"pause_s": 0.005, **fields})
        self.apps.append(AppProcess(plan))
        return self.apps[-1]

    def replicate(self, *options: str, wait: bool = True, url: str = "") -> Sidecar:
        """Start walrep; unless told otherwise wait until it protects the database."""
        log = self.folder / f"walrep-{len(self.sidecars)}.log"
        sidecar = Sidecar(self.database, url or self.url, log, ["--rpo", "500ms", *options])
        self.sidecars.append(sidecar)
        if wait:
            sidecar.wait_until_protecting()
        return sidecar

    def refused(self, *options: str, url: str = "") -> dict[str, Any]:
        """Run walrep on what it refuses; return the last line of its log."""
        sidecar = self.replicate(*options, wait=False, url=url)
        code = sidecar.wait(30)
        last = list(sidecar.events())[-1]
        assert last["event"] == "exit"
        assert last["exit_code"] == code
        return last

    def restored(self, *options: str) -> dict[str, Any]:
        """Restore to a new file as JSON; return the record, whatever it is."""
        run = run_walrep("restore", self.url, "-o", str(self.folder / "out.db"), "--json", *options)
        record: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
        assert (record["type"] == "error") == (run.returncode != 0), run.stderr
        assert record.get("exit_code", 0) == run.returncode
        return record

    def sidecar_files(self) -> set[str]:
        """Return which of SQLite's files lie beside the database."""
        return {path.name for path in self.folder.glob("app.db-*")}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for app in made.apps:
        if app.running():
            app.kill()
    for sidecar in made.sidecars:
        if sidecar.running():
            sidecar.kill()


@pytest.fixture
def stored(place: Place) -> Place:
    """A database whose replica holds a few hundred transactions, with nobody running."""
    app = place.app()
    sidecar = place.replicate()
    until(lambda: "snapshot-written" in {event["event"] for event in sidecar.events()}, "the base")
    first = app.ask("go")["n"]
    until(lambda: app.ask("go")["n"] >= first + 200, "200 transactions")
    app.stop()
    assert sidecar.stop() == 0
    return place


# -- what is refused --------------------------------------------------------------------------------------------------


def make_database(path: Path, *pragmas: str) -> None:
    connection = sqlite3.connect(path)
    for pragma in pragmas:
        connection.execute(f"pragma {pragma}")
    connection.execute("create table t(v)")
    connection.commit()
    connection.close()


def test_a_missing_database_is_refused_and_awaited_with_wait(place: Place) -> None:
    """--wait protects the file as soon as the app has created it."""
    failure = place.refused()
    assert (failure["error"], failure["exit_code"]) == ("DatabaseMissing", 3)
    assert "--wait" in failure["hint"]
    sidecar = place.replicate("--wait", wait=False)
    sidecar.wait_for("alarm")
    place.app().ask("pause")
    sidecar.wait_until_protecting()
    assert sidecar.stop() == 0


def test_a_database_without_wal_is_refused_and_switched_with_enable_wal(place: Place) -> None:
    """The journal mode is the app's affair, unless the user says otherwise."""
    make_database(place.database)
    before = place.database.read_bytes()
    failure = place.refused()
    assert (failure["error"], failure["exit_code"]) == ("NotWalMode", 3)
    assert "--enable-wal" in failure["hint"]
    assert place.database.read_bytes() == before
    sidecar = place.replicate("--enable-wal")
    assert sidecar.stop() == 0
    assert place.database.read_bytes()[18:20] == b"\2\2"


def test_a_directory_is_refused(place: Place) -> None:
    place.database.mkdir()
    failure = place.refused()
    assert (failure["error"], failure["exit_code"]) == ("NotADatabase", 3)
    assert "directory" in failure["message"]
    assert failure["hint"]


@pytest.mark.parametrize("content", [b"hello, world\n" * 500, random.Random(1).randbytes(8192)])
def test_a_file_that_is_no_database_is_refused(place: Place, content: bytes) -> None:
    """Random bytes may be an encrypted database: the hint says so."""
    place.database.write_bytes(content)
    failure = place.refused()
    assert (failure["error"], failure["exit_code"]) == ("NotADatabase", 3)
    assert "encrypted" in failure["hint"]
    assert place.database.read_bytes() == content
    assert place.sidecar_files() == set()


def test_an_app_with_exclusive_locking_is_refused(place: Place) -> None:
    """Such an app has no wal-index that a reader could share."""
    make_database(place.database, "journal_mode=wal")
    connection = sqlite3.connect(place.database)
    connection.execute("pragma locking_mode=exclusive")
    connection.execute("insert into t values(1)")
    connection.commit()
    failure = place.refused()
    assert (failure["error"], failure["exit_code"]) == ("DatabaseInUse", 3)
    assert "exclusive" in failure["hint"]
    connection.close()


def test_a_second_walrep_on_the_database_is_refused(place: Place) -> None:
    """On the same state directory, and also with one of its own; the first one is not disturbed."""
    app = place.app()
    first = place.replicate()
    failure = place.refused()
    assert (failure["error"], failure["exit_code"]) == ("DatabaseInUse", 3)
    assert str(first.process.pid) in failure["detail"]
    failure = place.refused("--state-dir", str(place.folder / "other-state"), url=f"file://{place.folder}/other")
    assert (failure["error"], failure["exit_code"]) == ("DatabaseInUse", 3)
    n = app.stop()["n"]
    assert first.stop() == 0
    assert place.restored()["type"] == "restore"
    assert read_database(place.folder / "out.db", integrity=True).n == n


def test_the_replica_of_someone_else_is_refused_unless_it_is_taken_over(stored: Place) -> None:
    """A host that lost its state must not write into a replica by mistake; what is there stays restorable."""
    shutil.rmtree(stored.folder / ".app.db-walrep")
    failure = stored.refused()
    assert (failure["error"], failure["exit_code"]) == ("ReplicaConflict", 5)
    assert "--new-timeline" in failure["hint"]
    failure = stored.refused("--new-timeline")
    assert "--take-over" in failure["hint"]
    sidecar = stored.replicate("--take-over")
    assert sidecar.stop() == 0
    listed = [json.loads(line) for line in run_walrep("list", stored.url, "--json").stdout.splitlines()]
    timelines = [record["timeline"] for record in listed if record["type"] == "timeline"]
    assert len(timelines) == 2
    assert stored.restored("--timeline", "1", "--txid", "100")["txid"] == 100


# -- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_0(place: Place, number: signal.Signals) -> None:
    """What the app had committed before the signal is durable, also while the app goes on."""
    app = place.app()
    sidecar = place.replicate("--rpo", "60s")
    n = until(lambda: (answer := app.ask("go")["n"]) > 50 and answer, "some transactions")
    sidecar.process.send_signal(number)
    assert sidecar.wait() == 0
    assert list(sidecar.events())[-1]["durable"] is True
    app.stop()
    place.restored()
    assert read_database(place.folder / "out.db", integrity=True).n >= n


def test_a_second_signal_stops_at_once_with_130_and_nothing_is_lost(place: Place) -> None:
    """A store that does not answer holds the first signal up; what is captured goes out at the next start."""
    app = place.app()
    sidecar = place.replicate("--rpo", "60s")
    n = app.ask("pause")["n"]
    replica = place.folder / "replica"
    # A folder that is gone may be mounted again: the store is tried again and again.
    shutil.move(replica, place.folder / "away")
    sidecar.process.send_signal(signal.SIGTERM)
    sidecar.wait_for("retry")
    sidecar.process.send_signal(signal.SIGTERM)
    assert sidecar.wait(10) == 130
    shutil.move(place.folder / "away", replica)
    again = place.replicate()
    app.stop()
    assert again.stop() == 0
    place.restored()
    assert read_database(place.folder / "out.db", integrity=True).n >= n


def test_detach_while_replicating_leaves_no_wal(place: Place) -> None:
    """The walrep that runs drains and ends with 0, and the file can be replaced."""
    app = place.app()
    sidecar = place.replicate()
    sidecar.wait_for("flushed")
    held = run_walrep("detach", str(place.database))
    assert held.returncode == 3
    assert str(app.process.pid) in held.stderr
    assert sidecar.wait() == 0
    n = app.stop()["n"]
    sidecar = place.replicate()
    run = run_walrep("detach", str(place.database))
    assert run.returncode == 0, run.stderr
    assert "can be replaced" in run.stdout
    assert sidecar.wait() == 0
    assert place.sidecar_files() == set()
    assert read_database(place.database, integrity=True).n == n


# -- restoring --------------------------------------------------------------------------------------------------------


def test_a_transaction_is_restored_by_number_and_by_bookmark(stored: Place) -> None:
    by_number = stored.restored("--txid", "42")
    base_n = read_database(stored.folder / "out.db", integrity=True).n - 42
    assert by_number["txid"] == 42
    (stored.folder / "out.db").unlink()
    by_bookmark = stored.restored("--bookmark", by_number["bookmark"])
    assert by_bookmark["bookmark"] == by_number["bookmark"]
    assert read_database(stored.folder / "out.db", integrity=True).n == base_n + 42
    wrong = by_number["bookmark"][:-1] + ("0" if by_number["bookmark"][-1] != "0" else "1")
    (stored.folder / "out.db").unlink()
    assert stored.restored("--bookmark", wrong)["exit_code"] == 7
    assert stored.restored("--txid", "999999")["error"] == "TargetNotFound"


def seconds_flushed(sidecar: Sidecar) -> float:
    """Return how many seconds lie between its first segment and its newest, by its log."""
    times = [datetime.fromisoformat(event["timestamp"]) for event in sidecar.events() if event["event"] == "flushed"]
    return (times[-1] - times[0]).total_seconds() if times else 0.0


def test_a_moment_is_restored_while_the_app_goes_on(place: Place) -> None:
    """`--at "1s ago"` is an earlier transaction than the newest, and walrep goes on meanwhile."""
    app = place.app()
    sidecar = place.replicate()
    until(lambda: seconds_flushed(sidecar) > 1.5, "segments from before a second ago")
    run = run_walrep("restore", place.url, "-o", str(place.folder / "out.db"), "--at", "1s ago")
    assert run.returncode == 0, run.stderr
    assert "as of" in run.stderr
    earlier = read_database(place.folder / "out.db", integrity=True).n
    assert 0 < earlier < app.ask("pause")["n"]
    app.stop()
    assert sidecar.stop() == 0


def test_a_dry_run_writes_nothing(stored: Place) -> None:
    record = stored.restored("--dry-run")
    assert record["written"] is False
    assert record["segments"]
    assert not (stored.folder / "out.db").exists()


def test_an_existing_target_needs_force(stored: Place) -> None:
    target = stored.folder / "out.db"
    target.write_bytes(b"precious")
    failure = stored.restored()
    assert (failure["error"], failure["exit_code"]) == ("TargetExists", 7)
    assert "--force" in failure["hint"]
    assert target.read_bytes() == b"precious"
    assert stored.restored("--force")["written"] is True
    assert read_database(target, integrity=True).integrity == "ok"


def test_a_live_target_is_refused_whatever_is_forced(stored: Place) -> None:
    """The app that has it open is named."""
    app = stored.app()
    app.ask("pause")
    run = run_walrep("restore", stored.url, "-o", str(stored.database), "--force")
    assert run.returncode == 7
    assert str(app.process.pid) in run.stderr
    assert "hint" in run.stderr
    app.ask("go")
    app.stop()


# -- looking ----------------------------------------------------------------------------------------------------------


def test_list_and_dump_show_what_is_there(stored: Place) -> None:
    text = run_walrep("list", stored.url)
    assert text.returncode == 0
    assert "restorable" in text.stdout
    listed = [json.loads(line) for line in run_walrep("list", stored.url, "--json").stdout.splitlines()]
    assert {record["type"] for record in listed} == {"replica", "timeline", "snapshot", "segment"}
    for record in listed:
        if "key" in record:
            dumped = run_walrep("dump", f"{stored.url}/{record['key']}")
            assert dumped.returncode == 0, dumped.stderr
            assert dumped.stdout
    assert run_walrep("list", f"file://{stored.folder}/nothing").returncode == 4


def test_version_names_what_matters() -> None:
    run = run_walrep("version", "--json")
    assert run.returncode == 0
    assert {"walrep", "apsw", "sqlite", "python"} <= json.loads(run.stdout).keys()
