"""Once a day, and only when something has expired: what that asks of the store."""

from __future__ import annotations

import pytest

from tests.engine.shipment import RecordedFaults
from tests.engine.weeks import DAY, HOUR, OTHER, POLICY, Weeks
from walrep.core.names import pruned_key
from walrep.core.prunings import PruneRecord, encode_record
from walrep.core.retention import RetentionPolicy
from walrep.engine.retention import DailyRetention
from walrep.errors import AccessDenied, CorruptObject, PruneRefused, StoreUnavailable
from walrep.store.memory import MemoryObject
from walrep.testing.faults import Fault, FaultyStore


class Daily:
    """Daily retention of a replica of weeks; `verbs` since they were last asked for."""

    def __init__(self, weeks: Weeks, policy: RetentionPolicy = POLICY) -> None:
        self.weeks = weeks
        self.faults = RecordedFaults()
        self.store = FaultyStore(weeks.store, self.faults)
        self.retention = DailyRetention(weeks.janitor(self.store), policy, weeks.clock)

    async def run(self) -> tuple[str, ...]:
        """Run, and return the keys that were deleted."""
        return (await self.retention.run(self.weeks.facts())).deleted

    def verbs(self) -> list[str]:
        found: list[str] = [call.verb for call in self.faults.calls]
        self.faults.calls.clear()
        return found

    def pass_days(self, days: float) -> None:
        self.weeks.clock.step_wall(round(days * DAY))


@pytest.fixture
async def daily(weeks: Weeks) -> Daily:
    """One that has pruned yesterday, and has seen today what is left."""
    made = Daily(weeks, RetentionPolicy(window_s=20 * 86_400.0))
    assert await made.run()
    made.pass_days(1)
    assert await made.run() == ()
    made.verbs()
    return made


async def test_it_prunes_once_a_day(weeks: Weeks) -> None:
    daily = Daily(weeks)
    assert await daily.run()
    assert daily.verbs() == ["list", "put", "head", "list", "delete"]
    daily.retention.note_stored()
    assert daily.retention.next_ms() == (weeks.clock.now_ms() // DAY + 1) * DAY
    weeks.clock.step_wall(23 * HOUR)
    assert await daily.run() == ()
    assert daily.verbs() == []
    weeks.clock.step_wall(HOUR)
    # It is not known what is left; the record is read, too.
    await daily.run()
    assert daily.verbs() == ["list", "get"]


async def test_a_day_on_which_nothing_was_stored_and_nothing_expires_costs_nothing(daily: Daily) -> None:
    """Three days later the window begins behind a snapshot, and what is before that expires."""
    for _ in range(2):
        daily.pass_days(1)
        assert await daily.run() == ()
        assert daily.verbs() == []
    daily.pass_days(1)
    assert await daily.run()
    assert daily.verbs() == ["list", "get", "put", "head", "list", "delete"]


async def test_a_day_on_which_something_was_stored_is_looked_at(daily: Daily) -> None:
    daily.retention.note_stored()
    daily.pass_days(1)
    assert await daily.run() == ()
    assert daily.verbs() == ["list", "get"]


async def test_what_was_refused_is_tried_again_the_next_day(weeks: Weeks) -> None:
    usual = PruneRecord(format=1, pruned_ms=1, expired_ms=1, by=OTHER, counts=(1,), gone=())
    key = pruned_key(weeks.clock.now_ms() - 5 * DAY)
    weeks.objects[key] = MemoryObject(encode_record(usual), 0)
    daily = Daily(weeks)
    for _ in range(2):
        with pytest.raises(PruneRefused):
            await daily.run()
        daily.verbs()
        assert await daily.run() == ()
        assert daily.verbs() == []
        daily.pass_days(1)
    del weeks.objects[key]
    assert await daily.run()


async def test_a_damaged_record_is_looked_at_again_the_next_day(weeks: Weeks) -> None:
    weeks.objects[pruned_key(0)] = MemoryObject(b"{", 0)
    daily = Daily(weeks)
    with pytest.raises(CorruptObject):
        await daily.run()
    daily.verbs()
    assert await daily.run() == ()
    assert daily.verbs() == []


@pytest.mark.parametrize("verb", ["list", "put", "head", "delete"])
async def test_what_failed_is_tried_again_the_same_day(weeks: Weeks, verb: str) -> None:
    daily = Daily(weeks)
    daily.faults.faults.append(Fault(verb=verb))  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        await daily.run()
    assert await daily.run()


async def test_who_may_not_delete_asks_once_a_day(weeks: Weeks) -> None:
    daily = Daily(weeks)
    daily.faults.denied = {"delete": AccessDenied("no")}
    for _ in range(2):
        outcome = await daily.retention.run(weeks.facts())
        assert outcome.may_not_delete
        daily.verbs()
        await daily.run()
        assert daily.verbs() == []
        daily.pass_days(1)
    daily.faults.denied = {}
    assert await daily.run()
