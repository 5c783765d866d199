"""A replica of weeks, with the truth beside it: every state, when it was seen, and when each object was stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from walrep.core.history import History
from walrep.core.names import PRUNED_PREFIX, PinName, pin_key
from walrep.core.objects import Writer
from walrep.core.prunings import PruneRecord, decode_record
from walrep.core.retention import RetentionPolicy
from walrep.core.stored import SegmentFact, stored_from
from walrep.core.target import AtBookmark
from walrep.core.units import Position, TimelineId
from walrep.engine.janitor import Janitor
from walrep.engine.restorer import RestoreRequest, restore
from walrep.runner import InlineRunner
from walrep.store.base import Store
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.clock import SimClock
from walrep.testing.history import HistoryBuilder, history_of

__all__ = [
    "DAY",
    "HOUR",
    "ME",
    "OTHER",
    "PAGE",
    "POLICY",
    "T0",
    "Watched",
    "Weeks",
    "check_sound",
    "data_of",
    "make_weeks",
    "page",
    "promised",
    "pruned",
    "records",
    "without_records",
]

HOUR = 3_600_000
DAY = 24 * HOUR
T0 = 1_767_225_600_000
"""2026-01-01, a Thursday."""

PAGE = 512
ME = Writer(nonce="a1b2c3d4e5f60718", host="here", pid=3)
OTHER = Writer(nonce="f" * 16, host="there", pid=4)
POLICY = RetentionPolicy(window_s=10 * 86_400.0, weekly=3, monthly=1, snapshots_min=2)


def page(value: int) -> bytes:
    return bytes([value % 251]) * PAGE


class Weeks:
    """A replica and its store, both at a moment; `known` positions were seen at `seen`."""

    def __init__(self, start_ms: int = T0) -> None:
        self.clock = SimClock(start_ms)
        self.builder = HistoryBuilder(PAGE)
        self.store = MemoryStore(clock=self.clock)
        self.seen: dict[tuple[TimelineId, int], int] = {}
        self._days: list[str] = []
        self._stored: set[str] = set()
        self.sync()

    @property
    def objects(self) -> dict[str, MemoryObject]:
        return self.store.objects

    def sync(self) -> None:
        """Let the store have what the builder made, stored now, and lack what it replaced."""
        for key, data in self.builder.objects.items():
            if key not in self._stored:
                self.objects[key] = MemoryObject(data, self.clock.now_ms())
        for key in self._stored - self.builder.objects.keys():
            self.objects.pop(key, None)
        self._stored = set(self.builder.objects)

    def begin(self, *, parent: Position | None = None, fence: bool = False) -> None:
        now_ms = self.clock.now_ms()
        image = {1: page(self.builder.seq), 2: page(77)}
        self.builder.begin(image, now_ms, parent=parent, looked_ms=now_ms - 10, fence=fence)
        self.seen[self.builder.timeline, 0] = now_ms
        self._days = []
        self.sync()

    def day(self, *, snapshot: bool = False) -> None:
        """Two segments, one of them with two transactions, and a pack of the day before; a day passes."""
        builder = self.builder
        made = []
        for count in (1, 2):
            self.clock.step_wall(8 * HOUR)
            for _ in range(count):
                self.clock.step_wall(1000)
                builder.commit([(1, page(builder.txid + builder.seq))], 2, self.clock.now_ms())
                self.seen[builder.timeline, builder.txid] = self.clock.now_ms()
            made.append(builder.seal())
        if snapshot:
            builder.snapshot(self.clock.now_ms())
        if self._days:
            builder.pack(self._days)
        self._days = made
        self.sync()
        self.clock.step_wall(8 * HOUR - 3000)

    def pin(self, name: str, timeline: TimelineId, txid: int) -> str:
        key = pin_key(PinName(name, self.builder.positions[timeline, txid]))
        self.objects[key] = MemoryObject(b"", self.clock.now_ms())
        return key

    def janitor(self, store: Store | None = None, writer: Writer = ME) -> Janitor:
        return Janitor(store or self.store, clock=self.clock, runner=InlineRunner(), writer=writer)

    def wanted(self, policy: RetentionPolicy) -> set[tuple[TimelineId, int]]:
        """Return what the window promises: all that was seen in it, and what stood when it began."""
        begin_ms = self.clock.now_ms() - policy.window_s * 1000
        before = [each for each, seen_ms in self.seen.items() if seen_ms <= begin_ms]
        return {each for each, seen_ms in self.seen.items() if seen_ms > begin_ms} | set(before[-1:])

    def copy(self) -> Weeks:
        """Return the same again, with a store of its own."""
        again = Weeks()
        again.clock, again.builder, again.seen = self.clock, self.builder, self.seen
        again.store = MemoryStore(dict(self.objects), self.clock)
        return again

    def history(self) -> History:
        return history_of(data_of(self.objects))

    def facts(self) -> dict[str, SegmentFact]:
        return {each.key: each for each in stored_from(self.history()).segments}

    def restorable(self) -> set[tuple[TimelineId, int]]:
        return {
            (timeline.id, txid)
            for timeline in self.history().timelines
            for each in timeline.ranges
            for txid in range(each.first_txid, each.last_txid + 1)
        }

    async def check_restores(self, tmp_path: Path, positions: Iterable[tuple[TimelineId, int]]) -> None:
        """Restore every one of these, byte for byte."""
        for timeline, txid in positions:
            output = tmp_path / f"{timeline}-{txid}.db"
            target = AtBookmark(self.builder.positions[timeline, txid])
            request = RestoreRequest(output=output, target=target, check="none")
            await restore(self.store, request, clock=self.clock, runner=InlineRunner())
            assert output.read_bytes() == self.builder.states[timeline, txid]
            output.unlink()


def data_of(objects: Mapping[str, MemoryObject]) -> dict[str, bytes]:
    return {key: found.data for key, found in objects.items()}


def without_records(objects: Mapping[str, MemoryObject]) -> dict[str, MemoryObject]:
    return {key: found for key, found in objects.items() if not key.startswith("pruned/")}


def make_weeks(start_ms: int = T0) -> Weeks:
    """Three timelines in 45 days: the second left the first, the third took over. Two positions are kept."""
    weeks = Weeks(start_ms)
    weeks.begin()
    for number in range(16):
        weeks.day(snapshot=number % 5 == 4)
    first = weeks.builder.timeline
    weeks.begin(parent=weeks.builder.positions[first, weeks.builder.txid])
    for number in range(20):
        weeks.day(snapshot=number % 6 == 5)
    second = weeks.builder.timeline
    weeks.begin(fence=True)
    for _ in range(9):
        weeks.day()
    weeks.pin("in-the-middle", first, 20)
    weeks.pin("at-a-snapshot", second, 18)
    return weeks


def promised(weeks: Weeks) -> set[tuple[TimelineId, int]]:
    pins = {(each.position.timeline, int(each.position.txid)) for each in weeks.history().pins}
    return weeks.wanted(POLICY) | pins


def records(weeks: Weeks) -> list[PruneRecord]:
    return [decode_record(found.data) for key, found in sorted(weeks.objects.items()) if key.startswith(PRUNED_PREFIX)]


def check_sound(weeks: Weeks) -> None:
    """Nothing that was promised is lost, and nothing looks damaged."""
    assert promised(weeks) <= weeks.restorable()
    assert weeks.history().problems == ()


async def pruned(weeks: Weeks) -> dict[str, MemoryObject]:
    """Return what a run that nothing disturbs leaves, the record aside."""
    again = weeks.copy()
    await again.janitor().run({}, POLICY, yes=False)
    return without_records(again.objects)


class Watched(MemoryStore):
    """A store in which something happens when an object is put under a prefix, or before objects are deleted."""

    def __init__(self, weeks: Weeks) -> None:
        super().__init__(weeks.objects, weeks.clock)
        self.log: list[str] = []

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        await super().put(key, source, if_absent=if_absent)
        self.log.append(f"put {key.partition('/')[0]}")
        if key.startswith(PRUNED_PREFIX):
            await self.announced()

    async def delete(self, keys: Sequence[str]) -> None:
        await self.deleting()
        self.log.append(f"delete {len(keys)}")
        await super().delete(keys)

    async def announced(self) -> None:
        """A record was stored."""

    async def deleting(self) -> None:
        """Objects are about to be deleted."""
