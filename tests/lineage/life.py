"""One database with its replica, through many down-times of walrep."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
from xxhash import xxh3_128_hexdigest

from tests.engine.daily import DAY, begin_days
from tests.engine.protection import Protection
from tests.lineage.app import DigestingApp
from walrep.clock import SystemClock
from walrep.core.events import Alarm, Detached, Event, FullRead, Resumed, SnapshotWritten, TimelineBegan
from walrep.core.names import parse_snapshot_key
from walrep.core.retention import RetentionPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.core.target import AtTxid, Latest, Target
from walrep.core.units import Position, Txid, parse_bookmark
from walrep.engine.fetch import read_history
from walrep.engine.restored import note_restored
from walrep.engine.restorer import RestoreRequest, restore
from walrep.errors import TargetNotFound
from walrep.runner import InlineRunner

__all__ = ["Life", "Restart"]

WINDOW_DAYS = 4
_ROW_BYTES = 900
_ALLOWED_ALARMS = {"prune-refused"}
"""Where days of several restarts go at once, it is more than usual."""


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """What one restart cost; `uploaded_bytes` are those of base and opening segment, 0 where the timeline went on."""

    what: str
    kind: str
    stored_pages: int
    page_count: int
    uploaded_bytes: int
    database_bytes: int
    read_bytes: int

    @property
    def share(self) -> float:
        """Of the database."""
        return self.uploaded_bytes / self.database_bytes


class Life:
    """A run from a seed. `problems` are what was wrong, `restored` how many states were compared."""

    def __init__(self, folder: Path, seed: int, rows: int) -> None:
        self.dice = Random(seed)
        self.problems: list[str] = []
        self.restarts: list[Restart] = []
        self.told: Callable[[Restart], object] = lambda _restart: None
        """Called after every restart."""
        self.restored = 0
        self.gone = 0
        self.folder = folder
        self.rows = rows
        self.protection = Protection(folder)
        begin_days(self.protection)
        self.protection.deadline_s = 60.0
        self.protection.change(
            snapshots=SnapshotPolicy(look_s=0.05, again_s=0.1),
            retention=RetentionPolicy(window_s=WINDOW_DAYS * 86_400.0, snapshots_min=1),
        )
        self.app = DigestingApp(self.protection.settings.path)
        self.app.run(
            "create table t(id integer primary key, k int, v blob)",
            f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows}) "
            f"insert into t(k, v) select i, randomblob({_ROW_BYTES}) from n",
        )
        self.truth: dict[tuple[str, int], tuple[str, int]] = {}
        """The digest of each transaction, and when it was not the newest any more (ms; of the newest, 0)."""
        self.tip: Position | None = None

    def close(self) -> None:
        """End the app."""
        self.app.close()

    async def run(self, restarts: int) -> None:
        """Protect, and then so many down-times, each followed by comparisons."""
        await self._protected("first")
        for _ in range(restarts):
            what = self.dice.choices(("down", "state-lost", "restored", "restored-older"), (10, 2, 2, 2))[0]
            if self.dice.random() < 0.5:
                self.protection.clock.ahead_ms += self.dice.randrange(DAY)
            if what.startswith("restored"):
                await self._restore_in_place(older=what == "restored-older")
            if what == "state-lost":
                shutil.rmtree(self.protection.settings.state_dir)
            if what == "down" or self.dice.random() < 0.5:
                self._live_alone()
            await self._protected(what)
            await self._compare(3)
        history = await read_history(self.protection.store(), InlineRunner())
        for each in history.problems:
            left = [each_timeline for each_timeline in history.timelines if each_timeline.id == each.timeline]
            keys = [link.key for timeline in left for link in timeline.chain]
            self.problems.append(f"{each.kind}: {each.message} {each.timeline} {keys}")

    # -- the app ----------------------------------------------------------------------------------------------------

    def _statements(self) -> list[str]:
        """Return what the app does in a while: small changes, most often."""
        dice, found = self.dice, list[str]()
        for _ in range(dice.randint(1, 6)):
            kind, key = dice.random(), dice.randrange(1, self.rows)
            if kind < 0.55:
                found.append(f"update t set v = randomblob({_ROW_BYTES}) where id between {key} and {key + 3}")
            elif kind < 0.75:
                found.append(f"insert into t(k, v) values({key}, randomblob({_ROW_BYTES}))")
            elif kind < 0.9:
                found.append(f"delete from t where id between {key} and {key + dice.randrange(40)}")
            elif kind < 0.97:
                name = f"x{dice.randrange(1 << 30)}"
                found.append(f"create table {name}(a, b)")
                found.append(f"insert into {name} values(1, randomblob(5000))")
            else:
                found.append(f"pragma user_version = {dice.randrange(1 << 20)}")
        return found

    def _live_alone(self) -> None:
        """Let the app live without walrep, so that mostly nothing proves that the timeline goes on."""
        for _ in range(self.dice.randint(1, 3)):
            self.app.run(*self._statements())
            kind = self.dice.random()
            if kind < 0.6:
                self.app.run(f"pragma wal_checkpoint({self.dice.choice(('truncate', 'restart', 'passive', 'full'))})")
            elif kind < 0.64:
                self.app.run("vacuum")
            elif kind < 0.85:
                self._reopen()

    def _reopen(self) -> None:
        """Close the app's connection, the last one, with which SQLite removes the -wal, and open it again."""
        digests = self.app.digests
        self.app.close()
        self.app = DigestingApp(self.protection.settings.path)
        if self.app.digests != digests[-1:]:
            self.problems.append("the app's database changed while it was closed")
        self.app.digests = digests

    # -- walrep -----------------------------------------------------------------------------------------------------

    async def _protected(self, what: str) -> None:
        """Run walrep until all is durable; the app writes while the base is made, or after it, or both."""
        protection = self.protection
        protection.change(take_over=what == "state-lost")
        before = set(protection.objects)
        async with protection.running():
            writing = self.dice.random() < 0.5
            if writing:
                self.app.begin(*self._statements())
            taken_up = await protection.until(Event, lambda event: isinstance(event, TimelineBegan | Resumed))
            is_new = isinstance(taken_up, TimelineBegan)
            if is_new:
                await protection.until(SnapshotWritten)
            if writing:
                await asyncio.to_thread(self.app.wait)
            if self.dice.random() < 0.7:
                await asyncio.to_thread(self.app.run, *self._statements())
        if protection.error is not None:
            self.problems.append(f"{what}: {protection.error}")
        alarms = [each.message for each in protection.of(Alarm) if each.key not in _ALLOWED_ALARMS]
        self.problems += [f"{what}: {each}" for each in alarms]
        self._note_restart(what, before)
        self._note_truth(is_new=is_new)

    def _note_restart(self, what: str, before: set[str]) -> None:
        protection, written = self.protection, self.protection.of(SnapshotWritten)
        began = protection.of(TimelineBegan)
        uploaded = [
            found.data
            for key, found in protection.objects.items()
            if began and key not in before and self._belongs_to_start(key, str(began[0].timeline))
        ]
        self.restarts.append(
            Restart(
                what=what,
                kind=began[0].base if began else "resumed",
                stored_pages=written[0].stored_pages if began and written else 0,
                page_count=written[0].page_count if written else 0,
                uploaded_bytes=sum(map(len, uploaded)),
                database_bytes=protection.settings.path.stat().st_size,
                read_bytes=sum(each.read_bytes for each in protection.of(FullRead)),
            )
        )
        self.told(self.restarts[-1])
        self.problems += [f"{what}: {each.failed}" for each in protection.of(FullRead) if each.failed]

    def _belongs_to_start(self, key: str, timeline: str) -> bool:
        name = parse_snapshot_key(key)
        return name is not None and name.timeline == timeline and name.txid == 0

    def _note_truth(self, *, is_new: bool) -> None:
        """Map the app's commits to transactions, from the last one backwards."""
        detached = self.protection.of(Detached)
        if not detached or detached[0].position is None or not detached[0].durable:
            self.problems.append("not all is durable after a quiet stop")
            return
        tip, now_ms = parse_bookmark(detached[0].position), self.protection.clock.now_ms()
        first = 0 if is_new or self.tip is None else self.tip.txid
        for back, digest in enumerate(reversed(self.app.digests)):
            where = (str(tip.timeline), tip.txid - back)
            if where[1] < first:
                break
            known = self.truth.get(where)
            if known is not None and known[0] != digest:
                self.problems.append(f"transaction {where} is not what it was")
            self.truth[where] = (digest, now_ms)
        self.tip = tip

    # -- restores ---------------------------------------------------------------------------------------------------

    async def _compare(self, count: int) -> None:
        """Restore the newest and some others, of all timelines, and compare them."""
        assert self.tip is not None
        await self._check(Latest(), None, (str(self.tip.timeline), int(self.tip.txid)))
        for timeline, txid in self.dice.sample(sorted(self.truth), min(count, len(self.truth))):
            await self._check(AtTxid(Txid(txid)), timeline, (timeline, txid))

    async def compare_all(self, count_max: int) -> None:
        """Restore so many of the states, of all timelines, and compare them."""
        chosen = sorted(self.truth)
        for timeline, txid in self.dice.sample(chosen, min(count_max, len(chosen))):
            await self._check(AtTxid(Txid(txid)), timeline, (timeline, txid))

    async def _check(self, target: Target, timeline: str | None, where: tuple[str, int]) -> None:
        output = self.folder / "compared.db"
        digest, seen_ms = self.truth[where]
        try:
            await self._restored(output, target, timeline)
        except TargetNotFound as error:
            if self.protection.clock.now_ms() - seen_ms < WINDOW_DAYS * DAY:
                self.problems.append(f"{where} is in the window, but: {error}")
            self.gone += 1
            return
        self.restored += 1
        if xxh3_128_hexdigest(output.read_bytes()) != digest:
            self.problems.append(f"{where} was restored wrong")
        output.unlink()

    async def _restored(self, output: Path, target: Target, timeline: str | None, *, force: bool = False) -> Position:
        request = RestoreRequest(output=output, target=target, timeline=timeline, force=force, check="none")
        outcome = await restore(self.protection.store(), request, clock=SystemClock(), runner=InlineRunner())
        return outcome.plan.position

    async def _restore_in_place(self, *, older: bool) -> None:
        """Put back the newest state, or an older one, as `walrep restore --force` does."""
        path, target, timeline, where = self.protection.settings.path, Latest(), None, None
        if older:
            now_ms = self.protection.clock.now_ms()
            young = [each for each in sorted(self.truth) if now_ms - self.truth[each][1] < WINDOW_DAYS * DAY]
            where = self.dice.choice(young)
        self.app.close()
        if where is None:
            position = await self._restored(path, target, timeline, force=True)
        else:
            position = await self._restored(path, AtTxid(Txid(where[1])), where[0], force=True)
        note_restored(self.protection.settings.state_dir, position)
        self.app = DigestingApp(path)
        if self.app.digests[0] != self.truth[str(position.timeline), int(position.txid)][0]:
            self.problems.append(f"{position} was restored wrong")
