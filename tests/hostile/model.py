"""What the app writes: transaction n changes what a pure function of (seed, n) says, whoever runs it.

So the rows after n transactions can be computed again, and `meta.n` in a restored database tells n. The header's
`user_version` is stamped with n (rounded down to a multiple of `stamp_every`), so that the order of transactions can
also be read from page 1 at every transaction of a replay.
"""

from __future__ import annotations

import functools
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Literal

import msgspec

_MASK = (1 << 64) - 1
_NOISE_BYTES = 1 << 20
BULK_IDS = 1_000_000
GARBAGE_IDS = 2_000_000
HUGE_ROW_BYTES = 60_000


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What transactions look like. `x_every`: each so many transactions; 0 never."""

    seed: int = 0
    slots: int = 1500
    puts: int = 3
    value_bytes: int = 200
    delete_every: int = 0
    blob_every: int = 0
    blob_bytes: int = 0
    bulk_every: int = 0
    """Halfway through each such period `bulk_rows` rows come, at its end they go: the database grows and shrinks."""
    bulk_rows: int = 300
    ddl_every: int = 0
    huge_at: int = 0
    huge_bytes: int = 0
    stamp_every: int = 5


class Change(msgspec.Struct, frozen=True):
    """One change. `name` is a table or an index."""

    action: Literal["put", "delete", "create", "drop", "index", "unindex"]
    name: str
    id: int = 0
    value: bytes = b""


def mix(seed: int, n: int, index: int = 0) -> int:
    """Return a number that looks random (splitmix64)."""
    x = (seed * 0x9E3779B97F4A7C15 + n * 0xBF58476D1CE4E5B9 + index * 0x94D049BB133111EB) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@functools.lru_cache(maxsize=2)
def noise(seed: int) -> bytes:
    """Return a mebibyte that does not compress."""
    return Random(seed).randbytes(_NOISE_BYTES)


def value(seed: int, size: int, n: int, index: int) -> bytes:
    """Return the content of one row of transaction n."""
    data = noise(seed)
    start = mix(seed, n, index + 7777) % _NOISE_BYTES
    body = data[start : start + size]
    while len(body) < size:
        body += data[: size - len(body)]
    return b"%016d" % n + body


def changes(shape: Shape, n: int) -> Iterator[Change]:
    """Yield what transaction n changes."""
    seed = shape.seed
    for index in range(shape.puts):
        number = mix(seed, n, index)
        size = (number >> 20) % (shape.value_bytes + 1)
        yield Change("put", "t", number % shape.slots, value(seed, size, n, index))
    if shape.delete_every and n % shape.delete_every == 0:
        first = mix(seed, n, 100) % shape.slots
        yield from (Change("delete", "t", number) for number in range(first, first + 20))
    if shape.blob_every and n % shape.blob_every == 0:
        size = mix(seed, n, 200) % shape.blob_bytes
        yield Change("put", "blobs", mix(seed, n, 201) % 5, value(seed, size, n, 200))
    if shape.bulk_every:
        yield from _bulk(shape, n)
    if shape.ddl_every:
        yield from _ddl(shape, n)
    if shape.huge_at and n == shape.huge_at:
        count = shape.huge_bytes // HUGE_ROW_BYTES
        yield from (Change("put", "blobs", 1000 + i, value(seed, HUGE_ROW_BYTES, n, 1000 + i)) for i in range(count))


def _bulk(shape: Shape, n: int) -> Iterator[Change]:
    phase = n % shape.bulk_every
    ids = range(BULK_IDS, BULK_IDS + shape.bulk_rows)
    if phase == shape.bulk_every // 2:
        yield from (Change("put", "t", number, value(shape.seed, 700, n, number)) for number in ids)
    elif phase == 0:
        yield from (Change("delete", "t", number) for number in ids)


def _ddl(shape: Shape, n: int) -> Iterator[Change]:
    period = shape.ddl_every
    phase = n % period
    steps: dict[int, Change] = {
        period // 6: Change("create", "extra"),
        period // 3: Change("index", "t_value"),
        period // 2: Change("unindex", "t_value"),
        5 * period // 6: Change("drop", "extra"),
    }
    if phase in steps:
        yield steps[phase]
    elif period // 6 < phase < 5 * period // 6:
        yield Change("put", "extra", phase, value(shape.seed, 3000, n, 300))


class Model:
    """The rows after `n` transactions."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.n = 0
        self._tables: dict[str, dict[int, bytes]] = {"t": {}, "blobs": {}}
        self._indexes: set[str] = set()

    def advance(self, n: int) -> None:
        """Apply the transactions up to n."""
        while self.n < n:
            self.n += 1
            for change in changes(self.shape, self.n):
                self._apply(change)

    def digest(self) -> str:
        """Return what identifies the state; equal to `database_digest` of a database that holds it."""
        names = sorted({*self._tables, *self._indexes})
        tables = ((name, sorted(self._tables[name].items())) for name in sorted(self._tables))
        return _digest(names, tables)

    def _apply(self, change: Change) -> None:
        name = change.name
        match change.action:
            case "put":
                self._tables[name][change.id] = change.value
            case "delete":
                self._tables[name].pop(change.id, None)
            case "create":
                self._tables[name] = {}
            case "drop":
                self._tables.pop(name, None)
            case "index":
                self._indexes.add(name)
            case "unindex":
                self._indexes.discard(name)


class DatabaseFacts(msgspec.Struct, frozen=True):
    """What a database file says of itself: the counters of its `meta` row, and the digest of all rows."""

    n: int
    side_commits: int
    digest: str
    integrity: str


def read_database(path: Path, *, integrity: bool) -> DatabaseFacts:
    """Read a database that nobody uses, leaving nothing beside it."""
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        found = connection.execute("select type, name from sqlite_schema where name not like 'sqlite_%'").fetchall()
        names = sorted(name for _, name in found if name != "meta")
        tables = sorted(name for kind, name in found if kind == "table" and name != "meta")
        rows = ((name, connection.execute(f"select id, v from {name} order by id")) for name in tables)
        n, side_commits = connection.execute("select n, side_commits from meta").fetchone()
        checked = connection.execute("pragma integrity_check(3)").fetchall() if integrity else [("ok",)]
        return DatabaseFacts(n, side_commits, _digest(names, rows), "; ".join(str(row[0]) for row in checked))
    finally:
        connection.close()


def _digest(names: list[str], tables: Iterable[tuple[str, Iterable[tuple[int, bytes]]]]) -> str:
    digest = hashlib.blake2b(repr(names).encode(), digest_size=16)
    for name, rows in tables:
        digest.update(name.encode())
        for number, content in rows:
            digest.update(b"%d:%d:" % (number, len(content)))
            digest.update(content)
    return digest.hexdigest()
