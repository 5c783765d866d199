"""Run benchmarks: `python -m benchmarks [name ...] [--quick] [--json FILE]`. Without names, all of them.

`python -m benchmarks compare` is a program of its own: walrep beside other ways to protect the same database.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import days, encode, idle, restore, s3, size, writers
from benchmarks.children import ROOT
from benchmarks.compare import command
from benchmarks.report import Row, machine, save, show
from benchmarks.settings import Settings

BENCHMARKS: dict[str, Callable[[Settings], list[Row]]] = {
    "writers": writers.run,
    "encode": encode.run,
    "size": size.run,
    "idle": idle.run,
    "restore": restore.run,
    "days": days.run,
    "s3": s3.run,
}


def main() -> int:
    """Run what is asked for; the exit code is 0 also when a target is missed, because machines wobble."""
    if sys.argv[1:2] == ["compare"]:
        return command.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="shorter and smaller: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: benchmarks/results/TIME.json")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--directory", type=Path, help="where databases and replicas are made; default: a temporary one"
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    began = time.strftime("%Y-%m-%dT%H-%M-%S")
    facts: dict[str, object] = {"began": began, "quick": options.quick, "seed": options.seed, "machine": machine()}
    rows: list[Row] = []
    for name in options.names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="walrep-bench-", dir=options.directory) as directory:
            print(f"{name}{' (quick)' if options.quick else ''}", flush=True)
            found = BENCHMARKS[name](Settings(Path(directory), quick=options.quick, seed=options.seed))
        show(found)
        rows += found
    path = options.json or ROOT / "benchmarks" / "results" / f"{began}.json"
    save(path, rows, facts)
    missed = [f"{row.benchmark}: {row.what}" for row in rows if row.verdict == "MISSED"]
    print(f"{len(missed)} of {sum(bool(row.target) for row in rows)} targets missed; written to {path}")
    for each in missed:
        print(f"  {each}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
