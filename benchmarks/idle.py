"""What walrep takes while nothing happens, and how much memory it needs.

Memory is compared with a process that has imported the very same modules of others, and nothing of walrep.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.children import Child, replicator, writer
from benchmarks.report import Row
from benchmarks.settings import Settings

SETTLE_S = 12.0
"""After ten quiet seconds walrep looks least often."""

BARE = """
import importlib, json, sys
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
for line in open("/proc/self/status"):
    if line.startswith("VmRSS:"):
        print(int(line.split()[1]) << 10)
"""


def run(settings: Settings) -> list[Row]:
    """Measure one idle database, a hundred, a thousand, and one that is written flat out."""
    seconds = 5.0 if settings.quick else 20.0
    template = settings.directory / "template.db"
    with writer(template, seed=settings.seed) as app:
        app.ask("setup")
    rows, one = _idle(settings, template, 1, seconds)
    rows += _idle(settings, template, 100, seconds)[0]
    rows += _idle(settings, template, 1000, seconds, cpu_percent_max=1.0)[0]
    bare = _bare_bytes(one["modules"])
    busy = _busy(settings, template, seconds)
    for what, report, field in (
        ("1 idle", one, "rss_bytes"),
        ("1 idle, highest", one, "rss_peak_bytes"),
        ("1 flat out, highest", busy, "rss_peak_bytes"),
    ):
        rows.append(
            Row(
                benchmark="idle",
                what=f"{what}: memory above bare imports",
                value=(report[field] - bare) / (1 << 20),
                unit="MiB",
                at_most=15.0,
                note=f"{report[field] >> 20} MiB against {bare >> 20} MiB",
            )
        )
    return rows


def _idle(
    settings: Settings, template: Path, count: int, seconds: float, *, cpu_percent_max: float = 0.5
) -> tuple[list[Row], dict[str, Any]]:
    folder = settings.directory / f"idle-{count}"
    folder.mkdir()
    databases = [folder / f"app{number}.db" for number in range(count)]
    apps: list[Child] = []
    try:
        for database in databases:
            if count == 1:
                shutil.copy(template, database)
            # Each database stays open in an app that does nothing: a connection that sleeps, and a log that is there.
            if len(apps) < 10:
                # Many of them are small, so that the disk holds them.
                workload = "mixed" if count <= 100 else "queue"
                apps.append(writer(database, seed=settings.seed, workload=workload))
                apps[-1].ask("setup" if count > 1 else "step", **({} if count > 1 else {"count": 3}))
            else:
                shutil.copy(databases[0], database)
        with replicator(databases, folder / "replica") as walrep:
            time.sleep(SETTLE_S)
            before = walrep.ask("report")
            time.sleep(seconds)
            after = walrep.ask("report")
            walrep.ask("stop")
    finally:
        for app in apps:
            app.close()
    lasted = after["monotonic_s"] - before["monotonic_s"]
    name = "1 idle" if count == 1 else f"{count} idle"

    def row(what: str, value: float, unit: str = "", at_most: float | None = None) -> Row:
        return Row(benchmark="idle", what=f"{name}: {what}", value=value, unit=unit, at_most=at_most)

    rows = [
        row("CPU", 100 * (after["cpu_s"] - before["cpu_s"]) / lasted, "% of a core", cpu_percent_max),
        row("requests", after["requests"] - before["requests"], "", 0.0),
        row("wake-ups", (after["wakeups"] - before["wakeups"]) / lasted, "/s"),
    ]
    return rows, after


def _busy(settings: Settings, template: Path, seconds: float) -> dict[str, Any]:
    """Return the report of walrep under a writer that never pauses."""
    folder = settings.directory / "busy"
    folder.mkdir()
    shutil.copy(template, folder / "app.db")
    with writer(folder / "app.db", seed=settings.seed) as app:
        app.ask("step", count=1)
        with replicator([folder / "app.db"], folder / "replica") as walrep:
            app.ask("run", seconds=seconds, rate=0, latencies=str(folder / "latencies"))
            report = walrep.ask("report")
            walrep.ask("stop")
    return report


def _bare_bytes(modules: list[str]) -> int:
    run = subprocess.run(
        [sys.executable, "-c", BARE], input=json.dumps(modules), capture_output=True, text=True, check=True
    )
    return int(run.stdout)
