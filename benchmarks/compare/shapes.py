"""What the apps of the comparison do in a transaction. Everything follows from a seed, so that it can be done again.

Each transaction also counts itself in a table of its own: that is the app's record, by which restores are judged. It
makes one page more for every strategy.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.writer import Words, blobs_setup, blobs_transaction, queue_setup, queue_transaction

RECORD_BYTES = 8
SAMPLE_COUNT = 200
LOG_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
BULK_ROWS = 500

Setup = Callable[[sqlite3.Connection, Words, int], None]
Transaction = Callable[[sqlite3.Connection, Words, int, int], int]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one app does: the shape of its transactions, its first rows, its seed, and after how many it vacuums."""

    shape: str
    rows: int
    seed: int
    vacuum_every: int = 0


def _oltp_setup(c: sqlite3.Connection, w: Words, rows: int) -> None:
    c.executescript("""
        create table users(id integer primary key, email text unique, name text, created real, karma int);
        create table posts(id integer primary key, user int, title text, body text, created real, score int);
        create index posts_user on posts(user, created);
        create index posts_score on posts(score);
    """)
    rnd, users = w.random, rows // 3
    c.execute("begin")
    c.executemany(
        "insert into users values(?,?,?,?,0)",
        ((i, f"{w.some(1)}{i}@{w.some(1)}.com", w.some(2), i) for i in range(users)),
    )
    posts = ((i, rnd.randrange(users), w.some(6), w.some(40), i, rnd.randrange(1000)) for i in range(rows))
    c.executemany("insert into posts values(?,?,?,?,?,?)", posts)
    c.execute("commit")


def _oltp_transaction(c: sqlite3.Connection, w: Words, k: int, rows: int) -> int:
    kind = w.random.random()
    if kind < 0.35:
        body = w.some(40)
        c.execute("insert into posts values(null,?,?,?,?,0)", (w.random.randrange(rows // 3), w.some(6), body, k))
        return len(body) + 80
    if kind < 0.65:
        c.execute("update posts set score=score+1 where id=?", (w.random.randrange(rows),))
    else:
        c.execute("update users set karma=karma+1 where id=?", (w.random.randrange(rows // 3),))
    return 16


def _bulk_setup(c: sqlite3.Connection, _w: Words, _rows: int) -> None:
    c.execute("create table events(id integer primary key, at int, kind text, body text)")
    c.execute("create index events_kind on events(kind, at)")


def _bulk_transaction(c: sqlite3.Connection, w: Words, k: int, _rows: int) -> int:
    rows = [(k, w.some(1), w.some(30)) for _ in range(BULK_ROWS)]
    c.executemany("insert into events values(null,?,?,?)", rows)
    return sum(8 + len(kind) + len(body) for _, kind, body in rows)


SHAPES: dict[str, tuple[Setup, Transaction]] = {
    "oltp": (_oltp_setup, _oltp_transaction),
    "queue": (lambda c, w, _rows: queue_setup(c, w), lambda c, w, k, _rows: queue_transaction(c, w, k)),
    "blobs": (lambda c, w, _rows: blobs_setup(c, w), lambda c, w, k, _rows: blobs_transaction(c, w, k)),
    "bulk": (_bulk_setup, _bulk_transaction),
}


def connect(path: Path, *, durable: bool = True) -> sqlite3.Connection:
    """Open a database as an app does: in WAL mode, with SQLite's own checkpoints."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute("pragma journal_mode=wal")
    connection.execute(f"pragma synchronous={'normal' if durable else 'off'}")
    return connection


def make_template(path: Path, load: Load) -> None:
    """Make the database with which an app begins."""
    connection = connect(path, durable=False)
    connection.execute("create table app_record(id integer primary key, n int)")
    connection.execute("insert into app_record values(1, 0)")
    SHAPES[load.shape][0](connection, Words(load.seed), load.rows)
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()


class Session:
    """An app on an open database: does one transaction after the other."""

    def __init__(self, connection: sqlite3.Connection, load: Load) -> None:
        self.connection = connection
        self.load = load
        self.words = Words(load.seed + 1)
        self.done = 0

    def commit(self) -> int:
        """Do the next transaction; return how many bytes the app changed."""
        c = self.connection
        c.execute("begin immediate")
        changed = SHAPES[self.load.shape][1](c, self.words, self.done, self.load.rows)
        self.done += 1
        c.execute("update app_record set n=? where id=1", (self.done,))
        c.execute("commit")
        return changed + RECORD_BYTES

    @property
    def vacuum_is_due(self) -> bool:
        """Whether it is night."""
        return bool(self.load.vacuum_every) and self.done % self.load.vacuum_every == 0


def replay(template: Path, load: Load, count: int, output: Path) -> None:
    """Make the database as it was after so many transactions. What VACUUM does not change is left out."""
    shutil.copy(template, output)
    connection = connect(output, durable=False)
    session = Session(connection, load)
    connection.execute("pragma wal_autocheckpoint=100000")
    for _ in range(count):
        session.commit()
    connection.close()


def pages_per_transaction(template: Path, load: Load, scratch: Path) -> float:
    """Return how many pages a transaction writes, from the log of some that are done for this."""
    shutil.copy(template, scratch)
    connection = connect(scratch, durable=False)
    connection.execute("pragma wal_autocheckpoint=0")
    session = Session(connection, load)
    for _ in range(SAMPLE_COUNT):
        session.commit()
    page_size = int(connection.execute("pragma page_size").fetchone()[0])
    log_bytes = scratch.with_name(f"{scratch.name}-wal").stat().st_size - LOG_HEADER_BYTES
    connection.close()
    scratch.unlink()
    return log_bytes / (page_size + FRAME_HEADER_BYTES) / SAMPLE_COUNT
