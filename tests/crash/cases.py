"""A case: one life that is disturbed at one call, what happens to the app meanwhile, and a life that goes on.

    kill:137:goes-on:0      walrep is killed before call 137; the app commits twice before walrep is started again
    power:137:mixed:4       the power fails before call 137; what the disk keeps is drawn with seed 4 (`power.py`;
                            "nothing": not even the state directory, for the test of these tests)
    ENOSPC:137:600:0        call 137 fails, and what follows it in the next 600 s; EIO likewise

Each is run in a process of its own, forked from one that has everything imported (`tests.crash.worker`).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from random import Random

import msgspec

from tests.crash.life import BEGIN_MS, Life, Place, running
from tests.crash.points import Points, Strike
from tests.crash.power import SyncedDisk, cut_power, cut_wal
from tests.crash.running import Report
from tests.crash.verify import read_told, verify
from walrep.disk.log import HEADER_BYTES
from walrep.errors import WalrepError
from walrep.testing.clock import SimClock

__all__ = ["Case", "parse_case", "run_case"]

_DOWN_MS = 60_000
_LIFE_S = 120
"""A life takes a second; one that is still there after this is stuck."""
_LOG_RESTARTED = "the log was restarted"
_DISKS = {"ENOSPC", "EIO"}
_KILLED, _DONE, _REFUSED = -9, 0, 3


class Case(msgspec.Struct, frozen=True):
    """What happens; see the module."""

    kind: str
    number: int
    detail: str
    seed: int

    def __str__(self) -> str:
        """Return its text form."""
        return f"{self.kind}:{self.number}:{self.detail}:{self.seed}"


def parse_case(text: str) -> Case:
    """Read the text form."""
    kind, number, detail, seed = text.split(":")
    return Case(kind, int(number), detail, int(seed))


def run_case(case: Case, folder: Path, points: Points) -> Report:
    """Run a case in a folder of its own, made anew, and remove it unless there are problems."""
    shutil.rmtree(folder, ignore_errors=True)
    place = Place(folder)
    place.local.mkdir(parents=True)
    run = _Run(case, place, points)
    try:
        run.go()
    except Exception:  # noqa: BLE001  whatever went wrong is the result
        run.problems.append(traceback.format_exc())
    report = run.report()
    if not report.problems:
        shutil.rmtree(folder)
    return report


class _Run:
    def __init__(self, case: Case, place: Place, points: Points) -> None:
        self.case, self.place, self._points = case, place, points
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._dice = Random(f"{case}")
        self._timelines = self._restored = 0
        self._began_before = False

    def go(self) -> None:
        with running(self.place) as app:
            self._app = app
            end = self._live(1, BEGIN_MS, self._strike())
            if end not in {_KILLED, _DONE, _REFUSED}:
                self.problems.append(f"life 1 ended with {end}")
                return
            now_ms = self._last_ms() + _DOWN_MS
            if end == _DONE:
                self._look_whether_it_lied()
            if end != _DONE or self.case.kind in _DISKS:
                # A disk may have failed until the end; what it kept then goes out at the next start.
                self._went_wrong(end, now_ms)
                end = self._live(2, now_ms, Strike())
                if end != _DONE:
                    self.problems.append(f"life 2 ended with {end}")
            self._check(max(now_ms, self._last_ms()))

    def report(self) -> Report:
        lines = self.place.trace.read_text().splitlines() if self.place.trace.exists() else []
        number = self.case.number
        point = lines[number - 1].split(" ", 2)[2] if 0 < number <= len(lines) else ""
        return Report(
            case=str(self.case),
            point=point.replace(f"{self.place.disk}/", ""),
            calls=[] if number else [line.split(" ", 3)[2] for line in lines],
            timelines=self._timelines,
            restored=self._restored,
            notes=self.notes,
            problems=self.problems,
        )

    # -- lives ------------------------------------------------------------------------------------------------------

    def _strike(self) -> Strike:
        case = self.case
        if case.kind in _DISKS:
            return Strike(number=case.number, kind=case.kind, for_s=float(case.detail))  # type: ignore[arg-type]
        return Strike(number=case.number, kind="kill")

    def _live(self, number: int, begin_ms: int, strike: Strike) -> int:
        """Return how a life ended: `_DONE`, `_REFUSED` with an error of walrep's, 1, or the signal that ended it."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            signal.alarm(_LIFE_S)
            os._exit(self._child(number, begin_ms, strike))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _child(self, number: int, begin_ms: int, strike: Strike) -> int:
        place, points = self.place, self._points
        steps_done = sum(each.event == "Step" for each in read_told(place))
        try:
            clock = SimClock(begin_ms)
            points.now_ms = clock.now_ms
            life = Life(place, clock, number=number)
            if self.case.kind == "power" and number == 1:
                synced = SyncedDisk(place.folder / "synced")
                # What walrep does not make was there, durably.
                synced.settle(place.disk)
                points.synced, points.rested = synced.note, partial(synced.settle, place.disk)
            trace = place.trace if number == 1 else place.trace.with_suffix(".again")
            points.begin(place.disk, trace, strike)
            life.run(self._app.pipe, steps_done)
        except WalrepError as error:
            (place.folder / f"refused-{number}").write_text(f"{error}\n{error.hint}\n{traceback.format_exc()}")
            return _REFUSED
        except BaseException:  # noqa: BLE001  the parent reads it
            (place.folder / f"failed-{number}").write_text(traceback.format_exc())
            return 1
        return _DONE

    def _last_ms(self) -> int:
        """Return when a life was last heard of."""
        traces = [trace.read_text().splitlines() for trace in self.place.folder.glob("trace*")]
        times = [int(lines[-1].split()[1]) for lines in traces if lines]
        return max([BEGIN_MS, *times, *(each.at_ms for each in read_told(self.place))])

    # -- what happens meanwhile -------------------------------------------------------------------------------------

    def _went_wrong(self, end: int, now_ms: int) -> None:
        kind, detail = self.case.kind, self.case.detail
        self._began_before = any(each.event == "SnapshotWritten" for each in read_told(self.place))
        if end == _REFUSED:
            self.notes.append((self.place.folder / "refused-1").read_text().splitlines()[0])
        if kind == "power":
            self._app.kill()
            self._cut_power(detail)
            if self.case.seed % 2:
                cut = cut_wal(self.place.database, self._dice)
                self.notes.append(f"{cut} frames cut")
            self._app.start()
            self._app.pipe.ask("commit", -1, 1)
        elif kind == "kill":
            self._meanwhile(detail)
        if kind != "power" or detail != "names":
            self._note(verify(self.place, now_ms=now_ms, sample=4).problems, "in between: ")

    def _look_whether_it_lied(self) -> None:
        """Who says at the end that all that was captured is durable has nothing left to ship."""
        waiting = [path.name for path in (self.place.state / "outbox").iterdir()]
        waiting += [path.name for path in self.place.state.glob("journal-*") if path.stat().st_size > HEADER_BYTES]
        told = [each for each in read_told(self.place) if each.event == "Detached"]
        if waiting and told and told[-1].facts["durable"]:
            self.problems.append(f"said that all was durable, and {waiting} wait")

    def _cut_power(self, variant: str) -> None:
        place = self.place
        if variant == "nothing":
            shutil.rmtree(place.state)
        else:
            cut_power(place.disk, place.folder / "synced", variant, self._dice)

    def _meanwhile(self, mode: str) -> None:
        app = self._app
        if mode == "goes-on":
            app.pipe.ask("commit", -1, 2)
        elif mode == "dies":
            app.kill()
            app.start()
            app.pipe.ask("commit", -1, 1)
        elif mode == "restarts":
            for _ in range(2):
                app.pipe.ask("restart", -1)
                app.pipe.ask("commit", -1, 1)
        elif mode == "closes":
            app.pipe.ask("close", -1)

    def _check(self, now_ms: int) -> None:
        integrity, digest = self._app.pipe.ask("check", -1).split()
        if integrity != "ok":
            self.problems.append(f"integrity_check: {integrity}")
        verdict = verify(self.place, now_ms=now_ms, newest=digest)
        self._timelines, self._restored = verdict.timelines, len(verdict.digests)
        self._note(verdict.problems, "")
        began = [each for each in read_told(self.place) if each.event == "TimelineBegan" and each.life == 2]
        self.notes += [str(each.facts["reason"]) for each in began]
        if self.case.kind == "kill" and self._began_before:
            # What the app did meanwhile may end a timeline; what walrep left on disk may not.
            excuses = [str(each.facts["reason"]) for each in began]
            self.problems += [f"a new timeline: {each}" for each in excuses if not each.startswith(_LOG_RESTARTED)]

    def _note(self, problems: list[str], prefix: str) -> None:
        self.problems += [prefix + each for each in problems]
