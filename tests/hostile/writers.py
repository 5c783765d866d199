"""The app, as a child process: `python -m tests.hostile.writers PLAN`, commands on stdin, answers on stdout.

Commands are lines: `pause`, `go`, `checkpoint MODE`, `stop`; each is answered by one line of JSON, and so is the start.
A writer that reads end-of-file stops like one that was told to. No process here loads two SQLite libraries.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

import msgspec

from tests.hostile.model import GARBAGE_IDS, Change, Shape, changes, value

_BUSY_S = 30.0
_BUSY_NAMES = {"BusyError", "LockedError"}
SCHEMA = (
    "create table if not exists meta(id integer primary key, n integer, side_commits integer)",
    "create table if not exists t(id integer primary key, v blob)",
    "create table if not exists blobs(id integer primary key, v blob)",
    "insert or ignore into meta values(1, 0, 0)",
)


class AppPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of the app does. `x_every`: each so many transactions; 0 never; `transactions` 0: no end."""

    path: str
    shape: Shape
    role: Literal["write", "checkpoint", "read"] = "write"
    engine: Literal["stdlib", "apsw"] = "stdlib"
    engine_path: str = ""
    """Where another release of apsw is, with the SQLite that it brings."""
    page_size: int = 4096
    auto_vacuum: int = 0
    cache_pages: int = 0
    autocheckpoint: int = 1000
    pause_s: float = 0.0
    checkpoint: str = ""
    """The mode of the role `checkpoint`, or of a writer that checkpoints itself."""
    checkpoint_s: float = 0.3
    savepoint_every: int = 0
    rollback_every: int = 0
    garbage_rows: int = 60
    vacuum_every: int = 0
    incremental_every: int = 0
    reopen_every: int = 0
    hold_s: float = 0.5
    transactions: int = 0


class Connection(Protocol):
    """What both engines have."""

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
        """Run a statement."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def import_engine(plan: AppPlan) -> Any:  # noqa: ANN401 - a module of any release
    """Return the plan's apsw; a process has one."""
    if plan.engine_path and plan.engine_path not in sys.path:
        sys.path.insert(0, plan.engine_path)
    import apsw

    return apsw


def connect(plan: AppPlan) -> Connection:
    """Open the database as the plan says, creating it if need be."""
    connection: Any
    if plan.engine == "apsw":
        apsw = import_engine(plan)
        connection = apsw.Connection(plan.path)
    else:
        import sqlite3

        connection = sqlite3.connect(plan.path, isolation_level=None, timeout=_BUSY_S)
    for pragma in (
        f"busy_timeout={int(_BUSY_S * 1000)}",
        f"page_size={plan.page_size}",
        f"auto_vacuum={plan.auto_vacuum}",
        "journal_mode=wal",
        "synchronous=normal",
        f"wal_autocheckpoint={plan.autocheckpoint}",
        f"cache_size={plan.cache_pages or -2000}",
    ):
        list(connection.execute(f"pragma {pragma}"))
    return connection  # type: ignore[no-any-return]  # either engine's, by duck type


def engine_version(plan: AppPlan) -> str:
    """Return the version of the SQLite that the plan's engine is."""
    if plan.engine == "apsw":
        # The function that tells has another name in older releases.
        ((version,),) = import_engine(plan).Connection(":memory:").execute("select sqlite_version()")
        return str(version)
    import sqlite3

    return sqlite3.sqlite_version


