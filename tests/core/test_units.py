"""Numbers and their texts: what is printed is parsed, and sorts as the numbers do."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from walrep.core.units import (
    PAGE_SIZES,
    Checksum,
    Position,
    TimelineId,
    Txid,
    format_checksum,
    format_seq,
    format_txid,
    lock_byte_page,
    make_timeline_id,
    parse_bookmark,
    timeline_number,
)
from walrep.errors import UsageError

NUMBERS = st.integers(0, 10**16 - 1)
HASHES = st.integers(0, (1 << 64) - 1)
NONCES = st.text("0123456789abcdef", min_size=16, max_size=16)
BOOKMARK = "00001-5f3a9c21-0000000000001234-9f8e7d6c5b4a3210"


@given(number=st.integers(1, 99999), nonce=NONCES, txid=NUMBERS, checksum=HASHES)
def test_a_bookmark_is_parsed_as_it_was_printed(number: int, nonce: str, txid: int, checksum: int) -> None:
    position = Position(make_timeline_id(number, nonce), Txid(txid), Checksum(checksum))
    assert parse_bookmark(str(position)) == position
    assert parse_bookmark(f" {position}\n") == position
    assert timeline_number(position.timeline) == number


@given(one=NUMBERS, two=NUMBERS)
def test_texts_sort_as_their_numbers(one: int, two: int) -> None:
    assert (format_txid(one) < format_txid(two)) == (one < two)
    assert (format_seq(one) < format_seq(two)) == (one < two)
    assert len(format_txid(one)) == len(format_seq(one)) == 16


@given(one=st.integers(1, 99999), two=st.integers(1, 99999))
def test_bookmarks_sort_as_their_positions(one: int, two: int) -> None:
    first = Position(make_timeline_id(one, "0" * 16), Txid(5), Checksum(1))
    second = Position(make_timeline_id(two, "0" * 16), Txid(4), Checksum(2))
    assert (str(first) < str(second)) == (first < second)


def test_the_texts_have_the_documented_form() -> None:
    assert str(Position(TimelineId("00001-5f3a9c21"), Txid(1234), Checksum(0x9F8E7D6C5B4A3210))) == BOOKMARK
    assert format_checksum(10) == "000000000000000a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        BOOKMARK[:-1],
        BOOKMARK + "0",
        BOOKMARK.upper(),
        BOOKMARK.replace("-", "_"),
        BOOKMARK.replace("00001", "-0001"),
        BOOKMARK.replace("1234", "12g4"),
        BOOKMARK.replace("1234", "12\u0663\u0664"),
    ],
)
def test_what_is_no_bookmark_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_bookmark(text)
    assert refused.value.hint
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_the_lock_byte_lies_in_its_page(page_size: int) -> None:
    page = lock_byte_page(page_size)
    assert (page - 1) * page_size <= 0x4000_0000 < page * page_size
