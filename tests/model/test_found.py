"""What runs of the model have found, as the shortest way there; the seed is that of the run that found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.model.nursery import Nursery
from tests.model.stage import Setup
from tests.model.world import World

MakeWorld = Callable[[Setup], World]

_APP = (0, 0, 0)
_OTHER_APP = (1, 0, 0)


@pytest.fixture
def make_world(nursery: Nursery) -> Iterator[MakeWorld]:
    worlds: list[World] = []

    def make(setup: Setup) -> World:
        worlds.append(World(nursery, setup, seed=1))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def break_the_log(world: World) -> None:
    """Have the log restarted more than once while walrep is down, so that its next start begins a timeline."""
    world.kill(0)
    for _ in range(3):
        world.write(_APP, "blob")
        world.checkpoint(_APP, "truncate")


def test_a_base_that_the_disk_does_not_take_ends_with_an_error_that_says_so(make_world: MakeWorld) -> None:
    """Seed 20: closing the unfinished file failed as well, and walrep crashed."""
    world = make_world(Setup())
    break_the_log(world)
    world.limit_disk(0, 90_000)
    world.start(0)
    world.pass_time(5.0)
    assert world.hosts[0].ended is not None
    assert world.hosts[0].ended[0] == "SpoolError"
    assert world.finish().problems == []


def test_a_snapshot_that_is_asked_for_while_the_base_waits_for_the_store_is_no_second_one_of_its_name(
    make_world: MakeWorld,
) -> None:
    """Seed 8: both had one name in the outbox; the second was gone when its turn came, and protection ended."""
    world = make_world(Setup())
    break_the_log(world)
    world.change_weather("down")
    world.start(0)
    world.pass_time(0.3)
    world.ask_for_snapshot(0, full=True)
    world.pass_time(30.0)
    world.change_weather("fair")
    world.pass_time(100.0)
    assert world.hosts[0].is_protected
    assert world.finish().problems == []


def test_a_take_over_works_also_where_the_outbox_has_the_numbers_that_the_other_one_took(
    make_world: MakeWorld,
) -> None:
    """Seed 213: the other one's fence passed for a segment of which the acknowledgement was lost, at every start."""
    world = make_world(Setup())
    world.clone()
    world.change_weather("down")
    for _ in range(3):
        world.write(_APP, "few")
        world.pass_time(5.0)
    world.kill(0)
    world.change_weather("fair")
    world.start(1, "take_over")
    world.write(_OTHER_APP, "few")
    world.pass_time(30.0)
    assert world.hosts[1].is_protected
    world.start(0)
    world.pass_time(30.0)
    assert world.hosts[0].ended is not None
    assert world.hosts[0].ended[0] == "ReplicaConflict"
    world.start(0, "take_over")
    world.pass_time(30.0)
    assert world.hosts[0].is_protected
    assert world.finish().problems == []


@pytest.mark.parametrize("creates_only", [True, False])
def test_of_two_copies_of_one_state_neither_overwrites_what_the_other_has_stored(
    make_world: MakeWorld,
    creates_only: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    """Seed 162: where the store overwrites, the nonce in a key did not tell them apart."""
    world = make_world(Setup(creates_only=creates_only))
    world.clone()
    world.write(_APP, "few")
    world.pass_time(30.0)
    world.write(_OTHER_APP, "few")
    world.start(1)
    world.pass_time(30.0)
    assert world.hosts[1].ended is not None
    assert world.hosts[1].ended[0] == "ReplicaConflict"
    assert world.hosts[0].is_protected
    assert world.finish().problems == []


def test_a_budget_holds_through_kills_and_an_outage_and_what_waits_goes_out_on_the_next_day(
    make_world: MakeWorld,
) -> None:
    """INV-32: 48 PUTs are soon sent at an RPO of half a second."""
    world = make_world(Setup(puts_per_day_max=48, rpo_s=0.5))
    for round_number in range(12):
        for _ in range(6):
            world.write(_APP, "few")
            world.pass_time(2.0)
        if round_number % 3 == 0:
            world.kill(0)
            world.start(0)
        world.change_weather("down" if round_number == 5 else "fair")
        world.pass_time(700.0)
    assert world.found.events["rpo-widened"] > 0
    # An even use would be five in these hours, beside what the base and the starts have taken.
    assert 5 < world.stage.place.requests["put"] < 20
    assert world.finish().problems == []
    assert len(world.stage.place.puts_by_day) >= 2


def test_a_stop_during_an_outage_calls_nothing_durable_that_only_waits(make_world: MakeWorld) -> None:
    """What a stop says is held against the store of that moment. INV-16."""
    world = make_world(Setup())
    world.write(_APP, "few")
    world.pass_time(30.0)
    world.change_weather("down")
    for _ in range(2):
        world.write(_APP, "few")
        world.pass_time(5.0)
    world.stop(0)
    detached = world.hosts[0].detached
    assert detached is not None
    assert not detached["durable"]
    assert detached["position"] is not None
    assert world.finish().problems == []
