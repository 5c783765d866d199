"""The app on older releases of SQLite: `python -m tests.hostile.engines [VERSION...]`, `make engines`.

Each release is apsw's wheel of it, alone in a folder of its own below `.venv-engines/`, which only the app's process
looks into. The default runs of the scenarios have the SQLite of Python itself and the newest one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.hostile.harness import Record, keep_or_remove, run_scenario

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-engines"

# The last of each line that distributions ship, and both sides of what changed in the log: 3.50.2 no longer commits
# frames without checksums, 3.51.3 has no WAL-reset bug.
ENGINES = (
    "3.40.1.0",
    "3.42.0.1",
    "3.44.2.0",
    "3.45.3.0",
    "3.46.1.0",
    "3.47.2.0",
    "3.48.0.0",
    "3.49.2.0",
    "3.50.1.0",
    "3.50.4.0",
    "3.51.2.0",
    "3.51.3.0",
    "3.53.0.0",
)

SCENARIOS = (
    "three-writers",
    "app-truncates",
    "full-checkpoints-beside",
    "vacuum-and-ddl",
    "savepoints-that-spill",
    "killed-app",
    "killed-walrep",
)


def environment(version: str) -> Path | None:
    """Return the folder of a release, after installing it if it is not there; None if there is no wheel of it."""
    folder = FOLDER / version
    if not (folder / "apsw").is_dir():
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / ".gitignore").write_text("*\n")
        shutil.rmtree(folder, ignore_errors=True)
        wheels = ("--only-binary", ":all:", "--no-deps", "--target", str(folder))
        command = [sys.executable, "-m", "pip", "install", "--quiet", *wheels, f"apsw=={version}"]
        if subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
            shutil.rmtree(folder, ignore_errors=True)
            return None
    return folder


def main() -> int:
    """Run the scenarios on each release."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.engines", description=__doc__)
    parser.add_argument("versions", nargs="*", default=ENGINES, metavar="VERSION")
    parser.add_argument("--scenario", nargs="+", default=SCENARIOS, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--restores", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="walrep-engines-"))
    failed = 0
    for version in arguments.versions:
        engine = environment(version)
        if engine is None:
            print(f"{version:10} no wheel for this Python", flush=True)
            continue
        for name in arguments.scenario:
            where = folder / f"{version}-{name}"
            record = run_scenario(
                name,
                where,
                seed=arguments.seed,
                seconds=arguments.seconds,
                restores=arguments.restores,
                engine=engine,
            )
            keep_or_remove(where, record)
            failed += bool(record.problems)
            print(_row(record), flush=True)
            if record.problems:
                print("\n".join([*record.problems, f"kept: {where}"]), flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


def _row(record: Record) -> str:
    verdict = record.verdict
    return (
        f"{record.versions.get('app_sqlite', '?'):10} {record.scenario:28} {record.sqlite_commits:6} commits "
        f"{verdict.txids:6} txids {verdict.timelines:2} timelines {verdict.restores_checked:3} restores "
        f"{'FAILED' if record.problems else 'ok'}"
    )


if __name__ == "__main__":
    sys.exit(main())
