"""A listing that lags behind is no reason to restore something older. INV-33."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from walrep.core.census import next_segment
from walrep.core.names import segment_key
from walrep.core.state import STATE_FORMAT, LocalState
from walrep.core.target import AtBookmark, AtTime, AtTxid, Latest, Target, depends_on_end
from walrep.core.units import Checksum, Position, Seq, Txid
from walrep.disk.peek import parse_segment_header
from walrep.engine.lineage import check_store
from walrep.engine.pins import keep
from walrep.engine.planning import Wanted
from walrep.engine.restorer import RestoreRequest
from walrep.errors import AccessDenied, ReplicaConflict, StoreUnavailable
from walrep.runner import InlineRunner
from walrep.store.base import ObjectInfo
from walrep.store.memory import MemoryStore
from walrep.testing.clock import SimClock
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import memory_store, restore_inline, restore_to

FIRST = segment_key(1)


def builder_of(count: int) -> HistoryBuilder:
    """Return a history with so many segments of a transaction each."""
    builder = HistoryBuilder()
    builder.begin({1: bytes(512)}, 10_000)
    for number in range(count):
        builder.commit([(1, bytes([number + 1]) * 512)], 1, 11_000 + 1000 * number)
        builder.seal()
    return builder


class LaggingStore(MemoryStore):
    """A store of which the first listings, so many of them, lack the newest segments, so many of them."""

    def __init__(self, builder: HistoryBuilder, *, listings: int, missing: int) -> None:
        super().__init__(memory_store(builder.objects).objects)
        self.left, self._missing = listings, missing

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """List what the store is willing to show."""
        newest = sorted(key for key in self.objects if key.startswith("segments/"))[-self._missing :]
        hidden = newest if self.left > 0 else []
        self.left -= 1
        async for info in super().list(prefix, start_after=start_after, limit=limit):
            if info.key not in hidden:
                yield info


class UnlookedStore(LaggingStore):
    """One that lets nobody look for what is not there."""

    async def head(self, key: str) -> ObjectInfo:
        """Refuse."""
        raise AccessDenied("the store denied the request", detail=key)


@pytest.mark.parametrize("target", [Latest(), AtTime(14_000), AtTxid(Txid(2))])
@pytest.mark.parametrize("missing", [1, 2])
def test_what_the_end_decides_is_refused_while_listings_lack_it(tmp_path: Path, target: Target, missing: int) -> None:
    store = LaggingStore(builder_of(4), listings=9, missing=missing)
    with pytest.raises(StoreUnavailable, match="does not list an object that is there") as caught:
        restore_to(tmp_path / "o.db", store, target)
    assert caught.value.detail == segment_key(6 - missing)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_what_is_named_exactly_needs_no_end(tmp_path: Path) -> None:
    builder = builder_of(4)
    store = LaggingStore(builder, listings=9, missing=1)
    request = RestoreRequest(
        output=tmp_path / "o.db", target=AtTxid(Txid(2)), timeline=str(builder.timeline), check="none"
    )
    assert restore_inline(store, request).txid == 2
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 2]


@pytest.mark.parametrize("missing", [1, 3])
def test_a_segment_that_is_stored_behind_a_listing_is_restored(tmp_path: Path, missing: int) -> None:
    """The listing was right when it was made: a writer is at work."""
    builder = builder_of(4)
    store = LaggingStore(builder, listings=1, missing=missing)
    outcome = restore_to(tmp_path / "o.db", store)
    assert outcome.txid == 4
    assert outcome.requests["list"] == 2
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 4]


def test_where_nobody_may_look_for_it_a_listing_is_believed(tmp_path: Path) -> None:
    """Some stores say 403 of what is not there, to who may list a prefix only."""
    assert restore_to(tmp_path / "o.db", UnlookedStore(builder_of(4), listings=0, missing=1)).txid == 4


def test_what_is_newest_is_not_kept_by_a_listing_that_lacks_it() -> None:
    store = LaggingStore(builder_of(4), listings=9, missing=1)
    clock = SimClock()
    with pytest.raises(StoreUnavailable, match="does not list"):
        clock.run(keep(store, "name", Wanted(), clock=clock, runner=InlineRunner()))
    assert not [key for key in store.objects if key.startswith("pins/")]


async def test_a_start_waits_for_a_listing_that_lacks_what_was_acknowledged() -> None:
    """What is listed too late is not lost: nobody has to begin anew for it."""
    builder = builder_of(4)
    state = LocalState(
        format=STATE_FORMAT, replica="r", url="memory:", writer=builder.writer, next_seq=Seq(6), first_seq=Seq(1)
    )
    store = LaggingStore(builder, listings=1, missing=1)
    with pytest.raises(StoreUnavailable, match="does not list") as caught:
        await check_store(store, state, [])
    assert caught.value.detail == segment_key(5)
    assert caught.value.transient
    assert await check_store(store, state, []) == []
    del store.objects[segment_key(5)]
    with pytest.raises(ReplicaConflict, match="segment 5 is missing"):
        await check_store(store, state, [])


@pytest.mark.parametrize("becomes", ["packed", "lost"])
async def test_what_was_packed_behind_a_segment_of_which_the_answer_was_lost_is_not_lost(becomes: str) -> None:
    """Segment 5 is stored, but its writer does not know; so segment 4 was the newest only for the writer. INV-24."""
    builder = builder_of(4)
    if becomes == "packed":
        builder.pack(builder.packable()[:3])
    else:
        del builder.objects[segment_key(4)]
    assert segment_key(4) not in builder.objects
    state = LocalState(
        format=STATE_FORMAT, replica="r", url="memory:", writer=builder.writer, next_seq=Seq(6), first_seq=Seq(1)
    )
    waiting = parse_segment_header(builder.objects[segment_key(5)])
    store = memory_store(builder.objects)
    if becomes == "packed":
        assert await check_store(store, state, [waiting]) == []
    else:
        with pytest.raises(ReplicaConflict, match="segment 4 is missing"):
            await check_store(store, state, [waiting])


def test_the_next_segment_has_the_next_number_and_the_nonce_of_the_last() -> None:
    nonce = "0123456789abcdef"
    assert next_segment([]) == ("", FIRST)
    assert next_segment(["replica", segment_key(9), segment_key(10), "packs/x"]) == (segment_key(10), segment_key(11))
    assert next_segment([segment_key(3, nonce)])[1] == segment_key(4, nonce)


def test_only_a_position_in_a_named_timeline_is_exact() -> None:
    timeline = "00001-00000000"
    position = Position(builder_of(0).timeline, Txid(1), Checksum(1))
    assert [depends_on_end(target, timeline) for target in (Latest(), AtTime(1), AtTxid(Txid(1)))] == [
        True,
        True,
        False,
    ]
    assert depends_on_end(AtTxid(Txid(1)), None)
    assert not depends_on_end(AtBookmark(position), None)
