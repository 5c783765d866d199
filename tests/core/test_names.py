"""Keys: what is built is parsed, the order of keys is the order of numbers, and junk is not a key of ours."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from walrep.core.names import (
    TIME_MS_MAX,
    PackName,
    PinName,
    SnapshotName,
    check_pin_name,
    pack_key,
    parse_pack_key,
    parse_pin_key,
    parse_pruned_key,
    parse_segment_key,
    parse_snapshot_key,
    pin_key,
    pruned_key,
    segment_key,
    snapshot_key,
)
from walrep.core.units import Checksum, Position, Seq, TimelineId, Txid, make_timeline_id
from walrep.errors import UsageError
from walrep.store.keys import check_key

NUMBERS = st.integers(0, 10**16 - 1)
TIMELINES = st.builds(make_timeline_id, st.integers(1, 99999), st.text("0123456789abcdef", min_size=16, max_size=16))
TIMES = st.integers(0, 4_102_444_800_000)
NAMES = st.builds(SnapshotName, timeline=TIMELINES, txid=NUMBERS.map(Txid), seen_ms=TIMES, seq=NUMBERS.map(Seq))


@st.composite
def pack_names(draw: st.DrawFn) -> PackName:
    first_txid, last_txid = sorted((draw(NUMBERS) or 1, draw(NUMBERS) or 1))
    first_seq, last_seq = sorted((draw(NUMBERS), draw(NUMBERS)))
    return PackName(
        timeline=draw(TIMELINES),
        first_txid=Txid(first_txid),
        last_txid=Txid(last_txid),
        first_seen_ms=draw(TIMES),
        last_seen_ms=draw(TIMES),
        first_seq=Seq(first_seq),
        last_seq=Seq(last_seq),
    )


PACK = (
    "packs/00001-5f3a9c21/0000000000000012-0000000000000020-20261121T093000123Z-20261121T094459000Z-"
    "0000000000000007-0000000000000009"
)
SNAPSHOT = "snapshots/00001-5f3a9c21/0000000000000012-20261121T093000123Z-0000000000000007-full"


@given(NUMBERS, NUMBERS)
def test_segment_keys_round_trip_and_sort_by_number(one: int, two: int) -> None:
    assert parse_segment_key(segment_key(one)) == one
    assert (segment_key(one) < segment_key(two)) == (one < two)
    check_key(segment_key(one))


@given(NAMES)
def test_snapshot_keys_round_trip(name: SnapshotName) -> None:
    assert parse_snapshot_key(snapshot_key(name)) == name
    check_key(snapshot_key(name))


@given(NAMES, NUMBERS)
def test_the_snapshots_of_a_timeline_sort_by_transaction(name: SnapshotName, txid: int) -> None:
    other = SnapshotName(timeline=name.timeline, txid=Txid(txid), seen_ms=0, seq=Seq(0))
    if txid != name.txid:
        assert (snapshot_key(other) < snapshot_key(name)) == (txid < name.txid)


@given(pack_names())
def test_pack_keys_round_trip(name: PackName) -> None:
    assert parse_pack_key(pack_key(name)) == name
    check_key(pack_key(name))


@given(pack_names(), pack_names())
def test_the_packs_of_a_timeline_sort_by_transaction(one: PackName, two: PackName) -> None:
    one = msgspec.structs.replace(one, timeline=two.timeline)
    numbers = [(name.first_txid, name.last_txid) for name in (one, two)]
    if numbers[0] != numbers[1]:
        assert (pack_key(one) < pack_key(two)) == (numbers[0] < numbers[1])


@given(
    st.from_regex(r"packs/00001-5f3a9c21/0{15}1-0{15}2-(\d{8}T\d{9}Z)-9999123\dT2\d{8}Z-0{15}1-0{15}2", fullmatch=True)
)
def test_a_key_is_a_pack_only_if_it_is_the_key_of_that_pack(key: str) -> None:
    """What is deleted is named by its key, and that is made from the name."""
    name = parse_pack_key(key)
    assert name is None or pack_key(name) == key


def test_the_last_time_of_a_key_is_the_end_of_the_year_9999() -> None:
    key = PACK.replace("20261121T094459000Z", "99991231T235959999Z")
    name = parse_pack_key(key)
    assert name is not None
    assert name.last_seen_ms == TIME_MS_MAX
    assert pack_key(name) == key


def test_a_pack_key_has_the_documented_form() -> None:
    name = PackName(
        timeline=TimelineId("00001-5f3a9c21"),
        first_txid=Txid(12),
        last_txid=Txid(20),
        first_seen_ms=1_795_253_400_123,
        last_seen_ms=1_795_254_299_000,
        first_seq=Seq(7),
        last_seq=Seq(9),
    )
    assert pack_key(name) == PACK
    assert parse_pack_key(PACK) == name


@pytest.mark.parametrize(
    "key",
    [
        "",
        "packs/",
        PACK + "x",
        PACK + "-full",
        PACK[:-1],
        PACK.replace("5f3a", "5F3A"),
        PACK.replace("20261121T093", "20261321T093"),
        PACK.replace("T094459", "T094460"),
        PACK.replace("20261121T093", "19691231T235"),
        PACK.replace("20261121T093", "00011121T093"),
        PACK.replace("20261121T093", "00001121T093"),
        PACK.replace("0000000000000012", "0000000000000021"),
        PACK.replace("0000000000000012", "0000000000000000"),
        PACK.replace("0000000000000007", "0000000000000010"),
        PACK.replace("0000000000000007", "000000000000000\u0667"),
        PACK.replace("packs", "snapshots"),
        SNAPSHOT,
    ],
)
def test_what_is_no_pack_key_is_none(key: str) -> None:
    assert parse_pack_key(key) is None


def test_a_snapshot_key_has_the_documented_form() -> None:
    name = SnapshotName(timeline=TimelineId("00001-5f3a9c21"), txid=Txid(12), seen_ms=1_795_253_400_123, seq=Seq(7))
    assert snapshot_key(name) == SNAPSHOT
    assert parse_snapshot_key(SNAPSHOT) == name


@pytest.mark.parametrize(
    "key",
    [
        "",
        "replica",
        "segments/",
        "segments/1",
        "segments/00000000000000001",
        "segments/000000000000000a",
        "segments/0000000000000001.tmp",
        "segments/0000000000000001\n",
        "segments/000000000000000\u0661",
        "a/segments/0000000000000001",
        "packs/0000000000000001",
    ],
)
def test_what_is_no_segment_key_is_none(key: str) -> None:
    assert parse_segment_key(key) is None


@pytest.mark.parametrize(
    "key",
    [
        "",
        SNAPSHOT + "x",
        SNAPSHOT[:-5] + "-diff",
        SNAPSHOT.replace("5f3a", "5F3A"),
        SNAPSHOT.replace("20261121", "20261321"),
        SNAPSHOT.replace("20261121", "20260230"),
        SNAPSHOT.replace("20261121", "19691231"),
        SNAPSHOT.replace("T093000", "T093060"),
        SNAPSHOT.replace("T093000", "T243000"),
        SNAPSHOT.replace("123Z", "12\u0663Z"),
        SNAPSHOT.replace("snapshots", "segments"),
    ],
)
def test_what_is_no_snapshot_key_is_none(key: str) -> None:
    assert parse_snapshot_key(key) is None


PIN = "pins/before-2.0_migration/00001-5f3a9c21-0000000000001234-9f8e7d6c5b4a3210"
PIN_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
POSITIONS = st.builds(
    Position, timeline=TIMELINES, txid=NUMBERS.map(Txid), checksum=st.integers(0, (1 << 64) - 1).map(Checksum)
)


@given(st.builds(PinName, name=PIN_NAMES, position=POSITIONS))
def test_pin_keys_round_trip(pin: PinName) -> None:
    assert parse_pin_key(pin_key(pin)) == pin
    check_key(pin_key(pin))


def test_a_pin_key_has_the_documented_form() -> None:
    position = Position(TimelineId("00001-5f3a9c21"), Txid(1234), Checksum(0x9F8E7D6C5B4A3210))
    pin = PinName("before-2.0_migration", position)
    assert pin_key(pin) == PIN
    assert parse_pin_key(PIN) == pin


@pytest.mark.parametrize(
    "key",
    [
        "",
        "pins/",
        "pins/before",
        PIN[:-1],
        PIN + " ",
        PIN + "\n",
        PIN.replace("before", ".before"),
        PIN.replace("before", "bef/ore"),
        PIN.replace("before", "x" * 100),
        PIN.replace("/00001", "/ 00001"),
        PIN.replace("5f3a", "5F3A"),
        PIN.replace("1234", "123\u0664"),
        PIN.replace("pins", "pin"),
        PIN.removeprefix("pins/"),
    ],
)
def test_what_is_no_pin_key_is_none(key: str) -> None:
    assert parse_pin_key(key) is None


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "-x", "_x", "a b", "a/b", "\u00e4", "x\n", "x" * 101])
def test_what_cannot_name_a_pin_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a name"):
        check_pin_name(name)
    with pytest.raises(UsageError, match="not a name"):
        pin_key(PinName(name, Position(TimelineId("00001-5f3a9c21"), Txid(1), Checksum(1))))


@given(TIMES, TIMES)
def test_keys_of_records_round_trip_and_sort_by_time(one: int, two: int) -> None:
    assert parse_pruned_key(pruned_key(one)) == one
    assert (pruned_key(one) < pruned_key(two)) == (one < two)
    check_key(pruned_key(one))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "pruned/",
        "pruned/20261121T093000123Z/x",
        "pruned/20261121T093000123",
        "pruned/20261321T093000123Z",
        "pruned/19691121T093000123Z",
        "pruned/20261121T093000123Z\n",
        "pruned/20261121T09300012\u0663Z",
        "prune/20261121T093000123Z",
    ],
)
def test_what_is_no_key_of_a_record_is_none(key: str) -> None:
    assert parse_pruned_key(key) is None
