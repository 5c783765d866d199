"""INV-34: a reader decodes a page against the full snapshot's before anything else is in its place."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import msgspec
import pytest

from tests.engine.test_recall import Recalled, page as recalled_page
from walrep.core.objects import SnapshotFooter, SnapshotHeader
from walrep.core.snapshot import (
    SnapshotPages,
    delta_block_pages,
    encode_snapshot_end,
    encode_snapshot_pages,
    encode_snapshot_start,
    read_snapshot,
    snapshot_block_pages,
)
from walrep.core.target import AtTxid
from walrep.core.units import Txid
from walrep.engine.restorer import RestoreRequest, restore
from walrep.errors import CorruptObject, RestoreMismatch
from walrep.testing.clock import SimClock
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import memory_store, restore_to

PAGE = 512
T = TypeVar("T")


def page(value: int, size: int = PAGE) -> bytes:
    return Random(value).randbytes(size)


def touched(content: bytes, value: int) -> bytes:
    """Return a page of which a few bytes are others."""
    return content[:40] + page(value, 20) + content[60:]


def build() -> tuple[HistoryBuilder, str, str]:
    """A base, a full snapshot at 2, a differential one at 5 against its pages, and two transactions more."""
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: page(pgno) for pgno in range(1, 30)}, 1000)
    keys = []
    for txid in range(1, 8):
        # It shrinks, and grows again.
        size = {3: 20, 4: 25}.get(txid, 29)
        changed = [(pgno, touched(builder.image[pgno], 100 * txid + pgno)) for pgno in range(txid, 20, 3)]
        grown = [(pgno, page(1000 * txid + pgno)) for pgno in range(21, size + 1) if pgno not in builder.image]
        builder.commit(changed + grown, size, 1000 + txid * 1000)
        builder.seal()
        if txid == 2:
            keys.append(builder.snapshot(3500))
        elif txid == 5:
            keys.append(builder.snapshot(6500, full_txid=2, delta=True, repeated=(4, 6)))
    return builder, keys[0], keys[1]


def blocks_of(data: bytes) -> tuple[SnapshotHeader, list[SnapshotPages], SnapshotFooter]:
    header, *blocks, footer = read_snapshot(io.BytesIO(data).read)
    assert isinstance(header, SnapshotHeader)
    assert isinstance(footer, SnapshotFooter)
    return header, [block for block in blocks if isinstance(block, SnapshotPages)], footer


def with_block(data: bytes, block: bytes) -> tuple[bytes, int]:
    """Return a snapshot with one block more at the end, and where that begins."""
    header, blocks, footer = blocks_of(data)
    end = len(data) - len(encode_snapshot_end(footer, 0))
    made = data[:end] + block
    footer = msgspec.structs.replace(footer, block_count=len(blocks) + 1)
    assert made.startswith(encode_snapshot_start(header))
    return made + encode_snapshot_end(footer, len(made)), end


def leave_snapshots(builder: HistoryBuilder) -> None:
    """Let go of what else leads to the differential one, as retention does."""
    for key in builder.packable()[:5]:
        del builder.objects[key]


def test_every_transaction_is_restored_on_top_of_references(tmp_path: Path) -> None:
    builder, _full, differential = build()
    _header, blocks, _footer = blocks_of(builder.objects[differential])
    assert sum(len(block.pgnos) for block in blocks if block.is_delta) > 10
    for txid in range(8):
        output = tmp_path / f"{txid}.db"
        outcome = restore_to(output, builder.objects, AtTxid(Txid(txid)))
        assert output.read_bytes() == builder.states[builder.timeline, txid]
        assert (outcome.plan.snapshot.key == differential) == (txid >= 5)


@pytest.mark.parametrize("pgno", [30, 300, (1 << 32) - 2])
def test_a_page_of_which_the_full_one_has_nothing_is_refused(tmp_path: Path, pgno: int) -> None:
    builder, _full, differential = build()
    block = encode_snapshot_pages([pgno], [page(1)], [page(2)])
    builder.objects[differential], offset = with_block(builder.objects[differential], block)
    output = tmp_path / "o.db"
    outcome = restore_to(output, builder.objects, AtTxid(Txid(6)))
    assert output.read_bytes() == builder.states[builder.timeline, 6]
    (told,) = [notice for notice in outcome.notices if differential in notice]
    assert f"the full snapshot has nothing of page {pgno}" in told
    output.unlink()
    leave_snapshots(builder)
    with pytest.raises(CorruptObject) as caught:
        restore_to(output, builder.objects, AtTxid(Txid(5)))
    assert (caught.value.offset, caught.value.detail) == (offset, differential)
    assert list(tmp_path.iterdir()) == []


def test_a_page_beyond_the_end_of_the_full_one_is_refused(tmp_path: Path) -> None:
    """It stands in that object, as it was copied before the database shrank, and is not part of it."""
    builder, full, differential = build()
    builder.objects[full], _offset = with_block(builder.objects[full], encode_snapshot_pages([30], [page(2)]))
    block = encode_snapshot_pages([30], [page(1)], [page(2)])
    builder.objects[differential], offset = with_block(builder.objects[differential], block)
    leave_snapshots(builder)
    with pytest.raises(CorruptObject, match="the full snapshot has nothing of page 30") as caught:
        restore_to(tmp_path / "o.db", builder.objects, AtTxid(Txid(5)))
    assert (caught.value.offset, caught.value.detail) == (offset, differential)


def test_a_page_that_was_made_against_other_contents_is_refused(tmp_path: Path) -> None:
    """zstd decodes it without complaint; the database checksum tells."""
    builder, _full, differential = build()
    wrong = page(7777)
    block = encode_snapshot_pages([1], [touched(wrong, 1)], [wrong])
    data = builder.objects[differential]
    assert all(1 not in each.pgnos for each in blocks_of(data)[1])
    builder.objects[differential], _offset = with_block(data, block)
    leave_snapshots(builder)
    with pytest.raises(RestoreMismatch, match="database checksum of snapshot"):
        restore_to(tmp_path / "o.db", builder.objects, AtTxid(Txid(5)))
    assert list(tmp_path.iterdir()) == []


class LastFirst:
    """Runs what was asked for last before what was asked for earlier, if both are waited for at once."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._count = 0

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, after a while."""
        self._count += 1
        await self._clock.sleep(1 / self._count)
        return call()

    def close(self) -> None:
        """Do nothing."""


def test_batches_that_are_written_at_once_leave_the_references_in_their_places(tmp_path: Path) -> None:
    """A page that changed while it was copied stands in a batch behind that with its reference."""
    size = 65536
    builder = HistoryBuilder(size)
    builder.begin({pgno: page(pgno, size) for pgno in range(1, 101)}, 1000)
    under = dict(builder.image)
    for pgno in range(1, 101):
        builder.commit([(pgno, touched(under[pgno], pgno))], 100, 2000 + pgno)
    builder.seal()
    key = builder.snapshot(3000, full_txid=0, delta=True)
    header, _blocks, footer = blocks_of(builder.objects[key])
    data, count = encode_snapshot_start(header), 0
    for start in range(1, 101, delta_block_pages(size)):
        pgnos = range(start, min(101, start + delta_block_pages(size)))
        data += encode_snapshot_pages(pgnos, [touched(under[p], 9) for p in pgnos], [under[p] for p in pgnos])
        count += 1
    for start in range(1, 101, snapshot_block_pages(size)):
        pgnos = range(start, min(101, start + snapshot_block_pages(size)))
        data += encode_snapshot_pages(pgnos, [builder.image[p] for p in pgnos])
        count += 1
    footer = msgspec.structs.replace(footer, block_count=count)
    builder.objects[key] = data + encode_snapshot_end(footer, len(data))
    clock, output = SimClock(), tmp_path / "o.db"
    request = RestoreRequest(output=output, check="none")
    store = memory_store(builder.objects)
    outcome = clock.run(restore(store, request, clock=clock, runner=LastFirst(clock)))
    assert output.read_bytes() == builder.states[builder.timeline, 100]
    assert outcome.plan.snapshot.key == key
    assert not any(key in notice for notice in outcome.notices)


def test_who_reads_the_newest_full_one_does_not_take_a_differential_one_for_it(tmp_path: Path) -> None:
    recalled = Recalled(tmp_path / "state")
    builder, now_ms = recalled.builder, recalled.shipment.clock.now_ms()
    builder.begin({pgno: recalled_page(pgno) for pgno in range(1, 60)}, now_ms)
    builder.commit([(1, recalled_page(77))], 59, now_ms + 1000)
    builder.seal()
    key = builder.snapshot(now_ms + 2000, full_txid=0, delta=True)
    data = builder.objects.pop(key)
    builder.objects[key.partition("-diff-")[0] + "-full"] = data
    assert recalled.read() is None
    assert "another one than its key says" in recalled.told[0].failed
