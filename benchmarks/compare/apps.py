"""The apps of one run: seeded ones of this package, or the user's own command on a copy of the user's database."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from benchmarks.children import Child
from benchmarks.compare.shapes import Load, make_template, pages_per_transaction
from benchmarks.compare.workloads import Workload
from benchmarks.compare.writing import Commits, read_commits

VARIABLE = "WALREP_BENCH_DATABASE"
NO_COMMITS = Commits(at_s=(), took_us=(), number=(), changed_bytes=0)


class OwnApp(msgspec.Struct, frozen=True):
    """What a user wants measured: a database, of which copies are used, and the command of an app that writes it.

    The command finds the path in the environment, as `WALREP_BENCH_DATABASE`, and is stopped by SIGTERM.
    """

    database: Path
    command: str


class Templates:
    """The databases with which apps begin, each made once."""

    def __init__(self, folder: Path, seed: int, own: OwnApp | None) -> None:
        self.folder, self.seed, self.own = folder, seed, own
        self._pages: dict[str, float] = {}

    def load(self, workload: Workload, index: int) -> Load:
        """Return what an app does; those that are never open are all alike."""
        return workload.load(0 if workload.closed else index, self.seed)

    def path(self, workload: Workload, index: int) -> Path:
        """Return the template of one app."""
        if self.own is not None:
            return self.own.database
        load = self.load(workload, index)
        path = self.folder / f"{load.shape}-{load.rows}-{load.seed}.db"
        if not path.exists():
            make_template(path, load)
        return path

    def pages(self, workload: Workload) -> float:
        """Return how many pages a transaction of the first app writes; 0 of an app of which nothing is known."""
        if self.own is not None:
            return 0.0
        if workload.name not in self._pages:
            template, load = self.path(workload, 0), self.load(workload, 0)
            self._pages[workload.name] = pages_per_transaction(template, load, self.folder / "scratch.db")
        return self._pages[workload.name]


class Apps:
    """One process for each database."""

    def __init__(self, workload: Workload, templates: Templates, folder: Path) -> None:
        self.workload, self.templates, self.folder = workload, templates, folder
        self.databases = tuple(folder / f"app{index}.db" for index in range(len(workload.rates)))
        self.children: list[Child] = []

    def start(self) -> None:
        """Copy the databases and open them."""
        for index, database in enumerate(self.databases):
            shutil.copy(self.templates.path(self.workload, index), database)
            if self.workload.closed:
                continue
            load = msgspec.json.encode(self.templates.load(self.workload, index)).decode()
            self.children.append(Child("compare.writing", [str(database), load]))
        for child in self.children:
            child.answer()

    def run(self, seconds: float) -> list[Commits]:
        """Have all of them write for a while; return their records."""
        if self.workload.closed:
            time.sleep(seconds)
            return [NO_COMMITS for _ in self.databases]
        records = [self.folder / f"commits{index}" for index in range(len(self.children))]
        for child, record, rate in zip(self.children, records, self.workload.rates, strict=True):
            child.send("run", seconds=seconds, rate=rate, output=str(record))
        for child in self.children:
            child.answer()
        return [read_commits(record) for record in records]

    def close(self) -> None:
        """End all."""
        for child in self.children:
            child.close()
        self.children = []


class OwnApps(Apps):
    """The user's own command."""

    def __init__(self, workload: Workload, templates: Templates, folder: Path) -> None:
        super().__init__(workload, templates, folder)
        assert templates.own is not None
        self.own = templates.own

    def start(self) -> None:
        shutil.copy(self.own.database, self.databases[0])

    def run(self, seconds: float) -> list[Commits]:
        with (self.folder / "app.log").open("wb") as log:
            process = subprocess.Popen(
                shlex.split(self.own.command),
                env={**os.environ, VARIABLE: str(self.databases[0])},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return [NO_COMMITS]


def apps_of(workload: Workload, templates: Templates, folder: Path) -> Apps:
    """Return the apps of one run."""
    return Apps(workload, templates, folder) if templates.own is None else OwnApps(workload, templates, folder)
