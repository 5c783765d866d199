"""Whole walreps on real S3 servers: the main job, two hosts with one replica, an outage."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from tests.e2e.gate import Gate
from tests.hostile.model import Shape, read_database
from tests.hostile.processes import AppProcess, Sidecar, run_walrep
from tests.hostile.waiting import until
from tests.hostile.writers import AppPlan
from tests.store.buckets import OwningStore, new_prefix, s3_url
from tests.store.servers import S3Server
from walrep.disk.log import HEADER_BYTES

pytestmark = pytest.mark.slow


class Host:
    """A folder with a database and its walrep."""

    def __init__(self, folder: Path, url: str, seed: int = 1) -> None:
        folder.mkdir()
        self.folder, self.url, self.seed = folder, url, seed
        self.database = folder / "app.db"
        self.apps: list[AppProcess] = []
        self.sidecars: list[Sidecar] = []
        self.config = folder / "walrep.toml"
        self.config.write_text(
            f'rpo = "500ms"\nrival-check = "1s"\n[[database]]\npath = "{self.database}"\nreplica = "{url}"\n'
        )

    def app(self) -> AppProcess:
        """Start an app that writes about 100 transactions a second."""
        self.apps.append(AppProcess(AppPlan(path=str(self.database), shape=Shape(seed=self.seed), pause_s=0.01)))
        return self.apps[-1]

    def replicate(self, *options: str, wait: bool = True) -> Sidecar:
        """Start walrep."""
        log = self.folder / f"walrep-{len(self.sidecars)}.log"
        sidecar = Sidecar(self.database, self.url, log, options, config=self.config)
        self.sidecars.append(sidecar)
        if wait:
            sidecar.wait_until_protecting()
        return sidecar

    def restore(self, name: str, *options: str) -> dict[str, Any]:
        """Restore to a new file; return the record, whatever it is."""
        run = run_walrep("restore", self.url, "-o", str(self.folder / name), "--json", *options)
        record: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
        return record

    def has_unstored(self) -> bool:
        """Tell whether something is captured, or sealed, and not stored yet."""
        state = self.folder / ".app.db-walrep"
        try:
            captured = [path for path in state.glob("journal-*") if path.stat().st_size > HEADER_BYTES]
        except FileNotFoundError:
            # It has just been sealed.
            return True
        return bool(captured) or any(state.glob("outbox/*"))

    def restored_count(self) -> int:
        """Return how many transactions of the app a restore has."""
        self.restore("counted.db", "--force")
        return read_database(self.folder / "counted.db", integrity=False).n

    def end(self) -> None:
        """Kill what still runs."""
        for app in self.apps:
            if app.running():
                app.kill()
        for sidecar in self.sidecars:
            if sidecar.running():
                sidecar.process.send_signal(signal.SIGCONT)
                sidecar.kill()


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    made: list[Host] = []
    yield made
    for host in made:
        host.end()


@pytest.fixture(params=["ministack", "rclone"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


def objects(url: str) -> dict[str, bytes]:
    """Return everything that is stored."""

    async def read() -> dict[str, bytes]:
        store = OwningStore(s3_url(url))
        try:
            return {info.key: await store.get(info.key) async for info in store.list("")}
        finally:
            await store.aclose()

    return asyncio.run(read())


def flushed(sidecar: Sidecar) -> int:
    """Return how many segments it has stored."""
    return sum(event["event"] == "flushed" for event in sidecar.events())


def events(sidecar: Sidecar, *names: str) -> list[dict[str, Any]]:
    """Return its events of these names."""
    return [event for event in sidecar.events() if event["event"] in names]


def alarms(sidecar: Sidecar) -> set[str]:
    """Return the keys of its alarms."""
    return {event["key"] for event in events(sidecar, "alarm")}


def test_the_main_job_over_the_network(
    server: S3Server, hosts: list[Host], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Also across a kill -9 of walrep: the newest state byte for byte, and random transactions row by row."""
    host = Host(tmp_path / "host", server.url(new_prefix()))
    hosts.append(host)
    app = host.app()
    sidecar = host.replicate()
    until(lambda: flushed(sidecar) >= 3, "three segments")
    sidecar.kill()
    sidecar = host.replicate()
    until(lambda: flushed(sidecar) >= 3, "three more segments")
    app.stop()
    assert sidecar.stop() == 0
    restored = host.restore("latest.db")
    assert restored["type"] == "restore"
    assert (host.folder / "latest.db").read_bytes() == host.database.read_bytes()
    dice = random.Random(7)
    for number in range(5):
        txid = dice.randrange(1, restored["txid"])
        host.restore(f"{number}.db", "--txid", str(txid))
        # The base held what was committed before it, so the count in the database is ahead of the txid by that.
        ahead = read_database(host.database, integrity=False).n - restored["txid"]
        assert read_database(host.folder / f"{number}.db", integrity=True).n == txid + ahead
    names = [key for key in objects(host.url) if key.startswith("segments/")]
    has_nonces = request.node.callspec.params["server"] == "rclone"
    assert all(("-" in name) == has_nonces for name in names)


