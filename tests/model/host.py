"""One host: its apps, its walrep, its clock, its disk."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any, Literal

import msgspec

from tests.model.apps import Apps
from tests.model.images import Entry
from tests.model.ledger import Ledger
from tests.model.nursery import Child
from tests.model.power import cut_power
from tests.model.sidecar import SidecarConfig
from tests.model.stage import Stage
from walrep.core.budget import BudgetPolicy
from walrep.core.units import Position
from walrep.engine.restored import note_restored
from walrep.engine.settings import SpoolLimits
from walrep.errors import check

__all__ = ["Host"]

Flag = Literal["", "new_timeline", "take_over"]

_NO_LIMIT = resource.RLIM_INFINITY
_SETTLE_S = 40.0
_STOP_MAX = 40


class Host:
    """A machine with one database; `number` tells it from the others."""

    def __init__(self, stage: Stage, ledger: Ledger, number: int) -> None:
        self.folder = stage.folder / f"host-{number}"
        self.apps = Apps(stage, self.folder / "app.db")
        self.ended: tuple[str, str] | None = None
        """With which error walrep ended, and what it said; empty: with none."""
        self.excuses: set[str] = set()
        """Why a timeline may end now."""
        self.may_conflict = False
        """Whether another writer may be met."""
        self.detached: dict[str, Any] | None = None
        self.disk_limit = _NO_LIMIT
        self.wall_offset_ms = 0
        self._number = number
        self._stage = stage
        self._ledger = ledger
        self._walrep: Child | None = None
        self._is_attached = False
        self._has_ended = False
        """Whether capture has ended and not gone on since, as walrep told."""
        self._captured = ""
        """The timeline that this run has begun, or goes on with."""
        self._began_s = 0.0
        self._starts = 0

    @property
    def state_dir(self) -> Path:
        """Where walrep keeps its state."""
        return self.folder / "state"

    @property
    def is_protected(self) -> bool:
        """Whether walrep runs."""
        return self._walrep is not None

    # -- walrep -----------------------------------------------------------------------------------------------------

    def start(self, flag: Flag = "") -> None:
        """Start walrep."""
        if self._walrep is not None:
            return
        stage, setup = self._stage, self._stage.setup
        self._starts += 1
        stage.found.starts += 1
        config = SidecarConfig(
            database=str(self.apps.database),
            state_dir=str(self.state_dir),
            seed=stage.dice.randrange(1 << 60),
            wall_ms=stage.clock.now_ms() + self.wall_offset_ms,
            host=f"host-{self._number}",
            flush=setup.flush,
            spool=SpoolLimits(
                outbox_bytes_max=setup.outbox_bytes_max, cache_bytes_max=setup.cache_bytes_max, disk_reserve_bytes=0
            ),
            retention=setup.retention,
            snapshots=setup.snapshots,
            budget=BudgetPolicy(puts_per_day_max=setup.puts_per_day_max),
            compaction=setup.compaction,
            rival_check_s=setup.rival_check_s,
            new_timeline=flag == "new_timeline",
            take_over=flag == "take_over",
        )
        if flag:
            self.excuses.add(flag)
        self.ended, self.detached, self._is_attached = None, None, False
        self._walrep = stage.nursery.spawn("walrep", msgspec.to_builtins(config))
        self._began_s = stage.clock.monotonic_s()
        self.limit_disk(self.disk_limit)
        stage.note("start", self._number, flag)
        self.advance(0.0, notice=False)
        self.apps.look_for_hidden()

    def advance(self, seconds: float, *, notice: bool) -> None:
        """Let walrep go on for so long; with `notice`, it looks at its database at once."""
        walrep = self._walrep
        if walrep is None:
            return
        try:
            walrep.channel.send("advance", seconds, notice)
            while self._answer(walrep):
                pass
            if notice and self._is_attached:
                self.apps.touched = False
        except (EOFError, OSError):
            # It died where it was told to.
            self.excuses.add("killed within a step")
            self.kill("at a file")

    def _answer(self, walrep: Child) -> bool:
        """Answer one message of walrep; say whether there will be more before it is told something else."""
        what, monotonic_s, *told = walrep.channel.receive()
        check(what in {"store", "event", "done"}, f"walrep's process crashed: {monotonic_s}")
        self._stage.catch_up(self._began_s + monotonic_s)
        if what == "event":
            self._note_event(told[0])
        elif what == "store":
            answer = self._stage.place.answer(*told)
            if answer is None:
                self.kill("in a request")
                return False
            walrep.channel.send(*answer)
        elif told[0] is not None:
            self._note_end(*told[0])
        return bool(what != "done")

    def stop(self) -> None:
        """Stop walrep in an orderly way, however long that takes."""
        if self._walrep is None:
            return
        self._walrep.channel.send("stop")
        for _ in range(_STOP_MAX):
            self.advance(1.0, notice=True)
            if not self.is_protected:
                return
        self._stage.problem("walrep does not stop")
        self.kill("at the end")

    def kill(self, where: str) -> None:
        """Kill walrep; nothing of it runs any more, and nothing is tidied up."""
        if self._walrep is not None:
            self._walrep.kill()
            self._walrep = None
            self._stage.place.kill_in = None
            self._stage.found.kills += 1
            self._stage.note("killed", self._number, where)

    def die_at(self, touches: int) -> None:
        """Have walrep die the n-th time that it opens, renames or removes a file of its state."""
        if self._walrep is not None:
            self._walrep.channel.send("die_at", touches)

    # -- the machine ------------------------------------------------------------------------------------------------

    def step_wall(self, ms: int) -> None:
        """Set the clock, without any time passing."""
        self.wall_offset_ms += ms
        if self._walrep is not None:
            self._walrep.channel.send("step_wall", ms)

    def sleep_through(self, seconds: float) -> None:
        """Note that the machine was suspended, as its wall clock tells and its monotonic one does not."""
        self._began_s += seconds
        if self._walrep is not None:
            self._walrep.channel.send("step_wall", int(seconds * 1000))

    def limit_disk(self, limit_bytes: int) -> None:
        """Let walrep write no file beyond so many bytes."""
        self.disk_limit = limit_bytes
        if limit_bytes != _NO_LIMIT:
            self.excuses.add("the disk fails")
        if self._walrep is not None:
            resource.prlimit(self._walrep.pid, resource.RLIMIT_FSIZE, (limit_bytes, _NO_LIMIT))

    def lose_power(self, seed: int) -> None:
        """Cut the power: everything is dead at once, and what was not synced may be lost."""
        self.kill("power cut")
        self.apps.kill_all()
        self.excuses.add("power cut")
        told = cut_power(self.apps.database, self.state_dir, seed, may_lose=self._stage.setup.synchronous != "full")
        self._stage.note("power cut", told)
        self.apps.look_after_crash()

    def lose_state(self) -> None:
        """Remove walrep's state; what was not durable is gone with it."""
        if self._walrep is None:
            shutil.rmtree(self.state_dir, ignore_errors=True)
            self.may_conflict = True
            self.excuses.add("the state was removed")

    def take_restored(self, position: Position, entry: Entry) -> None:
        """Go on from a position that was restored in place, as `walrep restore` tells the state directory."""
        if (self.state_dir / "state.json").exists():
            note_restored(self.state_dir, position)
        self.excuses.add("the database was restored")
        self.apps.take_restored(entry)

    def clone(self, number: int) -> Host:
        """Return another machine that was made of a copy of this one's disk, taken at this moment."""
        other = Host(self._stage, self._ledger, number)
        shutil.copytree(self.folder, other.folder)
        other.apps.take_copy(self.apps)
        other.excuses = {"a copy of another host"}
        other.apps.look_after_crash()
        self.may_conflict = other.may_conflict = True
        return other

    def close(self) -> None:
        """End everything."""
        self.kill("the end")
        self.apps.kill_all()

    # -- what walrep says -------------------------------------------------------------------------------------------

    def _note_event(self, event: dict[str, Any]) -> None:
        stage, ledger = self._stage, self._ledger
        kind = event["event"]
        told = {key: value for key, value in event.items() if key not in {"event", "database", "hint"}}
        stage.note(kind, self._number, told)
        stage.found.events[kind] += 1
        if kind == "attached":
            self._is_attached, self._captured = True, ""
            if self.apps.touched:
                self.excuses.add("the app was at work where walrep did not look")
        elif kind == "timeline-began":
            self._has_ended, self._captured = False, event["timeline"]
            number = len(ledger.timelines)
            ledger.begin(event["timeline"], self._number, self.apps.entry)
            # An empty log proves nothing, and an idle database is proven only when it has been at rest for a moment.
            excused = self.excuses or event["reason"].startswith("no frame had been captured")
            # What was taken back may have begun the log anew, over the end of what was captured, or continue it.
            excused = excused or (self.apps.rolled_back and event["reason"].startswith("the log was restarted"))
            stage.expect(number == 0 or excused, f"a timeline ended without cause: {event['reason']}")
        elif kind == "resumed":
            self._has_ended, self._captured = False, event["timeline"]
            self._forgive()
        elif kind == "flushed":
            ledger.note_durable(event["bookmark"])
        elif kind == "snapshot-written":
            ledger.note_txid(event["timeline"], event["txid"])
            # Killed before, walrep has to begin another timeline. So it has to where capture had ended before, or
            # this has waited, and is of one that it does not go on with.
            if not self._has_ended and event["timeline"] == self._captured:
                self._forgive()
        elif kind == "detached":
            self.detached = event
            if event["position"] is not None and not self.may_conflict:
                ledger.note_durable(event["position"])
        elif kind == "alarm":
            self._note_alarm(event["key"], event["message"])
        elif kind == "failed":
            stage.found.alarms["failed"] += 1

    def _note_alarm(self, key: str, message: str) -> None:
        self._stage.found.alarms[key] += 1
        if key == "timeline-ended":
            self._has_ended = True
            self._expect_end(message)

    def _forgive(self) -> None:
        """Forget the excuses that are over."""
        self.excuses = set() if self.disk_limit == _NO_LIMIT else {"the disk fails"}

    def _expect_end(self, message: str) -> None:
        if self._stage.setup.outbox_bytes_max < 1 << 30 and "outbox" in message:
            self.excuses.add("the outbox was full")
        self._stage.expect(self.excuses, f"capture ended without cause: {message}")

    def _note_end(self, name: str, text: str) -> None:
        if self._walrep is not None:
            self._walrep.kill()
            self._walrep = None
        self.ended = name, text
        self._stage.note("ended", self._number, name, text)
        allowed = {"", "NotDurable"}
        if self.may_conflict:
            allowed |= {"ReplicaConflict"}
        if self.disk_limit != _NO_LIMIT:
            allowed |= {"SpoolError", "SpoolFull"}
        # The weather of a request that was answered late may be over.
        if self._stage.place.weather != "fair" or "injected" in text:
            allowed |= {"StoreUnavailable", "AccessDenied", "StoreMissing"}
        self._stage.expect(name in allowed, f"walrep ended with {name}: {text}")
