"""How long a restore takes, against `zstd -d` of the same database, in turns, each to a new file.

The comparison is with decompression alone: zstd knows nothing of checks and syncs nothing. Restores are of a base and
some thousand transactions; their phases are those that the product tells.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from benchmarks.children import Child, replicator, writer
from benchmarks.report import Row, median_row
from benchmarks.settings import Settings

TRANSACTIONS = 5000
CHECKS = ("none", "quick", "full")


def run(settings: Settings) -> list[Row]:
    """Make a database and its replica, then restore and decompress in turns."""
    size, rounds = (200_000_000, 2) if settings.quick else (1_000_000_000, 3)
    folder = settings.directory
    database = folder / "app.db"
    with writer(database, seed=settings.seed) as app:
        app.ask("setup")
        app.ask("fill", size_bytes=size)
        with replicator([database], folder / "replica") as walrep:
            app.ask("run", seconds=TRANSACTIONS / 1000, rate=1000, latencies=str(folder / "latencies"))
            walrep.ask("stop")
        app.ask("step", count=0)
    compressed = _compress(database, folder / "app.zst")
    zstd_s: list[float] = []
    restores: dict[str, list[dict[str, Any]]] = {check: [] for check in CHECKS}
    for _ in range(rounds):
        for check in CHECKS:
            zstd_s.append(_decompress(compressed, folder / "out.zstd"))
            # Each restore is compared with the decompression just before it: what disturbs one disturbs the other.
            restores[check].append({**_restore(folder, check), "zstd_s": zstd_s[-1]})
    return _rows(database, compressed, zstd_s, restores)


def _rows(
    database: Path, compressed: Path, zstd_s: list[float], restores: dict[str, list[dict[str, Any]]]
) -> list[Row]:
    tool = "zstd -d" if shutil.which("zstd") else "python-zstandard, streaming (no zstd on PATH)"
    rows = [
        median_row(
            Row(
                benchmark="restore",
                what=tool,
                value=0.0,
                unit="s",
                note=f"{database.stat().st_size / 1e6:,.0f} MB from {compressed.stat().st_size / 1e6:,.0f} MB",
            ),
            zstd_s,
        )
    ]
    targets = {"none": (1.2, None), "quick": (None, 2.5), "full": (None, None)}
    for check, answers in restores.items():
        phases = {name: float(np.median([a["seconds"][name] for a in answers])) for name in answers[0]["seconds"]}
        note = ", ".join(f"{name} {value:.2f}" for name, value in phases.items())
        whole = [a["wall_s"] / a["zstd_s"] for a in answers]
        unsynced = [(a["wall_s"] - a["seconds"]["sync"]) / a["zstd_s"] for a in answers]
        before, all_of_it = targets[check]
        for what, values, target in ((", before sync", unsynced, before), ("", whole, all_of_it)):
            row = Row(benchmark="restore", what=f"--check {check}{what}", value=0.0, unit="x", note=note)
            rows.append(median_row(msgspec.structs.replace(row, at_most=target), values))
    return rows


def _compress(database: Path, target: Path) -> Path:
    with database.open("rb") as source, target.open("wb") as sink:
        zstandard.ZstdCompressor(level=3).copy_stream(source, sink)
    return target


def _decompress(compressed: Path, target: Path) -> float:
    target.unlink(missing_ok=True)
    os.sync()
    began = time.perf_counter()
    if shutil.which("zstd"):
        subprocess.run(["zstd", "-d", "-q", "-f", str(compressed), "-o", str(target)], check=True)
    else:
        with compressed.open("rb") as source, target.open("wb") as sink:
            zstandard.ZstdDecompressor().copy_stream(source, sink)
    return time.perf_counter() - began


def _restore(folder: Path, check: str) -> dict[str, Any]:
    output = folder / "out.db"
    output.unlink(missing_ok=True)
    os.sync()
    with Child("restore", [str(folder / "replica" / "app.db"), str(output), check]) as child:
        return child.answer()


def main() -> None:
    """The child: a replica's folder, an output, a check."""
    import uvloop

    from walrep import app
    from walrep.clock import SystemClock
    from walrep.engine.restorer import RestoreRequest
    from walrep.store.url import FileUrl

    url, output, check = sys.argv[1:]
    request = msgspec.convert({"output": output, "check": check}, RestoreRequest, dec_hook=lambda kind, v: kind(v))
    began = time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        work = app.restore(
            FileUrl(path=Path(url)), request, clock=SystemClock(), environment={}, progress=lambda _progress: None
        )
        outcome = loop.run(work)
    answer = {"wall_s": time.perf_counter() - began, "seconds": outcome.seconds, "txid": outcome.txid}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
