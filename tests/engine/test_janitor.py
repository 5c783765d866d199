"""Retention on a replica of weeks: what is promised stays byte for byte, whatever breaks off or happens meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from tests.engine.weeks import (
    DAY,
    HOUR,
    ME,
    OTHER,
    POLICY,
    Weeks,
    check_sound,
    data_of,
    page,
    promised,
    pruned,
    records,
    without_records,
)
from walrep.core.names import pruned_key
from walrep.core.prunings import PruneRecord, encode_record
from walrep.core.retention import RetentionPolicy
from walrep.errors import (
    AccessDenied,
    CorruptObject,
    ObjectNotFound,
    PruneRefused,
    StoreUnavailable,
)
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.clock import SimClock
from walrep.testing.faults import Fault, FaultyStore, ScriptedFaults, Verb, When
from walrep.testing.history import HistoryBuilder, history_of


async def test_after_a_prune_all_that_is_promised_restores_byte_for_byte(weeks: Weeks, tmp_path: Path) -> None:
    plan = (await weeks.janitor().plan({}, POLICY)).plan
    outcome = await weeks.janitor().run({}, POLICY, yes=False)
    assert outcome.deleted == plan.deletions
    assert len(outcome.deleted) > 20
    assert set(outcome.deleted).isdisjoint(weeks.objects)
    calendar = {(each.timeline, int(each.first_txid)) for each in plan.points if "the last snapshot of" in each.reason}
    assert len(calendar) == 3
    asked = {(each.timeline, txid) for each in plan.points for txid in range(each.first_txid, each.last_txid + 1)}
    assert promised(weeks) | calendar <= asked
    await weeks.check_restores(tmp_path, sorted(asked))
    check_sound(weeks)
    # Much else is not restorable any more, and a whole timeline is not the reason.
    assert len(weeks.restorable()) < len(weeks.seen) - 20
    assert len(weeks.history().timelines) == 3


async def test_a_second_run_deletes_nothing_and_writes_nothing(weeks: Weeks) -> None:
    await weeks.janitor().run({}, POLICY, yes=False)
    before = dict(weeks.objects)
    outcome = await weeks.janitor().run({}, POLICY, yes=False)
    assert (outcome.deleted, outcome.delete_bytes, weeks.objects) == ((), 0, before)
    assert outcome.holding is not None


async def test_only_the_record_tells_it_from_damage(weeks: Weeks) -> None:
    await weeks.janitor().run({}, POLICY, yes=False)
    kinds = {each.kind for each in history_of(data_of(without_records(weeks.objects))).problems}
    assert {"missing-segment", "broken-chain"} <= kinds


async def test_what_is_lost_besides_is_told(weeks: Weeks) -> None:
    await weeks.janitor().run({}, POLICY, yes=False)
    logs = [key for key in weeks.objects if key.startswith(("packs/", "segments/"))]
    newest = max(each.last_seq for timeline in weeks.history().timelines for each in timeline.chain)
    for key in logs:
        again = weeks.copy()
        del again.objects[key]
        told = {each.kind for each in again.history().problems}
        assert told or f"{newest:016d}" in key, key


CALLS: list[tuple[Verb, int]] = [("list", 1), ("list", 2), ("list", 3), ("put", 1), ("head", 1), ("delete", 1)]
WHENS: list[When] = ["before", "after"]


@pytest.mark.parametrize(("verb", "number"), CALLS)
@pytest.mark.parametrize("when", WHENS)
async def test_interrupted_anywhere_it_ends_the_same_the_next_time(
    weeks: Weeks, verb: Verb, number: int, when: When
) -> None:
    expected = await pruned(weeks)
    faulty = FaultyStore(weeks.store, ScriptedFaults(Fault(verb=verb, number=number, when=when)))
    with pytest.raises(StoreUnavailable):
        await weeks.janitor(faulty).run({}, POLICY, yes=False)
    assert [call.verb for call, _fault in faulty.struck] == [verb]
    check_sound(weeks)
    await weeks.janitor().run({}, POLICY, yes=False)
    assert without_records(weeks.objects) == expected
    check_sound(weeks)


class TornStore(MemoryStore):
    """A store whose deletion of many objects fails in the middle: once so many are deleted, in some order."""

    def __init__(self, objects: dict[str, MemoryObject], clock: SimClock, left: int, seed: int | None) -> None:
        super().__init__(objects, clock)
        self.left = left
        self._seed = seed

    async def delete(self, keys: Sequence[str]) -> None:
        order = list(keys)
        if self._seed is not None:
            Random(self._seed).shuffle(order)
        for key in order:
            if self.left == 0:
                raise StoreUnavailable("the deletion broke off")
            self.left -= 1
            await super().delete([key])


@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_a_deletion_that_breaks_off_endangers_nothing_and_the_next_run_ends_it(
    weeks: Weeks, seed: int | None
) -> None:
    """After every single object; also if the store deletes in whatever order."""
    expected = await pruned(weeks)
    count = len(weeks.objects) - len(expected)
    for left in range(0, count, 1 if seed is None else 5):
        again = weeks.copy()
        with pytest.raises(StoreUnavailable):
            await again.janitor(TornStore(again.objects, weeks.clock, left, seed)).run({}, POLICY, yes=False)
        assert len(without_records(again.objects)) == len(weeks.objects) - left
        check_sound(again)
        await again.janitor().run({}, POLICY, yes=False)
        assert without_records(again.objects) == expected
        check_sound(again)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_of_a_timeline_is_left_without_its_opening(weeks: Weeks, seed: int) -> None:
    """Nobody keeps anything of the first one, so that it goes as a whole, in whatever order."""
    bare = RetentionPolicy(window_s=10 * 86_400.0, snapshots_min=0)
    for key in [key for key in weeks.objects if key.startswith("pins/")]:
        del weeks.objects[key]
    first = weeks.history().timelines[0].id
    steps = (await weeks.janitor().plan({}, bare)).plan.steps
    assert [len(step) for step in steps[1:]] == [1]
    for left in range(0, sum(map(len, steps)), 4):
        again = weeks.copy()
        with pytest.raises(StoreUnavailable):
            await again.janitor(TornStore(again.objects, weeks.clock, left, seed)).run({}, bare, yes=False)
        assert again.history().problems == ()
        await again.janitor().run({}, bare, yes=False)
        assert first not in {each.id for each in again.history().timelines}
        assert again.history().problems == ()


async def test_however_often_a_deletion_fails_there_is_one_record_and_one_count(weeks: Weeks) -> None:
    count = len((await weeks.janitor().plan({}, POLICY)).plan.deletions)
    janitor = weeks.janitor(FaultyStore(weeks.store, ScriptedFaults(Fault(verb="delete", always=True))))
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await janitor.run({}, POLICY, yes=False)
        weeks.clock.step_wall(60_000)
    (record,) = records(weeks)
    assert record.counts == (count,)
    await weeks.janitor().run({}, POLICY, yes=False)
    assert [each.counts for each in records(weeks)] == [(count,)]


@pytest.mark.parametrize("apart_ms", [-6 * 60_000, 6 * 60_000])
async def test_nothing_is_deleted_and_no_record_left_while_the_clocks_disagree(weeks: Weeks, apart_ms: int) -> None:
    before = dict(weeks.objects)
    store = MemoryStore(weeks.objects, SimClock(weeks.clock.now_ms() + apart_ms))
    with pytest.raises(PruneRefused, match="clocks disagree"):
        await weeks.janitor(store).run({}, POLICY, yes=True)
    assert weeks.objects == before


async def test_what_the_store_calls_young_stays(weeks: Weeks) -> None:
    """As a replica that was copied to another place yesterday: its own clock tells another age."""
    now_ms = weeks.clock.now_ms()
    for key, found in list(weeks.objects.items()):
        weeks.objects[key] = MemoryObject(found.data, now_ms - DAY)
    assert (await weeks.janitor().run({}, POLICY, yes=False)).deleted == ()


async def test_many_more_than_usual_need_a_yes(weeks: Weeks) -> None:
    usual = PruneRecord(format=1, pruned_ms=1, expired_ms=1, by=OTHER, counts=(2, 3, 2), gone=())
    weeks.objects[pruned_key(weeks.clock.now_ms() - DAY)] = MemoryObject(encode_record(usual), 0)
    before = dict(weeks.objects)
    with pytest.raises(PruneRefused, match="more than 3 times as many as usual"):
        await weeks.janitor().run({}, POLICY, yes=False)
    assert weeks.objects == before
    outcome = await weeks.janitor().run({}, POLICY, yes=True)
    (record,) = records(weeks)
    assert record.counts == (2, 3, 2, len(outcome.deleted))
    check_sound(weeks)


async def test_who_may_not_delete_loses_nothing_and_leaves_one_record(weeks: Weeks) -> None:
    expected = await pruned(weeks)
    before = dict(weeks.objects)
    denied = Fault(verb="delete", always=True, error=lambda: AccessDenied("no"))
    for _ in range(3):
        janitor = weeks.janitor(FaultyStore(weeks.store, ScriptedFaults(denied)))
        outcome = await janitor.run({}, POLICY, yes=False)
        assert (outcome.may_not_delete, outcome.deleted) == (True, ())
        weeks.clock.step_wall(HOUR // 4)
    assert without_records(weeks.objects) == before
    assert len(records(weeks)) == 1
    check_sound(weeks)
    # Somebody else may, and takes over what was announced when that can be under way no more.
    weeks.clock.step_wall(HOUR)
    await weeks.janitor(writer=OTHER).run({}, POLICY, yes=False)
    assert without_records(weeks.objects) == expected
    assert len(records(weeks)) == 1


async def test_a_damaged_record_is_refused(weeks: Weeks) -> None:
    key = pruned_key(weeks.clock.now_ms() - DAY)
    weeks.objects[key] = MemoryObject(b"{", 0)
    before = dict(weeks.objects)
    with pytest.raises(CorruptObject, match="record of a prune"):
        await weeks.janitor().run({}, POLICY, yes=True)
    assert weeks.objects == before


async def test_where_there_is_no_replica_nothing_is_done(weeks: Weeks) -> None:
    store = MemoryStore({"notes.txt": MemoryObject(b"mine", 0)}, weeks.clock)
    with pytest.raises(ObjectNotFound, match="no replica"):
        await weeks.janitor(store).run({}, POLICY, yes=True)
    assert set(store.objects) == {"notes.txt"}


async def test_what_another_writer_stored_meanwhile_is_read_before_anything_goes() -> None:
    """It was shut out long ago, woke up, and has not noticed yet: what it stores rests on what looks old."""
    weeks = Weeks()
    builder = HistoryBuilder(nonce="b" * 16)
    builder.begin({1: page(1)}, weeks.clock.now_ms())
    weeks.objects.update({key: MemoryObject(data, weeks.clock.now_ms()) for key, data in builder.objects.items()})
    builder.commit([(1, page(9))], 1, weeks.clock.now_ms() + 40 * DAY)
    weeks.builder.seq, weeks.builder._number = 50, 1
    weeks.begin(fence=True)
    for number in range(40):
        weeks.day(snapshot=number % 10 == 0)
    known = weeks.facts()
    late = builder.seal()
    weeks.objects[late] = MemoryObject(builder.objects[late], weeks.clock.now_ms())
    assert late not in known
    outcome = await weeks.janitor().run(known, POLICY, yes=True)
    assert outcome.deleted
    assert (builder.timeline, 1) in weeks.restorable()
    # One that cannot be read is asked for once.
    weeks.objects[late] = MemoryObject(b"what is this", weeks.clock.now_ms())
    janitor = weeks.janitor()
    assert late in (await janitor.plan(known, POLICY)).holding.others
    strict = FaultyStore(weeks.store, ScriptedFaults(Fault(verb="list", number=2)))
    janitor._store = strict
    await janitor.plan(known, POLICY)
    assert strict.struck == []


async def test_day_by_day_for_two_months(tmp_path: Path) -> None:
    """As `replicate` does it: the window moves on, and there is never more than one record."""
    weeks = Weeks()
    weeks.begin()
    weeks.pin("the-beginning", weeks.builder.timeline, 0)
    deleted = 0
    for number in range(60):
        weeks.day(snapshot=number % 4 == 3)
        if number in {20, 41}:
            weeks.begin(parent=weeks.builder.positions[weeks.builder.timeline, weeks.builder.txid], fence=number == 41)
        outcome = await weeks.janitor().run({}, POLICY, yes=False)
        deleted += len(outcome.deleted)
        # The builder packs what it made; what is deleted is not its any more.
        check_sound(weeks)
        assert len(records(weeks)) <= 1
    assert deleted > 60
    assert len(weeks.objects) < 60
    await weeks.check_restores(tmp_path, [*sorted(promised(weeks))[::4], min(weeks.seen)])
    assert ME.nonce == records(weeks)[0].by.nonce
