"""What a budget lets through: never more than a day has, and no less than it can."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from walrep.core.budget import (
    DAY_MS,
    PUTS_PER_DAY_MIN,
    SEGMENTS_PER_DAY_MIN,
    BudgetFacts,
    DaySpent,
    PutKind,
    PutPlan,
    day_of,
    kind_of,
    note_day,
    plan_pace,
    plan_put,
    reserve_day,
    rpo_under,
    segments_possible,
    spent_on,
)
from walrep.core.flush import FlushPolicy, FlushState, plan_flush
from walrep.core.names import SnapshotName, snapshot_key
from walrep.core.units import Seq, Txid, make_timeline_id

NOON_MS = 20_000 * DAY_MS + DAY_MS // 2
NEVER = (0, -inf)
DAY_S = 86_400.0
RPO_S = 10.0


def snapshot(txid: int) -> str:
    timeline = make_timeline_id(1, "0011223344556677")
    return snapshot_key(SnapshotName(timeline=timeline, txid=Txid(txid), seen_ms=NOON_MS, seq=Seq(1), full=None))


def facts(**changes: object) -> BudgetFacts:
    base = BudgetFacts(puts_max=500, now_ms=NOON_MS, now_s=1000.0, last_s=990.0, spent_count=300)
    return msgspec.structs.replace(base, **changes)


def test_the_pace_lasts_until_midnight_and_says_so() -> None:
    """Of 200 left, 12 are for upkeep and 49 for packs of the quarters of an hour."""
    pace = plan_pace(facts())
    assert pace.interval_s == pytest.approx(43_200 / 139)
    assert pace.not_before_s == pytest.approx(990 + 43_200 / 139)
    assert pace.reason == "budget: 500 PUTs a day, 200 left until 00:00 UTC -> a segment each 5m 11s"
    assert not pace.is_eased


@pytest.mark.parametrize(
    ("changes", "not_before_s", "is_eased"),
    [
        ({"spent_count": 251}, 990 + 43_200 / 188, False),
        ({"spent_count": 250}, -inf, False),
        ({"spent_count": 244}, -inf, False),
        ({"spent_count": 243}, -inf, True),
        ({"spent_count": 240, "claims": (15, 5)}, 990 + 43_200 / 179, False),
        ({"spent_count": 240, "claims": (261,)}, -inf, True),
        ({"spent_count": 500}, 1000 + 43_200, False),
        ({"spent_count": 700}, 1000 + 43_200, False),
        ({"now_ms": 20_001 * DAY_MS, "spent_count": 0}, -inf, True),
    ],
)
def test_what_is_ahead_of_an_even_use_goes_at_once(
    changes: dict[str, Any], not_before_s: float, *, is_eased: bool
) -> None:
    pace = plan_pace(facts(**changes))
    assert pace.not_before_s == pytest.approx(not_before_s)
    assert pace.is_eased == is_eased


def test_a_spent_budget_names_midnight() -> None:
    reason = plan_pace(facts(spent_count=501)).reason
    assert reason == "budget: 500 PUTs a day, 0 left until 00:00 UTC -> the next segment then"


@pytest.mark.parametrize(
    ("commit_count", "active_s", "rpo_s"),
    [(391, DAY_S, 10.0), (392, DAY_S, DAY_S / 391), (1e6, DAY_S, DAY_S / 391), (1e6, 3600.0, 10.0), (0.0, 0.0, 10.0)],
)
def test_what_a_budget_means_for_a_workload(commit_count: float, active_s: float, rpo_s: float) -> None:
    assert rpo_under(500, 10.0, commit_count, active_s) == pytest.approx(rpo_s)


def test_the_smallest_budget_has_a_segment_an_hour_and_upkeep() -> None:
    assert segments_possible(PUTS_PER_DAY_MIN, DAY_S) == SEGMENTS_PER_DAY_MIN
    assert segments_possible(PUTS_PER_DAY_MIN - 1, DAY_S) < SEGMENTS_PER_DAY_MIN


@pytest.mark.parametrize(
    ("kind", "count", "changes", "tried", "expected"),
    [
        ("segment", 1, {"now_s": 990 + 43_200 / 139}, NEVER, (0.0, False)),
        ("segment", 1, {}, NEVER, (43_200 / 139 - 10, False)),
        ("segment", 1, {"spent_count": 500}, NEVER, (43_200.0, False)),
        ("segment", 1, {"is_pressed": True}, NEVER, (0.0, False)),
        ("segment", 1, {"is_pressed": True, "spent_count": 500}, NEVER, (0.0, True)),
        ("segment", 1, {"is_pressed": True, "spent_count": 500}, (1, 990.0), (50.0, True)),
        ("segment", 1, {"is_stopping": True}, NEVER, (0.0, False)),
        ("segment", 1, {"is_stopping": True, "spent_count": 500}, NEVER, (43_200.0, False)),
        ("segment", 150, {"now_s": 90_000.0}, NEVER, (43_200.0, False)),
        ("proof", 1, {"spent_count": 499}, NEVER, (0.0, False)),
        ("proof", 1, {"spent_count": 500}, NEVER, (43_200.0, False)),
        ("proof", 1, {"spent_count": 400}, (2, 990.0), (110.0, False)),
        ("opening", 1, {"spent_count": 499}, NEVER, (0.0, False)),
        ("opening", 2, {"spent_count": 499}, NEVER, (0.0, True)),
        ("opening", 2, {"spent_count": 499}, (9, 990.0), (3590.0, True)),
        ("opening", 2, {"spent_count": 100}, (9, 990.0), (0.0, False)),
        ("upkeep", 18, {"spent_count": 482}, NEVER, (0.0, False)),
        ("upkeep", 18, {"spent_count": 483}, NEVER, (43_200.0, False)),
        ("upkeep", 18, {"spent_count": 483, "is_pressed": True}, NEVER, (43_200.0, False)),
        ("upkeep", 1, {"spent_count": 100}, (1, 990.0), (50.0, False)),
        ("upkeep", 476, {"spent_count": 0}, NEVER, (0.0, False)),
        ("upkeep", 477, {"spent_count": 0}, NEVER, (inf, False)),
    ],
)
def test_who_waits_for_what(
    kind: PutKind, count: int, changes: dict[str, Any], tried: tuple[int, float], expected: tuple[float, bool]
) -> None:
    plan = plan_put(kind, count, facts(**changes), tried)
    assert plan.wait_s == pytest.approx(expected[0])
    assert plan.is_over == expected[1]


@given(
    kind=st.sampled_from(("opening", "proof", "segment", "upkeep")),
    count=st.integers(1, 700),
    spent=st.integers(0, 700),
    claimed=st.integers(0, 50),
    of_day_ms=st.integers(0, DAY_MS - 1),
    pressed=st.booleans(),
    stopping=st.booleans(),
)
def test_only_openings_and_a_full_outbox_go_beyond_the_budget(
    kind: PutKind, count: int, spent: int, claimed: int, of_day_ms: int, *, pressed: bool, stopping: bool
) -> None:
    """INV-32: whatever may go now fits, or is told to go beyond; and that only for the two."""
    given_facts = facts(
        now_ms=20_000 * DAY_MS + of_day_ms,
        spent_count=spent,
        claims=(claimed,),
        is_pressed=pressed,
        is_stopping=stopping,
    )
    plan = plan_put(kind, count, given_facts, NEVER)
    fits = spent + count <= 500
    assert plan.wait_s > 0 or fits or plan.is_over
    assert not plan.is_over or not fits
    assert not plan.is_over or kind == "opening" or (pressed and kind != "upkeep")
    assert kind != "opening" or plan.wait_s == 0


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("segments/0000000000000001", "opening"),
        ("segments/0000000000000002", "segment"),
        ("segments/0000000000000002-0011223344556677", "segment"),
        (snapshot(0), "opening"),
        (snapshot(1), "upkeep"),
        ("replica", "proof"),
        ("probe/0011223344556677", "proof"),
        ("packs/x", "upkeep"),
        ("pruned/x", "upkeep"),
    ],
)
def test_what_an_object_is_for(key: str, kind: PutKind) -> None:
    openings = {"segments/0000000000000001"}
    assert kind_of(key, is_protected=True, openings=openings) == kind
    expected = "opening" if kind == "proof" else kind
    assert kind_of(key, is_protected=False, openings=openings) == expected


def test_a_clock_that_is_set_back_finds_what_it_had_counted() -> None:
    days: tuple[DaySpent, ...] = ()
    for day in range(12):
        days = note_day(days, DaySpent(day, put_count=day))
    assert [each.day for each in days] == list(range(4, 12))
    days = note_day(days, msgspec.structs.replace(spent_on(days, 7), put_count=70))
    assert [each.day for each in days] == [4, 5, 6, 8, 9, 10, 11, 7]
    assert (spent_on(days, 7).put_count, spent_on(days, 3)) == (70, DaySpent(3))


def test_what_is_on_its_way_is_set_aside_on_the_next_day() -> None:
    days = (DaySpent(7, put_count=70), DaySpent(8, put_count=3))
    assert reserve_day(days, 9, 0) == days
    assert reserve_day(days, 8, 2) == days
    assert reserve_day(days, 8, 9) == (DaySpent(8, put_count=9), DaySpent(7, put_count=70))
    assert reserve_day(days, 9, 4) == (DaySpent(9, put_count=4), *days)


class Days:
    """Days of an app in front of the two planners: PUTs are counted, and the age of the oldest commit."""

    def __init__(self, puts_max: int, begin_s: float) -> None:
        self.puts_max = puts_max
        self.now_s = begin_s
        self.spent: dict[int, int] = {}
        self.quarters: dict[int, int] = {}
        self.last_s = begin_s
        self.flushed: list[tuple[float, float]] = []
        """When each segment went, and how old its oldest commit was."""
        self._packed: set[int] = set()

    @property
    def now_ms(self) -> int:
        return 20_000 * DAY_MS + int(self.now_s * 1000)

    def facts(self) -> BudgetFacts:
        spent_count = self.spent.get(day_of(self.now_ms), 0)
        return BudgetFacts(
            puts_max=self.puts_max, now_ms=self.now_ms, now_s=self.now_s, last_s=self.last_s, spent_count=spent_count
        )

    def put(self, kind: PutKind) -> None:
        plan = plan_put(kind, 1, self.facts(), NEVER)
        assert plan == PutPlan(wait_s=0.0, reason=plan.reason), (kind, self.now_s, plan)
        self.spent[day_of(self.now_ms)] = self.spent.get(day_of(self.now_ms), 0) + 1

    def pack(self) -> None:
        """Make the packs of the quarters that are over, as compaction does: of two segments or more."""
        for quarter in [each for each in self.quarters if (each + 1) * 900 + 30 <= self.now_s]:
            if self.quarters.pop(quarter) > 1:
                self.put("upkeep")

    def live(self, commits: list[float]) -> None:
        flush = FlushPolicy(rpo_s=RPO_S)
        last_flush_s: float | None = None
        for oldest_s in commits:
            if last_flush_s is not None and oldest_s <= last_flush_s:
                continue
            self.now_s = max(self.now_s, oldest_s)
            while True:
                self.pack()
                state = FlushState(
                    pending_bytes=1,
                    oldest_commit_s=oldest_s,
                    last_flush_s=last_flush_s,
                    upload_p95_s=0.0,
                    outbox_count=0,
                    pace=plan_pace(self.facts()),
                )
                at_s = plan_flush(state, flush).at_s
                assert at_s is not None
                if at_s <= self.now_s:
                    break
                # As the engine does, it is looked again: a day may have begun.
                self.now_s = min(at_s, self.now_s + 60.0)
            self.put("segment")
            last_flush_s = self.last_s = self.now_s
            self.quarters[int(self.now_s // 900)] = self.quarters.get(int(self.now_s // 900), 0) + 1
            self.flushed.append((self.now_s, self.now_s - oldest_s))


@settings(max_examples=25, deadline=None)
@given(
    puts_max=st.integers(PUTS_PER_DAY_MIN, 3000),
    seed=st.integers(0, 1 << 20),
    begin_s=st.floats(0, DAY_S),
    gap_s=st.sampled_from((5.0, 60.0, 400.0)),
    rest_s=st.sampled_from((0.0, 4000.0, 20_000.0)),
)
def test_no_day_has_more_and_no_commit_waits_longer_than_an_even_use_would(
    puts_max: int, seed: int, begin_s: float, gap_s: float, rest_s: float
) -> None:
    """INV-32, over days of bursts: packs always find room, and the RPO is never twice as wide as it has to be."""
    dice, days = Random(seed), Days(puts_max, begin_s)
    commits, now_s = [], begin_s
    while now_s < begin_s + 2 * DAY_S:
        now_s += dice.expovariate(1 / gap_s) + (rest_s if dice.random() < 0.02 else 0.0)
        commits.append(now_s)
    days.live(commits)
    assert max(days.spent.values()) <= puts_max
    widest_s = max(RPO_S, DAY_S / segments_possible(puts_max, DAY_S) * 2)
    assert max(age_s for _at_s, age_s in days.flushed) <= widest_s + 60.0


def test_a_day_of_commits_uses_what_it_has() -> None:
    """An RPO that is wider than it has to be would leave much of the budget."""
    days = Days(500, 0.0)
    days.live([5.0 * number for number in range(int(DAY_S / 5))])
    assert 460 <= days.spent[20_000] <= 500
