"""The composition root: the only place that names concrete classes, and that puts them together.

Each function below is one command's work, ready for an event loop. It must not print, nor decide anything.
"""

from __future__ import annotations

import asyncio
import platform
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from random import SystemRandom

import msgspec
import zstandard

import walrep
from walrep.clock import Clock, SystemClock
from walrep.core.compaction import CompactionPlan, CompactionPolicy
from walrep.core.events import Report
from walrep.core.history import History
from walrep.core.retention import RetentionPolicy
from walrep.core.units import Position, parse_bookmark
from walrep.disk.atomic import map_os_errors
from walrep.disk.room import DiskRoom
from walrep.disk.spool import DISK_RESERVE_BYTES
from walrep.engine import inspect, pins
from walrep.engine.asking import SnapshotAnswer, SnapshotRequest, ask_for_snapshot
from walrep.engine.compactor import Compacted, Compactor, Workplace
from walrep.engine.descriptors import raise_descriptor_limit
from walrep.engine.detach import DetachOutcome, detach as run_detach
from walrep.engine.fetch import read_history
from walrep.engine.inspect import DumpRecord
from walrep.engine.janitor import Janitor, PruneOutcome, Pruning
from walrep.engine.parts import OpenedStore
from walrep.engine.pins import KeepOutcome
from walrep.engine.planning import Wanted
from walrep.engine.restored import note_restored
from walrep.engine.restorer import Progress, RestoreOutcome, RestoreRequest, restore as run_restore
from walrep.engine.settings import ReplicateSettings, default_state_dir
from walrep.engine.supervisor import Supervisor, new_writer
from walrep.engine.together import DatabaseRestore, restore_together, undo_of
from walrep.errors import WalrepError
from walrep.runner import ThreadRunner
from walrep.sqlite.keeper import engine_version
from walrep.store.base import Store
from walrep.store.limit import LimitedStore, StoreLimits
from walrep.store.local import LocalStore
from walrep.store.meter import MeteredStore, one_request
from walrep.store.observe import ObservedStore, RequestCounter
from walrep.store.rate import UploadRate
from walrep.store.retry import Retries, RetryingStore, RetryPolicy
from walrep.store.s3 import S3Store
from walrep.store.s3_client import S3Clients
from walrep.store.s3_url import S3Access, S3Url
from walrep.store.url import FileUrl, StoreUrl

__all__ = [
    "Stores",
    "compact",
    "detach",
    "dump_file",
    "dump_object",
    "find_pin",
    "is_replica",
    "keep",
    "open_stores",
    "plan_compaction",
    "plan_prune",
    "prune",
    "read_replica",
    "replicate",
    "restore",
    "restore_all",
    "snapshot",
    "system_clock",
    "unkeep",
    "versions",
]

_STORE_THREADS = 4
_REQUESTS_IN_FLIGHT_MAX = 16
_BYTES_IN_FLIGHT_MAX = 128 << 20
_WRITING = RetryPolicy(mend_delay_s=30.0)
"""A writer that runs waits for credentials and buckets that somebody has to put right; one that starts does not."""

_COMMANDS = RetryPolicy(put_deadline_s=60.0, part_deadline_s=60.0)
"""A command says soon that the store does not answer, also one that writes packs."""

_READ_THREADS = 4
_DETACH_WAIT_S = 60.0
"""Longer than the default shutdown deadline: the walrep that runs drains first."""


def system_clock() -> Clock:
    """Return the machine's clock."""
    return SystemClock()


async def replicate(
    settings: ReplicateSettings,
    stop: asyncio.Event,
    *,
    report: Report,
    clock: Clock,
    environment: Mapping[str, str],
) -> None:
    """Protect the databases until `stop` is set, then make durable what is captured.

    Raises:
        NotDurable: the deadline passed before everything captured was durable.
        WalrepError: the protection of a database ended for good.

    """
    raise_descriptor_limit()
    opening = open_stores(
        _STORE_THREADS, clock, environment, settings.s3, _WRITING, upload_bytes_per_s=settings.upload_bytes_per_s
    )
    async with opening as stores:
        supervisor = Supervisor(settings, open_store=stores.open, clock=clock, report=report, new_writer=new_writer)
        await supervisor.run(stop)


async def detach(path: Path, state_dir: Path | None, *, clock: Clock) -> DetachOutcome:
    """Let a database go; see `walrep.engine.detach.detach` for what it raises."""
    return await run_detach(path, state_dir or default_state_dir(path), clock, _DETACH_WAIT_S)


async def snapshot(path: Path, state_dir: Path | None, *, full: bool, clock: Clock) -> SnapshotAnswer:
    """Have the walrep that protects a database make a snapshot; see `ask_for_snapshot` for what it raises."""
    return await ask_for_snapshot(state_dir or default_state_dir(path), SnapshotRequest(full=full), clock)


