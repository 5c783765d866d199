"""Journal entries: they round trip, and move a hash array as a dictionary would, once or twice."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from walrep.core.chunk import FLAG_COMMIT, ChunkTable, Commit
from walrep.core.encoder import ChunkJob
from walrep.core.journal import JournalEntry, apply_entry, decode_entry, encode_entry, entry_from_job
from walrep.core.pages import PageHashes
from walrep.core.state import CaptureMark
from walrep.errors import CorruptObject

MARK = CaptureMark((1, 2), 3, (4, 5))


def make_entry(
    pgnos: Sequence[int], hashes: Sequence[int], cuts: list[tuple[int, int]], pages_after: int
) -> JournalEntry:
    """Return an entry that gives pages new hashes, and drops pages at some places."""
    table = ChunkTable(0, [1], bytes([FLAG_COMMIT]), [Commit(pages_after, 5, 1000, 900)])
    return msgspec.structs.replace(
        entry_from_job(ChunkJob(table, [7], [], [], [bytes(512)], 5, pages_after), MARK),
        pgnos=np.array(pgnos, "<u4").tobytes(),
        hashes=np.array(hashes, "<u8").tobytes(),
        cuts=cuts,
        block=b"",
    )


@st.composite
def entries(draw: st.DrawFn) -> JournalEntry:
    count = draw(st.integers(1, 12))
    pgnos = draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    hashes = draw(st.lists(st.integers(1, (1 << 64) - 1), min_size=count, max_size=count))
    places = sorted(draw(st.sets(st.integers(0, count - 1), max_size=3)))
    cuts = [(place, draw(st.integers(1, 20))) for place in places]
    after = max(*pgnos[places[-1] + 1 if places else 0 :], cuts[-1][1] if cuts else 20, 1)
    return make_entry(pgnos, hashes, cuts, after)


def apply_to_model(model: dict[int, int], entry: JournalEntry) -> None:
    pgnos = np.frombuffer(entry.pgnos, "<u4").tolist()
    hashes = np.frombuffer(entry.hashes, "<u8").tolist()
    cuts = dict(entry.cuts)
    for index, (pgno, value) in enumerate(zip(pgnos, hashes, strict=True)):
        model[pgno] = value
        if index in cuts:
            for gone in [pgno for pgno in model if pgno > cuts[index]]:
                del model[gone]


def slots(hashes: PageHashes) -> dict[int, int]:
    return {pgno: value for pgno, value in enumerate(hashes.slots) if value}


@settings(deadline=None)
@given(st.lists(entries(), min_size=1, max_size=6))
def test_entries_move_the_array_as_they_would_a_dictionary(history: list[JournalEntry]) -> None:
    hashes, model = PageHashes(), dict[int, int]()
    for entry in history:
        apply_entry(hashes, entry)
        apply_to_model(model, entry)
        assert slots(hashes) == model
        assert hashes.page_count == entry.pages_after
    hashes.rebuild()
    total = 0
    for value in model.values():
        total ^= value
    assert hashes.checksum == total


@settings(deadline=None)
@given(st.lists(entries(), min_size=1, max_size=6), st.integers(0, 6))
def test_applying_what_is_included_already_changes_nothing(history: list[JournalEntry], begun: int) -> None:
    """A kill may leave any beginning of the history in the log twice: entries are absolute."""
    once, twice = PageHashes(), PageHashes()
    for entry in history:
        apply_entry(once, entry)
    for entry in [*history[:begun], *history, *history]:
        apply_entry(twice, entry)
    assert slots(twice) == slots(once)
    assert twice.page_count == once.page_count


def test_an_entry_tells_what_its_chunk_holds() -> None:
    dice = random.Random(1)
    pages: list[bytes | memoryview] = [dice.randbytes(512) for _ in range(3)]
    commits = [Commit(2, 70, 1000, 900), Commit(3, 71, 2000, 1900)]
    table = ChunkTable(8, [1, 2, 3], bytes([FLAG_COMMIT, 0, FLAG_COMMIT]), commits)
    job = ChunkJob(table, [11, 12, 13], [(0, 2)], [], pages, 71, 3)
    entry = entry_from_job(job, MARK)
    assert (entry.mark, entry.txid_after, entry.checksum_after, entry.pages_after) == (MARK, 10, 71, 3)
    assert (entry.ends_transaction, entry.commit_count, entry.cuts) == (True, 2, [(0, 2)])
    assert (entry.first_looked_ms, entry.first_seen_ms, entry.last_seen_ms) == (900, 1000, 2000)
    assert np.frombuffer(entry.pgnos, "<u4").tolist() == [1, 2, 3]
    assert decode_entry(encode_entry(entry)) == entry


def test_a_chunk_that_ends_within_a_transaction_is_no_place_to_resume_from() -> None:
    table = ChunkTable(8, [1, 2], bytes([FLAG_COMMIT, 0]), [Commit(2, 70, 1000, 900)])
    entry = entry_from_job(ChunkJob(table, [11, 12], [], [], [bytes(512)] * 2, 5, 2), MARK)
    assert (entry.ends_transaction, entry.txid_after) == (False, 9)


@pytest.mark.parametrize("record", [b"", b"\xc0", b"\x90", msgspec.msgpack.encode({"mark": 1}), b"\xff" * 30])
def test_a_malformed_record_is_refused(record: bytes) -> None:
    with pytest.raises(CorruptObject):
        decode_entry(record)
