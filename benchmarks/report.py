"""Numbers with their targets, as a table for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import zstandard

PACKAGES = ("apsw", "msgspec", "numpy", "uvloop", "xxhash", "zstandard")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One number. `values` are the single runs whose median `value` is."""

    benchmark: str
    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    values: tuple[float, ...] = ()
    note: str = ""

    @property
    def target(self) -> str:
        """The target as text."""
        if self.at_most is not None:
            return f"<= {number(self.at_most)}"
        return f">= {number(self.at_least)}" if self.at_least is not None else ""

    @property
    def verdict(self) -> str:
        """`ok`, `MISSED`, or nothing where there is no target."""
        if not self.target:
            return ""
        met = (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )
        return "ok" if met else "MISSED"


def number(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def median_row(row: Row, values: Sequence[float]) -> Row:
    """Return the row with the median of several runs."""
    return msgspec.structs.replace(row, value=statistics.median(values), values=tuple(values))


def show(rows: Sequence[Row]) -> None:
    """Print the rows of one benchmark as a table."""
    cells = [("", "measured", "target", "verdict", "runs, note")]
    for row in rows:
        runs = f"{number(min(row.values))} to {number(max(row.values))}" if len(row.values) > 1 else ""
        note = "; ".join(part for part in (runs, row.note) if part)
        cells.append((row.what, f"{number(row.value)} {row.unit}".strip(), row.target, row.verdict, note))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    for line in cells:
        what, value, target, verdict, note = line
        left, right = f"{what:<{widths[0]}}  {value:>{widths[1]}}", f"{verdict:<{widths[3]}}  {note}"
        print(f"  {left}  {target:>{widths[2]}}  {right}".rstrip())
    print(flush=True)


def machine() -> dict[str, object]:
    """Return what the numbers depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "numpy": np.__version__,
        "app_sqlite": _app_sqlite(),
        "load_average": os.getloadavg(),
    }


def save(path: Path, rows: Sequence[Row], facts: dict[str, object]) -> None:
    """Write everything as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results = [{**msgspec.to_builtins(row), "target": row.target, "verdict": row.verdict} for row in rows]
    path.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _app_sqlite() -> str:
    command = [sys.executable, "-c", "import sqlite3; print(sqlite3.sqlite_version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