class App:
    """One process of the app."""

    def __init__(self, plan: AppPlan) -> None:
        self.plan = plan
        self.n = 0
        self.commits = 0
        self.longest_s = 0.0
        self.longest_checkpoint_s = 0.0
        self.busy = 0
        self._checkpointed_s = time.monotonic()
        self.connection = connect(plan)
        if plan.role == "write":
            self._retry(self._create)

    def step(self) -> None:
        """Do one thing: a transaction, a checkpoint, a while of reading."""
        plan = self.plan
        if plan.role == "checkpoint":
            self.checkpoint(plan.checkpoint)
        elif plan.role == "read":
            self.execute("begin")
            self.execute("select count(*), sum(length(v)) from t")
        else:
            self._write()
            if plan.checkpoint and time.monotonic() - self._checkpointed_s >= plan.checkpoint_s:
                self._checkpointed_s = time.monotonic()
                self.checkpoint(plan.checkpoint)

    def rest_s(self) -> float:
        """Return how long to rest before the next step."""
        plan = self.plan
        if plan.role == "checkpoint":
            return plan.checkpoint_s
        return plan.hold_s if plan.role == "read" else plan.pause_s

    def after_rest(self) -> None:
        """End what was held while resting."""
        if self.plan.role == "read":
            self.execute("rollback")

    def finished(self) -> bool:
        """Whether the plan's transactions are done."""
        return bool(self.plan.transactions) and self.n >= self.plan.transactions

    def checkpoint(self, mode: str) -> list[Any]:
        """Run a checkpoint; return SQLite's answer: busy, frames in the log, frames copied."""
        began = time.monotonic()
        try:
            return [*self.execute(f"pragma wal_checkpoint({mode})")[0]]
        except Exception as error:
            if not is_busy(error):
                raise
            self.busy += 1
            return [1, -1, -1]
        finally:
            self.longest_checkpoint_s = max(self.longest_checkpoint_s, time.monotonic() - began)

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run a statement to its end."""
        return list(self.connection.execute(sql, parameters))

    # -- one transaction --------------------------------------------------------------------------------------------

    def _write(self) -> None:
        plan, n = self.plan, self.n + 1
        if plan.rollback_every and n % plan.rollback_every == 0:
            self._retry(lambda: self.execute("begin immediate"))
            self._garbage(n)
            self.execute("rollback")
        began = time.monotonic()
        self._retry(lambda: self.execute("begin immediate"))
        n = self.n = self.execute("select n from meta")[0][0] + 1
        for change in changes(plan.shape, n):
            self._apply(change)
        if plan.savepoint_every and n % plan.savepoint_every == 0:
            self.execute("savepoint s")
            self._garbage(n)
            self.execute("rollback to s")
            self.execute("release s")
        if plan.incremental_every and n % plan.incremental_every == 0:
            self.execute("pragma incremental_vacuum(20)")
        vacuums = bool(plan.vacuum_every) and n % plan.vacuum_every == 0
        self.execute("update meta set n = ?, side_commits = side_commits + ?", (n, int(vacuums)))
        if n % plan.shape.stamp_every == 0:
            self.execute(f"pragma user_version={n}")
        self.execute("commit")
        self.commits += 1
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        if vacuums:
            self._retry(lambda: self.execute("vacuum"))
        if plan.reopen_every and n % plan.reopen_every == 0:
            self.connection.close()
            self.connection = connect(plan)

    def _apply(self, change: Change) -> None:
        name = change.name
        match change.action:
            case "put":
                sql = f"insert into {name} values(?, ?) on conflict(id) do update set v = excluded.v"
                self.execute(sql, (change.id, change.value))
            case "delete":
                self.execute(f"delete from {name} where id = ?", (change.id,))
            case "create":
                self.execute(f"create table {name}(id integer primary key, v blob)")
            case "drop":
                self.execute(f"drop table {name}")
            case "index":
                self.execute(f"create index {name} on t(v)")
            case "unindex":
                self.execute(f"drop index {name}")

    def _garbage(self, n: int) -> None:
        """Change many pages, more than a small cache holds; the caller takes it back."""
        for index in range(self.plan.garbage_rows):
            content = value(self.plan.shape.seed, 900, n, index)
            self.execute("insert or replace into t values(?, ?)", (GARBAGE_IDS + index, content))
        self.execute("update t set v = v || x'00' where id % 7 = 3")

    def _create(self) -> None:
        self.execute("begin immediate")
        for sql in SCHEMA:
            self.execute(sql)
        self.n = self.execute("select n from meta")[0][0]
        self.execute("commit")

    def _retry(self, call: Callable[[], object]) -> None:
        """Try again while SQLite says that it is busy, as an app does."""
        end = time.monotonic() + _BUSY_S
        while True:
            try:
                call()
            except Exception as error:
                if not is_busy(error) or time.monotonic() > end:
                    raise
                self.busy += 1
            else:
                return


def is_busy(error: Exception) -> bool:
    """Whether an error of either engine says that a lock was not free."""
    return type(error).__name__ in _BUSY_NAMES or "is locked" in str(error)


class Commands:
    """Lines from stdin, without waiting longer than asked."""

    def __init__(self) -> None:
        self._buffer = b""

    def poll(self, wait_s: float | None) -> str | None:
        """Return a command; None if there is none within `wait_s` (None: for ever); `stop` at end-of-file."""
        while b"\n" not in self._buffer:
            if not select.select([0], [], [], wait_s)[0]:
                return None
            data = os.read(0, 4096)
            if not data:
                return "stop"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


def say(**fields: object) -> None:
    """Answer with one line."""
    sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the plan until told to stop."""
    plan = msgspec.json.decode(sys.argv[1], type=AppPlan)
    app, commands = App(plan), Commands()
    say(ready=True, n=app.n, sqlite=engine_version(plan))
    resting, wait_s = False, 0.0
    while True:
        idle = resting or app.finished()
        command = commands.poll(None if idle else wait_s)
        if not idle and wait_s:
            app.after_rest()
        if command == "stop":
            break
        if command is not None:
            resting = command == "pause" or (resting and command != "go")
            result = app.checkpoint(command.split()[1]) if command.startswith("checkpoint") else None
            wait_s = 0.0
            say(n=app.n, finished=app.finished(), result=result)
            continue
        app.step()
        wait_s = app.rest_s()
        if app.finished():
            say(n=app.n, finished=True)
    app.connection.close()
    longest = {"longest_s": app.longest_s, "longest_checkpoint_s": app.longest_checkpoint_s}
    say(stopped=True, n=app.n, commits=app.commits, busy=app.busy, **longest)


if __name__ == "__main__":
    main()