@pytest.mark.parametrize(("kind", "lets_both_write"), [("ministack", False), ("rclone", True)])
def test_a_writer_that_was_paused_across_a_takeover_stops_and_nothing_of_either_is_lost(
    kind: str, hosts: list[Host], tmp_path: Path, request: pytest.FixtureRequest, *, lets_both_write: bool
) -> None:
    """Where PUTs create only, its next one meets the fence; elsewhere it writes once more before it looks."""
    server: S3Server = request.getfixturevalue(kind)
    prefix = new_prefix()
    old = Host(tmp_path / "old", server.url(prefix))
    new = Host(tmp_path / "new", server.url(prefix), seed=2)
    hosts += [old, new]
    old_app = old.app()
    paused = old.replicate()
    until(lambda: flushed(paused) >= 3, "three segments")
    # It is stopped with nothing under way, and there is something to upload when it goes on.
    count = old_app.ask("pause")["n"]
    until(lambda: not old.has_unstored() and old.restored_count() == count, "everything is stored")
    paused.process.send_signal(signal.SIGSTOP)
    old_app.ask("go")
    durable = objects(old.url)
    # The new host takes the database from the replica, and goes on.
    assert new.restore("app.db")["type"] == "restore"
    new_app = new.app()
    refused = new.replicate("--new-timeline", wait=False)
    assert refused.wait(30.0) == 5
    assert "--take-over" in events(refused, "exit")[-1]["hint"]
    taker = new.replicate("--take-over")
    until(lambda: flushed(taker) >= 3, "three segments of the new host")
    paused.process.send_signal(signal.SIGCONT)
    assert paused.wait(30.0) == 5
    failure = events(paused, "exit")[-1]
    assert f"process {taker.process.pid} on" in failure["detail"]
    # The old host's app goes on unharmed, and what its walrep had not stored is kept.
    before = old_app.ask("go")["n"]
    until(lambda: old_app.ask("go")["n"] > before, "the app goes on")
    old_app.stop()
    assert old.has_unstored()
    new_app.stop()
    assert taker.stop() == 0
    now = objects(new.url)
    assert {key: now.get(key) for key in durable} == durable
    newest = new.restore("latest.db")
    if lets_both_write:
        # It asks whose; the histories are there, each to its end.
        assert newest["error"] == "TargetAmbiguous"
        newest = new.restore("latest.db", "--timeline", "2")
    assert newest["bookmark"].startswith("00002-")
    assert (new.folder / "latest.db").read_bytes() == new.database.read_bytes()
    first = old.restore("old.db", "--timeline", "1")
    assert first["bookmark"].startswith("00001-")
    last = max(event["bookmark"] for event in events(paused, "flushed"))
    assert first["bookmark"] >= last
    # The new host looks at every start.
    taker = new.replicate()
    if lets_both_write:
        until(lambda: "rival-writer" in alarms(taker), "it says what was written behind its back")
    assert taker.stop() == 0
    assert ("rival-writer" in alarms(taker)) == lets_both_write


