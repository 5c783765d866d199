"""When a snapshot is made, and of which kind."""

from __future__ import annotations

import secrets

import msgspec
import pytest
from hypothesis import given, strategies as st

from walrep.core.names import SnapshotName
from walrep.core.snapshots import (
    FullSnapshot,
    SnapshotFacts,
    SnapshotPolicy,
    full_under,
    plan_kind,
    plan_snapshot,
)
from walrep.core.units import Checksum, Seq, TimelineId, Txid, make_timeline_id

HOUR = 3_600_000
DAY = 24 * HOUR
NOON = 20_000 * DAY + 12 * HOUR
TIMELINE = TimelineId("00001-0123abcd")
POLICY = SnapshotPolicy()
FACTS = SnapshotFacts(
    identity="0123456789abcdef",
    now_ms=NOON,
    last_ms=NOON - DAY,
    last_txid=Txid(5),
    txid=Txid(6),
    log_bytes=1000,
    database_bytes=100 << 20,
)
NAME = SnapshotName(timeline=TIMELINE, txid=Txid(5), seen_ms=NOON - DAY, seq=Seq(9))
FULL = FullSnapshot(replica="r", name=NAME, page_size=4096, checksum=Checksum(7))


def facts(**changes: object) -> SnapshotFacts:
    return msgspec.structs.replace(FACTS, **changes)


def at(facts: SnapshotFacts, **policy: object) -> int | None:
    return plan_snapshot(facts, msgspec.structs.replace(POLICY, **policy)).at_ms


def test_none_is_made_while_nothing_is_committed() -> None:
    unchanged = facts(txid=Txid(5), last_ms=NOON - 100 * DAY, log_bytes=1 << 40)
    assert at(unchanged) is None
    assert "nothing was committed" in plan_snapshot(unchanged, POLICY).reason


@pytest.mark.parametrize("hour", [0, 3, 11, 13, 23])
def test_one_a_day_is_made_at_the_time_of_day(hour: int) -> None:
    """After the last one, however little; one that was missed is due at once."""
    when = NOON - 12 * HOUR + hour * HOUR
    due = at(FACTS, at_s=hour * 3600)
    assert due == (when if when <= NOON - DAY + DAY else when - DAY)
    assert at(facts(last_ms=when - 1), at_s=hour * 3600) == when
    assert at(facts(last_ms=when), at_s=hour * 3600) == when + DAY or when > NOON
    assert at(facts(last_ms=NOON - 9 * DAY), at_s=hour * 3600) in range(NOON - 9 * DAY + 1, NOON - 8 * DAY + 1)


def test_many_databases_are_spread_over_the_day() -> None:
    """By their identity alone, so that a start anew does not move them."""
    due = [at(facts(identity=f"{n:016x}")) for n in range(500)]
    assert due == [at(facts(identity=f"{n:016x}")) for n in range(500)]
    assert all(each is not None and NOON - DAY < each <= NOON for each in due)
    per_hour = [sum((each or 0) // HOUR % 24 == hour for each in due) for hour in range(24)]
    assert max(per_hour) < 3 * 500 / 24
    assert min(per_hour) > 0


def test_any_text_is_an_identity() -> None:
    assert at(facts(identity="")) is not None
    assert at(facts(identity=secrets.token_urlsafe())) is not None


@given(st.integers(0, 1 << 45), st.integers(0, 1 << 45), st.integers(0, 86399), st.sampled_from([500, HOUR, DAY]))
def test_the_next_is_never_more_than_a_day_away(last_ms: int, now_ms: int, at_s: int, day_ms: int) -> None:
    """Also where the clock was set back since the last one."""
    due = at(facts(last_ms=last_ms, now_ms=now_ms), at_s=at_s, day_ms=day_ms)
    assert due is not None
    assert min(last_ms, now_ms) < due <= min(last_ms, now_ms) + day_ms
    assert (due - at_s * 1000) % day_ms == 0


@pytest.mark.parametrize(
    ("log_bytes", "database_bytes", "is_outgrown"),
    [
        (100 << 20, 100 << 20, False),
        ((100 << 20) + 1, 100 << 20, True),
        (64 << 20, 4096, False),
        ((64 << 20) + 1, 4096, True),
    ],
)
def test_logs_that_have_outgrown_the_database_call_for_one_at_once(
    log_bytes: int, database_bytes: int, *, is_outgrown: bool
) -> None:
    due = at(facts(log_bytes=log_bytes, database_bytes=database_bytes), at_s=13 * 3600)
    assert due == (0 if is_outgrown else NOON - 23 * HOUR)


def kind(full: FullSnapshot | None, changed: int = 10, *, now_ms: int = NOON) -> str:
    return decided(full, changed, now_ms=now_ms)[0]


def decided(full: FullSnapshot | None, changed: int = 10, *, now_ms: int = NOON) -> tuple[str, str]:
    return plan_kind(full, (changed, 100), replica="r", page_size=4096, now_ms=now_ms, policy=POLICY)


def test_it_is_full_where_there_is_no_full_one_of_the_replica() -> None:
    assert kind(None) == "full"
    assert kind(msgspec.structs.replace(FULL, replica="another")) == "full"
    assert kind(FULL) == "differential"


def test_a_database_with_pages_of_another_size_has_a_full_one() -> None:
    kind, reason = decided(msgspec.structs.replace(FULL, page_size=8192), 0)
    assert kind == "full"
    assert "8192 bytes" in reason


def test_before_anything_is_known_to_differ_it_is_differential() -> None:
    """So begins a base; a database may also have no page yet."""
    assert plan_kind(FULL, (0, 0), replica="r", page_size=4096, now_ms=NOON, policy=POLICY)[0] == "differential"


@pytest.mark.parametrize("jitter_ms", [-11 * HOUR, 0, 11 * HOUR])
def test_one_a_week_is_full(jitter_ms: int) -> None:
    """Whether a day's snapshot is made somewhat earlier or later than a day after the one before."""
    kinds = [kind(FULL, now_ms=NAME.seen_ms + day * DAY + jitter_ms) for day in range(1, 9)]
    assert kinds == ["differential"] * 6 + ["full"] * 2


def test_a_full_one_from_the_future_is_not_leant_on_for_ever() -> None:
    assert kind(FULL, now_ms=NAME.seen_ms - HOUR) == "differential"
    assert kind(FULL, now_ms=NAME.seen_ms - 30 * DAY) == "full"


@pytest.mark.parametrize(("changed", "expected"), [(0, "differential"), (50, "differential"), (51, "full")])
def test_it_is_full_where_most_pages_differ(changed: int, expected: str) -> None:
    assert kind(FULL, changed) == expected
    reason = decided(FULL, changed)[1]
    assert f"{changed} of 100 pages" in reason


def test_of_two_full_ones_of_one_place_the_one_that_was_there_by_then_is_under_it() -> None:
    """Two copies of one state may both begin a timeline of one id where a store keeps neither from it."""
    timeline = make_timeline_id(2, "0011223344556677")
    full = [
        FullSnapshot(
            replica="r",
            name=SnapshotName(timeline=timeline, txid=Txid(0), seen_ms=seen_ms, seq=Seq(seq)),
            page_size=4096,
            checksum=Checksum(seq),
        )
        for seq, seen_ms in ((3, 200), (11, 100))
    ]
    for seq, under in ((2, None), (3, full[0]), (4, full[0]), (10, full[0]), (11, full[1]), (12, full[1])):
        assert full_under(Seq(seq), full) is under
