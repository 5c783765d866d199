"""How fast a log is captured: read, verified, hashed, compressed and spooled, in MB of WAL per second of CPU.

A writer makes a log while the keeper holds it; then capture and spool work through it with the threads of the product.
CPU seconds are those of the whole process, all threads; the wall time shows how far the two threads overlap.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.children import Child, writer
from benchmarks.report import Row, median_row
from benchmarks.settings import Settings

BYTES_PER_TRANSACTION = {"mixed": 9_200, "keys": 6_800, "queue": 20_000, "blobs": 4_200}


def run(settings: Settings) -> list[Row]:
    """Measure each workload several times, each time with a new process and a new log."""
    wal_bytes, rounds = (40 << 20, 2) if settings.quick else (200 << 20, 5)
    rows = []
    for workload, per_transaction in BYTES_PER_TRANSACTION.items():
        answers = []
        for number in range(rounds):
            folder = settings.directory / f"{workload}-{number}"
            folder.mkdir()
            with Child("encode", [str(folder), workload, str(wal_bytes // per_transaction)]) as child:
                answers.append(child.answer())
        cpu = [each["wal_bytes"] / each["cpu_s"] / 1e6 for each in answers]
        wall = [each["wal_bytes"] / each["wall_s"] / 1e6 for each in answers]
        target = 300.0 if workload == "mixed" else None
        row = Row(benchmark="encode", what=f"{workload}: per core", value=0.0, unit="MB/s")
        note = f"{answers[0]['wal_bytes'] / 1e6:.0f} MB of WAL, {answers[0]['frames']} frames"
        rows.append(
            median_row(Row(benchmark="encode", what=row.what, value=0.0, unit="MB/s", at_least=target, note=note), cpu)
        )
        rows.append(median_row(Row(benchmark="encode", what=f"{workload}: by the clock", value=0.0, unit="MB/s"), wall))
    return rows


def main() -> None:
    """The child: a folder, a workload, a number of transactions."""
    from benchmarks.rig import Rig

    folder, workload, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with writer(folder / "app.db", workload, seed=7, autocheckpoint=0) as app:
        app.ask("setup")
        with ThreadPoolExecutor(1) as worker:
            rig = Rig(folder / "app.db", folder / "state", worker)
            app.ask("step", count=count)
            wal_bytes = (folder / "app.db-wal").stat().st_size
            cpu, wall = time.process_time(), time.perf_counter()
            rig.drain()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            frames = rig.capture.reader.counts.frames
            rig.seal()
            rig.close()
    print(json.dumps({"wal_bytes": wal_bytes, "cpu_s": cpu, "wall_s": wall, "frames": frames}), flush=True)


if __name__ == "__main__":
    main()
