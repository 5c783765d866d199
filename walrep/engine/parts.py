"""What the parts of replication share, made once by the supervisor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

import msgspec

from walrep.clock import Clock
from walrep.core.checkpoint import CapturePolicy
from walrep.core.events import Report
from walrep.core.objects import Writer
from walrep.engine.captures import CaptureThread
from walrep.engine.watcher import DirectoryWatcher
from walrep.errors import WalrepError
from walrep.runner import Runner
from walrep.store.base import Store
from walrep.store.observe import RequestCounts

__all__ = ["EngineParts", "OpenedStore", "StoreOpener"]


class OpenedStore(msgspec.Struct, frozen=True, kw_only=True):
    """The store of one replica, with retries inside, and what is observed of it."""

    store: Store
    upload_p95_s: Callable[[], float]
    counts: Callable[[], RequestCounts]


StoreOpener = Callable[[str, Callable[[WalrepError, float], None]], OpenedStore]
"""Makes the store of a replica URL; the callable is told of every failure that is tried again, and the delay."""


class EngineParts(msgspec.Struct, frozen=True, kw_only=True):
    """Clock, threads and callables. `worker` compresses and writes spools, one call after the other."""

    clock: Clock
    report: Report
    open_store: StoreOpener
    captures: CaptureThread
    watcher: DirectoryWatcher
    worker: Executor
    runner: Runner
    capture_policy: CapturePolicy
    mountinfo: str
    new_writer: Callable[[], Writer]
    queue_bytes_max: int = 16 << 20
