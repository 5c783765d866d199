"""`python -m tests.model`: runs of one seed after the other; exit 1 if one found something."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import msgspec

from tests.model.episode import Episode, run_episode
from tests.model.nursery import Nursery


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first run; the next ones have the next numbers")
    parser.add_argument("--minutes", type=float, help="how long; without it, the one seed")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("soak-results"))
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    arguments.out.mkdir(parents=True, exist_ok=True)
    until_s = time.monotonic() + 60 * (arguments.minutes or 0)
    nursery, failed, count = Nursery(), [], 0
    try:
        while count == 0 or time.monotonic() < until_s:
            began_s = time.monotonic()
            episode = run_episode(nursery, seed, arguments.steps)
            count += 1
            _write(arguments.out, episode)
            print(_row(episode, time.monotonic() - began_s), flush=True)
            if episode.found.problems:
                failed.append(seed)
                print("\n".join(f"  {each}" for each in episode.found.problems), flush=True)
                print(f"  FAILED; again with: make soak SEED={seed}", flush=True)
            seed += 1
    finally:
        nursery.close()
    print(f"{len(failed)} of {count} runs failed{': ' + ', '.join(map(str, failed)) if failed else ''}")
    return 1 if failed else 0


def _write(folder: Path, episode: Episode) -> None:
    """Write what was found; how it came about only where something was."""
    kept = episode if episode.found.problems else msgspec.structs.replace(episode, trace=[])
    path = folder / f"model-{episode.seed}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def _row(episode: Episode, seconds: float) -> str:
    found = episode.found
    return (
        f"seed {episode.seed}: {sum(found.operations.values())} steps, {found.commits} commits, "
        f"{found.timelines} timelines, {found.starts} starts, {found.kills} kills, "
        f"{sum(episode.faults.values())} faults, {sum(episode.requests.values())} requests, "
        f"{found.restores['compared']} restores, {found.differing_pages} pages differ; "
        f"{episode.virtual_s:.0f} s in {seconds:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