def test_an_outage_is_told_once_and_caught_up_with(server: S3Server, hosts: list[Host], tmp_path: Path) -> None:
    """The app goes on, walrep is even started anew meanwhile, and in the end everything is stored."""
    with Gate(server.endpoint) as gate:
        host = Host(tmp_path / "host", S3Server(gate.endpoint, server.pid).url(new_prefix()))
        hosts.append(host)
        app = host.app()
        sidecar = host.replicate()
        until(lambda: flushed(sidecar) >= 2, "two segments")
        gate.close()
        until(lambda: gate.turned_away_count >= 4, "it tries again and again", 60.0)
        assert len(events(sidecar, "retry")) == 1
        # An app that writes meanwhile could begin its log anew, and then only a new snapshot would do.
        app.ask("pause")
        sidecar.kill()
        sidecar = host.replicate()
        count = app.ask("go")["n"]
        until(lambda: app.ask("go")["n"] > count + 20, "the app goes on")
        assert not events(sidecar, "flushed", "store-back", "timeline-began")
        gate.open()
        sidecar.wait_for("store-back", deadline_s=60.0)
        until(lambda: flushed(sidecar) >= 3, "it catches up")
        app.stop()
        assert sidecar.stop() == 0
        assert len(events(sidecar, "retry")) == 1
        assert len(events(sidecar, "store-back")) == 1
        assert host.restore("latest.db")["type"] == "restore"
    assert (host.folder / "latest.db").read_bytes() == host.database.read_bytes()


def test_what_cannot_work_is_said(ministack: S3Server, rclone: S3Server, hosts: list[Host], tmp_path: Path) -> None:
    """A bucket that is not there, a wrong secret: each has its own message, and none shows a secret."""
    wrong = {
        "missing": ministack.url("x").replace("walrep-tests", "no-such-bucket"),
        "secret": rclone.url("x").replace("secret-access-key=", "secret-access-key=wrong"),
    }
    for name, url in wrong.items():
        host = Host(tmp_path / name, url)
        hosts.append(host)
        host.app()
        sidecar = host.replicate(wait=False)
        assert sidecar.wait(60.0) == 4
        failure = events(sidecar, "exit")[-1]
        assert failure["error"] == {"missing": "StoreMissing", "secret": "AccessDenied"}[name]
        assert failure["hint"]
        assert "wrongwalrep" not in sidecar.log.read_text()


def test_no_command_shows_a_secret(rclone: S3Server, tmp_path: Path) -> None:
    """What is printed is the URL with stars in it, also where there is nothing or the object is not one."""
    url = rclone.url(new_prefix())
    secret = url.rpartition("secret-access-key=")[2]
    encoded = quote(secret, safe="")
    spellings = {secret, encoded, encoded.lower(), quote(secret), quote_plus(secret, safe="/")}
    commands = (
        ("list", url),
        ("list", url, "--json"),
        ("dump", url.replace("?", "/nothing?")),
        ("dump", url.replace("?", "/replica?").replace("s3:", "S3:")),
        ("restore", url, "-o", str(tmp_path / "out.db")),
        ("restore", url, "-o", str(tmp_path / "out.db"), "--if-replica-exists"),
        ("replicate", str(tmp_path / "app.db"), url),
    )
    for command in commands:
        for spelling in (secret, encoded):
            run = run_walrep(*(word.replace(secret, spelling) for word in command))
            assert [each for each in spellings if each in run.stdout + run.stderr] == [], command
    assert "secret-access-key=***" in run_walrep("list", url).stderr
