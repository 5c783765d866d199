"""A process that writes a database: the app. It knows SQLite from the standard library and nothing of walrep.

Commands come as JSON lines on stdin, answers go out as JSON lines; see `benchmarks.children`. The four workloads are
those of the research (mixed OLTP, inserts by random key, job queue, random blobs); each transaction tells how many
bytes the app changed.
"""

from __future__ import annotations

import json
import random
import sqlite3
import string
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

FILL_ROWS = 2000
POOL_WORDS = 400_000


class Words:
    """Text made of a vocabulary of 4,000 words."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        letters = string.ascii_lowercase
        vocabulary = random.Random(7)
        self.all = ["".join(vocabulary.choices(letters, k=vocabulary.randint(3, 9))) for _ in range(4000)]

    def some(self, count: int) -> str:
        """Return `count` words."""
        return " ".join(self.random.choice(self.all) for _ in range(count))


def mixed_setup(c: sqlite3.Connection, w: Words) -> None:
    c.executescript("""
        create table users(id integer primary key, email text unique, name text, created real, karma int);
        create table posts(id integer primary key, user int, title text, body text, created real, score int);
        create index posts_user on posts(user, created);
        create index posts_score on posts(score);
        create table counters(k text primary key, v int);
    """)
    users = ((i, f"{w.some(1)}{i}@{w.some(1)}.com", w.some(2), i) for i in range(20_000))
    posts = ((i, w.random.randrange(20_000), w.some(6), w.some(40), i, w.random.randrange(1000)) for i in range(60_000))
    c.execute("begin")
    c.executemany("insert into users values(?,?,?,?,0)", users)
    c.executemany("insert into posts values(?,?,?,?,?,?)", posts)
    c.execute("commit")


def mixed_transaction(c: sqlite3.Connection, w: Words, k: int) -> int:
    r = w.random.random()
    if r < 0.35:
        body = w.some(40)
        c.execute("insert into posts values(null,?,?,?,?,0)", (w.random.randrange(20_000), w.some(6), body, k))
        return len(body) + 80
    if r < 0.6:
        c.execute("update posts set score=score+1 where id=?", (w.random.randrange(60_000),))
    elif r < 0.9:
        c.execute("update users set karma=karma+1 where id=?", (w.random.randrange(20_000),))
    else:
        c.execute("insert into counters values('hits',1) on conflict do update set v=v+1")
    return 16


def keys_setup(c: sqlite3.Connection, w: Words) -> None:
    c.execute("create table kv(k text primary key, v text) without rowid")
    c.execute("begin")
    c.executemany("insert into kv values(?,?)", ((w.random.randbytes(8).hex(), w.some(10)) for _ in range(50_000)))
    c.execute("commit")


def keys_transaction(c: sqlite3.Connection, w: Words, _k: int) -> int:
    value = w.some(10)
    c.execute("insert or replace into kv values(?,?)", (w.random.randbytes(8).hex(), value))
    return 16 + len(value)


def queue_setup(c: sqlite3.Connection, _w: Words) -> None:
    c.execute("create table q(id integer primary key autoincrement, st text, payload text, ts real)")
    c.execute("create index qi on q(st,ts)")


def queue_transaction(c: sqlite3.Connection, w: Words, k: int) -> int:
    payload = w.some(15)
    c.execute("insert into q(st,payload,ts) values('new',?,?)", (payload, float(k)))
    c.execute("update q set st='done' where id=(select id from q where st='new' order by ts limit 1)")
    if k > 500:
        c.execute("delete from q where id=(select min(id) from q)")
    return len(payload) + 30


def blobs_setup(c: sqlite3.Connection, w: Words) -> None:
    c.execute("create table t(id integer primary key, b blob)")
    c.execute("begin")
    c.executemany("insert into t values(?,?)", ((i, w.random.randbytes(2000)) for i in range(3000)))
    c.execute("commit")


def blobs_transaction(c: sqlite3.Connection, w: Words, _k: int) -> int:
    c.execute("update t set b=? where id=?", (w.random.randbytes(2000), w.random.randrange(3000)))
    return 2000


Setup = Callable[[sqlite3.Connection, Words], None]
Transaction = Callable[[sqlite3.Connection, Words, int], int]
WORKLOADS: dict[str, tuple[Setup, Transaction]] = {
    "mixed": (mixed_setup, mixed_transaction),
    "keys": (keys_setup, keys_transaction),
    "queue": (queue_setup, queue_transaction),
    "blobs": (blobs_setup, blobs_transaction),
}


class App:
    """One connection, and the commands that it is given."""

    def __init__(self, path: str, workload: str, seed: int, autocheckpoint: int) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=60)
        for pragma in ("journal_mode=wal", "synchronous=normal", f"wal_autocheckpoint={autocheckpoint}"):
            self.connection.execute(f"pragma {pragma}")
        self.words = Words(seed)
        self.setup_tables, self.transaction = WORKLOADS[workload]
        self.count = 0

    def setup(self) -> dict[str, Any]:
        """Make the tables of the workload."""
        self.setup_tables(self.connection, self.words)
        self.connection.execute("pragma wal_checkpoint(truncate)")
        return {}

    def commit(self) -> int:
        """Do one transaction of the workload; return the bytes changed."""
        self.connection.execute("begin immediate")
        changed = self.transaction(self.connection, self.words, self.count)
        self.connection.execute("commit")
        self.count += 1
        return changed

    def step(self, count: int) -> dict[str, Any]:
        """Do `count` transactions."""
        return {"changed": sum(self.commit() for _ in range(count))}

    def run(self, seconds: float, rate: float, latencies: str) -> dict[str, Any]:
        """Commit for a while, at `rate` a second (0: without a pause); write each latency in µs to a file.

        A latency is that of the whole transaction, from `begin immediate`, so that a lock held by anyone shows.
        """
        taken = array("d")
        clock = time.perf_counter
        began = clock()
        end = began + seconds
        done = 0
        while (now := clock()) < end:
            if rate:
                wait = began + done / rate - now
                if wait > 0:
                    time.sleep(wait)
            before = clock()
            self.commit()
            taken.append((clock() - before) * 1e6)
            done += 1
        lasted = clock() - began
        with open(latencies, "wb") as file:
            taken.tofile(file)
        return {"commits": done, "seconds": lasted}

    def fill(self, size_bytes: int) -> dict[str, Any]:
        """Make the database as large as that, with rows of text."""
        pool = " ".join(self.words.random.choices(self.words.all, k=POOL_WORDS))
        c, rnd, size = self.connection, self.words.random, 0
        c.execute("create table if not exists pages(id integer primary key, user int, title text, body text, at real)")
        c.execute("create index if not exists pages_user on pages(user, at)")
        while size < size_bytes:
            starts = [rnd.randrange(len(pool) - 700) for _ in range(FILL_ROWS)]
            rows = [
                (rnd.randrange(1 << 20), pool[s : s + 40], pool[s : s + rnd.randrange(80, 600)], rnd.random() * 1e9)
                for s in starts
            ]
            c.execute("begin")
            c.executemany("insert into pages(user,title,body,at) values(?,?,?,?)", rows)
            c.execute("commit")
            size = c.execute("pragma page_count").fetchone()[0] * 4096
        c.execute("pragma wal_checkpoint(truncate)")
        return {"bytes": size}


def main() -> None:
    """Serve commands until stdin ends: `{"do": method, ...arguments}`."""
    path, workload, seed, autocheckpoint = sys.argv[1:5]
    app = App(path, workload, int(seed), int(autocheckpoint))
    for line in sys.stdin:
        arguments = json.loads(line)
        answer = getattr(app, arguments.pop("do"))(**arguments)
        print(json.dumps(answer), flush=True)
    app.connection.close()


if __name__ == "__main__":
    main()
