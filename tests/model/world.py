"""One run: hosts, a store, and everything that can happen to them, one step after the other."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from tests.model.host import Flag, Host
from tests.model.ledger import Ledger, Timeline
from tests.model.nursery import Nursery
from tests.model.place import Weather
from tests.model.restores import Restores
from tests.model.stage import Found, Setup, Stage
from tests.model.statements import make_statements
from walrep.core.target import AtTxid
from walrep.core.units import Txid
from walrep.engine.asking import SNAPSHOT_REQUEST
from walrep.engine.pins import keep, unkeep
from walrep.engine.planning import Wanted
from walrep.errors import RestoreError
from walrep.runner import InlineRunner
from walrep.store.base import Store
from walrep.testing.clock import SimClock
from walrep.testing.faults import When

__all__ = ["World"]

_LOOK_S_MAX = 0.2
"""So long after a commit walrep looks at an idle database at the latest."""

_SETTLE_S = 90.0
_FINAL_RESTORES_MAX = 120

_ATTEMPTS: tuple[Flag, ...] = ("", "", "take_over")
"""How walrep is started at the end: the second time for what only ended it, the third where another one took over."""


class World:
    """A run. Each method is something that happens; `close` it in any case."""

    def __init__(self, nursery: Nursery, setup: Setup, seed: int) -> None:
        memory = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(
            prefix="walrep-model-", dir=memory if memory.is_dir() else None, ignore_cleanup_errors=True
        )
        self.stage = Stage(nursery, Path(self._folder.name), setup, seed)
        self.stage.let_pass = self._let_pass
        self.ledger = Ledger(self.stage)
        self.restores = Restores(self.stage, self.ledger, self.stage.folder)
        self.ledger.look = self.restores.at_once
        self.hosts: list[Host] = []
        self._dice = Random(f"{seed} world")
        self._steps = 0
        self._stepped = False
        self._is_counted = setup.puts_per_day_max is not None
        """Whether one host alone counts what it sends, on a disk that takes the numbers, by a clock that is right."""
        host = Host(self.stage, self.ledger, 0)
        host.folder.mkdir()
        self.hosts.append(host)
        host.apps.create()
        host.start()
        self.pass_time(1.0)

    @property
    def found(self) -> Found:
        """What was done, and what was wrong."""
        return self.stage.found

    def close(self) -> None:
        """End every process, and remove the files."""
        for host in self.hosts:
            host.close()
        self._folder.cleanup()

    # -- the app ----------------------------------------------------------------------------------------------------

    def write(self, place: tuple[int, int, int], kind: str) -> None:
        """Commit a transaction; a place is host, process and connection."""
        host, connection = self._at("write " + kind, place)
        host.apps.commit(connection, self._statements(kind))

    def rollback(self, place: tuple[int, int, int], kind: str) -> None:
        """Take a transaction back, perhaps after it was written to the log in parts."""
        host, connection = self._at("rollback", place)
        host.apps.rollback(connection, self._statements(kind))

    def execute(self, place: tuple[int, int, int], sql: str) -> None:
        """Run a statement that is a transaction by itself: VACUUM, for instance."""
        host, connection = self._at(sql.partition("(")[0], place)
        host.apps.execute(connection, sql)

    def leave_open(self, place: tuple[int, int, int], kind: str) -> None:
        """Begin a transaction and leave it open; `kind` "read" only reads."""
        host, connection = self._at("leave open", place)
        if kind == "read":
            host.apps.leave_open(connection, ["begin", "select count(*) from t"], "read")
        elif "write" not in host.apps.transactions.values():
            host.apps.leave_open(connection, ["begin immediate", *self._statements(kind)], "write")

    def end_transaction(self, place: tuple[int, int, int], *, commit: bool) -> None:
        """End a transaction that was left open."""
        host, connection = self._at("end transaction", place)
        host.apps.end(connection, commit=commit)

    def checkpoint(self, place: tuple[int, int, int], mode: str) -> None:
        """Run a checkpoint of the app."""
        host, connection = self._at("checkpoint " + mode, place)
        host.apps.checkpoint(connection, mode)

    def close_connection(self, place: tuple[int, int, int]) -> None:
        """Close a connection; with the last one the log goes, unless walrep is there."""
        host, connection = self._at("close connection", place)
        host.apps.close(connection)

    def close_app(self, place: tuple[int, int, int]) -> None:
        """Close all connections."""
        host, _connection = self._at("close app", place)
        host.apps.close_all()

    def kill_app(self, place: tuple[int, int, int]) -> None:
        """Kill a process of the app."""
        host, connection = self._at("kill app", place)
        host.apps.kill(connection[0])
        self.found.app_kills += 1

    def die_before_publishing(self, place: tuple[int, int, int], kind: str) -> None:
        """Kill a process of the app within a commit."""
        host, connection = self._at("die before publishing", place)
        host.apps.die_before_publishing(connection, self._statements(kind))

    # -- walrep -----------------------------------------------------------------------------------------------------

    def start(self, number: int, flag: Flag = "") -> None:
        """Start walrep, if it does not run; with a flag it takes the replica over."""
        host = self._host("start " + flag, number)
        # A new timeline is refused while the writer before may be at work.
        host.may_conflict |= flag == "new_timeline"
        host.start(flag)

    def lose_state(self, number: int) -> None:
        """Remove what walrep keeps locally, while it is down."""
        self._is_counted = False
        self._host("lose state", number).lose_state()

    def stop(self, number: int) -> None:
        """Stop walrep in an orderly way."""
        self._host("stop", number).stop()

    def kill(self, number: int) -> None:
        """Kill walrep between two steps."""
        self._host("kill", number).kill("between steps")

    def kill_in_request(self, count: int) -> None:
        """Have walrep be killed in a request to come, before or after its effect."""
        self._count("kill in request")
        self.stage.place.kill_in = count

    def kill_at_file(self, number: int, touches: int) -> None:
        """Have walrep be killed when it touches a file of its state."""
        self._host("kill at file", number).die_at(touches)

    def ask_for_snapshot(self, number: int, *, full: bool) -> None:
        """Ask for a snapshot, as `walrep snapshot` does."""
        host = self._host("ask for snapshot", number)
        if host.is_protected and host.state_dir.is_dir():
            (host.state_dir / SNAPSHOT_REQUEST).write_text(f'{{"full": {str(full).lower()}}}')

    # -- the machine ------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self._count("pass time")
        self._let_pass(seconds)
        self._check_something()

    def suspend(self, seconds: float) -> None:
        """Let time pass that no process sees but on the wall clock."""
        self._count("suspend")
        self.stage.clock.advance(seconds)
        for host in self.hosts:
            host.sleep_through(seconds)
        self._let_pass(1.0)

    def step_clock(self, number: int, seconds: int) -> None:
        """Set a host's clock forward, or back."""
        self._stepped, self._is_counted = True, False
        self._host("step clock", number).step_wall(seconds * 1000)

    def change_weather(self, weather: Weather) -> None:
        """Change how the store answers."""
        self._count("weather " + weather)
        self.stage.place.weather = weather

    def strike_next(self, when: When) -> None:
        """Let the next request fail once."""
        self._count("strike " + when)
        self.stage.place.strike_next(when)

    def limit_disk(self, number: int, limit_bytes: int) -> None:
        """Let walrep write no file beyond so many bytes; -1: any."""
        self._is_counted = False
        self._host("limit disk", number).limit_disk(limit_bytes)

    def cut_power(self, number: int, seed: int) -> None:
        """Cut the power of a host, and switch it on again."""
        self._host("power cut", number).lose_power(seed)
        self.found.app_kills += 1

    def clone(self) -> None:
        """Start another machine from a copy of the first one's disk."""
        if len(self.hosts) == 1:
            self._count("clone")
            self._is_counted = False
            self.hosts.append(self.hosts[0].clone(1))

    # -- people -----------------------------------------------------------------------------------------------------

    def pin(self, name: str, share: float) -> None:
        """Keep a position by name."""
        self._count("pin")
        chosen = self._choose(share)
        if chosen is None or name in self.restores.pins:
            return
        timeline, txid = chosen
        clock = SimClock(self.stage.clock.now_ms())
        wanted = Wanted(target=AtTxid(Txid(txid)), timeline=timeline.id)
        try:
            kept = clock.run(keep(self._store(), name, wanted, clock=clock, runner=InlineRunner()))
        except RestoreError as error:
            must = self.ledger.must_restore(timeline, txid)
            self.stage.expect(not must, f"transaction {txid} of {timeline.id} cannot be kept: {error}")
        else:
            self.restores.pins[name] = kept.position

    def unpin(self, name: str) -> None:
        """Let go what is kept."""
        self._count("unpin")
        if self.restores.pins.pop(name, None) is not None:
            SimClock().run(unkeep(self._store(), name))

    def restore(self, share: float, how: str) -> None:
        """Restore something, by transaction, bookmark or time."""
        self._count("restore by " + how)
        chosen = self._choose(share)
        if chosen is None:
            return
        timeline, txid = chosen
        entry = timeline.entry(txid)
        if how == "time" and entry is not None and not self._stepped:
            self.restores.moment(timeline, entry.true_ms + self._dice.randrange(5000))
        elif how == "bookmark":
            self.restores.bookmark(timeline, txid)
        else:
            self.restores.transaction(timeline, txid)

    def restore_in_place(self, number: int, share: float) -> None:
        """Stop walrep and the apps, put a state back in the place of the database, and let walrep go on from it."""
        host = self._host("restore in place", number)
        if self.stage.place.weather != "fair" or self.stage.place.kill_in is not None:
            return
        host.stop()
        chosen = self._choose(share)
        if chosen is None or host.is_protected:
            return
        host.apps.close_all()
        restored = self.restores.in_place(*chosen, host.apps.database)
        if restored is not None:
            host.take_restored(*restored)

    # -- the end ----------------------------------------------------------------------------------------------------

    def finish(self) -> Found:
        """Let everything come to rest, and compare all of it."""
        self.stage.place.weather, self.stage.place.kill_in = "fair", None
        for host in reversed(self.hosts):
            self._settle(host)
        self._look_for_hidden()
        for timeline in list(self.ledger.durable()):
            self.restores.every(timeline, _FINAL_RESTORES_MAX)
        self.restores.kept()
        host = self.hosts[0]
        told = f"after a quiet stop not all is durable: {host.ended} {host.detached}"
        self.stage.expect(host.detached is not None and host.detached["durable"], told)
        if len(self.hosts) == 1:
            self.restores.latest(host.apps.entry)
        self._check_budget()
        return self.found

    def _check_budget(self) -> None:
        """Compare what arrived on each day with the budget, unless it was told that it was exceeded. INV-32."""
        puts_max = self.stage.setup.puts_per_day_max
        if puts_max is None or not self._is_counted or self.found.alarms["puts-exceeded"]:
            return
        most = max(self.stage.place.puts_by_day.values(), default=0)
        self.stage.expect(most <= puts_max, f"{most} PUTs on a day that may have {puts_max}")

    def _settle(self, host: Host) -> None:
        host.limit_disk(-1)
        host.die_at(0)
        for place in sorted(host.apps.transactions):
            host.apps.end(place, commit=False)
        for flag in _ATTEMPTS:
            host.start(flag)
            self._let_pass(_SETTLE_S)
            if self.stage.setup.puts_per_day_max is not None:
                # What waits for its turn goes on the next day.
                for _ in range(25):
                    self._let_pass(3600.0)
            if host.is_protected:
                break
        host.stop()

    # -- steps ------------------------------------------------------------------------------------------------------

    def _let_pass(self, seconds: float) -> None:
        """Let time pass for everybody; walrep looks at what was committed within a fifth of a second."""
        first_s = min(seconds, self._dice.uniform(0.0, _LOOK_S_MAX))
        for host in self.hosts:
            host.advance(first_s, notice=False)
        for host in self.hosts:
            host.advance(seconds - first_s, notice=True)
        if not any(host.is_protected for host in self.hosts):
            self.stage.clock.advance(seconds)

    def _look_for_hidden(self) -> None:
        """Note what walrep may have recovered when it opened a database; not while an app is in a command."""
        for host in self.hosts:
            host.apps.look_for_hidden()

    def _check_something(self) -> None:
        chosen = self._choose(self._dice.random())
        if chosen is not None and self._dice.random() < 0.3:
            self.restores.transaction(*chosen)

    def _choose(self, share: float) -> tuple[Timeline, int] | None:
        """Choose a durable transaction; of the newest timeline rather than of others."""
        self._look_for_hidden()
        durable = list(self.ledger.durable())
        if not durable:
            return None
        timeline = durable[-1] if self._dice.random() < 0.6 else self._dice.choice(durable)
        return timeline, int(share * (timeline.durable_txid + 0.999))

    def _statements(self, kind: str) -> list[str]:
        self._steps += 1
        return make_statements(kind, Random(self._dice.randrange(1 << 40)), self._steps)

    def _at(self, what: str, place: tuple[int, int, int]) -> tuple[Host, tuple[int, int]]:
        return self._host(what, place[0]), (place[1], place[2])

    def _host(self, what: str, number: int) -> Host:
        self._count(what)
        return self.hosts[number % len(self.hosts)]

    def _count(self, what: str) -> None:
        self.found.operations[what.strip()] += 1
        self.stage.note("--", what)

    def _store(self) -> Store:
        return self.stage.place.store()
