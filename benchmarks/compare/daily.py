"""The stand-in that the team of the incident ended with: once a day SQLite's online backup, zstd, one object.

    python -m benchmarks.compare.daily replicate PLAN
    python -m benchmarks.compare.daily restore PLAN INDEX OUTPUT AT_MS

A day may be shorter here; the plan says how long. The first snapshot is made at once.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path

import zstandard

from benchmarks.compare.bucket import Bucket, StandinPlan, Stop, newest_before, read_plan

LEVEL = 3
STEP_PAGES = 2000


def snapshot(database: str, key_prefix: str, bucket: Bucket) -> None:
    """Copy, compress and store one database."""
    at_ms = time.time_ns() // 1_000_000
    copy = Path(f"{database}.daily")
    source, sink = sqlite3.connect(database), sqlite3.connect(copy)
    source.backup(sink, pages=STEP_PAGES)
    source.close()
    sink.close()
    data = zstandard.ZstdCompressor(level=LEVEL).compress(copy.read_bytes())
    copy.unlink()
    bucket.put(f"{key_prefix}/daily/{at_ms:015d}-snapshot.zst", data)


def replicate(plan: StandinPlan) -> None:
    """Make a snapshot of every database each day."""
    stop, bucket = Stop(), Bucket(plan)
    due = time.monotonic()
    while not stop.wanted:
        if time.monotonic() >= due:
            due += plan.day_s
            for database, prefix in zip(plan.databases, plan.prefixes, strict=True):
                snapshot(database, prefix, bucket)
        time.sleep(0.05)


def restore(plan: StandinPlan, index: int, output: Path, at_ms: int) -> None:
    """Fetch the last snapshot before a time."""
    bucket = Bucket(plan)
    keys = newest_before(bucket.keys(f"{plan.prefixes[index]}/daily/"), at_ms)
    output.write_bytes(zstandard.ZstdDecompressor().decompress(bucket.get(keys[-1])))


def main() -> None:
    """Replicate or restore."""
    what, plan = sys.argv[1], read_plan(sys.argv[2])
    if what == "replicate":
        replicate(plan)
    else:
        restore(plan, int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))


if __name__ == "__main__":
    main()
