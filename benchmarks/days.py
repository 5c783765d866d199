"""What daily snapshots cost: a database of which 2 % of the pages change every day, scattered.

A week is played with the commands of a user: the base, which is full, and then six times a day's changes and `walrep
snapshot`. On the eighth day it begins again, so that a week tells a month. Logs count three times, as they are uploaded
in a segment and in two packs.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from benchmarks.children import ROOT
from benchmarks.report import Row, median_row
from benchmarks.settings import Settings

SHARE = 0.02
LOG_UPLOADS = 3
_DAYS = 6
_BASE_S_MAX = 60.0
_PAGE_BYTES = 4096
_ROW_BYTES = 1000
_ROWS_PER_TRANSACTION = 50
_WORD_COUNT = 3000


def run(settings: Settings) -> list[Row]:
    """Play a week; weigh what it uploaded against full snapshots, and time restores of both ends."""
    size_bytes, rounds = (60_000_000, 2) if settings.quick else (1_000_000_000, 3)
    folder = settings.directory
    app = _App(folder / "app.db", random.Random(settings.seed), size_bytes)
    replica = folder / "replica"
    sizes: list[int] = []
    with _replicating(app.path, replica):
        _wait_for(replica / "snapshots")
        for day in range(_DAYS + 1):
            if day:
                app.change()
                _walrep("snapshot", app.path)
            sizes.append(sum(_sizes(replica / "snapshots")) - sum(sizes))
    logs = sum(_sizes(replica / "segments"))
    daily = _zstd_bytes(app.path)
    # In turns: what disturbs one disturbs the other.
    pairs = [(_restore_s(folder, "--txid", "0"), _restore_s(folder)) for _ in range(rounds)]
    differential = ", ".join(f"{each / 1e6:.1f}" for each in sizes[1:])
    return [
        Row(
            benchmark="days",
            what="bytes of a week against full snapshots every day",
            value=(sum(sizes) + LOG_UPLOADS * logs) / (daily * (_DAYS + 1)),
            unit="x",
            at_most=0.2,
            note=f"full {sizes[0] / 1e6:.0f} MB, differential {differential} MB, logs {logs / 1e6:.1f} MB, three times",
        ),
        median_row(
            Row(
                benchmark="days",
                what="restore of day 6 against that of day 0",
                value=0.0,
                unit="x",
                at_most=1.3,
                note=", ".join(f"{last:.1f} s against {first:.1f} s" for first, last in pairs),
            ),
            [last / first for first, last in pairs],
        ),
    ]


class _App:
    """A database of rows of words, a few of them to a page."""

    def __init__(self, path: Path, dice: random.Random, size_bytes: int) -> None:
        self.path = path
        self._dice = dice
        self._words = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(_WORD_COUNT)]
        self._count = size_bytes // _ROW_BYTES
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("pragma journal_mode=wal")
        self._connection.execute("create table t(id integer primary key, n int, v text)")
        self._connection.execute("begin")
        self._connection.executemany("insert into t values(?, 0, ?)", ((n, self._text()) for n in range(self._count)))
        self._connection.execute("commit")
        self._connection.execute("pragma wal_checkpoint(truncate)")

    def change(self) -> None:
        """Give so many scattered rows another number and another text that their pages are the share of all."""
        pages = self.path.stat().st_size // _PAGE_BYTES
        rows = self._dice.sample(range(self._count), int(SHARE * pages))
        for at in range(0, len(rows), _ROWS_PER_TRANSACTION):
            self._connection.execute("begin")
            for row in rows[at : at + _ROWS_PER_TRANSACTION]:
                self._connection.execute("update t set n = n + 1, v = ? where id = ?", (self._text(), row))
            self._connection.execute("commit")

    def _text(self) -> str:
        return " ".join(self._dice.choices(self._words, k=_ROW_BYTES // 7))[: _ROW_BYTES - 30]


@contextmanager
def _replicating(database: Path, replica: Path) -> Iterator[None]:
    command = [
        sys.executable,
        "-m",
        "walrep",
        "replicate",
        str(database),
        f"file://{replica}",
        "--snapshot-at",
        "00:00",
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def _walrep(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "walrep", *map(str, arguments)], cwd=ROOT, check=True, capture_output=True)


def _wait_for(snapshots: Path) -> None:
    until = time.monotonic() + _BASE_S_MAX
    while not _sizes(snapshots):
        if time.monotonic() > until:
            raise RuntimeError("there is no base")
        time.sleep(0.1)


def _sizes(folder: Path) -> list[int]:
    """Return the sizes of the whole objects below a folder."""
    return [each.stat().st_size for each in folder.rglob("*") if each.is_file() and not each.name.startswith(".")]


def _zstd_bytes(database: Path) -> int:
    """Return how large the daily snapshot would be."""
    with database.open("rb") as source:
        return sum(map(len, zstandard.ZstdCompressor(level=3).read_to_iter(source)))


def _restore_s(folder: Path, *target: str) -> float:
    output = folder / "out.db"
    output.unlink(missing_ok=True)
    began = time.perf_counter()
    _walrep("restore", f"file://{folder / 'replica'}", "-o", output, "--check", "none", *target)
    return time.perf_counter() - began
