"""One life of walrep in virtual time: the engine, a folder store, an app, and a script of what happens when.

It lasts a little over a day, in which there are a base, segments, packs of quarters of an hour and of a day, what they
replace, differential and full snapshots, the app's own checkpoints, and retention that deletes the first evening.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from tests.crash.points import Points
from walrep.core.checkpoint import CapturePolicy
from walrep.core.events import Event
from walrep.core.objects import Writer
from walrep.core.retention import RetentionPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.engine.captures import SweepPolicy
from walrep.engine.parts import OpenedStore
from walrep.engine.settings import DatabaseSettings, ReplicateSettings
from walrep.engine.supervisor import Supervisor
from walrep.errors import WalrepError
from walrep.runner import InlineRunner
from walrep.store.local import LocalStore
from walrep.store.observe import RequestCounts
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.store.url import FileUrl, StoreUrl
from walrep.testing.clock import SimClock
from walrep.testing.virtual import VirtualWorkers

__all__ = ["BEGIN_MS", "END_S", "RETENTION", "SCRIPT", "AppPipe", "Life", "Place", "Step", "Told"]

BEGIN_MS = 1_795_044_000_000
"""20 November 2026, 23:20 UTC."""

RETENTION = RetentionPolicy(window_s=3 * 3600.0, snapshots_min=1, grace_s=60.0)
_SNAPSHOTS = SnapshotPolicy(at_s=3600)
_PACE = SweepPolicy(hurry_wait_s=0.6, waits=((0.0, 0.6, 1.0), (2.0, 300.0, 1.0)))
_DEADLINE_S = 30.0


class Step(msgspec.Struct, frozen=True):
    """What the app does, and when."""

    at_s: float
    what: str
    count: int | None = None


SCRIPT = (
    Step(60.0, "commit", 1),
    Step(120.0, "commit", 3),
    Step(180.0, "commit", 1),
    Step(700.0, "restart"),
    Step(701.0, "commit", 2),
    Step(1000.0, "commit", 1),
    Step(1100.0, "commit", 60),
    Step(1500.0, "commit", 1),
    Step(3700.0, "commit", 2),
    Step(3800.0, "commit", 1),
    Step(6600.0, "commit", 1),
    Step(80_000.0, "commit", 2),
    Step(88_900.0, "commit", 1),
    Step(89_000.0, "commit", 1),
)
END_S = 89_100.0


class Place(msgspec.Struct, frozen=True):
    """Where a life happens: what walrep writes is on `disk`, which is what loses power."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The disk of the state directory and of the store."""
        return self.folder / "disk"

    @property
    def local(self) -> Path:
        """The directory in which walrep makes its state directory."""
        return self.disk / "local"

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.local / "state"

    @property
    def store(self) -> Path:
        """The folder of the replica."""
        return self.disk / "replica"

    @property
    def database(self) -> Path:
        """The app's database."""
        return self.folder / "app.db"

    @property
    def images(self) -> Path:
        """What the app notes of each transaction."""
        return self.folder / "images"

    @property
    def trace(self) -> Path:
        """The calls that were counted."""
        return self.folder / "trace"

    @property
    def told(self) -> Path:
        """What walrep reported."""
        return self.folder / "told"


class Told(msgspec.Struct, frozen=True):
    """An event, and when; `life` counts from 1."""

    life: int
    at_ms: int
    event: str
    facts: dict[str, object]


class AppPipe:
    """The two ends of the app's process: a line is sent, and a line comes back."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive

    def ask(self, *words: object) -> str:
        """Have the app do something, and return its answer."""
        os.write(self._send, (" ".join(map(str, words)) + "\n").encode())
        return self.answer()

    def answer(self) -> str:
        """Return the next line."""
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self._receive, 4096)
            if not part:
                raise RuntimeError("the app is gone")
            line += part
        return line.decode().strip()


class Life:
    """The life of one process; `steps_done` of the script happened in lives before."""

    def __init__(self, place: Place, app: AppPipe, points: Points, *, number: int, begin_ms: int) -> None:
        self.place, self.clock = place, SimClock(begin_ms)
        self._app, self._number = app, number
        self._workers = VirtualWorkers(_PACE)
        self._told = os.open(place.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._dice = Random(number)
        points.now_ms = self.clock.now_ms

    def run(self, steps_done: int) -> None:
        """Live to the end of the script.

        Raises:
            WalrepError: protection ended with it.

        """
        try:
            self.clock.run(self._run(steps_done))
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _run(self, steps_done: int) -> None:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._supervisor().run(stop))
            for number, step in enumerate(SCRIPT[steps_done:], steps_done):
                await self._until(step.at_s)
                self._app.ask(step.what, number, *(() if step.count is None else (step.count,)))
                self._write("Step", {"number": number})
                self._workers.notice()
            await self._until(END_S)
            stop.set()

    async def _until(self, at_s: float) -> None:
        # What is overdue after a time without walrep happens soon.
        await self.clock.sleep(max(5.0, at_s - (self.clock.now_ms() - BEGIN_MS) / 1000))

    def _supervisor(self) -> Supervisor:
        place = self.place
        database = DatabaseSettings(
            path=place.database,
            url=FileUrl(path=place.store),
            state_dir=place.state,
            retention=RETENTION,
            snapshots=_SNAPSHOTS,
        )
        return Supervisor(
            ReplicateSettings(
                databases=(database,),
                shutdown_deadline_s=_DEADLINE_S,
                # Each commit begins the log anew, which is what can go wrong.
                capture=CapturePolicy(idle_s=0.5),
            ),
            open_store=self._open_store,
            clock=self.clock,
            report=self._report,
            new_writer=lambda: Writer(nonce=self._dice.randbytes(8).hex(), host="crash", pid=self._number),
            start_workers=self._workers.start,
        )

    def _open_store(self, _url: StoreUrl, notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        local = LocalStore(self.place.store, InlineRunner(), self.clock)
        retrying = RetryingStore(local, self.clock, RetryPolicy(mend_delay_s=30.0), self._dice, notify)
        return OpenedStore(store=retrying, upload_p95_s=lambda: 0.0, counts=RequestCounts)

    def _report(self, event: Event) -> None:
        facts = {name: getattr(event, name) for name in event.__struct_fields__ if name != "database"}
        self._write(type(event).__name__, facts)

    def _write(self, event: str, facts: dict[str, object]) -> None:
        told = Told(self._number, self.clock.now_ms(), event, facts)
        os.write(self._told, msgspec.json.encode(told) + b"\n")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
