"""What one run of one strategy on one workload has shown. Everything here goes into the JSON as it is."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.compare.counts import Counted, Stored
from benchmarks.compare.strategies import Mark
from benchmarks.compare.writing import Commits

SERIES_COUNT = 200


class Spread(msgspec.Struct, frozen=True):
    """Of some numbers: the median, 99 of 100, and the largest. `steps` are the percentiles 0 to 100."""

    count: int
    p50: float
    p99: float
    max: float
    steps: tuple[float, ...]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """One restore. `behind_s`: how old at the target the oldest transaction is that is not in it; 0 if none is missing.

    `verdict`: `exact`, `behind`, or what is wrong.
    """

    target: str
    seconds: float
    cpu_s: float
    down_bytes: int
    requests: dict[str, int]
    number: int
    expected: int
    behind_s: float
    verdict: str

    @property
    def is_wrong(self) -> bool:
        """Whether what came back was never the state of the database, or is newer than asked, or nothing came."""
        return self.verdict not in {"exact", "behind"}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `start`: until the whole database was stored; `run`: from the app's first commit to the end.

    `together`: others ran at the same time, so latencies say nothing. `day_s`: how long it took for a day.
    """

    workload: str
    strategy: str
    round: int
    together: bool
    seconds: float
    day_s: float
    database_count: int
    database_bytes: int
    pages_per_transaction: float
    transactions: int
    changed_bytes: int
    latency_us: Spread | None
    lag_s: Spread | None
    unacknowledged: int
    """Commits that were not durable before the stop; the stop made them so."""
    start: Counted
    run: Counted
    start_cpu_s: float
    cpu_s: float
    rss_peak_bytes: int
    local_peak_bytes: int
    wal_peak_bytes: int
    load_average: float
    restores: tuple[Restored, ...]
    live_series: tuple[tuple[float, int], ...]
    exit_code: int
    incidents: tuple[str, ...]

    @property
    def change_bytes(self) -> int:
        """Bytes stored of changes: everything but images of the whole database."""
        return sum(kind.bytes for name, kind in self.run.kinds.items() if name != "image")


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of some numbers, None of none."""
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    steps = tuple(ordered[round(last * step / 100)] for step in range(101))
    return Spread(len(ordered), statistics.median(ordered), ordered[int(last * 0.99)], ordered[-1], steps)


def lags(commits: Commits, marks: Sequence[Mark], *, until_s: float) -> tuple[list[float], int]:
    """Return how long each commit took to be durable, and how many were not before a time.

    A mark holds for all commits up to its number.
    """
    numbers, durable_s = [], []
    best = 0
    for mark in sorted(marks, key=lambda each: each.durable_s):
        if mark.durable_s < until_s and mark.commit_count > best:
            best = mark.commit_count
            numbers.append(best)
            durable_s.append(mark.durable_s)
    found = []
    for number, at_s in enumerate(commits.at_s, start=1):
        index = bisect_left(numbers, number)
        if index == len(numbers):
            break
        found.append(max(0.0, durable_s[index] - at_s))
    return found, len(commits.at_s) - len(found)


def live_series(objects: Sequence[Stored], from_s: float, until_s: float) -> tuple[tuple[float, int], ...]:
    """Return how many objects were live at moments of a run, with seconds since its beginning."""
    moments = [from_s + (until_s - from_s) * step / SERIES_COUNT for step in range(SERIES_COUNT + 1)]

    def alive(moment: float) -> int:
        return sum(each.stored_s <= moment and (each.deleted_s or until_s + 1) > moment for each in objects)

    return tuple((round(moment - from_s, 2), alive(moment)) for moment in moments)


def medians(results: Sequence[Result], value: Callable[[Result], float | None]) -> tuple[float, float, float] | None:
    """Return the median of a number over rounds, with its least and its most; None where no round has it."""
    found = [each for each in map(value, results) if each is not None]
    return (statistics.median(found), min(found), max(found)) if found else None
