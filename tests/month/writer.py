"""The app of the real run, a process of its own: `python -m tests.month.writer PATH SEED COUNT RATE SAMPLES`.

It makes the database and tells its digest; at a line it commits so many transactions at that rate and tells the digests
behind those that were drawn before, by number; at another line it ends. What it tells are lines of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

from tests.month.writing import App
from walrep.clock import SystemClock

__all__ = ["main"]

LAST_COUNT = 12


def main() -> int:
    """Write."""
    path, seed, count, rate, samples = sys.argv[1:6]
    total = int(count)
    chosen = set(Random(int(seed)).sample(range(1, total + 1), min(int(samples), total)))
    chosen |= {1, *range(max(1, total - LAST_COUNT + 1), total + 1)}
    app, clock = App(Path(path), int(seed), synchronous="normal"), SystemClock()
    print(json.dumps({"base": app.digest()}), flush=True)
    sys.stdin.readline()
    digests = {}
    began_s = clock.monotonic_s()
    for number in range(1, total + 1):
        clock.pause(max(0.0, began_s + number / float(rate) - clock.monotonic_s()))
        app.commit(1)
        if number in chosen:
            digests[number] = app.digest()
    print(json.dumps(digests), flush=True)
    sys.stdin.readline()
    app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
