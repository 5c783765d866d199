"""Let a database go so that its file can be replaced by hand.

A -wal that outlives its database is replayed into whatever takes its place. So a running walrep is asked to let go,
and then, if no app has the database open either, SQLite itself copies the log into the file and removes it.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from walrep.clock import Clock
from walrep.disk.atomic import map_os_errors
from walrep.disk.state import is_in_use
from walrep.engine.replicator import DETACH_REQUEST
from walrep.errors import DatabaseInUse, DatabaseMissing
from walrep.sqlite.settle import settle_database

__all__ = ["DetachOutcome", "detach"]

_POLL_S = 0.1


class DetachOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What `detach` found: whether a walrep let go, whether a -wal is left, and which processes hold the database."""

    was_running: bool
    wal_left: bool
    holders: tuple[int, ...]


async def detach(path: Path, state_dir: Path, clock: Clock, wait_s: float) -> DetachOutcome:
    """Ask the walrep that protects the database to let it go, and have its log copied into the file.

    Raises:
        DatabaseMissing: there is no file.
        DatabaseInUse: the running walrep did not let go within `wait_s`.

    """
    if not os.path.isfile(path):  # noqa: ASYNC240  one stat before anything else runs
        raise DatabaseMissing("no database here", detail=str(path), hint="check the path")
    was_running = is_in_use(state_dir)
    if was_running:
        request = state_dir / DETACH_REQUEST
        with map_os_errors(f"ask for {path}"):
            request.touch()
        waited_s = 0.0
        while is_in_use(state_dir):
            if waited_s >= wait_s:
                raise DatabaseInUse(
                    "the running walrep has not let the database go",
                    detail=f"{path}, after {wait_s:.0f} s",
                    hint="it may be waiting for its store; stop it, then detach again",
                )
            await clock.sleep(_POLL_S)
            waited_s += _POLL_S
        request.unlink(missing_ok=True)
    holders, wal_left = settle_database(path)
    return DetachOutcome(was_running=was_running, wal_left=wal_left, holders=tuple(holders))
