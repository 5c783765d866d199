"""Restores of every transaction, byte for byte, from replicas in memory."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, given, settings, strategies as st

from walrep.clock import SystemClock
from walrep.core.restore import PART_BYTES, WHOLE_BYTES_MAX
from walrep.core.target import AtTime, AtTxid
from walrep.core.units import Txid
from walrep.engine.pagefile import CACHE_BYTES_MAX, PageFile
from walrep.engine.restorer import RestoreRequest, restore
from walrep.runner import InlineRunner, ThreadRunner
from walrep.testing.clock import SimClock
from walrep.testing.history import HistoryBuilder, image_pages
from walrep.testing.restores import memory_store, restore_inline, restore_to

T = TypeVar("T")

PAGE = 512


def page(value: int) -> bytes:
    return value.to_bytes(4, "big") * (PAGE // 4)


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def small() -> HistoryBuilder:
    builder = HistoryBuilder(PAGE)
    builder.begin({1: page(1), 2: page(2), 3: page(3)}, 10_000)
    builder.commit([(2, page(20))], 3, 11_000)
    builder.commit([(3, page(30)), (1, page(10))], 3, 12_000)
    builder.seal()
    builder.commit([(4, page(40))], 4, 13_000)
    builder.seal()
    return builder


@st.composite
def histories(draw: st.DrawFn) -> HistoryBuilder:
    """Histories with shrinking and growing databases, transactions over chunks, snapshots and timelines."""
    builder = HistoryBuilder(PAGE)
    seen_ms = 10_000
    pages = st.integers(0, 1000).map(page)

    def image() -> dict[int, bytes]:
        return {pgno: draw(pages) for pgno in range(1, draw(st.integers(1, 12)) + 1)}

    builder.begin(image(), seen_ms)
    for _step in range(draw(st.integers(0, 12))):
        seen_ms += 100
        action = draw(st.sampled_from(["commit", "commit", "commit", "huge", "seal", "snapshot", "begin"]))
        if action in {"commit", "huge"}:
            size = draw(st.integers(1, 16))
            frames = draw(st.lists(st.tuples(st.integers(1, 20), pages), min_size=1, max_size=6))
            if action == "huge":
                frames = frames * (150 // len(frames))
            # Pages that the transaction adds have frames, as in SQLite.
            frames += [(pgno, draw(pages)) for pgno in range(builder.page_count + 1, size + 1)]
            builder.commit(frames, size, seen_ms)
        else:
            builder.seal()
        if action == "snapshot":
            builder.snapshot(seen_ms, repeated=draw(st.lists(st.sampled_from(sorted(builder.image)), max_size=3)))
        if action == "begin":
            builder.begin(image(), seen_ms, parent=builder.positions[builder.timeline, builder.txid])
    builder.seal()
    return builder


@given(histories(), st.sampled_from([PAGE, 8 * PAGE, CACHE_BYTES_MAX]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_transaction_of_a_history_is_restored_byte_for_byte(builder: HistoryBuilder, cache_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for index, ((timeline, txid), state) in enumerate(builder.states.items()):
            output = Path(directory, f"{index}.db")
            target = AtTxid(Txid(txid))
            request = RestoreRequest(
                output=output, target=target, timeline=timeline, check="none", cache_bytes_max=cache_bytes
            )
            outcome = restore_inline(builder.objects, request)
            assert output.read_bytes() == state
            assert outcome.bookmark == str(builder.positions[timeline, txid])
        assert len(names(Path(directory))) == len(builder.states)


def test_pages_that_were_cut_off_and_came_back_are_the_new_ones(tmp_path: Path) -> None:
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: page(pgno) for pgno in range(1, 9)}, 10_000)
    builder.commit([(1, page(100)), (7, page(107))], 3, 11_000)
    builder.commit([(pgno, page(200 + pgno)) for pgno in range(4, 7)], 6, 12_000)
    builder.seal()
    restore_to(tmp_path / "o.db", builder.objects)
    expected = [100, 2, 3, 204, 205, 206]
    assert (tmp_path / "o.db").read_bytes() == b"".join(map(page, expected))


def test_a_page_without_content_is_zeros_also_where_an_older_page_stood(tmp_path: Path) -> None:
    """The lock-byte page appears without a frame; here another page number stands for it."""
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: page(pgno) for pgno in range(1, 7)}, 10_000)
    builder.commit([(1, page(100))], 3, 11_000)
    builder.commit([(6, page(106))], 6, 12_000)
    builder.seal()
    restore_to(tmp_path / "o.db", builder.objects)
    assert (tmp_path / "o.db").read_bytes() == b"".join(map(page, [100, 2, 3, 0, 0, 106]))


def test_the_lock_byte_page_of_a_large_database_is_zeros(tmp_path: Path) -> None:
    """A file of 64 KiB pages that begins just below 1 GiB, so that only a few pages are written; the rest is a hole."""
    pages = PageFile(tmp_path / "p", 65536)
    with pages.using():
        for pgno in (1, 16384, 16386):
            pages.cache[pgno] = bytes([pgno % 251]) * 65536
            pages.hashes.set(pgno, 1)
        pages.hashes.commit(16386)
        pages.hashes.page_count = 16386
        pages.spill()
        assert pages.page(16385) is None
        assert pages.page(16386) == bytes([16386 % 251]) * 65536
    pages.discard()
    assert not (tmp_path / "p").exists()


def test_a_file_that_cannot_be_removed_hides_no_error(tmp_path: Path) -> None:
    """What fails while it is discarded comes second: the error that led there tells more."""
    folder = tmp_path / "folder"
    folder.mkdir()
    pages = PageFile(folder / "p", PAGE)
    folder.rename(tmp_path / "elsewhere")
    folder.write_bytes(b"no folder any more")
    pages.discard()
    assert (tmp_path / "elsewhere" / "p").exists()


def test_a_small_cache_writes_the_same_file(tmp_path: Path) -> None:
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: page(pgno) for pgno in range(1, 300)}, 10_000)
    for round_ in range(5):
        builder.commit([(pgno, page(1000 * round_ + pgno)) for pgno in range(1, 300, 1 + round_)], 299, 11_000 + round_)
    builder.seal()
    results = []
    for cache_bytes in (PAGE, 10 * PAGE, 1 << 20):
        pages = PageFile(tmp_path / f"{cache_bytes}", PAGE, cache_bytes_max=cache_bytes)
        state = builder.states[builder.timeline, 0]
        for pgno, content in image_pages(state, PAGE).items():
            pages.hashes.set(pgno, 1)
            pages.cache[pgno] = content
            pages.spill_if_full()
            assert len(pages.cache) * PAGE <= cache_bytes
        pages.hashes.page_count = 299
        assert pages.page(7) == page(7)
        pages.finish()
        pages.close()
        results.append(pages.path.read_bytes())
    assert results == [builder.states[builder.timeline, 0]] * 3


def test_large_segments_and_snapshots_come_in_parts(tmp_path: Path) -> None:
    """A snapshot of several parts and a segment larger than what is read whole."""
    builder = HistoryBuilder(65536)
    rows = {pgno: os.urandom(65536) for pgno in range(1, 2 + 2 * PART_BYTES // 65536)}
    builder.begin(rows, 10_000)
    for txid in range(8):
        builder.commit([(txid + 1, os.urandom(65536))], len(rows), 11_000 + 1000 * txid)
    key = builder.seal()
    assert len(builder.objects[key]) > WHOLE_BYTES_MAX
    outcome = restore_to(tmp_path / "o.db", builder.objects, AtTime(14_500))
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 4]
    # The list; the replica object, the opening segment, both ends of the large one and its record, which is kept;
    # three parts of the snapshot.
    assert outcome.requests == {"list": 1, "get": 1 + 1 + 2 + 1 + 3, "head": 1}
    assert outcome.plan.requests == 3 + 1


def test_two_threads_restore_the_same_bytes(tmp_path: Path) -> None:
    builder = HistoryBuilder(4096)
    image = {pgno: bytes([pgno % 256]) * 4000 + os.urandom(96) for pgno in range(1, 6000)}
    builder.begin(image, 10_000)
    builder.snapshot(10_001, repeated=[5, 4000, 17])
    builder.commit([(1, os.urandom(4096))], 5999, 11_000)
    builder.seal()
    runner = ThreadRunner(3, "restore")
    request = RestoreRequest(output=tmp_path / "o.db", check="none")
    asyncio.run(restore(memory_store(builder.objects), request, clock=SystemClock(), runner=runner))
    runner.close()
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 1]


def test_nothing_is_downloaded_twice(tmp_path: Path) -> None:
    builder = small()
    outcome = restore_to(tmp_path / "o.db", builder.objects, AtTxid(Txid(1)))
    # Replica object, three segments, one snapshot.
    assert outcome.requests == {"list": 1, "get": 5, "head": 1}
    assert outcome.downloaded_bytes == sum(map(len, builder.objects.values()))


class LaggingRunner(InlineRunner):
    """Begins each call later than the one after it, in virtual time: what may overtake does."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._lag_s = 1000.0

    async def run(self, call: Callable[[], T]) -> T:
        self._lag_s /= 2
        await self._clock.sleep(self._lag_s)
        return call()


def test_of_a_page_that_stands_twice_in_a_snapshot_the_last_counts_whichever_thread_is_first(tmp_path: Path) -> None:
    builder = HistoryBuilder(65536)
    builder.begin({pgno: bytes([pgno % 251]) * 65536 for pgno in range(1, 300)}, 10_000, base=False)
    builder.snapshot(10_000, repeated=[299, 150])
    clock = SimClock()
    request = RestoreRequest(output=tmp_path / "o.db", check="none")
    store = memory_store(builder.objects)
    clock.run(restore(store, request, clock=clock, runner=LaggingRunner(clock)))
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 0]
