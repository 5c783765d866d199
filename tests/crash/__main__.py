"""`python -m tests.crash`: a kill, a power cut or a failing disk at every call of a life; exit 1 if one does harm."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.crash.running import KINDS, UNDISTURBED, Report, cases_of, run_cases

_TOLD_EACH = 50


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--every", type=int, default=1, help="only one case of so many, drawn by the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", nargs="+", help="only these")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where lives are lived, and kept after a failure")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="walrep-crash-"))
    cases = arguments.case
    if cases is None:
        (reference,) = run_cases([UNDISTURBED], folder)
        _tell(reference)
        every = [case for kind in arguments.kind for case in cases_of(kind, reference.calls)]
        cases = random.Random(arguments.seed).sample(every, len(every) // arguments.every)
        print(f"seed {arguments.seed}: {len(cases)} cases of {len(reference.calls)} calls, in {folder}", flush=True)
    reports = run_cases(cases, folder, workers=arguments.workers, tell=_Progress().tell)
    failed = [report.case for report in reports if report.problems]
    print(
        msgspec.json.encode(
            {kind: _count(reports, kind) for kind in sorted({_kind(each) for each in reports})}
        ).decode()
    )
    print(f"{len(failed)} of {len(reports)} failed{': ' + ' '.join(failed) if failed else ''}")
    return 1 if failed else 0


def _kind(report: Report) -> str:
    return report.case.partition(":")[0]


def _count(reports: list[Report], kind: str) -> dict[str, int]:
    """Return how many cases of a kind there were, and what came of them."""
    chosen = [report for report in reports if _kind(report) == kind]
    return {
        "cases": len(chosen),
        "failed": sum(bool(report.problems) for report in chosen),
        "restored": sum(report.restored for report in chosen),
        "began a timeline": sum(report.timelines > 1 for report in chosen),
    }


class _Progress:
    def __init__(self) -> None:
        self._count = 0

    def tell(self, report: Report) -> None:
        self._count += 1
        _tell(report)
        if self._count % _TOLD_EACH == 0:
            print(f"{self._count} done", flush=True)


def _tell(report: Report) -> None:
    if report.problems:
        told = "\n    ".join([*report.notes, *report.problems])
        print(f"FAILED {report.case} at {report.point}\n    {told}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
