"""The app: a process with connections of its own that runs one command after the other, as it is told.

Where SQLite would wait for a lock it asks the test, which lets virtual time pass, and says when it has been enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from typing import Any, cast

import apsw
from xxhash import xxh3_128_hexdigest

from tests.model.channel import Channel
from walrep.core.pages import page_hash
from walrep.core.units import lock_byte_page

__all__ = ["hash_pages", "serve"]

_PUBLISHED_BYTES = 96
"""The wal-index header, which SQLite keeps twice: what is committed."""

_COUNTER = slice(8, 12)
"""How many commits the log has had since it was recovered: two images may be the same."""

_SALTS = slice(32, 40)


def serve(channel: Channel, config: dict[str, Any]) -> None:
    """Run commands until the channel ends."""
    app = _App(channel, config["path"], config["busy_s"])
    commands: dict[str, Callable[..., object]] = {
        "open": app.open,
        "close": app.close,
        "run": app.run,
        "checkpoint": app.checkpoint,
        "image": app.image,
        "hide": app.hide,
    }
    while True:
        name, *arguments = channel.receive()
        try:
            result = commands[name](*arguments)
        except apsw.BusyError as error:
            channel.send("busy", str(error))
        except apsw.Error as error:
            channel.send("failed", repr(error))
        else:
            channel.send("ok", result)


def hash_pages(image: bytes) -> tuple[int, bytes, int]:
    """Return the page size of a database, the hashes of its pages, 8 bytes each, and its checksum."""
    raw_size = int.from_bytes(image[16:18], "big")
    size = 65536 if raw_size == 1 else raw_size
    hashes = [page_hash(image[at : at + size], at // size + 1) for at in range(0, len(image), size)]
    checksum = 0
    for pgno, each in enumerate(hashes, start=1):
        checksum ^= 0 if pgno == lock_byte_page(size) else each
    return size, b"".join(each.to_bytes(8, "big") for each in hashes), checksum


class _App:
    def __init__(self, channel: Channel, path: str, busy_s: float) -> None:
        self._channel = channel
        self._path = path
        self._busy_s = busy_s
        self._connections: dict[int, apsw.Connection] = {}
        self._index = -1

    def open(self, number: int, pragmas: list[tuple[str, Any]]) -> None:
        connection = self._connect()
        self._connections[number] = connection
        for name, value in pragmas:
            connection.pragma(name, value)

    def close(self, number: int) -> None:
        self._connections.pop(number).close()
        if not self._connections and self._index >= 0:
            # The file may be gone with the last connection.
            os.close(self._index)
            self._index = -1

    def run(self, number: int, statements: list[str]) -> tuple[bool, int]:
        """Run statements; after a failure there is no transaction. Say whether one is open, and how many committed."""
        connection = self._connections[number]
        before = self._commit_count()
        try:
            for sql in statements:
                connection.execute(sql).fetchall()
        except apsw.Error:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        return connection.in_transaction, self._commit_count() - before

    def checkpoint(self, number: int, mode: str) -> tuple[int, int]:
        modes = {
            "passive": apsw.SQLITE_CHECKPOINT_PASSIVE,
            "full": apsw.SQLITE_CHECKPOINT_FULL,
            "restart": apsw.SQLITE_CHECKPOINT_RESTART,
            "truncate": apsw.SQLITE_CHECKPOINT_TRUNCATE,
        }
        return self._connections[number].wal_checkpoint(mode=modes[mode])

    def image(self) -> tuple[str, int, bytes, int]:
        """Return the digest of the database as SQLite sees it, and what `hash_pages` says of it."""
        # A connection that has written shows what it has in its cache, also of free pages that it never wrote.
        connection = self._connect()
        try:
            image = connection.serialize("main")
        finally:
            connection.close()
        return xxh3_128_hexdigest(image), *hash_pages(image)

    def hide(self, number: int, statements: list[str]) -> bool:
        """Commit, and take back that it was published, as if killed in between; say whether that was possible.

        Where the commit began the log anew, what stood there before it is gone, and it stays published.
        """
        connection = self._connections[number]
        connection.pragma("wal_autocheckpoint", 0)
        before = self._published()
        self.run(number, statements)
        if self._published()[_SALTS] != before[_SALTS]:
            return False
        os.pwrite(self._index, before, 0)
        return True

    def _commit_count(self) -> int:
        return int.from_bytes(self._published()[_COUNTER], "little")

    def _published(self) -> bytes:
        if self._index < 0:
            # It stays open while there are connections: closing it would drop the locks of this process.
            self._index = os.open(f"{self._path}-shm", os.O_RDWR)
        return os.pread(self._index, _PUBLISHED_BYTES, 0)

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(self._path)
        connection.set_busy_handler(self._wait)
        connection.create_scalar_function("blob", _blob, 2, deterministic=True)
        return connection

    def _wait(self, attempts: int) -> bool:
        self._channel.send("wait", attempts)
        return cast("bool", self._channel.receive()[0])


def _blob(*arguments: object) -> bytes:
    """Return the bytes of a seed, so many of them."""
    seed, size = cast("tuple[int, int]", arguments)
    return Random(seed).randbytes(size)
