"""The scenarios: what is played, with which app, and what it may do to timelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tests.hostile import scenarios as play
from tests.hostile.model import Shape
from tests.hostile.stage import Stage
from tests.hostile.verify import Rules
from tests.hostile.writers import AppPlan

__all__ = ["SCENARIOS", "Scenario"]

Play = Callable[[Stage], None]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario: what it plays, with which app, and what it may do. `snapshot_s`: how often one is asked for."""

    name: str
    play: Play
    plan: dict[str, Any] = {}
    shape: dict[str, Any] = {}
    rules: Rules = Rules()
    options: tuple[str, ...] = ()
    restores_max: int = 1000
    snapshot_s: float | None = None

    def make_plan(self, path: str, seed: int) -> AppPlan:
        """Return the app's plan."""
        return AppPlan(path=path, shape=Shape(seed=seed, **self.shape), **self.plan)


SCENARIOS: dict[str, Scenario] = {}


def add(name: str, play: Play, **fields: Any) -> None:  # noqa: ANN401 - fields of Scenario
    """Add a scenario."""
    SCENARIOS[name] = Scenario(name=name, play=play, **fields)


_BROKEN = Rules(may_break=True)
_BROKEN_BACK = Rules(may_break=True, may_lose=True)
_SHRINKING: dict[str, Any] = {"bulk_every": 60, "bulk_rows": 400, "delete_every": 7}
_DDL: dict[str, Any] = {"ddl_every": 36}
_SPILL: dict[str, Any] = {"cache_pages": 5, "savepoint_every": 3}

add("flat-out", play.one_writer, snapshot_s=0.2)
add("flat-out-newest-engine", play.one_writer, plan={"engine": "apsw"})
add("paced", play.one_writer, plan={"pause_s": 0.002})
add("bursts", play.bursts)
add("three-writers", play.three_writers, shape={"stamp_every": 1})
add("three-writers-newest-engine", play.three_writers, plan={"engine": "apsw"})
add("app-truncates", play.one_writer, plan={"checkpoint": "TRUNCATE", "checkpoint_s": 0.3})
add("app-restarts-wal", play.one_writer, plan={"checkpoint": "RESTART", "checkpoint_s": 0.3})
add("truncates-beside", play.checkpointer_beside, plan={"checkpoint": "TRUNCATE", "checkpoint_s": 0.3})
add(
    "full-checkpoints-beside",
    play.checkpointer_beside,
    plan={"checkpoint": "FULL", "checkpoint_s": 0.05, "engine": "apsw"},
)
add("app-never-checkpoints", play.one_writer, plan={"autocheckpoint": 0})
add("reopens", play.one_writer, plan={"reopen_every": 20})
add(
    "vacuum-and-ddl",
    play.one_writer,
    plan={"vacuum_every": 90},
    shape={**_SHRINKING, **_DDL, "stamp_every": 1},
    rules=Rules(side_commits=True),
    snapshot_s=0.1,
)
add(
    "incremental-vacuum",
    play.one_writer,
    plan={"auto_vacuum": 2, "incremental_every": 5},
    shape={**_SHRINKING, **_DDL},
)
add("auto-vacuum-full", play.one_writer, plan={"auto_vacuum": 1}, shape=_SHRINKING)
add("savepoints-that-spill", play.one_writer, plan={**_SPILL, "pause_s": 0.001})
add("savepoints-that-spill-newest-engine", play.one_writer, plan={**_SPILL, "engine": "apsw"})
add("rollbacks-that-spill", play.one_writer, plan={"cache_pages": 5, "rollback_every": 2})
add("long-readers", play.long_readers, plan={"pause_s": 0.001})
add("page-size-512", play.one_writer, plan={"page_size": 512})
add("page-size-1024", play.one_writer, plan={"page_size": 1024, "checkpoint": "TRUNCATE"}, shape=_SHRINKING)
add("page-size-16384", play.one_writer, plan={"page_size": 16384}, shape=_SHRINKING)
add("page-size-65536", play.one_writer, snapshot_s=0.3, plan={"page_size": 65536, "checkpoint": "RESTART"})
add("big-blobs", play.one_writer, plan={"pause_s": 0.002}, shape={"blob_every": 3, "blob_bytes": 3_000_000})
add("huge-transaction", play.huge_transaction, shape={"huge_at": 200}, plan={"pause_s": 0.001}, restores_max=12)
add("killed-app", play.killed_app, plan={"checkpoint": "TRUNCATE", "checkpoint_s": 0.03}, shape={"stamp_every": 1})
add("killed-app-newest-engine", play.killed_app, plan={"engine": "apsw", "checkpoint": "PASSIVE", "checkpoint_s": 0.01})
add("killed-crowd", play.killed_crowd, snapshot_s=0.1)
add(
    "killed-app-savepoints",
    play.killed_app,
    plan={**_SPILL, "rollback_every": 4},
    rules=Rules(may_break=True, may_lose=True),
)
add("lost-tail", play.lost_tail, plan={"cache_pages": 5}, rules=_BROKEN_BACK)
add("killed-walrep", play.killed_walrep, rules=_BROKEN, snapshot_s=0.02)
add("killed-walrep-paced", play.killed_walrep, plan={"pause_s": 0.005}, rules=_BROKEN)
add("killed-walrep-big-blobs", play.killed_walrep, shape={"blob_every": 3, "blob_bytes": 2_000_000}, rules=_BROKEN)
add("killed-walrep-reopens", play.killed_walrep, plan={"reopen_every": 1}, rules=_BROKEN)
add("stopped-walrep", play.stopped_walrep, rules=_BROKEN, snapshot_s=0.05)
add(
    "everything-killed",
    play.everything_killed,
    rules=_BROKEN,
    snapshot_s=0.02,
    plan={"checkpoint": "TRUNCATE", "checkpoint_s": 0.1},
)
add("resumes", play.resumes)
add("app-comes-late", play.app_comes_late)
add("walrep-comes-first", play.walrep_comes_first)
add("replaced", play.replaced, rules=_BROKEN_BACK)
add("replaced-and-started", play.replaced_and_started, rules=_BROKEN_BACK)