async def is_replica(url: StoreUrl, *, clock: Clock, environment: Mapping[str, str]) -> bool:
    """Return whether there is any object at a replica's place."""
    async with _opened(url, clock, environment) as (store, _runner):
        return bool([info async for info in store.list("", limit=1)])


async def restore(
    url: StoreUrl, request: RestoreRequest, *, clock: Clock, environment: Mapping[str, str], progress: Progress
) -> RestoreOutcome:
    """Restore a database from the replica; see `walrep.engine.restorer.restore` for what it raises.

    Over a database that walrep protected, the outcome tells the bookmark of what was replaced.
    """
    state_dir = default_state_dir(request.output)
    async with _opened(url, clock, environment) as (store, runner):
        undo = await undo_of(state_dir, store, runner)
        outcome = await run_restore(
            store,
            msgspec.structs.replace(request, undo=None if undo is None else str(undo)),
            clock=clock,
            runner=runner,
            progress=progress,
        )
        if undo is not None and outcome.written:
            await runner.run(partial(note_restored, state_dir, parse_bookmark(outcome.bookmark)))
        return outcome


async def restore_all(
    wanted: Sequence[DatabaseRestore],
    s3: S3Access,
    *,
    clock: Clock,
    environment: Mapping[str, str],
    progress: Progress,
) -> list[RestoreOutcome]:
    """Restore databases together, in this order; see `walrep.engine.together` for what it raises."""
    runner = ThreadRunner(_READ_THREADS, "walrep-read")
    try:
        async with open_stores(_READ_THREADS, clock, environment, s3, _COMMANDS) as stores:
            return await restore_together(wanted, open_store=stores.open, clock=clock, runner=runner, progress=progress)
    finally:
        runner.close()


async def read_replica(url: StoreUrl, *, clock: Clock, environment: Mapping[str, str]) -> History:
    """Return what the replica holds."""
    async with _opened(url, clock, environment) as (store, runner):
        return await read_history(store, runner)


async def plan_compaction(url: StoreUrl, *, clock: Clock, environment: Mapping[str, str]) -> CompactionPlan:
    """Return what there is to pack and to delete, as far as can be told without reading packs back."""
    async with _compactor(url, clock, environment) as compactor:
        return compactor.plan(None)


async def compact(url: StoreUrl, *, clock: Clock, environment: Mapping[str, str]) -> Compacted:
    """Pack what there is to pack and delete what was replaced; see `walrep.engine.compactor` for what it raises."""
    async with _compactor(url, clock, environment) as compactor:
        return await compactor.run(None)


async def plan_prune(
    url: StoreUrl, policy: RetentionPolicy, *, clock: Clock, environment: Mapping[str, str]
) -> Pruning:
    """Return what retention would delete; see `walrep.engine.janitor` for what it raises."""
    async with _opened(url, clock, environment) as (store, runner):
        return await Janitor(store, clock=clock, runner=runner, writer=new_writer()).plan({}, policy)


async def prune(
    url: StoreUrl, policy: RetentionPolicy, *, yes: bool, clock: Clock, environment: Mapping[str, str]
) -> PruneOutcome:
    """Delete what retention does not keep; see `walrep.engine.janitor` for what it raises."""
    async with _opened(url, clock, environment) as (store, runner):
        return await Janitor(store, clock=clock, runner=runner, writer=new_writer()).run({}, policy, yes=yes)


async def keep(
    url: StoreUrl, name: str, wanted: Wanted, *, clock: Clock, environment: Mapping[str, str]
) -> KeepOutcome:
    """Keep a position under a name; see `walrep.engine.pins.keep` for what it raises."""
    async with _opened(url, clock, environment) as (store, runner):
        return await pins.keep(store, name, wanted, clock=clock, runner=runner)


async def unkeep(url: StoreUrl, name: str, *, clock: Clock, environment: Mapping[str, str]) -> tuple[Position, ...]:
    """Let go what is kept under a name; see `walrep.engine.pins.unkeep` for what it raises."""
    async with _opened(url, clock, environment) as (store, _runner):
        return await pins.unkeep(store, name)


async def find_pin(url: StoreUrl, name: str, *, clock: Clock, environment: Mapping[str, str]) -> Position:
    """Return what is kept under a name; see `walrep.engine.pins.find_pin` for what it raises."""
    async with _opened(url, clock, environment) as (store, _runner):
        return await pins.find_pin(store, name)


async def dump_object(
    url: StoreUrl, key: str, *, clock: Clock, environment: Mapping[str, str], show: Callable[[DumpRecord], None]
) -> None:
    """Show the records of an object of a replica, then raise what is wrong with the rest."""
    async with _opened(url, clock, environment) as (store, _runner):
        async for record in inspect.dump_object(store, key):
            show(record)


