"""Ways to protect a database, each as its user starts it: a command, a store behind the proxy, a restore."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.compare import processes
from benchmarks.compare.bucket import StandinPlan
from benchmarks.compare.counts import Stored
from benchmarks.compare.writing import Commits
from tests.store.servers import ACCESS_KEY, BUCKET, SECRET_KEY

STOP_S = 90.0
RPO_S = 10.0
"""walrep's default."""

FAR_S = 9e9
"""A time in the far future."""

WALREP_VARIABLES = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one run takes place: databases, a folder for logs and plans, and a prefix of the bucket of a server."""

    folder: Path
    databases: tuple[Path, ...]
    endpoint: str
    prefix: str

    def prefix_of(self, index: int) -> str:
        """Return the prefix of one database."""
        return f"{self.prefix}/{index}"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Of one database of a run: the objects that were stored, and the app's own record."""

    index: int
    objects: Sequence[Stored]
    commits: Commits


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A restore of one database; `at_s` None: as new as it can be."""

    index: int
    output: Path
    at_s: float | None = None


class Mark(msgspec.Struct, frozen=True):
    """At this time so many commits of the app were durable."""

    durable_s: float
    commit_count: int


class Strategy(ABC):
    """One way; an instance serves one run.

    `kinds`: what objects are, by the third part of their keys where that is not what they are called; `image` is the
    whole database.
    `needs_s`: shorter runs say nothing of it. `together_only`: it takes part where all run at once, `turns_only`: where
    they do not. `day_s`: how long it takes for a day, where it scales one. `keeps_up`: its newest state is the app's.
    """

    name = ""
    what = ""
    needs_s = 0.0
    together_only = False
    turns_only = False
    keeps_up = True
    day_s = 86_400.0
    kinds: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.place: Place
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where the command writes."""
        return self.place.folder / "strategy.log"

    def start(self, place: Place) -> None:
        """Begin to protect the databases."""
        self.place = place
        self.process = processes.start(self.command(), self.log, WALREP_VARIABLES)

    def stop(self) -> int:
        """End it as its user would, and return the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def settle(self) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait for what comes after the app's last commit."""

    def local_paths(self) -> Sequence[Path]:
        """Return what it keeps on the local disk."""
        return ()

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the command that protects."""

    @abstractmethod
    def restore_command(self, wanted: Wanted) -> Sequence[str]:
        """Return the command that restores one database, as of a time or as new as it can be."""

    def kind_of(self, key: str) -> str:
        """Return what kind of object has a key."""
        kind = key.split("/")[2]
        return self.kinds.get(kind, kind)

    @abstractmethod
    def marks(self, seen: Seen) -> list[Mark]:
        """Return what was durable when."""


class Nothing(Strategy):
    """No protection: what everything else is compared with."""

    name = "none"
    what = "no protection"

    def start(self, place: Place) -> None:
        self.place = place

    def command(self) -> Sequence[str]:
        return ()

    def restore_command(self, wanted: Wanted) -> Sequence[str]:
        raise NotImplementedError

    def marks(self, seen: Seen) -> list[Mark]:
        raise NotImplementedError


class Walrep(Strategy):
    """The user's command, with an RPO."""

    kinds: Mapping[str, str] = {"snapshots": "image"}

    def __init__(self, rpo_s: float, name: str) -> None:
        super().__init__()
        self.rpo_s = rpo_s
        self.name = name
        self.what = f"walrep, RPO {rpo_s:g} s"
        self.needs_s = 2 * rpo_s if rpo_s > RPO_S else 0.0
        self.together_only = rpo_s != RPO_S

    def local_paths(self) -> Sequence[Path]:
        return [path.parent / f".{path.name}-walrep" for path in self.place.databases]

    def start(self, place: Place) -> None:
        lines = [f'rpo = "{self.rpo_s:g}s"']
        for index, path in enumerate(place.databases):
            url = f"s3://{BUCKET}/{place.prefix_of(index)}?endpoint={place.endpoint}"
            lines += ["[[database]]", f'path = "{path}"', f'replica = "{url}"']
        (place.folder / "walrep.toml").write_text("\n".join(lines) + "\n")
        super().start(place)

    def command(self) -> Sequence[str]:
        config = str(self.place.folder / "walrep.toml")
        return [sys.executable, "-m", "walrep", "replicate", "--config", config, "--log-format", "json"]

    def restore_command(self, wanted: Wanted) -> Sequence[str]:
        url = f"s3://{BUCKET}/{self.place.prefix_of(wanted.index)}?endpoint={self.place.endpoint}"
        at = [] if wanted.at_s is None else ["--at", format_time(wanted.at_s), "--nearest-before"]
        return [sys.executable, "-m", "walrep", "restore", url, "-o", str(wanted.output), *at]

    def marks(self, seen: Seen) -> list[Mark]:
        """Return what its log says: each commit of the app is one transaction of the first timeline."""
        marks = []
        name = self.place.databases[seen.index].name
        for line in self.log.read_text().splitlines():
            event = msgspec.json.decode(line) if line.startswith("{") else {}
            if event.get("event") == "flushed" and Path(event["database"]).name == name:
                number, _nonce, txid, _checksum = event["bookmark"].split("-")
                if int(number) != 1:
                    raise RuntimeError(f"{self.name}: a new timeline began in {name}")
                marks.append(Mark(datetime.fromisoformat(event["timestamp"]).timestamp(), int(txid)))
        return marks


