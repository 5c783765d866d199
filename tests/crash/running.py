"""Which cases there are, and workers that run them side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

__all__ = ["APP_MODES", "KINDS", "UNDISTURBED", "Report", "cases_of", "run_cases"]

ROOT = Path(__file__).resolve().parents[2]
APP_MODES = ("goes-on", "stays", "dies", "restarts", "closes")
KINDS = ("kill", "power", "disk")
UNDISTURBED = "kill:0:stays:0"
"""A life that nothing happens to: its report tells all calls."""

_CHANGING = frozenset({"create", "write", "truncate", "fsync", "rename", "link", "mkdir"})
_VARIANTS = ("synced", "names", "mixed")
_DISKS = ("ENOSPC:{}:0", "EIO:{}:0", "ENOSPC:{}:900", "EIO:{}:900")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case. `point`: the call at which it was disturbed. `calls`: all, of a life that was not."""

    case: str
    point: str
    timelines: int
    restored: int
    notes: list[str]
    problems: list[str]
    calls: list[str] = []


def cases_of(kind: str, calls: Sequence[str]) -> list[str]:
    """Return a case for each call of an undisturbed life; what else varies takes turns."""
    numbers = range(1, len(calls) + 1)
    if kind == "kill":
        return [f"kill:{number}:{APP_MODES[number % len(APP_MODES)]}:0" for number in numbers]
    if kind == "power":
        return [f"power:{number}:{_VARIANTS[number % len(_VARIANTS)]}:{number}" for number in numbers]
    changing = [number for number in numbers if calls[number - 1] in _CHANGING]
    return [_DISKS[turn % len(_DISKS)].format(number) + ":0" for turn, number in enumerate(changing)]


def run_cases(
    cases: Sequence[str], folder: Path, *, workers: int = 1, tell: Callable[[Report], None] | None = None
) -> list[Report]:
    """Run cases in a folder; what had problems stays there. `tell` is called as each ends."""
    shares = [cases[turn::workers] for turn in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(partial(_run_share, folder=folder, tell=tell), shares)
        return [report for share in done for report in share]


def _run_share(cases: Sequence[str], *, folder: Path, tell: Callable[[Report], None] | None) -> list[Report]:
    reports = []
    for report in _reports(cases, folder):
        reports.append(report)
        if tell is not None:
            tell(report)
    return reports


def _reports(cases: Sequence[str], folder: Path) -> Iterator[Report]:
    # A worker forks, which no thread of a library may be in the way of.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.crash.worker", str(folder), *cases]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            yield msgspec.json.decode(line, type=Report)
    if worker.returncode:
        raise RuntimeError(f"a worker ended with {worker.returncode}")
