"""The model as Hypothesis drives it; `make soak` has the long runs, and `test_found.py` what they have found."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.model.episode import MODES, SQL, run_episode
from tests.model.nursery import Nursery
from tests.model.place import Weather
from tests.model.stage import draw_setup
from tests.model.statements import KINDS
from tests.model.world import World
from walrep.testing.faults import When

_place = st.tuples(st.just(0), st.integers(0, 1), st.integers(0, 1))
_kind = st.sampled_from(sorted(KINDS))
_seconds = st.sampled_from((0.0, 0.005, 0.05, 0.3, 2.0, 30.0, 61.0, 700.0))


class Model(RuleBasedStateMachine):
    """Everything that can happen, in any order."""

    nursery: Nursery

    @initialize(seed=st.integers(0, 1 << 20))
    def begin(self, seed: int) -> None:
        self.world = World(self.nursery, draw_setup(Random(seed)), seed)

    @rule(place=_place, kind=_kind)
    def write(self, place: tuple[int, int, int], kind: str) -> None:
        self.world.write(place, kind)

    @rule(place=_place, count=st.integers(2, 12))
    def write_many(self, place: tuple[int, int, int], count: int) -> None:
        for _ in range(count):
            self.world.write(place, "few")

    @rule(place=_place, kind=st.sampled_from(("few", "many", "savepoints")))
    def roll_back(self, place: tuple[int, int, int], kind: str) -> None:
        self.world.rollback(place, kind)

    @rule(place=_place, sql=st.sampled_from(SQL))
    def execute(self, place: tuple[int, int, int], sql: str) -> None:
        self.world.execute(place, sql)

    @rule(place=_place, kind=st.sampled_from(("read", "few", "many")))
    def leave_open(self, place: tuple[int, int, int], kind: str) -> None:
        self.world.leave_open(place, kind)

    @rule(place=_place, commit=st.booleans())
    def end_transaction(self, place: tuple[int, int, int], *, commit: bool) -> None:
        self.world.end_transaction(place, commit=commit)

    @rule(place=_place, mode=st.sampled_from(MODES))
    def checkpoint(self, place: tuple[int, int, int], mode: str) -> None:
        self.world.checkpoint(place, mode)

    @rule(place=_place)
    def close_connection(self, place: tuple[int, int, int]) -> None:
        self.world.close_connection(place)

    @rule(place=_place)
    def close_app(self, place: tuple[int, int, int]) -> None:
        self.world.close_app(place)

    @rule(place=_place)
    def kill_app(self, place: tuple[int, int, int]) -> None:
        self.world.kill_app(place)

    @rule(place=_place, kind=_kind)
    def die_before_publishing(self, place: tuple[int, int, int], kind: str) -> None:
        self.world.die_before_publishing(place, kind)

    @rule()
    def start(self) -> None:
        self.world.start(0)

    @rule()
    def stop(self) -> None:
        self.world.stop(0)

    @rule()
    def kill(self) -> None:
        self.world.kill(0)

    @rule(touches=st.integers(1, 40))
    def kill_at_file(self, touches: int) -> None:
        self.world.kill_at_file(0, touches)

    @rule(count=st.integers(1, 12))
    def kill_in_request(self, count: int) -> None:
        self.world.kill_in_request(count)

    @rule(seconds=_seconds)
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(seconds=st.sampled_from((100.0, 4000.0, 50_000.0)))
    def suspend(self, seconds: float) -> None:
        self.world.suspend(seconds)

    @rule(seconds=st.integers(-4000, 250))
    def step_clock(self, seconds: int) -> None:
        self.world.step_clock(0, seconds)

    @rule(weather=st.sampled_from(("fair", "fair", "down", "denied", "gone", "flaky", "slow")))
    def change_weather(self, weather: Weather) -> None:
        self.world.change_weather(weather)

    @rule(when=st.sampled_from(("before", "after")))
    def strike_next(self, when: When) -> None:
        self.world.strike_next(when)

    @rule(limit_bytes=st.sampled_from((-1, -1, 4096, 30_000, 200_000)))
    def limit_disk(self, limit_bytes: int) -> None:
        self.world.limit_disk(0, limit_bytes)

    @rule(seed=st.integers(0, 1 << 20))
    def cut_power(self, seed: int) -> None:
        self.world.cut_power(0, seed)

    @rule(full=st.booleans())
    def ask_for_snapshot(self, *, full: bool) -> None:
        self.world.ask_for_snapshot(0, full=full)

    @rule(name=st.sampled_from(("one", "two")), share=st.floats(0, 1))
    def pin(self, name: str, share: float) -> None:
        self.world.pin(name, share)

    @rule(name=st.sampled_from(("one", "two")))
    def unpin(self, name: str) -> None:
        self.world.unpin(name)

    @rule(share=st.floats(0, 1), how=st.sampled_from(("transaction", "bookmark", "time")))
    def restore(self, share: float, how: str) -> None:
        self.world.restore(share, how)

    @rule(share=st.floats(0, 1))
    def restore_in_place(self, share: float) -> None:
        self.world.restore_in_place(0, share)

    @rule()
    def lose_state(self) -> None:
        self.world.lose_state(0)

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert self.world.found.problems == []

    def teardown(self) -> None:
        try:
            if not self.world.found.problems:
                assert self.world.finish().problems == []
        finally:
            self.world.close()


def test_whatever_happens_every_durable_transaction_is_restored(nursery: Nursery) -> None:
    Model.nursery = nursery
    few = settings(
        max_examples=25,
        stateful_step_count=30,
        deadline=None,
        # What led there is in the trace; to shorten it takes minutes.
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(Model, settings=few)


def test_a_seed_replays_its_run(nursery: Nursery) -> None:
    first, again, other = (run_episode(nursery, seed, 60) for seed in (1, 1, 2))
    assert first.trace == again.trace
    assert first.trace != other.trace
