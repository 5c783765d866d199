"""One life of walrep in virtual time: the engine, a folder store, an app, and a script of what happens when.

It lasts a little over a day, in which there are a base, segments, packs of quarters of an hour and of a day, what they
replace, differential and full snapshots, the app's own checkpoints, and retention that deletes the first evening.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import msgspec

from tests.crash.running import ROOT
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
from walrep.store.base import Store
from walrep.store.local import LocalStore
from walrep.store.observe import RequestCounts
from walrep.store.retry import RetryingStore, RetryPolicy
from walrep.store.url import FileUrl, StoreUrl
from walrep.testing.clock import SimClock
from walrep.testing.virtual import VirtualWorkers

__all__ = [
    "BEGIN_MS",
    "END_S",
    "RETENTION",
    "SCRIPT",
    "AppPipe",
    "AppProcess",
    "Life",
    "Place",
    "Step",
    "Told",
    "running",
]

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


class AppProcess:
    """The app's process."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.start()

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.app", self._place.database, self._place.images],
            cwd=ROOT,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pipe = AppPipe(self._process.stdin.fileno(), self._process.stdout.fileno())
        assert self.pipe.answer() == "ready"

    def kill(self) -> None:
        """End it, as it stands."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def running(place: Place) -> Iterator[AppProcess]:
    """Have the app run."""
    app = AppProcess(place)
    try:
        yield app
    finally:
        app.kill()


class Life:
    """The life of one process; `steps_done` of the script happened in lives before.

    `new_store` gives the replica's store; a folder, where it is not said. `heard` is called with every event.
    """

    def __init__(
        self,
        place: Place,
        clock: SimClock,
        *,
        number: int,
        new_store: Callable[[], Store] | None = None,
        heard: Callable[[Event], object] = lambda _event: None,
    ) -> None:
        self.place, self.clock, self.number = place, clock, number
        self._workers = VirtualWorkers(_PACE)
        self._told = os.open(place.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._dice = Random(number)
        self._new_store = new_store or (lambda: LocalStore(place.store, InlineRunner(), clock))
        self._heard = heard

    def close(self) -> None:
        """Close what it tells to; nothing is told any more."""
        os.close(self._told)

    def run(self, app: AppPipe, steps_done: int) -> None:
        """Live to the end of the script.

        Raises:
            WalrepError: protection ended with it.

        """
        try:
            self.clock.run(self._run(app, steps_done))
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _run(self, app: AppPipe, steps_done: int) -> None:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.supervisor().run(stop))
            for number, step in enumerate(SCRIPT[steps_done:], steps_done):
                await self.until(step.at_s)
                self.do(app, number, step)
            await self.until(END_S)
            stop.set()

    def do(self, app: AppPipe, number: int, step: Step) -> None:
        """Have the app do a step, and walrep look at it."""
        app.ask(step.what, number, *(() if step.count is None else (step.count,)))
        self._write("Step", {"number": number})
        self._workers.notice()

    async def until(self, at_s: float) -> None:
        """Wait until it is so late in the script."""
        # What is overdue after a time without walrep happens soon.
        await self.clock.sleep(max(5.0, at_s - (self.clock.now_ms() - BEGIN_MS) / 1000))

    def supervisor(self) -> Supervisor:
        """Return what protects the database."""
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
            new_writer=lambda: Writer(nonce=self._dice.randbytes(8).hex(), host="crash", pid=self.number),
            start_workers=self._workers.start,
        )

    def _open_store(self, _url: StoreUrl, notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        retrying = RetryingStore(self._new_store(), self.clock, RetryPolicy(mend_delay_s=30.0), self._dice, notify)
        return OpenedStore(store=retrying, upload_p95_s=lambda: 0.0, counts=RequestCounts)

    def _report(self, event: Event) -> None:
        facts = {name: getattr(event, name) for name in event.__struct_fields__ if name != "database"}
        self._write(type(event).__name__, facts)
        self._heard(event)

    def _write(self, event: str, facts: dict[str, object]) -> None:
        told = Told(self.number, self.clock.now_ms(), event, facts)
        os.write(self._told, msgspec.json.encode(told) + b"\n")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
