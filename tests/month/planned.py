"""The days behind those that were run: the planner goes on with what is stored, on the sizes that were recorded.

Every day is one of the recorded days again, in turn, and what the planner says is done at once. A planned pack is as
large as what it is made of, which is a little more than a real one: it has one header and footer, not hundreds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from tests.core.compacting import Place
from tests.month.ledger import Day, lasting
from tests.month.scenarios import DAY_MS, Scenario
from tests.month.world import PACKED_S, SETTLED_S, Outcome, Shipped
from walrep.core.compaction import QUARTER_MS, PackPlan
from walrep.core.history import History
from walrep.core.stored import stored_from
from walrep.store.observe import RequestCounts

__all__ = ["plan_days"]

_ROUNDS_MAX = 20
_PLANNED_COUNT = 3
"""Behind so many segments of a quarter of an hour there is a plan: the second makes something to pack. Behind the
others only time brings something on."""


def plan_days(scenario: Scenario, outcome: Outcome, history: History, *, until: int) -> list[Day]:
    """Return the days behind those that were run, to day `until`.

    `history` is what was stored when the grace behind the last midnight that was run was over. A day on which something
    is committed has a snapshot, as large as the largest that was recorded of a day; nothing is old enough to expire.
    """
    settled_ms = int(SETTLED_S * 1000)
    place = _Books(history, len(outcome.settled), scenario.midnight_ms(scenario.days) + settled_ms)
    made = [day.snapshot_bytes for day in outcome.days if day.snapshot_bytes]
    snapshot_bytes = max(made, default=0)
    days: list[Day] = []
    for number in range(scenario.days, until + 1):
        again = _like_recorded(scenario, outcome.shipped, number)
        packed_at_ms = scenario.midnight_ms(number) + int(PACKED_S * 1000)
        begun_ms = place.now_ms
        if days:
            place.write(each for each in again if each.seen_ms < packed_at_ms)
            place.advance(packed_at_ms)
            live = lasting(place.objects) + place.other_count
            days[-1] = msgspec.structs.replace(days[-1], live_midnight=live)
            begun_ms = packed_at_ms
        if number < until:
            place.write(each for each in again if each.seen_ms >= begun_ms)
            if again:
                place.take_snapshot(snapshot_bytes)
            place.advance(scenario.midnight_ms(number + 1))
            days.append(place.close_day(f"day {number + 1}"))
    return days


def _like_recorded(scenario: Scenario, shipped: Iterable[Shipped], number: int) -> list[Shipped]:
    """Return what day `number`, from 0, ships; times are of the wall clock."""
    weekday = number % 7
    if scenario.weekdays_only and weekday >= 5:
        return []
    like = (weekday if scenario.weekdays_only else number) % scenario.days
    begin_ms, end_ms = scenario.midnight_ms(like), scenario.midnight_ms(like + 1)
    return [
        msgspec.structs.replace(each, seen_ms=each.seen_ms + (number - like) * DAY_MS)
        for each in shipped
        if begin_ms <= each.seen_ms < end_ms
    ]


class _Books(Place):
    """A replica of facts that goes on from what is stored, and counts what its writer asks of the store."""

    def __init__(self, history: History, object_count: int, now_ms: int) -> None:
        super().__init__()
        packs = [pack for timeline in history.timelines for pack in timeline.packs]
        stored = stored_from(history, verified=frozenset(pack.key for pack in packs))
        self.now_ms = now_ms
        self.objects = {each.key: each for each in stored.segments}
        self.objects |= {each.key: each for each in stored.packs}
        self.other_count = object_count - len(self.objects)
        self.timeline = history.timelines[-1].id
        self.ends = {timeline.id: timeline.tip_txid for timeline in history.timelines}
        self.txid = history.timelines[-1].tip_txid
        self.seq = max(each.last_seq for each in self.objects.values())
        self._due_ms: int | None = now_ms
        self._quarter, self._quarter_count = 0, 0
        self._forget()

    def write(self, shipped: Iterable[Shipped]) -> None:
        """Store segments, each at its time."""
        for each in shipped:
            self.advance(each.seen_ms)
            self.commit(each.transactions, size_bytes=each.size_bytes)
            self._note("segment", each.size_bytes)
            quarter = each.seen_ms // QUARTER_MS
            self._quarter_count = self._quarter_count + 1 if quarter == self._quarter else 1
            self._quarter = quarter
            if self._quarter_count <= _PLANNED_COUNT:
                self._work()

    def take_snapshot(self, size_bytes: int) -> None:
        """Store a snapshot; it stays."""
        self.other_count += 1
        self._created += 1
        self._bytes["snapshot"] += size_bytes

    def advance(self, to_ms: int) -> None:
        """Let time pass, and do what it brings on."""
        while self._due_ms is not None and self._due_ms <= to_ms:
            self.now_ms = max(self.now_ms, self._due_ms)
            self._work()
        self.now_ms = to_ms

    def build(self, plan: PackPlan) -> None:
        """Put a pack."""
        super().build(plan)
        self._note("pack", plan.size_bytes)

    def delete(self, key: str) -> None:
        """Delete an object."""
        super().delete(key)
        self._deleted += 1

    def close_day(self, name: str) -> Day:
        """Return the sums, after proving that every transaction is still there, and begin anew."""
        self.check_all_there()
        segments, packs, snapshots = self._bytes["segment"], self._bytes["pack"], self._bytes["snapshot"]
        requests = RequestCounts(
            put=self._created,
            head=self._heads,
            delete_requests=self._deletes,
            deleted_objects=self._deleted,
            list=1 if self._created else 0,
            bytes_up=segments + packs + snapshots,
        )
        day = Day(
            name=name,
            live_max=self.count_max,
            created=self._created,
            deleted=self._deleted,
            requests=requests,
            segment_bytes=segments,
            pack_bytes=packs,
            snapshot_bytes=snapshots,
            planned=True,
        )
        self._forget()
        return day

    def _work(self) -> None:
        for _round in range(_ROUNDS_MAX):
            plan = self.plan()
            self._due_ms = plan.next_ms
            steps = self.steps(plan)
            if not steps:
                return
            self._deletes += bool(plan.deletions)
            for step in steps:
                step()
        raise AssertionError("planning does not come to an end")

    def _note(self, kind: Literal["segment", "pack"], size_bytes: int) -> None:
        self._created += 1
        self._heads += kind == "pack"
        self._bytes[kind] += size_bytes

    def _forget(self) -> None:
        self.count_max = self.count()
        self._created = self._deleted = self._heads = self._deletes = 0
        self._bytes = {"segment": 0, "pack": 0, "snapshot": 0}
