"""A scenario, played and verified: one record."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

import walrep
from tests.hostile.catalogue import SCENARIOS, Scenario
from tests.hostile.stage import Counts, Stage
from tests.hostile.verify import Verdict, Verifier

__all__ = ["Record", "run_scenario"]

_STALL_S_MAX = 15.0
"""Half of the app's busy timeout: who waits for so long waits for something that does not come."""


class Record(msgspec.Struct, kw_only=True):
    """What one run was and what it found. `problems` is empty when all is well."""

    scenario: str
    seed: int
    seconds: float
    sqlite_commits: int = 0
    exact: bool = False
    """Whether one timeline holds everything, so that txids and commits are equal one by one."""
    counts: Counts = msgspec.field(default_factory=Counts)
    verdict: Verdict = msgspec.field(default_factory=Verdict)
    notes: dict[str, Any] = {}
    alarms: dict[str, int] = {}
    timeline_reasons: dict[str, int] = {}
    resumed: dict[str, int] = {}
    versions: dict[str, str] = {}
    verify_s: float = 0.0
    problems: list[str] = []


def run_scenario(
    name: str, folder: Path, *, seed: int, seconds: float, restores: int, engine: Path | None = None
) -> Record:
    """Play a scenario in a new folder and verify it; never raises for what it finds.

    `engine`: where the apsw is whose SQLite the app has, instead of what the scenario says.
    """
    scenario = SCENARIOS[name]
    record = Record(scenario=name, seed=seed, seconds=seconds)
    folder.mkdir(parents=True)
    plan = scenario.make_plan(str(folder / "app.db"), seed)
    if engine is not None:
        plan = msgspec.structs.replace(plan, engine="apsw", engine_path=str(engine))
    stage = Stage(folder, plan, seconds=seconds, options=scenario.options, snapshot_s=scenario.snapshot_s)
    problems = record.problems = []
    try:
        scenario.play(stage)
        if not stage.walrep.running():
            problems.append(f"walrep ended by itself with exit code {stage.walrep.process.returncode}")
        else:
            stage.stop_walrep()
    except Exception:  # noqa: BLE001  whatever went wrong is a finding of the run
        problems.append(f"the scenario failed:\n{traceback.format_exc()}")
    finally:
        stage.close()
    _read_logs(stage, record)
    problems += [f"walrep ended with exit code {code}" for code in stage.exit_codes if code]
    stalled_s = max(stage.counts.longest_commit_s, stage.counts.longest_checkpoint_s)
    if stalled_s > _STALL_S_MAX:
        problems.append(f"the app stood still for {stalled_s:.1f} s")
    if not problems:
        began = time.monotonic()
        _verify(stage, scenario, record, restores)
        record.verify_s = round(time.monotonic() - began, 2)
    _fill(stage, record)
    return record


def keep_or_remove(folder: Path, record: Record) -> None:
    """Remove the folder of a run that was good; what went wrong is kept to be looked at."""
    if not record.problems:
        shutil.rmtree(folder)


def _verify(stage: Stage, scenario: Scenario, record: Record, restores: int) -> None:
    verifier = Verifier(stage.database, stage.store, stage.folder, stage.plan.shape, scenario.rules)
    try:
        record.verdict = verifier.run(min(restores, scenario.restores_max))
    except Exception:  # noqa: BLE001  whatever went wrong is a finding of the run
        record.problems.append(f"verification failed:\n{traceback.format_exc()}")
    record.problems += record.verdict.problems
    limit = stage.notes.get("rss_limit_bytes")
    if limit and stage.counts.walrep_peak_rss_bytes > limit:
        record.problems.append(f"walrep took {stage.counts.walrep_peak_rss_bytes >> 20} MiB")


def _read_logs(stage: Stage, record: Record) -> None:
    """Count alarms and reasons; a traceback or an alarm that tells of damage is a problem."""
    for sidecar in stage.sidecars:
        texts = []
        for event in sidecar.events():
            name = event["event"]
            if name == "text":
                texts.append(event["text"])
            elif name == "alarm":
                _count(record.alarms, event["key"])
                if event["key"] == "timeline-ended" and stage.database.exists():
                    _count(record.timeline_reasons, event["message"])
            elif name == "timeline-began":
                _count(record.timeline_reasons, event["reason"].replace(str(stage.folder), ""))
            elif name == "resumed":
                _count(record.resumed, event["reason"])
            elif name in {"failed", "exit"}:
                record.problems.append(f"{sidecar.log.name}: {event}")
        if texts:
            record.problems.append(f"{sidecar.log.name}: " + "\n".join(texts[-40:]))


def _fill(stage: Stage, record: Record) -> None:
    verdict = record.verdict
    record.counts, record.notes = stage.counts, stage.notes
    record.sqlite_commits = verdict.last_n + verdict.side_commits
    record.exact = verdict.timelines == 1
    record.versions = {
        "walrep": walrep.__version__,
        "python": platform.python_version(),
        "app_sqlite": " ".join(sorted(stage.sqlite_versions)),
        "walrep_sqlite": _walrep_sqlite(),
        "linux": platform.release(),
    }


def _walrep_sqlite() -> str:
    code = "import apsw; print(apsw.sqlite_lib_version())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1
