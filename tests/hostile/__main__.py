"""`python -m tests.hostile`: run scenarios one after the other; exit 1 if one fails, 2 if a name is not known."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.hostile.catalogue import SCENARIOS
from tests.hostile.harness import Record, keep_or_remove, run_scenario

_COLUMNS = (
    "scenario                             seed  commits    txids  tl  wal  kills  starts restores differ  rss MiB"
)


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--scenario", nargs="+", default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--restores", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("soak-results"))
    parser.add_argument("--folder", type=Path, help="where databases are made, and kept after a failure")
    parser.add_argument("--list", action="store_true", help="show the scenarios")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(SCENARIOS))
        return 0
    unknown = [name for name in arguments.scenario if name not in SCENARIOS]
    if unknown:
        print(f"no such scenario: {', '.join(unknown)}; there is {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="walrep-hostile-"))
    print(f"seed {arguments.seed}, {arguments.seconds:g} s each, folder {folder}\n{_COLUMNS}", flush=True)
    failed = []
    for name in arguments.scenario:
        where = folder / f"{name}-{arguments.seed}"
        record = run_scenario(name, where, seed=arguments.seed, seconds=arguments.seconds, restores=arguments.restores)
        keep_or_remove(where, record)
        (arguments.out / f"{name}-{arguments.seed}.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(record)) + b"\n"
        )
        print(_row(record), flush=True)
        if record.problems:
            failed.append(name)
            print("\n".join(record.problems), flush=True)
            print(f"FAILED with seed {record.seed}; kept: {where}", flush=True)
    print(f"{len(failed)} of {len(arguments.scenario)} failed{': ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


def _row(record: Record) -> str:
    counts, verdict = record.counts, record.verdict
    kills = counts.app_kills + counts.walrep_kills
    return (
        f"{record.scenario:36} {record.seed:5} {record.sqlite_commits:8} {verdict.txids:8} {verdict.timelines:3} "
        f"{counts.wal_restarts_seen:4} {kills:6} {counts.walrep_restarts:7} {verdict.restores_checked:8} "
        f"{verdict.differing_pages:6} {counts.walrep_peak_rss_bytes / (1 << 20):8.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
