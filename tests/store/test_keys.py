"""One function holds the rules of keys; the contract runs them against every store."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from walrep.core.names import REPLICA_KEY, SnapshotName, segment_key, snapshot_key
from walrep.core.units import Seq, Txid, make_timeline_id
from walrep.errors import InvariantViolated
from walrep.store.keys import check_key, check_prefix, check_range, is_part


def is_accepted(key: str) -> bool:
    try:
        check_key(key)
    except InvariantViolated:
        return False
    return True


def test_every_key_of_a_replica_is_a_key() -> None:
    name = SnapshotName(timeline=make_timeline_id(1, "5f3a9c21"), txid=Txid(10**16 - 1), seen_ms=0, seq=Seq(1))
    for key in (REPLICA_KEY, segment_key(10**16 - 1), snapshot_key(name)):
        check_key(key)


@given(st.text(st.sampled_from("ab./_-A0 ~"), max_size=12))
def test_a_key_is_parts_between_slashes(key: str) -> None:
    assert is_accepted(key) == (all(is_part(part) for part in key.split("/")) and not key.startswith(".tmp"))


@given(st.text(st.sampled_from("ab./"), min_size=1, max_size=8).filter(is_accepted), st.integers(0, 8))
def test_how_a_key_begins_is_a_prefix(key: str, count: int) -> None:
    check_prefix(key[:count])


def test_the_place_of_unfinished_objects_is_reserved() -> None:
    assert not is_accepted(".tmp")
    assert not is_accepted(".tmp/a")
    assert is_accepted("a/.tmp")
    assert is_accepted(".tmpx")
    with pytest.raises(InvariantViolated, match="reserved"):
        check_prefix(".tmp/")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("a" * 513, "513 characters"),
        ("a b", "not allowed"),
        ("a//b", "empty part"),
        ("a/../b", "walks along"),
        ("a" * 256, "256 characters"),
    ],
)
def test_the_rule_that_is_broken_is_named(key: str, reason: str) -> None:
    with pytest.raises(InvariantViolated, match=reason):
        check_key(key)


def test_a_range_is_not_negative() -> None:
    check_range(0, None)
    check_range(5, 0)
    for start, length in ((-1, None), (0, -1)):
        with pytest.raises(InvariantViolated, match="range"):
            check_range(start, length)
