"""walrep: the real supervisor in virtual time, in a process of its own that can be killed at any moment.

It goes on only while the test lets time pass, and has its store in the test's process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.model.channel import Channel
from walrep.core.budget import BudgetPolicy
from walrep.core.checkpoint import CapturePolicy
from walrep.core.compaction import CompactionPolicy
from walrep.core.events import Event
from walrep.core.flush import FlushPolicy
from walrep.core.objects import Writer
from walrep.core.retention import RetentionPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.engine.captures import SweepPolicy
from walrep.engine.parts import OpenedStore
from walrep.engine.settings import DatabaseSettings, ReplicateSettings, SpoolLimits
from walrep.engine.supervisor import Supervisor
from walrep.errors import (
    AccessDenied,
    ObjectNotFound,
    PreconditionFailed,
    StoreMissing,
    StoreUnavailable,
    WalrepError,
)
from walrep.store.base import ObjectInfo
from walrep.store.meter import MeteredStore
from walrep.store.observe import RequestCounts
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.store.url import FileUrl, StoreUrl
from walrep.testing.clock import SimClock
from walrep.testing.virtual import VirtualWorkers

__all__ = ["SidecarConfig", "serve"]

_ERRORS = {
    kind.__name__: kind for kind in (AccessDenied, ObjectNotFound, PreconditionFailed, StoreMissing, StoreUnavailable)
}
_PACE = SweepPolicy(hurry_s=0.05, waits=((0.0, 0.6, 1.0), (3.0, 60.0, 1.0)))
_TOUCHES = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.truncate")
"""What a file can meet, as audit events; see `die_at`."""


class SidecarConfig(msgspec.Struct, kw_only=True):
    """With what one walrep runs. `wall_ms` is the time that its clock shows at the start."""

    database: str
    state_dir: str
    seed: int
    wall_ms: int
    host: str = "one"
    flush: FlushPolicy = FlushPolicy()
    spool: SpoolLimits = SpoolLimits()
    retention: RetentionPolicy = RetentionPolicy()
    snapshots: SnapshotPolicy = SnapshotPolicy()
    budget: BudgetPolicy = BudgetPolicy()
    compaction: CompactionPolicy = CompactionPolicy()
    rival_check_s: float = 900.0
    deadline_s: float = 30.0
    new_timeline: bool = False
    take_over: bool = False


def serve(channel: Channel, config: dict[str, Any]) -> None:
    """Run until the channel ends."""
    settings = msgspec.convert(config, SidecarConfig)
    clock = SimClock(settings.wall_ms)
    clock.run(_Sidecar(channel, settings, clock).run())


class _Sidecar:
    def __init__(self, channel: Channel, config: SidecarConfig, clock: SimClock) -> None:
        self._channel = channel
        self._config = config
        self._clock = clock
        self._dice = Random(config.seed)
        self._workers = VirtualWorkers(_PACE)
        self._stop = asyncio.Event()
        self._ended: tuple[str, str] | None = None
        self._touches_left = 0

    async def run(self) -> None:
        """Do what the test says, and nothing behind its end."""
        sys.addaudithook(self._count_touch)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._protect())
            await asyncio.sleep(0)
            while True:
                command, *arguments = self._channel.receive()
                if command == "advance":
                    await self._advance(*arguments)
                elif command == "step_wall":
                    self._clock.step_wall(*arguments)
                elif command == "die_at":
                    (self._touches_left,) = arguments
                elif command == "stop":
                    self._stop.set()

    async def _advance(self, seconds: float, notice: bool) -> None:  # noqa: FBT001  as it comes from the channel
        if notice and self._ended is None:
            self._workers.notice()
        await self._clock.sleep(seconds)
        self._channel.send("done", self._clock.monotonic_s(), self._ended)

    def _report(self, event: Event) -> None:
        """Tell it at once: walrep may be killed before the next thing that it does."""
        self._channel.send("event", self._clock.monotonic_s(), msgspec.to_builtins(event))

    async def _protect(self) -> None:
        try:
            await self._supervisor().run(self._stop)
        except WalrepError as error:
            self._ended = type(error).__name__, str(error)
        except Exception:  # noqa: BLE001  the test is told
            self._ended = "crashed", traceback.format_exc()
        else:
            self._ended = "", ""

    def _supervisor(self) -> Supervisor:
        config = self._config
        database = DatabaseSettings(
            path=Path(config.database),
            url=FileUrl(path=Path("/model")),
            state_dir=Path(config.state_dir),
            flush=config.flush,
            spool=config.spool,
            retention=config.retention,
            snapshots=config.snapshots,
            budget=config.budget,
            new_timeline=config.new_timeline,
            take_over=config.take_over,
        )
        settings = ReplicateSettings(
            databases=(database,),
            shutdown_deadline_s=config.deadline_s,
            rival_check_s=config.rival_check_s,
            compaction=config.compaction,
            # A log that is often begun anew, or seldom.
            capture=CapturePolicy(
                passive_frames=self._dice.choice((20, 500)), idle_s=self._dice.choice((0.5, CapturePolicy().idle_s))
            ),
        )
        return Supervisor(
            settings,
            open_store=self._open,
            clock=self._clock,
            report=self._report,
            new_writer=self._new_writer,
            start_workers=self._workers.start,
        )

    def _new_writer(self) -> Writer:
        return Writer(nonce=self._dice.randbytes(8).hex(), host=self._config.host, pid=1)

    def _open(self, _url: StoreUrl, notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        # As `walrep.app` has it for a writer.
        policy = RetryPolicy(mend_delay_s=30.0)
        metered = MeteredStore(_RemoteStore(self._channel, self._clock))
        store = RetryingStore(metered, self._clock, policy, self._dice, notify)
        return OpenedStore(store=store, upload_p95_s=lambda: 0.0, counts=RequestCounts, metered=metered)

    def _count_touch(self, event: str, arguments: tuple[object, ...]) -> None:
        """Die where the test has said: at the n-th time that something is done to a file of the state."""
        if not self._touches_left or event not in _TOUCHES or not _is_under(arguments[0], self._config.state_dir):
            return
        self._touches_left -= 1
        if self._touches_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _content(source: bytes | Path) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


def _is_under(path: object, folder: str) -> bool:
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder)


class _RemoteStore:
    """The store of the test; each answer takes as long as the test says."""

    def __init__(self, channel: Channel, clock: SimClock) -> None:
        self._channel = channel
        self._clock = clock

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        await self._ask("put", key, _content(source), if_absent)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        data: bytes = await self._ask("get", key, start, length)
        return data

    async def head(self, key: str) -> ObjectInfo:
        return msgspec.convert(await self._ask("head", key), ObjectInfo)

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        for each in await self._ask("list", prefix, start_after, limit):
            yield msgspec.convert(each, ObjectInfo)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._ask("delete", list(keys))

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _ask(self, verb: str, *arguments: object) -> Any:  # noqa: ANN401  what the verb returns
        self._channel.send("store", self._clock.monotonic_s(), verb, arguments)
        delay_s, error, value = self._channel.receive()
        if delay_s:
            await self._clock.sleep(delay_s)
        if error:
            kind, message, detail = error
            raise _ERRORS[kind](message, detail=detail)
        return value
