"""How many bytes are shipped for each byte that the app changed: all bytes of the segments, the base left out.

`one tick` captures the transactions of a segment together, as with many commits in 10 ms; `trickling` ticks after every
commit, as with a writer that is slower than that. The schedule is the same on every machine, and so are the numbers.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.children import Child, writer
from benchmarks.report import Row
from benchmarks.settings import Settings

PER_SEGMENT = (1, 10, 100)
TARGETS = {"mixed": 1.3, "keys": 1.9, "queue": 1.9, "blobs": 1.1}


def run(settings: Settings) -> list[Row]:
    """Measure the four workloads."""
    count = 1000 if settings.quick else 2000
    rows = []
    for workload, target in TARGETS.items():
        for per_segment in PER_SEGMENT:
            for trickling in (False, True) if per_segment > 1 else (False,):
                folder = settings.directory / f"{workload}-{per_segment}-{trickling}"
                folder.mkdir()
                arguments = [str(folder), workload, str(count), str(per_segment), str(int(trickling))]
                with Child("size", [*arguments, str(settings.seed)]) as child:
                    answer = child.answer()
                how = ", trickling" if trickling else ", one tick" if per_segment > 1 else ""
                rows.append(
                    Row(
                        benchmark="size",
                        what=f"{workload}: {per_segment} tx/segment{how}",
                        value=answer["bytes"] / answer["changed"],
                        unit="x",
                        at_most=target if per_segment == PER_SEGMENT[-1] else None,
                        note=f"{answer['bytes'] / 1e3:,.0f} kB for {answer['changed'] / 1e3:,.0f} kB changed, "
                        f"WAL {answer['wal_bytes'] / 1e6:,.1f} MB",
                    )
                )
    return rows


def main() -> None:
    """The child: a folder, a workload, how many transactions, how many to a segment, whether trickling, the seed."""
    from benchmarks.rig import Rig

    folder, workload = Path(sys.argv[1]), sys.argv[2]
    count, per_segment, trickling, seed = map(int, sys.argv[3:])
    shipped = changed = 0
    with writer(folder / "app.db", workload, seed=seed, autocheckpoint=0) as app, ThreadPoolExecutor(1) as worker:
        app.ask("setup")
        rig = Rig(folder / "app.db", folder / "state", worker)
        step = 1 if trickling else per_segment
        for done in range(step, count + 1, step):
            changed += app.ask("step", count=step)["changed"]
            rig.drain()
            if done % per_segment == 0:
                shipped += rig.seal()
        frames, page_size = rig.capture.reader.counts.frames, rig.capture.files.page_size
        rig.close()
    answer = {"bytes": shipped, "changed": changed, "wal_bytes": frames * (page_size + 24)}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
