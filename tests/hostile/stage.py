"""One run: a folder with a database, the processes beside it, and what was counted."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.hostile.processes import AppProcess, Sidecar
from tests.hostile.waiting import pause
from tests.hostile.writers import AppPlan
from walrep.engine.asking import SNAPSHOT_REQUEST, SnapshotRequest, put_request
from walrep.engine.settings import default_state_dir

_SALTS_POLL_S = 0.002


class Counts(msgspec.Struct):
    """What happened in a run."""

    app_kills: int = 0
    app_restarts: int = 0
    walrep_kills: int = 0
    walrep_restarts: int = 0
    snapshots_asked: int = 0
    wal_restarts_seen: int = 0
    acknowledged_commits: int = 0
    busy: int = 0
    longest_commit_s: float = 0.0
    longest_checkpoint_s: float = 0.0
    """Of the app's own; of processes that were not killed."""
    walrep_peak_rss_bytes: int = 0


class Stage:
    """What a scenario plays on. `url` and `store` are the replica; `plan` is the app's, for scenarios to vary."""

    def __init__(
        self,
        folder: Path,
        plan: AppPlan,
        *,
        seconds: float,
        options: Sequence[str] = (),
        snapshot_s: float | None = None,
    ) -> None:
        self.folder = folder
        self.database = Path(plan.path)
        self.store = folder / "replica"
        self.url = f"file://{self.store}"
        self.plan = plan
        self.seconds = seconds
        self.rng = Random(plan.shape.seed)
        self.counts = Counts()
        self.apps: list[AppProcess] = []
        self.sidecars: list[Sidecar] = []
        self.exit_codes: list[int] = []
        self.options = ["--rpo", "1s", *options]
        self.sqlite_versions: set[str] = set()
        self.notes: dict[str, Any] = {}
        self._salts = _SaltsWatcher(self.database)
        self._asking = None if snapshot_s is None else _SnapshotAsker(default_state_dir(self.database), snapshot_s)

    # -- processes --------------------------------------------------------------------------------------------------

    def start_app(self, **changes: Any) -> AppProcess:  # noqa: ANN401 - fields of AppPlan
        """Start a process of the app, with the plan changed as said."""
        app = AppProcess(msgspec.structs.replace(self.plan, **changes))
        self.apps.append(app)
        self.sqlite_versions.add(app.sqlite)
        return app

    def stop_app(self, app: AppProcess) -> int:
        """Stop it; return n as it knows it."""
        answer = app.stop()
        self.apps.remove(app)
        self.counts.acknowledged_commits += answer["commits"]
        self.counts.busy += answer["busy"]
        self.counts.longest_commit_s = max(self.counts.longest_commit_s, answer["longest_s"])
        longest = max(self.counts.longest_checkpoint_s, answer["longest_checkpoint_s"])
        self.counts.longest_checkpoint_s = longest
        return int(answer["n"])

    def stop_apps(self) -> None:
        """Stop all processes of the app."""
        for app in list(self.apps):
            self.stop_app(app)

    def kill_app(self, app: AppProcess) -> None:
        """Kill it with SIGKILL; it must not have ended by itself."""
        if not app.running():
            raise RuntimeError(f"the app ended by itself with exit code {app.process.returncode}")
        app.kill()
        self.apps.remove(app)
        self.counts.app_kills += 1

    def start_walrep(self, *, wait: bool = True) -> Sidecar:
        """Start walrep; by default wait until it protects the database."""
        log = self.folder / f"walrep-{len(self.sidecars)}.log"
        sidecar = Sidecar(self.database, self.url, log, self.options)
        self.sidecars.append(sidecar)
        self.counts.walrep_restarts = len(self.sidecars) - 1
        if wait:
            sidecar.wait_until_protecting()
        return sidecar

    @property
    def walrep(self) -> Sidecar:
        """The walrep that was started last."""
        return self.sidecars[-1]

    def stop_walrep(self) -> int:
        """Stop walrep by SIGTERM and note its exit code."""
        code = self.walrep.stop()
        self.exit_codes.append(code)
        return code

    def kill_walrep(self) -> None:
        """Kill walrep with SIGKILL."""
        self.walrep.kill()
        self.counts.walrep_kills += 1

    # -- time -------------------------------------------------------------------------------------------------------

    def play(self, seconds: float) -> None:
        """Let everything go on for a while."""
        pause(seconds)

    def between(self, low: float, high: float) -> float:
        """Return a random number of seconds."""
        return self.rng.uniform(low, high)

    def end_snapshots(self) -> None:
        """Ask for no more snapshots; what is left of the last question is removed."""
        if self._asking is not None:
            self.counts.snapshots_asked = self._asking.close()
            self._asking = None

    def close(self) -> None:
        """End every child process that is left, and count."""
        self.end_snapshots()
        for app in list(self.apps):
            app.kill()
        for sidecar in self.sidecars:
            if sidecar.running():
                sidecar.kill()
        self.counts.walrep_peak_rss_bytes = max((sidecar.peak_rss_bytes for sidecar in self.sidecars), default=0)
        self.counts.wal_restarts_seen = self._salts.close()


class _SnapshotAsker:
    """Asks for a snapshot again and again, whether walrep runs or not; every fourth is to be a full one."""

    def __init__(self, state_dir: Path, pause_s: float) -> None:
        self._request = state_dir / SNAPSHOT_REQUEST
        self._pause_s = pause_s
        self._ended = threading.Event()
        self._count = 0
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def close(self) -> int:
        """Return how often it asked."""
        self._ended.set()
        self._thread.join()
        self._request.unlink(missing_ok=True)
        return self._count

    def _ask(self) -> None:
        while not self._ended.wait(self._pause_s):
            if self._request.parent.is_dir() and not self._request.exists():
                self._count += 1
                put_request(self._request.parent, SnapshotRequest(full=self._count % 4 == 0))


class _SaltsWatcher:
    """Counts restarts of the WAL by looking at its header; a few may be too quick to be seen."""

    def __init__(self, database: Path) -> None:
        self._path = f"{database}-wal"
        self._ended = threading.Event()
        self._seen = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> int:
        """Return how often the salts changed."""
        self._ended.set()
        self._thread.join()
        return max(0, self._seen - 1)

    def _watch(self) -> None:
        before = b""
        while not self._ended.wait(_SALTS_POLL_S):
            try:
                with open(self._path, "rb", buffering=0) as file:
                    salts = os.pread(file.fileno(), 8, 16)
            except OSError:
                continue
            if len(salts) == 8 and salts != before:
                before = salts
                self._seen += 1
