"""`python -m tests.faults`: the whole matrix, or a part of it; exit 1 if a promise is broken."""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from tests.faults.cases import FAULTS, UNDISTURBED, cases_of
from tests.faults.judge import Report, run_case

_TOLD_EACH = 50


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--fault", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--every", type=int, default=1, help="only one case of so many, drawn by the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", nargs="+", help="only these, and all that they told")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where stories are lived, and kept after a failure")
    arguments = parser.parse_args()
    if arguments.case:
        reports = [run_case(case, arguments.folder) for case in arguments.case]
        print("\n".join(msgspec.json.format(msgspec.json.encode(each)).decode() for each in reports))
        return 1 if any(each.problems for each in reports) else 0
    undisturbed = run_case(UNDISTURBED, arguments.folder)
    _tell(undisturbed)
    cases = [case for case in cases_of(undisturbed.requests) if case.split(":")[1] in arguments.fault]
    cases = random.Random(arguments.seed).sample(cases, len(cases) // arguments.every)
    print(f"seed {arguments.seed}: {len(cases)} cases, {undisturbed.requests}", flush=True)
    failed: list[str] = []
    ends: Counter[str] = Counter()
    with ProcessPoolExecutor(arguments.workers) as pool:
        for number, report in enumerate(pool.map(partial(run_case, folder=arguments.folder), cases), 1):
            _tell(report)
            failed += [report.case] if report.problems else []
            ends["protection ended"] += bool(report.failures)
            ends["somebody was refused"] += any(each.error for each in report.readings)
            if number % _TOLD_EACH == 0:
                print(f"{number} done", flush=True)
    print(f"{len(failed)} of {len(cases)} failed; {dict(ends)}")
    return 1 if failed else 0


def _tell(report: Report) -> None:
    if report.problems:
        print(f"FAILED {report.case}\n    " + "\n    ".join(report.problems), flush=True)


if __name__ == "__main__":
    sys.exit(main())
