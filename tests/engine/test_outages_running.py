"""Outages that only reads of the upload path meet, with everything running: it goes on, and a stop is obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.protection import App, OverwritingStore, Protection, two_protections
from tests.engine.shipment import images_in
from walrep.core.events import Attached, Detached, Flushed, Resumed, RetryScheduled, StoreBack
from walrep.core.names import REPLICA_KEY
from walrep.errors import AccessDenied, NotDurable, PreconditionFailed, ReplicaConflict, StoreUnavailable
from walrep.store.memory import MemoryStore
from walrep.testing.faults import Fault

DENIED = AccessDenied("the key is wrong")
READS = ["get", "list"]


def fail_next(protection: Protection, read: str) -> None:
    """Let the read that follows the next upload fail: of the object after a conflict, or the look for rivals."""
    if read == "get":
        puts = sum(call.verb == "put" for call in protection.faults.calls)
        exists = PreconditionFailed("the object exists already")
        protection.faults.faults.append(Fault(verb="put", number=puts + 1, when="after", error=lambda: exists))
    protection.faults.denied = {read: DENIED}


def prepare(protection: Protection, read: str) -> None:
    """Have rivals looked for after every upload, where that is what is to fail."""
    if read == "list":
        protection.kind, protection.rival_check_s = OverwritingStore, 0.0


@pytest.mark.parametrize("read", READS)
async def test_protection_goes_on_and_everything_becomes_durable(
    app: App, protection: Protection, tmp_path: Path, read: str
) -> None:
    prepare(protection, read)
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        fail_next(protection, read)
        app.commit(3)
        await protection.until(RetryScheduled)
        app.commit(3)
        protection.faults.denied = {}
        await protection.until(StoreBack)
        app.commit(1)
    assert protection.ended_with() is None
    assert len(protection.of(Attached)) == 1
    assert len(protection.of(RetryScheduled)) == 1
    assert protection.of(Detached)[0].durable
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


@pytest.mark.parametrize("read", READS)
async def test_a_stop_meanwhile_ends_by_the_deadline_and_the_next_start_ships_the_rest(
    app: App, protection: Protection, tmp_path: Path, read: str
) -> None:
    prepare(protection, read)
    protection.deadline_s = 0.3
    async with protection.running():
        await protection.commit_and_flush(app, 2)
        fail_next(protection, read)
        app.commit(3)
        await protection.until(RetryScheduled)
        app.commit(3)
    assert type(protection.ended_with()) is NotDurable
    assert protection.of(Detached)[0].durable is False
    await ship_the_rest(app, protection, tmp_path)


@pytest.mark.parametrize("verb", ["get", "list", "put"])
async def test_a_stop_of_a_start_that_was_not_admitted_yet_ends_by_the_deadline(
    app: App, protection: Protection, tmp_path: Path, verb: str
) -> None:
    """What is captured while the store is asked who wrote last."""
    async with protection.running():
        await protection.commit_and_flush(app, 2)
    protection.deadline_s = 0.3
    protection.faults.denied = {verb: StoreUnavailable("the store did not answer")}
    async with protection.running():
        await protection.until(RetryScheduled)
        await protection.until(Resumed)
        app.commit(3)
    assert type(protection.ended_with()) is NotDurable
    assert not protection.of(Flushed)
    await ship_the_rest(app, protection, tmp_path)


async def ship_the_rest(app: App, protection: Protection, tmp_path: Path) -> None:
    protection.faults.denied = {}
    protection.faults.faults.clear()
    protection.deadline_s = 10.0
    async with protection.running():
        await protection.until(Resumed)
    assert protection.ended_with() is None
    assert protection.of(Detached)[0].durable
    app.close()
    assert images_in(protection.store(), tmp_path / "store")[-1] == app.path.read_bytes()


async def test_a_stop_of_a_first_start_does_not_wait_for_the_store(app: App, protection: Protection) -> None:
    """Nothing is captured yet, so nothing can be missing, though an upload is tried for ever."""
    protection.faults.denied = {"put": StoreUnavailable("the store did not answer")}
    async with protection.running():
        await protection.until(RetryScheduled)
    assert protection.ended_with() is None
    assert not protection.objects
    protection.faults.denied = {}
    async with protection.running():
        await protection.commit_and_flush(app, 1)
    assert protection.ended_with() is None


async def test_a_stop_of_a_takeover_does_not_wait_either_and_does_not_say_that_all_is_durable(
    app: App, protection: Protection
) -> None:
    async with protection.running():
        await protection.commit_and_flush(app, 1)
    before = dict(protection.objects)
    protection.change(take_over=True)
    protection.faults.denied = {"put": StoreUnavailable("the store did not answer")}
    async with protection.running():
        await protection.until(RetryScheduled)
    assert type(protection.ended_with()) is NotDurable
    assert protection.objects == before
    assert REPLICA_KEY in before


@pytest.mark.parametrize(("kind", "read"), [(MemoryStore, "get"), (OverwritingStore, "list")])
async def test_a_rival_that_took_over_during_the_outage_is_met_when_it_is_over(
    tmp_path: Path, kind: type[MemoryStore], read: str
) -> None:
    """The right error, and nothing of either is lost."""
    first, second = two_protections(tmp_path, kind)
    one, two = App(first.settings.path), App(second.settings.path)
    async with first.running():
        await first.commit_and_flush(one, 3)
        async with second.running():
            await second.commit_and_flush(two, 2)
            held = dict(second.objects)
            first.faults.denied = {read: DENIED}
            one.commit(1)
            await first.until(RetryScheduled)
            assert first.ended_with() is None
            first.faults.denied = {}
            refused = await first.until_ended()
    assert isinstance(refused, ReplicaConflict)
    assert f"on {second.host}" in refused.detail
    assert second.ended_with() is None
    assert {key: second.objects[key].data for key in held} == {key: each.data for key, each in held.items()}
    one.close()
    two.close()
