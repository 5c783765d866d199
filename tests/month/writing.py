"""The app: one connection of the SQLite that walrep uses, so that it may be in the same process with it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

import apsw

__all__ = ["ROWS", "App"]

ROWS = 2000
_WORDS = 3000


class App:
    """Notes that are edited, written and thrown away, and a counter; the database stays at about one MB."""

    def __init__(self, path: Path, seed: int, *, synchronous: str) -> None:
        self.path = path
        self._dice = Random(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self._words = ["".join(self._dice.choices(letters, k=self._dice.randint(3, 9))) for _ in range(_WORDS)]
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("synchronous", synchronous)
        self._connection.set_busy_timeout(5000)
        self._connection.execute("create table notes(id integer primary key, edited int, body text)")
        self._connection.execute("create table counters(name text primary key, value int)")
        self._connection.execute("insert into counters values('commits', 0)")
        with self._connection:
            for _ in range(ROWS):
                self._insert()

    def commit(self, rows: int) -> None:
        """Commit one transaction that changes so many rows."""
        with self._connection:
            self._connection.execute("update counters set value = value + 1")
            for _ in range(rows):
                self._change()

    def restart_log(self) -> None:
        """Have the log begin anew, as nobody's keeper forbids it."""
        self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)

    def digest(self) -> str:
        """Return the SHA-256 of the whole database, as SQLite sees it now."""
        return hashlib.sha256(self._connection.serialize("main")).hexdigest()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _change(self) -> None:
        kind = self._dice.random()
        if kind < 0.6:
            row = self._connection.execute("select min(id) from notes").get + self._dice.randrange(ROWS)
            self._connection.execute("update notes set edited = edited + 1, body = ? where id = ?", (self._text(), row))
        elif kind < 0.9:
            self._insert()
            self._connection.execute("delete from notes where id = (select min(id) from notes)")

    def _insert(self) -> None:
        self._connection.execute("insert into notes(edited, body) values(0, ?)", (self._text(),))

    def _text(self) -> str:
        return " ".join(self._dice.choices(self._words, k=self._dice.randint(20, 90)))
