"""The hash array against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from xxhash import xxh3_64_intdigest

from walrep.core.pages import PageHashes, page_hash
from walrep.errors import InvariantViolated

PGNOS = st.integers(1, 40)
HASHES = st.integers(0, (1 << 64) - 1)
STEPS = st.one_of(
    st.tuples(st.just("set"), st.tuples(PGNOS, HASHES)),
    st.tuples(st.just("many"), st.lists(st.tuples(PGNOS, HASHES), max_size=8)),
    st.tuples(st.just("commit"), st.integers(1, 40)),
)


class ModelHashes:
    """The same in a dictionary, the checksum computed from scratch."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}
        self.page_count = 0

    def commit(self, page_count: int) -> None:
        """Drop what lies beyond the size."""
        self.of = {pgno: value for pgno, value in self.of.items() if pgno <= page_count}
        self.page_count = page_count

    def checksum(self) -> int:
        """Return the XOR of all hashes."""
        total = 0
        for value in self.of.values():
            total ^= value
        return total


@settings(deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_the_array_is_a_dictionary_with_a_checksum(steps: list[tuple[str, object]]) -> None:
    """Set, set many, commit, shrink and grow again, in any order."""
    hashes, model = PageHashes(), ModelHashes()
    for kind, value in steps:
        if kind == "set":
            assert isinstance(value, tuple)
            hashes.set(*value)
            model.of[value[0]] = value[1]
        elif kind == "many":
            assert isinstance(value, list)
            hashes.set_many(np.array([p for p, _ in value], np.uint32), np.array([h for _, h in value], np.uint64))
            hashes.rebuild()
            model.of.update(value)
        else:
            assert isinstance(value, int)
            hashes.commit(value)
            model.commit(value)
        assert hashes.checksum == model.checksum()
        assert {p: h for p, h in enumerate(hashes.slots) if h} == {p: h for p, h in model.of.items() if h}
        assert hashes.highest >= max((p for p, h in model.of.items() if h), default=0)
    hashes.commit(model.page_count)
    model.commit(model.page_count)
    again = PageHashes.from_bytes(hashes.to_bytes())
    assert (again.checksum, again.page_count) == (model.checksum(), model.page_count)
    assert list(again.slots) == list(hashes.slots)[: model.page_count + 1]


def test_a_page_that_comes_back_after_a_shrink_has_no_old_hash() -> None:
    hashes = PageHashes()
    hashes.set(1, 5)
    hashes.set(9, 7)
    hashes.commit(9)
    hashes.commit(3)
    assert (hashes.slots[9], hashes.checksum) == (0, 5)
    hashes.set(9, 7)
    hashes.commit(9)
    assert hashes.checksum == 5 ^ 7


def test_pages_that_one_transaction_writes_and_cuts_off_are_absent() -> None:
    hashes = PageHashes()
    hashes.set(1, 5)
    hashes.set(12, 9)
    hashes.commit(4)
    assert (hashes.slots[12], hashes.checksum, hashes.page_count) == (0, 5, 4)


def test_an_empty_array_round_trips() -> None:
    again = PageHashes.from_bytes(PageHashes().to_bytes())
    assert (again.checksum, again.page_count) == (0, 0)


def test_bytes_without_a_slot_are_refused() -> None:
    with pytest.raises(InvariantViolated):
        PageHashes.from_bytes(b"")


def test_a_page_hash_depends_on_content_and_number_and_is_never_the_absent_0() -> None:
    page = bytes(512)
    assert page_hash(page, 3) == xxh3_64_intdigest(page, 3)
    assert len({page_hash(page, 1), page_hash(page, 2), page_hash(b"\1" + page[1:], 1)}) == 3
    assert page_hash(memoryview(page), 3) == page_hash(page, 3) != 0
