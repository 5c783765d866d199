"""The apps of one host: processes with connections to one database, and the image after each of their commits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.model.images import Entry
from tests.model.nursery import Child
from tests.model.stage import Stage

__all__ = ["Apps", "Place"]

Place = tuple[int, int]
"""A connection: number of the process, number within it."""

_WAIT_S = 0.02


class Apps:
    """What writes the database; `entry` is the image that it has."""

    def __init__(self, stage: Stage, database: Path) -> None:
        self.entry: Entry | None = None
        self.database = database
        self.transactions: dict[Place, str] = {}
        """What is open: "read" or "write"."""
        self.touched = False
        """Whether anything was done to the files since walrep looked at them."""
        self.rolled_back = False
        """Whether a transaction was taken back since the last commit; what it spilled may stand in the log."""
        self._stage = stage
        self._processes: dict[int, Child] = {}
        self._connections: set[Place] = set()
        self._hidden = False
        self._touches = 0
        self._waited_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether any process has a connection."""
        return bool(self._connections)

    def take_copy(self, other: Apps) -> None:
        """Be the apps of a copy of the other ones' files, made at this moment."""
        self.entry, self._hidden = other.entry, other._hidden

    def create(self) -> None:
        """Make the database."""
        setup = self._stage.setup
        pragmas = [("page_size", setup.page_size), ("auto_vacuum", setup.auto_vacuum), ("journal_mode", "wal")]
        self._command(0, "open", 0, pragmas)
        self._command(0, "close", 0)
        self._ready((0, 0))
        self._command(0, "run", 0, ["create table meta(n int)", "insert into meta values(0)"])
        self._command(0, "run", 0, ["create table t(id integer primary key, k int, v blob)"])
        # So that no power cut takes it back.
        self._command(0, "run", 0, ["pragma wal_checkpoint(truncate)"])
        self._look(None)

    def commit(self, place: Place, statements: list[str]) -> None:
        """Run a transaction, unless one is open."""
        if place not in self.transactions:
            self._run(place, ["begin immediate", *statements, "commit"])

    def rollback(self, place: Place, statements: list[str]) -> None:
        """Run a transaction and take it back."""
        self._ready(place)
        before = self.entry
        if place not in self.transactions:
            self._run(place, ["begin immediate", *statements, "rollback"])
            self.rolled_back = True
            self._stage.expect(self.entry is before, "a rollback changed the database")

    def execute(self, place: Place, sql: str) -> None:
        """Run a statement that is a transaction by itself."""
        if place not in self.transactions:
            self._run(place, [sql])

    def leave_open(self, place: Place, statements: list[str], kind: str) -> None:
        """Begin a transaction that stays open."""
        if place not in self.transactions and self._run(place, statements):
            self.transactions[place] = kind

    def end(self, place: Place, *, commit: bool) -> None:
        """End a transaction that is open."""
        if self.transactions.pop(place, None) is not None:
            self._run(place, ["commit" if commit else "rollback"])
            self.rolled_back = self.rolled_back or not commit

    def checkpoint(self, place: Place, mode: str) -> None:
        """Run a checkpoint; one that waits must get on unless a transaction of the apps is in the way."""
        if place in self.transactions:
            return
        self._ready(place)
        status, value = self._command(place[0], "checkpoint", place[1], mode)
        self._stage.note("checkpoint", mode, status, value if status == "ok" else "")
        if not self.transactions:
            self._stage.expect(status == "ok", f"{mode} checkpoint of the app: {status} {value}")
        self._look(self.entry)

    def close(self, place: Place) -> None:
        """Close a connection, the last one perhaps."""
        if place in self._connections:
            self.transactions.pop(place, None)
            self._connections.discard(place)
            self._command(place[0], "close", place[1])

    def close_all(self) -> None:
        """Close everything in an orderly way."""
        for place in sorted(self._connections):
            self.close(place)
        self.kill_all()

    def kill(self, process: int) -> None:
        """Kill one process."""
        if process in self._processes:
            self._processes.pop(process).kill()
            open_writes = (
                place for place, kind in self.transactions.items() if place[0] == process and kind == "write"
            )
            self.rolled_back = self.rolled_back or any(open_writes)
            self._connections = {each for each in self._connections if each[0] != process}
            self.transactions = {each: kind for each, kind in self.transactions.items() if each[0] != process}
            self._after()

    def kill_all(self) -> None:
        """Kill all processes."""
        for process in sorted(self._processes):
            self.kill(process)

    def die_before_publishing(self, place: Place, statements: list[str]) -> None:
        """Kill a process between the last frame of a commit and the moment at which others see it."""
        if place in self.transactions or "write" in self.transactions.values():
            return
        self._ready(place)
        status, value = self._command(place[0], "hide", place[1], ["begin immediate", *statements, "commit"])
        if status == "ok" and not value:
            self._look(None)
        self._hidden = status == "ok" and bool(value)
        self.kill(place[0])
        self._stage.note("died before publishing", status, value)

    def look_after_crash(self) -> None:
        """Find out what SQLite makes of the files: the same, something earlier, or a commit that was not published."""
        # All are dead: what was not published is recovered now, or lost for good.
        hidden, self._hidden = self._hidden, False
        self._ready((0, 0))
        status, image = self._command(0, "image")
        if status != "ok" or self.entry is None:
            self._stage.problem(f"the database cannot be read after a crash: {status} {image}")
            return
        digest, _size, hashes, checksum = image
        earlier = self._stage.images.earlier(self.entry, digest)
        self._stage.note("after a crash", earlier.number if earlier else "something new")
        if earlier is not None:
            self.entry = earlier
            return
        self._stage.expect(hidden, "after a crash the database has an image that it never had")
        self._note_entry(digest, hashes, checksum)

    def take_restored(self, entry: Entry) -> None:
        """Note that the file was replaced by an earlier image, while nobody had it open."""
        self.entry, self._hidden = entry, False
        self._after()

    def look_for_hidden(self) -> None:
        """Note the commit that was not published, should somebody who opened the database have recovered it."""
        if self._hidden:
            self._ready((0, 0))
            self._look(None)

    # -- one command ------------------------------------------------------------------------------------------------

    def _run(self, place: Place, statements: list[str]) -> bool:
        """Run statements, and note what they commit; say whether a transaction is open behind them."""
        self._ready(place)
        others = {each for each, kind in self.transactions.items() if each != place and kind == "write"}
        waits = self._stage.found.waits
        status, value = self._command(place[0], "run", place[1], statements)
        is_open, commits = value if status == "ok" else (False, 0)
        self._stage.note("run", place, statements[0], len(statements), status, value, sorted(self.transactions.items()))
        if status != "ok":
            self.transactions.pop(place, None)
        if not others and statements[0] == "begin immediate":
            waited = self._stage.found.waits - waits
            self._stage.expect(status == "ok" and not waited, f"the app waited {waited} times: {status} {value}")
        self._look(None, commits)
        return is_open

    def _ready(self, place: Place) -> None:
        """Have the process and its connection."""
        process, number = place
        if place in self._connections:
            return
        self._connections.add(place)
        setup = self._stage.setup
        pragmas = [
            ("journal_mode", "wal"),
            ("synchronous", setup.synchronous),
            ("cache_size", setup.cache_pages),
            ("wal_autocheckpoint", setup.autocheckpoint),
        ]
        status, value = self._command(process, "open", number, pragmas)
        self._stage.expect(status == "ok", f"the app cannot open its database: {status} {value}")
        self.look_for_hidden()

    def _command(self, process: int, name: str, *arguments: object) -> tuple[str, Any]:
        if process not in self._processes:
            config = {"path": str(self.database), "busy_s": self._stage.setup.busy_s}
            self._processes[process] = self._stage.nursery.spawn("app", config)
        channel = self._processes[process].channel
        channel.send(name, *arguments)
        self._waited_s = 0.0
        while True:
            status, value = channel.receive()
            if status != "wait":
                break
            self._stage.found.waits += 1
            self._after()
            # Somebody else may kill this process meanwhile; nobody does.
            self._stage.let_pass(_WAIT_S)
            self._waited_s += _WAIT_S
            channel.send(self._waited_s < self._stage.setup.busy_s)
        self._after()
        return status, value

    def _after(self) -> None:
        """Give the file a modification time of virtual time; real ones of two writes may be the same."""
        self.touched = True
        self._touches += 1
        now_ns = self._stage.clock.now_ms() * 1_000_000 + self._touches
        if self.database.exists():
            os.utime(self.database, ns=(now_ns, now_ns))

    def _look(self, expected: Entry | None, commits: int = 0) -> None:
        """Note the image if something was committed; `expected`: it must be this one."""
        place = min(self._connections, default=None)
        if place is None:
            return
        status, image = self._command(place[0], "image")
        if status != "ok":
            self._stage.problem(f"the database cannot be read: {status} {image}")
            return
        digest, _size, hashes, checksum = image
        if self.entry is not None and digest == self.entry.digest and not commits:
            return
        self._stage.expect(commits <= 1, f"{commits} commits at once")
        self._stage.expect(expected is None, "a checkpoint changed the database")
        self._note_entry(digest, hashes, checksum)

    def _note_entry(self, digest: str, hashes: bytes, checksum: int) -> None:
        now_ms = self._stage.clock.now_ms()
        self.entry = self._stage.images.add((digest, hashes, checksum), self.entry, true_ms=now_ms, wall_ms=now_ms)
        self._hidden = self.rolled_back = False
        self._stage.found.commits += 1
        self._stage.note("commit", self.entry.number, len(hashes) // 8, "pages")
