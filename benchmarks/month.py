"""A month of protection in minutes, and a quarter of an hour of it for real.

    python -m benchmarks.month [scenario ...]                # virtual time: the engine, a store in memory
    python -m benchmarks.month --real s3 [--seconds 900]     # real time: a real S3 server, intervals scaled by 30

In virtual time everything is real but time and the store: supervisor, capture of a live SQLite database, spool, packs,
restores. Scenarios of three days are continued to thirty by the planner, on the sizes that were recorded. Nothing
is older than the window of thirty days, so nothing is deleted but what packs replace.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import msgspec

from benchmarks.children import ROOT
from benchmarks.report import machine, number
from tests.month.ledger import Day
from tests.month.real import run_real
from tests.month.result import Result, judge, run_scenario
from tests.month.scenarios import SCENARIOS

MONTH_DAYS = 30
MEMORY = Path("/dev/shm")
COLUMNS = (
    "",
    "at midnight",
    "most live",
    "created",
    "deleted",
    "PUT",
    "GET",
    "HEAD",
    "LIST",
    "DELETE",
    "up KB",
    "down B",
)


class Task(msgspec.Struct, frozen=True):
    """What one process is asked to do."""

    scenario: str
    seed: int
    restores: int
    directory: str


def main() -> int:
    """Run what is asked for; exit code 1 if a promise is not kept."""
    options = _parse()
    began = time.strftime("%Y-%m-%dT%H-%M-%S")
    facts = {"began": began, "seed": options.seed, "machine": machine()}
    results = []
    for result in _real(options) if options.real else _virtual(options):
        results.append(result)
        show(result)
    path = options.json or ROOT / "benchmarks" / "results" / f"month-{began}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    verdicts = {result.name: judge(result) for result in results}
    told = {**facts, "results": results, "verdicts": verdicts}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(told)) + b"\n")
    missed = [f"{name}: {each.what}" for name, found in verdicts.items() for each in found if not each.is_met]
    print(f"{len(missed)} of {sum(map(len, verdicts.values()))} promises missed; written to {path}")
    for each in missed:
        print(f"  {each}")
    return 1 if missed else 0


def show(result: Result) -> None:
    """Print a result as a table, and what became of the promises."""
    print(f"{result.name}: {result.about}; {result.commit_count:,} transactions, seed {result.seed}")
    days = [result.start, *result.days, result.tail, *result.planned]
    lines = [COLUMNS, *(_cells(day) for day in days)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    for line in lines:
        print("  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    for each in result.starts:
        print(f"  a start within: PUT {each.put}, GET {each.get}, LIST {each.list}; {each.bytes_down:,} bytes down")
    tiers = ", ".join(f"{tier} {count}" for tier, count in result.restored.by_tier.items())
    print(f"  {result.restored.count} transactions restored, {len(result.restored.wrong)} differ: {tiers}")
    for verdict in judge(result):
        state = "met" if verdict.is_met else "MISSED"
        print(f"  {state:6}  {verdict.what}: {number(verdict.value)} (at most {number(verdict.limit)})")
    for alarm in result.alarms:
        print(f"  alarm: {alarm}")
    print("  seconds: " + ", ".join(f"{what} {seconds:.0f}" for what, seconds in result.seconds.items()))
    print(flush=True)


def _cells(day: Day) -> tuple[str, ...]:
    asked = day.requests
    midnight = "" if day.live_midnight is None else str(day.live_midnight)
    counts = (day.live_max, day.created, day.deleted, asked.put, asked.get, asked.head, asked.list)
    moved = (asked.delete_requests, asked.bytes_up // 1000, asked.bytes_down)
    name = f"{day.name}, planned" if day.planned else day.name
    return (name, midnight, *(f"{each:,}" for each in counts + moved))


def _virtual(options: argparse.Namespace) -> Iterator[Result]:
    """Yield results as they come, from processes of their own."""
    directory = str(options.directory or (MEMORY if MEMORY.is_dir() else ""))
    names = options.names or list(SCENARIOS)
    tasks = [Task(name, options.seed, options.restores, directory) for name in names]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_run, task) for task in tasks]):
            yield done.result()


def _run(task: Task) -> Result:
    with tempfile.TemporaryDirectory(prefix="walrep-month-", dir=task.directory or None) as folder:
        return run_scenario(
            SCENARIOS[task.scenario], Path(folder), seed=task.seed, restores=task.restores, until=MONTH_DAYS
        )


def _real(options: argparse.Namespace) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="walrep-month-", dir=options.directory) as folder:
        yield run_real(Path(folder), seed=options.seed, seconds=options.seconds, restores=options.restores)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.month", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="scenario", help=", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--restores", type=int, default=100, help="transactions drawn at random and restored")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: benchmarks/results/month-TIME.json")
    parser.add_argument("--directory", type=Path, help="where databases are made; default: in memory, real: on disk")
    parser.add_argument("--real", choices=["s3"], help="real time, against a real server")
    parser.add_argument("--seconds", type=float, default=900.0, help="how long, in real time")
    options = parser.parse_args()
    unknown = set(options.names) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario is called {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
