"""`python -m tests.lineage`: what restarts and rebuilds upload; exit 1 if a restore was wrong."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.lineage.life import Life, Restart


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.lineage", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--restarts", type=int, default=60)
    parser.add_argument("--rows", type=int, default=30_000, help="of about a kilobyte each")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="walrep-lineage-", dir=memory if memory.is_dir() else None) as folder:
        life = Life(Path(folder), seed, arguments.rows)
        life.told = _print_restart
        try:
            asyncio.run(_run(life, arguments.restarts))
        finally:
            life.close()
    _print(life)
    return 1 if life.problems else 0


async def _run(life: Life, restarts: int) -> None:
    await life.run(restarts)
    await life.compare_all(100)


def _print_restart(each: Restart) -> None:
    print(
        f"{each.what:15} {each.kind:13} {each.stored_pages:6} of {each.page_count:6} pages, "
        f"{each.uploaded_bytes:9} of {each.database_bytes:9} bytes ({each.share:.2%}), {each.read_bytes} read",
        flush=True,
    )


def _print(life: Life) -> None:
    shares = [each.share for each in life.restarts[1:] if each.kind != "resumed"]
    print(
        f"{len(shares)} new timelines of {len(life.restarts) - 1} restarts; uploaded of the database's size: median "
        f"{median(shares):.2%}, most {max(shares):.2%}; {life.restored} states compared, {life.gone} gone by age, "
        f"{len(life.problems)} problems"
    )
    print("\n".join(life.problems), end="\n" if life.problems else "")


if __name__ == "__main__":
    sys.exit(main())
