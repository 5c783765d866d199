"""One run of a seed: a setup, and steps that are drawn one after the other."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from tests.model.nursery import Nursery
from tests.model.stage import Found, Setup, draw_setup
from tests.model.statements import KINDS
from tests.model.world import World

__all__ = ["MODES", "SQL", "Episode", "run_episode"]

Step = Callable[[World, Random], None]


class Episode(msgspec.Struct, kw_only=True):
    """What a run of a seed found."""

    seed: int
    setup: Setup
    found: Found
    requests: dict[str, int]
    faults: dict[str, int]
    virtual_s: float
    trace: list[str]


def run_episode(nursery: Nursery, seed: int, steps: int) -> Episode:
    """Run a seed for so many steps."""
    dice = Random(seed)
    world = World(nursery, draw_setup(dice), seed)
    try:
        for _ in range(steps):
            _WEIGHED[dice.randrange(len(_WEIGHED))](world, dice)
            if world.found.problems:
                break
        if not world.found.problems:
            world.finish()
    finally:
        world.close()
    place = world.stage.place
    return Episode(
        seed=seed,
        setup=world.stage.setup,
        found=world.found,
        requests=dict(place.requests),
        faults=dict(place.faults),
        virtual_s=world.stage.clock.monotonic_s(),
        trace=world.stage.trace,
    )


def _place(world: World, dice: Random) -> tuple[int, int, int]:
    return dice.randrange(len(world.hosts)), dice.choice((0, 0, 1)), dice.choice((0, 0, 1))


def _host(world: World, dice: Random) -> int:
    return dice.randrange(len(world.hosts))


def _kind(dice: Random) -> str:
    return dice.choice(("few", "few", "few", *KINDS))


def _burst(world: World, dice: Random) -> None:
    place = _place(world, dice)
    for _ in range(dice.randint(2, 25)):
        world.write(place, "few")


def _restart_log(world: World, dice: Random) -> None:
    """Have the log begin anew, and be written."""
    place = _place(world, dice)
    world.checkpoint(place, dice.choice(("restart", "truncate")))
    world.write(place, "few")


def _stop_in_outage(world: World, dice: Random) -> None:
    """Stop while something waits for a store that does not answer: what is said then is not what will be later."""
    world.change_weather(dice.choice(("down", "denied", "gone")))
    _burst(world, dice)
    world.pass_time(dice.choice((0.3, 5.0, 30.0)))
    world.stop(_host(world, dice))


def _clone(world: World, dice: Random) -> None:
    if dice.random() < 0.3:
        world.clone()


SQL = ("vacuum", "pragma incremental_vacuum(5)", "pragma user_version = 7", "pragma optimize", "reindex")
MODES = ("passive", "full", "restart", "truncate")
_SHORT_S = (0.0, 0.005, 0.05, 0.3, 0.7, 2.0)
_LONG_S = (5.0, 30.0, 61.0, 200.0, 700.0)

_STEPS: tuple[tuple[int, Step], ...] = (
    (20, lambda world, dice: world.write(_place(world, dice), _kind(dice))),
    (4, _burst),
    (4, lambda world, dice: world.rollback(_place(world, dice), dice.choice(("few", "many", "savepoints")))),
    (3, lambda world, dice: world.execute(_place(world, dice), dice.choice(SQL))),
    (3, lambda world, dice: world.leave_open(_place(world, dice), dice.choice(("read", "read", "few", "many")))),
    (8, lambda world, dice: world.end_transaction(_place(world, dice), commit=dice.random() < 0.6)),
    (7, lambda world, dice: world.checkpoint(_place(world, dice), dice.choice(MODES))),
    (3, _restart_log),
    (3, lambda world, dice: world.close_connection(_place(world, dice))),
    (1, lambda world, dice: world.close_app(_place(world, dice))),
    (2, lambda world, dice: world.kill_app(_place(world, dice))),
    (2, lambda world, dice: world.die_before_publishing(_place(world, dice), _kind(dice))),
    (8, lambda world, dice: world.start(_host(world, dice))),
    (1, lambda world, dice: world.start(_host(world, dice), dice.choice(("take_over", "new_timeline")))),
    (1, lambda world, dice: world.lose_state(_host(world, dice))),
    (2, lambda world, dice: world.restore_in_place(_host(world, dice), dice.choice((0.0, 0.9, 0.9999)))),
    (1, _clone),
    (2, lambda world, dice: world.stop(_host(world, dice))),
    (1, _stop_in_outage),
    (3, lambda world, dice: world.kill(_host(world, dice))),
    (1, lambda world, dice: world.kill_in_request(dice.randint(1, 12))),
    (2, lambda world, dice: world.kill_at_file(_host(world, dice), dice.randint(1, 40))),
    (1, lambda world, dice: world.ask_for_snapshot(_host(world, dice), full=dice.random() < 0.3)),
    (22, lambda world, dice: world.pass_time(dice.choice(_SHORT_S))),
    (6, lambda world, dice: world.pass_time(dice.choice(_LONG_S))),
    (2, lambda world, dice: world.suspend(dice.choice((100.0, 4000.0, 50_000.0)))),
    (1, lambda world, dice: world.step_clock(_host(world, dice), dice.choice((-4000, -200, -1, 1, 100, 250)))),
    (2, lambda world, dice: world.change_weather(dice.choice(("down", "denied", "gone", "flaky", "slow")))),
    (4, lambda world, _dice: world.change_weather("fair")),
    (2, lambda world, dice: world.strike_next(dice.choice(("before", "after")))),
    (1, lambda world, dice: world.limit_disk(_host(world, dice), dice.choice((4096, 30_000, 200_000)))),
    (2, lambda world, dice: world.limit_disk(_host(world, dice), -1)),
    (1, lambda world, dice: world.cut_power(_host(world, dice), dice.randrange(1 << 30))),
    (2, lambda world, dice: world.pin(f"pin{dice.randrange(3)}", dice.random())),
    (1, lambda world, dice: world.unpin(f"pin{dice.randrange(3)}")),
    (4, lambda world, dice: world.restore(dice.random(), dice.choice(("transaction", "bookmark", "time", "time")))),
)
_WEIGHED: tuple[Step, ...] = tuple(step for weight, step in _STEPS for _ in range(weight))
