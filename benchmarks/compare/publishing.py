"""What a comparison leaves behind: JSON with everything, Markdown tables, and pictures where matplotlib is there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.compare import plots, tables
from benchmarks.compare.model import model
from benchmarks.compare.results import Result
from benchmarks.compare.workloads import Workload

RESULTS, TABLES, PICTURES = "results.json", "tables.md", "img"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the numbers depend on."""

    began: str
    ended: str
    quick: bool
    seed: int
    machine: dict[str, object]
    litestream: str
    workloads: list[Workload]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A whole comparison. What is modelled is made from the results, and written beside them for who reads the JSON."""

    facts: Facts
    results: list[Result]


def publish(folder: Path, record: Record) -> None:
    """Write everything to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    modelled = model(record.results)
    whole = {"facts": record.facts, "results": record.results, "modelled": modelled}
    (folder / RESULTS).write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
    sections = (
        ("Measured", tables.measured(record.results)),
        ("Modelled", tables.modelled(modelled)),
        ("Incidents", tables.incidents(record.results)),
    )
    (folder / TABLES).write_text("\n".join(f"## {title}\n\n{text}" for title, text in sections))
    print(f"written to {folder}")
    if plots.can_plot():
        print(f"{len(plots.plot_all(folder / PICTURES, record.results, modelled))} pictures")
    else:
        print("no pictures: pip install 'walrep[bench]' for matplotlib")


def read(folder: Path) -> Record:
    """Read what was published."""
    return msgspec.json.decode((folder / RESULTS).read_bytes(), type=Record)
