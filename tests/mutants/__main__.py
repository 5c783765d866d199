"""Every safety line has a test that misses it: `python -m tests.mutants [NAME...]`, or `make mutants`.

A mutant is a patch of this folder that deletes or weakens one such line. Its first lines say which rule it breaks and
which tests have to notice:

    # rule: INV-01 a keeper ends only after everything committed is captured
    # tests: tests/sqlite/test_keeper.py -k overlap

The tree is copied, the patch applied, the tests run; they must fail. Without any patch the same tests must pass. A
patch that does not apply to the tree of today is a failure too: adapt it with the code.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).parent
COPIED = ("walrep", "tests", "pyproject.toml")
PARALLEL = 2
TIMEOUT_S = 180
TESTS_FAILED = 1
"""Exit code of pytest when tests ran and some failed; others mean that it could not even run them."""


class Mutant(msgspec.Struct, frozen=True):
    """One patch, and what its first lines say."""

    name: str
    path: Path
    rule: str
    tests: str


class Outcome(msgspec.Struct, frozen=True):
    """What the tests made of a mutant."""

    mutant: Mutant
    verdict: str
    detail: str
    seconds: float


def read_mutant(path: Path) -> Mutant:
    """Read what a patch says of itself."""
    said: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, colon, value = line.removeprefix("# ").partition(": ")
        if not line.startswith("# ") or not colon:
            break
        said[key] = value
    return Mutant(path.stem, path, said["rule"], said["tests"])


def copy_tree(into: Path) -> None:
    """Copy what the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
        else:
            shutil.copy(source, into / name)


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a copy, with the copy's walrep before the installed one."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )


def run_tests(tests: str, folder: Path) -> tuple[int, str]:
    """Run tests in a copy; return pytest's exit code and its last line."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header"]
    try:
        done = run([*pytest, *shlex.split(tests)], folder)
    except subprocess.TimeoutExpired:
        return TESTS_FAILED, f"no end after {TIMEOUT_S} s"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (told or lines or ["no output"])[-1]


def check_baseline(mutants: Sequence[Mutant]) -> list[str]:
    """Run every test command once without a patch; return what failed."""
    commands = sorted({mutant.tests for mutant in mutants})

    def failure(tests: str) -> str | None:
        with tempfile.TemporaryDirectory(prefix="walrep-baseline-") as name:
            copy_tree(Path(name))
            code, last = run_tests(tests, Path(name))
        return f"without a patch {tests} ends with {code}: {last}" if code else None

    with ThreadPoolExecutor(PARALLEL) as pool:
        return [failed for failed in pool.map(failure, commands) if failed is not None]


def judge(mutant: Mutant) -> Outcome:
    """Apply one patch in a copy and run its tests."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"walrep-{mutant.name}-") as name:
        folder = Path(name)
        copy_tree(folder)
        applied = run(["git", "apply", "-p1", "-C1", mutant.path], folder)
        if applied.returncode:
            return Outcome(mutant, "DOES NOT APPLY", applied.stderr.strip(), 0.0)
        code, last = run_tests(mutant.tests, folder)
    verdict = {0: "SURVIVED", TESTS_FAILED: "killed"}.get(code, f"BROKEN ({code})")
    return Outcome(mutant, verdict, last, time.monotonic() - began_s)


def main(names: Sequence[str]) -> int:
    """Judge the mutants of these names, or all; print a table; return 1 unless all were killed."""
    mutants = [read_mutant(path) for path in sorted(PATCHES.glob("*.patch")) if not names or path.stem in names]
    failures = check_baseline(mutants)
    for failure in failures:
        print(failure)
    with ThreadPoolExecutor(PARALLEL) as pool:
        outcomes = list(pool.map(judge, mutants))
    width = max((len(mutant.name) for mutant in mutants), default=0)
    for outcome in outcomes:
        print(f"{outcome.mutant.name:{width}}  {outcome.verdict:8}  {outcome.seconds:5.1f} s  {outcome.mutant.rule}")
        told = outcome.detail.partition(" - ")[0] if outcome.verdict == "killed" else outcome.detail
        print(f"{'':{width}}  {told.removeprefix('FAILED ')}")
    killed = sum(outcome.verdict == "killed" for outcome in outcomes)
    print(f"{killed} of {len(outcomes)} mutants killed")
    return int(bool(failures) or killed < len(outcomes) or not outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