class ScaledWalrep(Walrep):
    """walrep with short days, so that packs of a quarter of an hour and of a day are made within a run."""

    quarter_s, day_s, settle_s, grace_s = 20.0, 40.0, 1.0, 4.0

    def __init__(self) -> None:
        super().__init__(RPO_S, "walrep-packs")
        self.what = f"walrep, RPO {RPO_S:g} s, packs of {self.quarter_s:g} s and of {self.day_s:g} s"
        self.needs_s = self.day_s
        self.turns_only = True

    def command(self) -> Sequence[str]:
        spans = [f"{each:g}" for each in (self.quarter_s, self.day_s, self.settle_s, self.grace_s)]
        config = str(self.place.folder / "walrep.toml")
        return [sys.executable, "-m", "benchmarks.compare.scaled_walrep", *spans, config]

    def start(self, place: Place) -> None:
        # The day begins with the run, or else a run would lie in two of them.
        time.sleep(-(time.time() + 4.0) % self.day_s)
        super().start(place)

    def settle(self) -> None:
        """Wait for the end of the day, its pack, and the deletion of what that replaces."""
        time.sleep(-time.time() % self.day_s + self.settle_s + self.grace_s + 3.0)


class Standin(Strategy):
    """A program of this package."""

    module = ""
    kinds: Mapping[str, str] = {"base": "image", "daily": "snapshots"}

    def start(self, place: Place) -> None:
        plan = StandinPlan(
            databases=tuple(map(str, place.databases)),
            prefixes=tuple(place.prefix_of(index) for index in range(len(place.databases))),
            endpoint=place.endpoint,
            bucket=BUCKET,
            day_s=self.day_s,
        )
        (place.folder / "plan.json").write_bytes(msgspec.json.encode(plan))
        super().start(place)

    def command(self) -> Sequence[str]:
        return self._command("replicate")

    def restore_command(self, wanted: Wanted) -> Sequence[str]:
        at_ms = int((wanted.at_s or FAR_S) * 1000)
        return self._command("restore", str(wanted.index), str(wanted.output), str(at_ms))

    def _command(self, what: str, *arguments: str) -> Sequence[str]:
        plan = str(self.place.folder / "plan.json")
        return [sys.executable, "-m", f"benchmarks.compare.{self.module}", what, plan, *arguments]


class PerChange(Standin):
    """An object for each commit."""

    name = "per-change"
    what = "an object per change"
    module = "per_change"

    def marks(self, seen: Seen) -> list[Mark]:
        """Return what is there without a hole: uploads overtake each other."""
        stored = sorted(
            (int(each.key.rpartition("-")[2].removesuffix(".zst")), each.stored_s)
            for each in seen.objects
            if self.kind_of(each.key) == "changes"
        )
        marks, latest_s = [], 0.0
        for number, stored_s in stored:
            latest_s = max(latest_s, stored_s)
            marks.append(Mark(latest_s, number))
        return marks


class Daily(Standin):
    """A snapshot a day; a day is shorter here."""

    name = "daily"
    what = "a snapshot a day, zstd"
    module = "daily"
    day_s = 20.0
    keeps_up = False

    def marks(self, seen: Seen) -> list[Mark]:
        taken = [(int(each.key.rpartition("/")[2].split("-")[0]) / 1000, each.stored_s) for each in seen.objects]
        return [Mark(stored_s, bisect_right(seen.commits.at_s, at_s)) for at_s, stored_s in taken]


def format_time(at_s: float) -> str:
    """Return RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def variables() -> Mapping[str, str]:
    """Return the environment of a restore."""
    return WALREP_VARIABLES
