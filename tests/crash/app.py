"""The app, a process of its own: `python -m tests.crash.app PATH IMAGES`; a line in, a line out.

    commit STEP COUNT   that many transactions, one row more each
    restart STEP        a checkpoint that makes the log begin anew
    close STEP          close the connection, as the last one does, and open it again
    check STEP          SQLite's own integrity check, and the digest of the database

Each transaction leaves a line `step parent digest` in IMAGES: the SHA-256 of the whole database before and after it.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import apsw

__all__ = ["ROWS", "main"]

ROWS = 24
_WORD = "abcdefghijklmnopqrstuvwxyz"


class _App:
    def __init__(self, path: Path, images: Path) -> None:
        self._path = path
        self._images = images.open("a", buffering=1, encoding="ascii")
        self._open()
        if not self._connection.execute("select count(*) from sqlite_schema").get:
            with self._connection:
                self._connection.execute("create table notes(id integer primary key, body text)")
                self._insert(ROWS)
            self._note(-1, "")
        self._digest = self._take_digest()

    def _open(self) -> None:
        self._connection = apsw.Connection(str(self._path))
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("synchronous", "normal")
        self._connection.set_busy_timeout(5000)

    def commit(self, step: int, count: int) -> str:
        for _ in range(count):
            with self._connection:
                last = int(self._connection.execute("select max(id) from notes").get)
                self._insert(1)
                self._connection.execute("update notes set body = body || ? where id = ?", ("+", last % ROWS + 1))
            self._note(step, self._digest)
        return "done"

    def restart(self, step: int) -> str:
        del step
        self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return "done"

    def close(self, step: int) -> str:
        del step
        self._connection.close()
        self._open()
        return "done"

    def check(self, step: int) -> str:
        del step
        return f"{self._connection.pragma('integrity_check')} {self._take_digest()}"

    def _insert(self, count: int) -> None:
        for _ in range(count):
            self._connection.execute(
                "insert into notes(body) values(printf('%s %d', ?, (select count(*) from notes)))", (_WORD * 40,)
            )

    def _note(self, step: int, parent: str) -> None:
        self._digest = self._take_digest()
        self._images.write(f"{step} {parent or '-'} {self._digest}\n")

    def _take_digest(self) -> str:
        return hashlib.sha256(self._connection.serialize("main")).hexdigest()


def main() -> int:
    """Do what the lines say."""
    app = _App(Path(sys.argv[1]), Path(sys.argv[2]))
    print("ready", flush=True)
    for line in sys.stdin:
        name, *numbers = line.split()
        print(getattr(app, name)(*map(int, numbers)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