def dump_file(path: Path) -> Iterator[DumpRecord]:
    """Yield the records of an object in a file, then raise what is wrong with the rest."""
    with map_os_errors(f"read {path}"):
        yield from inspect.dump_file(path)


def versions() -> dict[str, str]:
    """Return the versions of walrep and of what it is made of."""
    return {
        "walrep": walrep.__version__,
        "apsw": metadata.version("apsw"),
        "sqlite": engine_version(),
        "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "python": platform.python_version(),
    }


class Stores:
    """Composes stores: counting inside limits inside a meter inside retries, so that each attempt counts for itself."""

    def __init__(
        self,
        runner: ThreadRunner,
        clock: Clock,
        clients: S3Clients,
        policy: RetryPolicy,
        rate: UploadRate | None = None,
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._clients = clients
        self._policy = policy
        self._rate = rate
        self._limits = StoreLimits(_REQUESTS_IN_FLIGHT_MAX, _BYTES_IN_FLIGHT_MAX)

    def open(self, url: StoreUrl, notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        """Return the store of a place; clients and limits are shared with the others of this process."""
        counter = RequestCounter()

        def failed(error: WalrepError, delay_s: float) -> None:
            """Count what is tried again inside a call, of which only the end is seen outside."""
            counter.failed()
            notify(error, delay_s)

        def may_try_again() -> bool:
            return metered.may_try_again()

        store: LocalStore | S3Store
        match url:
            case FileUrl(path=path):
                store = LocalStore(path, self._runner, self._clock, rate=self._rate)
            case S3Url():
                retries = Retries(self._clock, self._policy, SystemRandom(), failed, may_try_again)
                store = S3Store(url, self._clients, self._runner, counter, retries)
        limited = LimitedStore(ObservedStore(store, self._clock, counter), self._limits, store.held_bytes)
        metered = MeteredStore(limited, store.put_requests if isinstance(store, S3Store) else one_request)
        return OpenedStore(
            store=RetryingStore(metered, self._clock, self._policy, SystemRandom(), notify),
            upload_p95_s=counter.upload_p95_s,
            counts=lambda: counter.counts,
            metered=metered,
        )


@asynccontextmanager
async def open_stores(
    threads: int,
    clock: Clock,
    environment: Mapping[str, str],
    s3: S3Access,
    policy: RetryPolicy,
    upload_bytes_per_s: int | None = None,
) -> AsyncIterator[Stores]:
    """Open what stores share: threads for blocking work, clients, and the rate of all uploads together.

    `s3` is what URLs of buckets leave open.
    """
    runner = ThreadRunner(threads, "walrep-store")
    rate = None
    if upload_bytes_per_s is not None:
        rate = UploadRate(clock, upload_bytes_per_s)
        # A part waits behind whatever else is in flight; it is tried again all the same.
        slow_s = policy.part_deadline_s + _BYTES_IN_FLIGHT_MAX / upload_bytes_per_s
        policy = msgspec.structs.replace(policy, part_deadline_s=slow_s)
    clients = S3Clients(environment, s3, clock, rate=rate)
    try:
        yield Stores(runner, clock, clients, policy, rate)
    finally:
        await clients.aclose()
        runner.close()


@asynccontextmanager
async def _compactor(url: StoreUrl, clock: Clock, environment: Mapping[str, str]) -> AsyncIterator[Compactor]:
    """Make a compactor that knows what the replica holds, with nothing of it at hand."""
    with tempfile.TemporaryDirectory(prefix="walrep-compact-") as folder:
        cache, work = _make_folders(Path(folder), "cache", "work")
        async with _opened(url, clock, environment) as (store, runner):
            compactor = Compactor(
                store,
                Workplace(cache, work, DiskRoom(work, DISK_RESERVE_BYTES)),
                clock=clock,
                runner=runner,
                writer=new_writer(),
                policy=CompactionPolicy(),
            )
            await compactor.load()
            yield compactor


@asynccontextmanager
async def _opened(
    url: StoreUrl, clock: Clock, environment: Mapping[str, str]
) -> AsyncIterator[tuple[Store, ThreadRunner]]:
    """Open a store for a command; what passes by itself is tried again in silence, up to the policy's deadlines."""
    runner = ThreadRunner(_READ_THREADS, "walrep-read")
    try:
        async with open_stores(_READ_THREADS, clock, environment, S3Access(), _COMMANDS) as stores:
            store = stores.open(url, lambda _error, _delay_s: None).store
            try:
                yield store, runner
            finally:
                await store.aclose()
    finally:
        runner.close()


def _make_folders(parent: Path, *names: str) -> tuple[Path, ...]:
    folders = tuple(parent / name for name in names)
    for folder in folders:
        folder.mkdir()
    return folders
