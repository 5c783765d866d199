"""Whether a restored database is what the app had: compared row for row with the same transactions done again."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.compare.processes import Ended
from benchmarks.compare.results import Restored
from benchmarks.compare.shapes import Load, replay
from benchmarks.compare.writing import Commits

OWN_TABLES = "_litestream_"
"""Tables that a tool has put into the database; the app knows nothing of them."""

CLOCK_S = 0.002
"""The app's record and the tool round a moment to milliseconds."""


def digest(path: Path) -> str:
    """Return a hash of a database's schema and rows."""
    found = hashlib.sha256()
    with closing(sqlite3.connect(path)) as connection:
        schema = connection.execute("select type, name, sql from sqlite_master order by type, name").fetchall()
        for kind, name, sql in schema:
            if name.startswith(OWN_TABLES):
                continue
            found.update(repr((kind, name, sql)).encode())
            if kind == "table":
                for row in connection.execute(f'select * from "{name}"'):
                    found.update(repr(row).encode())
    return found.hexdigest()


def check_quickly(path: Path) -> str:
    """Return what SQLite's quick_check says."""
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("pragma quick_check(1)").fetchone()[0])


def judge(
    ended: Ended,
    output: Path,
    original: tuple[Path, Load],
    commits: Commits,
    at_s: float | None,
    *,
    keeps_up: bool = True,
) -> Restored:
    """Compare a restore with the app's record: `original` is the template, and what the app did to it.

    A strategy that keeps up has, after an orderly stop, everything: what is missing then is lost. Requests and bytes
    are filled in by who counts them.
    """
    expected = commits.number_at(float("inf") if at_s is None else at_s + CLOCK_S)
    number, verdict = -1, ""
    if ended.code or not output.exists():
        verdict = f"failed with exit code {ended.code}: {ended.output.strip()[-300:]}"
    else:
        number, verdict = _compare(output, original, expected)
        if verdict == "behind" and at_s is None and keeps_up:
            verdict = f"LOST: {expected - number} transactions"
    missing = [each for each, n in zip(commits.at_s, commits.number, strict=True) if number < n <= expected]
    until_s = at_s if at_s is not None else max(commits.at_s, default=0.0)
    return Restored(
        target="latest" if at_s is None else "a moment",
        seconds=ended.seconds,
        cpu_s=ended.cpu_s,
        down_bytes=0,
        requests={},
        number=number,
        expected=expected,
        behind_s=max(0.0, until_s - missing[0]) if missing else 0.0,
        verdict=verdict,
    )


def _compare(output: Path, original: tuple[Path, Load], expected: int) -> tuple[int, str]:
    sound = check_quickly(output)
    if sound != "ok":
        return -1, f"MISMATCH: quick_check says {sound}"
    with closing(sqlite3.connect(output)) as connection:
        number = int(connection.execute("select n from app_record").fetchone()[0])
    if number > expected:
        return number, f"MISMATCH: transaction {number} is newer than asked, which is {expected}"
    again = output.with_suffix(".again")
    replay(*original, number, again)
    same = digest(again) == digest(output)
    again.unlink()
    if not same:
        return number, f"MISMATCH: not what the app had after {number} transactions"
    return number, "exact" if number == expected else "behind"


def compare_with_file(ended: Ended, output: Path, database: Path, *, keeps_up: bool) -> Restored:
    """Compare a restore of the newest state with the database itself, of an app of which nothing else is known."""
    if ended.code or not output.exists():
        verdict = f"failed with exit code {ended.code}: {ended.output.strip()[-300:]}"
    elif digest(output) == digest(database):
        verdict = "exact"
    else:
        verdict = "MISMATCH: not what the database holds" if keeps_up else "behind"
    return Restored(
        target="latest",
        seconds=ended.seconds,
        cpu_s=ended.cpu_s,
        down_bytes=0,
        requests={},
        number=0,
        expected=0,
        behind_s=0.0,
        verdict=verdict,
    )
