"""What the parts of replication share, made once by the supervisor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

import msgspec

from walrep.clock import Clock
from walrep.core.budget import Pace
from walrep.core.checkpoint import CapturePolicy
from walrep.core.compaction import CompactionPolicy
from walrep.core.events import Report
from walrep.core.objects import Writer
from walrep.disk.spool import Spool
from walrep.engine.captures import Captures
from walrep.engine.requests import Requests
from walrep.engine.watcher import Watcher
from walrep.errors import DatabaseInUse, WalrepError
from walrep.runner import Runner
from walrep.store.base import Store
from walrep.store.meter import MeteredStore
from walrep.store.observe import RequestCounts
from walrep.store.url import StoreUrl

__all__ = ["Budgeted", "EngineParts", "HeldFiles", "OpenedStore", "StoreOpener"]


class Budgeted(Protocol):
    """What a shipper asks of the budget of its store; see `walrep.engine.budget`."""

    openings: set[str]

    def pace(self) -> Pace | None:
        """Return when the next segment may be sent; None without a limit."""
        ...

    def watch(self, spool: Spool) -> None:
        """Look at this spool from now on."""
        ...


class OpenedStore(msgspec.Struct, frozen=True, kw_only=True):
    """The store of one replica, with retries inside, and what is observed of it.

    `metered` is where its PUTs can be counted and held back, `budget` what does that.
    """

    store: Store
    upload_p95_s: Callable[[], float]
    counts: Callable[[], RequestCounts]
    metered: MeteredStore | None = None
    budget: Budgeted | None = None


StoreOpener = Callable[[StoreUrl, Callable[[WalrepError, float], None]], OpenedStore]
"""Makes the store of a replica URL; the callable is told of every failure that is tried again, and the delay."""


class HeldFiles:
    """The database files of this process, by device and inode: each is opened for one database only.

    Two names of one file would cost both of them their locks, because closing a descriptor of a file drops every POSIX
    lock that the process holds on it (INV-03). So a file is claimed before it is opened for the first time.
    """

    def __init__(self) -> None:
        self._owners: dict[tuple[int, int], object] = {}

    def claim(self, owner: object, file: os.stat_result, path: Path) -> None:
        """Let `owner` have the file, and no other; raises `DatabaseInUse`."""
        identity = (file.st_dev, file.st_ino)
        if self._owners.setdefault(identity, owner) is not owner:
            raise DatabaseInUse(
                "this walrep protects the same file under another name",
                detail=str(path),
                hint="name each database once; a link is the same database",
            )

    def release(self, owner: object) -> None:
        """Forget what `owner` has; its files are closed."""
        self._owners = {identity: each for identity, each in self._owners.items() if each is not owner}


_SNAPSHOTS_AT_ONCE = 2


class EngineParts(msgspec.Struct, frozen=True, kw_only=True):
    """Clock, threads and callables. `worker` compresses and writes spools, one call after the other.

    `snapshot_turns`: after a night all databases of a host are due at once, and would fill its disk together.
    """

    clock: Clock
    report: Report
    open_store: StoreOpener
    captures: Captures
    watcher: Watcher
    worker: Executor
    runner: Runner
    requests: Requests
    capture_policy: CapturePolicy
    held: HeldFiles
    mountinfo: str
    new_writer: Callable[[], Writer]
    rival_check_s: float
    compaction: CompactionPolicy
    queue_bytes_max: int = 16 << 20
    snapshot_turns: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(_SNAPSHOTS_AT_ONCE))
