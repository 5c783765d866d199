"""Two writers on one replica, with and without create-only PUT, and starts while the store is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.engine.protection import App, OverwritingStore, Protection, two_protections
from tests.engine.shipment import images_in
from walrep.core.events import Alarm, Attached, Flushed, Resumed, RetryScheduled, StoreBack, TimelineBegan
from walrep.core.names import parse_segment_name
from walrep.core.target import Latest
from walrep.core.units import TimelineId, timeline_number
from walrep.errors import AccessDenied, NotSupported, ReplicaConflict, StoreUnavailable, TargetAmbiguous, WalrepError
from walrep.store.memory import MemoryStore
from walrep.testing.replay import list_timelines, replay


class UnconditionalStore(MemoryStore):
    """A store that answers 501 to a create-only PUT, as B2 does."""

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, unless a condition is given."""
        if if_absent:
            raise NotSupported("the store does not implement a header of the request", detail="If-None-Match")
        await super().put(key, source)


@pytest.mark.parametrize("kind", [OverwritingStore, UnconditionalStore])
async def test_without_create_only_put_segments_are_named_by_their_writer(
    app: App, protection: Protection, tmp_path: Path, kind: type[MemoryStore]
) -> None:
    """INV-20: whatever the store does to a condition, nothing is overwritten."""
    protection.kind = kind
    async with protection.running():
        await protection.commit_and_flush(app, 2)
    names = [parse_segment_name(key) for key in protection.keys("segments/")]
    assert len(names) >= 2
    assert len({name.nonce for name in names if name}) == 1
    assert all(name and name.nonce for name in names)
    assert [event.key for event in protection.of(Alarm)] == ["no-create-only"]
    assert not protection.keys("probe/")
    async with protection.running():
        await protection.until(Attached)
        app.commit(1)
        await protection.until(Flushed)
    assert [event.key for event in protection.of(Alarm)] == ["no-create-only"]
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


async def test_a_store_that_stops_refusing_to_overwrite_is_noticed_at_a_start(app: App, protection: Protection) -> None:
    async with protection.running():
        await protection.commit_and_flush(app, 1)
    assert not protection.of(Alarm)
    before = dict(protection.objects)
    protection.kind = OverwritingStore
    async with protection.running():
        app.commit(1)
        await protection.until(Flushed)
    assert [event.key for event in protection.of(Alarm)] == ["no-create-only"]
    assert {key: protection.objects[key].data for key in before} == {key: each.data for key, each in before.items()}
    added = [parse_segment_name(key) for key in protection.keys("segments/") if key not in before]
    assert added
    assert all(name and name.nonce for name in added)


@pytest.mark.parametrize("kind", [OverwritingStore, MemoryStore])
async def test_of_two_writers_the_one_that_took_over_goes_on_and_nothing_of_either_is_lost(
    tmp_path: Path, kind: type[MemoryStore]
) -> None:
    """INV-19: the first one is at work when the second takes over, writes again, and stops with the other's name."""
    first, second = two_protections(tmp_path, kind)
    one, two = App(first.settings.path), App(second.settings.path)
    async with first.running():
        await first.commit_and_flush(one, 3)
        held = dict(first.objects)
        async with second.running():
            await second.commit_and_flush(two, 2)
            one.commit(1)
            refused = await first.until_ended()
            assert isinstance(refused, ReplicaConflict)
            assert f"on {second.host}" in refused.detail
            two.commit(1)
            await second.until_count(Flushed, 2)
        assert second.ended_with() is None
    assert {key: first.objects[key].data for key in held} == {key: each.data for key, each in held.items()}
    if kind is OverwritingStore:
        # What the first one wrote before it looked again is stored beside the other's.
        assert [event.key for event in second.of(Alarm)][:1] == ["no-create-only"]
    one.close()
    two.close()
    by_timeline = images_by_timeline(second, tmp_path)
    assert list(by_timeline) == [1, 2]
    assert by_timeline[2][-1] == second.settings.path.read_bytes()


async def test_where_both_wrote_latest_asks_which_until_a_takeover_decides(tmp_path: Path) -> None:
    """INV-20: two histories, each restorable."""
    first, second = two_protections(tmp_path, OverwritingStore)
    first.rival_check_s = second.rival_check_s = 3600.0
    one, two = App(first.settings.path), App(second.settings.path)
    async with first.running():
        await first.commit_and_flush(one, 3)
        async with second.running():
            await second.commit_and_flush(two, 2)
            flushed = len(first.of(Flushed))
            one.commit(1)
            await first.until_count(Flushed, flushed + 1)
    with pytest.raises(TargetAmbiguous, match="2 writers were at work at once") as refused:
        await first.plan(Latest())
    assert "--timeline" in refused.value.hint
    assert "--take-over" in refused.value.hint
    for timeline in ("1", "2"):
        assert (await first.plan(Latest(), timeline)).position.timeline.startswith(f"0000{timeline}-")
    # The one that was shut out learns it at its next start; the other one is told of it, and goes on.
    async with first.running():
        assert isinstance(await first.until_ended(), ReplicaConflict)
    async with second.running():
        alarm = await second.until(Alarm, lambda event: event.key == "rival-writer")
        assert first.host in alarm.message
        two.commit(1)
        await second.until(Flushed)
    first.change(take_over=True)
    async with first.running():
        assert (await first.until(TimelineBegan)).timeline.startswith("00003-")
        await first.commit_and_flush(one, 1)
    plan = await first.plan(Latest())
    assert plan.position.timeline.startswith("00003-")
    one.close()
    two.close()
    assert images_by_timeline(first, tmp_path)[3][-1] == first.settings.path.read_bytes()


@pytest.mark.parametrize("error", [StoreUnavailable("the store did not answer"), AccessDenied("the key is wrong")])
async def test_a_start_while_the_store_is_away_captures_at_once_and_ships_when_it_is_back(
    app: App, protection: Protection, tmp_path: Path, error: WalrepError
) -> None:
    async with protection.running():
        await protection.commit_and_flush(app, 2)
    protection.faults.down = error
    async with protection.running():
        await protection.until(RetryScheduled)
        await protection.until(Resumed)
        # The app truncates its log: what was not captured would be lost.
        for _ in range(3):
            app.commit(5)
            await asyncio.to_thread(app.checkpoint, "TRUNCATE")
        assert not protection.of(Flushed)
        protection.faults.down = None
        await protection.until(StoreBack)
        await protection.until(Flushed)
    assert len(protection.of(RetryScheduled)) == 1
    assert not protection.of(TimelineBegan)
    assert protection.ended_with() is None
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


async def test_a_first_start_with_wrong_credentials_is_refused(protection: Protection) -> None:
    protection.faults.down = AccessDenied("the key is wrong")
    async with protection.running():
        assert isinstance(await protection.until_ended(), AccessDenied)
    assert not protection.objects


def images_by_timeline(protection: Protection, folder: Path) -> dict[int, list[bytes]]:
    """Return every state of every timeline, by the slow replay."""
    into = folder / "store"
    for key, found in protection.objects.items():
        path = into / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found.data)
    images: dict[int, list[bytes]] = {}
    for timeline in sorted(list_timelines(into)):
        states = images.setdefault(timeline_number(TimelineId(timeline)), [])
        replay(into, timeline, after=lambda state, states=states: states.append(state.image()))  # type: ignore[misc]
    return images
