"""Retention, and what others do at the same time: keep a position, let one go, prune as well."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.engine.weeks import (
    DAY,
    HOUR,
    ME,
    OTHER,
    POLICY,
    Watched,
    Weeks,
    check_sound,
    page,
    promised,
    pruned,
    records,
    without_records,
)
from walrep.core.compaction import CompactionPolicy
from walrep.core.names import segment_key
from walrep.core.target import AtTxid
from walrep.core.units import TimelineId, Txid
from walrep.disk.room import DiskRoom
from walrep.engine.compactor import Compactor, Workplace
from walrep.engine.pins import keep, unkeep
from walrep.engine.planning import Wanted
from walrep.errors import (
    PruneRefused,
    StoreUnavailable,
    TargetNotFound,
)
from walrep.runner import InlineRunner
from walrep.testing.faults import Fault, FaultyStore, ScriptedFaults


async def test_the_record_is_there_before_anything_goes(weeks: Weeks) -> None:
    watched = Watched(weeks)
    outcome = await weeks.janitor(watched).run({}, POLICY, yes=False)
    assert watched.log == ["put pruned", f"delete {len(outcome.deleted)}"]
    assert len(records(weeks)) == 1


def leaving(weeks: Weeks) -> tuple[TimelineId, int]:
    """Return a position of the first timeline that is not promised, nor near what is."""
    timeline = weeks.history().timelines[0].id
    assert (timeline, 33) not in promised(weeks)
    return timeline, 33


async def test_what_is_kept_between_the_plan_and_the_deletion_stays(weeks: Weeks, tmp_path: Path) -> None:
    position = leaving(weeks)

    class Keeping(Watched):
        async def announced(self) -> None:
            if len(self.log) == 1:
                weeks.pin("late", *position)

    store = Keeping(weeks)
    await weeks.janitor(store).run({}, POLICY, yes=False)
    # The record of the plan before is withdrawn.
    assert store.log[:3] == ["put pruned", "delete 1", "put pruned"]
    assert len(records(weeks)) == 1
    await weeks.check_restores(tmp_path, [position])
    check_sound(weeks)


async def test_who_is_kept_from_a_plan_for_ever_refuses(weeks: Weeks) -> None:
    position = leaving(weeks)

    class Keeping(Watched):
        async def announced(self) -> None:
            weeks.pin(f"late-{len(self.log)}", *position)

    before = set(weeks.objects)
    with pytest.raises(PruneRefused, match="kept faster than a plan"):
        await weeks.janitor(Keeping(weeks)).run({}, POLICY, yes=False)
    assert before <= set(weeks.objects)
    assert records(weeks) == []


def wanted(position: tuple[TimelineId, int]) -> Wanted:
    timeline, txid = position
    return Wanted(target=AtTxid(Txid(txid)), timeline=timeline)


@pytest.mark.parametrize("at", ["a transaction", "a snapshot"])
async def test_what_is_about_to_be_deleted_cannot_be_kept_any_more(weeks: Weeks, at: str) -> None:
    """The janitor has looked at what is kept already: INV-26."""
    timeline, txid = leaving(weeks)
    position = (timeline, txid) if at == "a transaction" else (timeline, 30)
    refused: list[TargetNotFound] = []

    class Late(Watched):
        async def deleting(self) -> None:
            with pytest.raises(TargetNotFound, match="not kept any more") as caught:
                await keep(weeks.store, "late", wanted(position), clock=weeks.clock, runner=InlineRunner())
            refused.append(caught.value)

    expected = await pruned(weeks)
    await weeks.janitor(Late(weeks)).run({}, POLICY, yes=False)
    assert len(refused) == 1
    assert without_records(weeks.objects) == expected


async def test_a_position_is_kept_while_nothing_is_announced_for_good(weeks: Weeks, tmp_path: Path) -> None:
    """A record that was never carried out and that a later run takes back is in nobody's way."""
    position = leaving(weeks)
    with pytest.raises(StoreUnavailable):
        await weeks.janitor(FaultyStore(weeks.store, ScriptedFaults(Fault(verb="delete")))).run({}, POLICY, yes=False)
    longer = msgspec.structs.replace(POLICY, window_s=100 * 86_400.0)
    outcome = await weeks.janitor().run({}, longer, yes=False)
    assert outcome.deleted == ()
    assert [each.gone for each in records(weeks)] == [()]
    kept = await keep(weeks.store, "it", wanted(position), clock=weeks.clock, runner=InlineRunner())
    assert kept.is_new
    await weeks.janitor().run({}, POLICY, yes=False)
    await weeks.check_restores(tmp_path, [position])
    await unkeep(weeks.store, "it")
    await weeks.janitor().run({}, POLICY, yes=False)
    assert position not in weeks.restorable()


@pytest.mark.parametrize("is_other_shorter", [False, True])
async def test_two_prunes_at_once_forget_nothing_of_one_another(weeks: Weeks, is_other_shorter: bool) -> None:  # noqa: FBT001
    """Whichever keeps less: neither takes over, nor takes back, what the other one has announced."""
    shorter = msgspec.structs.replace(POLICY, window_s=8 * 86_400.0, weekly=0, monthly=0)
    mine, other = (POLICY, shorter) if is_other_shorter else (shorter, POLICY)

    class Meeting(Watched):
        async def announced(self) -> None:
            if len(self.log) == 1:
                weeks.clock.step_wall(1)
                await weeks.janitor(writer=OTHER).run({}, other, yes=False)

    await weeks.janitor(Meeting(weeks)).run({}, mine, yes=False)
    assert len(records(weeks)) == 2
    assert weeks.history().problems == ()
    weeks.clock.step_wall(2 * DAY)
    await weeks.janitor().run({}, msgspec.structs.replace(shorter, window_s=0.0, snapshots_min=0), yes=False)
    assert len(records(weeks)) == 1
    assert weeks.history().problems == ()


async def test_of_what_a_record_calls_gone_no_pack_is_made_anew(tmp_path: Path) -> None:
    """It would be young, and outlive the snapshot that it rests on. Found by `get-segments-1:short:long`."""
    weeks = Weeks()
    weeks.begin()
    for number in range(4):
        weeks.clock.step_wall(HOUR)
        weeks.builder.commit([(1, page(number))], 2, weeks.clock.now_ms())
        weeks.builder.seal()
    weeks.builder.snapshot(weeks.clock.now_ms())
    weeks.sync()
    weeks.clock.step_wall(20 * DAY)
    weeks.day()
    weeks.day(snapshot=True)
    failing = FaultyStore(weeks.store, ScriptedFaults(Fault(verb="delete", always=True)))
    policy = msgspec.structs.replace(POLICY, weekly=0, monthly=0, snapshots_min=1)
    with pytest.raises(StoreUnavailable):
        await weeks.janitor(failing).run({}, policy, yes=False)
    gone = {segment_key(seq) for seq in range(2, 6)}
    assert gone <= weeks.history().leaving
    compactor = Compactor(
        weeks.store,
        Workplace(tmp_path, tmp_path, DiskRoom(tmp_path, 0)),
        clock=weeks.clock,
        runner=InlineRunner(),
        writer=ME,
        policy=CompactionPolicy(),
    )
    await compactor.load()
    sources = {each.key for build in compactor.plan(None).builds for each in build.sources}
    assert sources
    assert not sources & gone
