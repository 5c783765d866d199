"""Restores from packs, byte for byte, and while packs replace what is being restored."""

from __future__ import annotations

import io
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.engine.test_restorer import PAGE, histories, names, page
from walrep.core.chunk import FLAG_REFERENCE, compress_pages
from walrep.core.container import BlockType, encode_block
from walrep.core.pack import read_pack
from walrep.core.segment import SegmentChunk
from walrep.core.target import AtTime, AtTxid, Latest
from walrep.core.units import Txid
from walrep.engine.fetch import read_history
from walrep.engine.restorer import RestoreRequest
from walrep.errors import CorruptObject, ObjectNotFound, RestoreMismatch
from walrep.runner import InlineRunner
from walrep.store.base import ObjectInfo
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.history import HistoryBuilder, image_pages
from walrep.testing.packs import make_pack
from walrep.testing.restores import restore_inline, restore_to


def all_packed(builder: HistoryBuilder) -> HistoryBuilder:
    """Pack every timeline whole, without its segments."""
    for timeline in {timeline for timeline, _txid in builder.states}:
        if builder.packable(timeline):
            builder.pack(builder.packable(timeline))
    return builder


def restore_all(builder: HistoryBuilder, *, cache_bytes: int = 64 << 20) -> None:
    """Restore every transaction of every timeline, and compare it with the model."""
    with tempfile.TemporaryDirectory() as directory:
        for index, ((timeline, txid), state) in enumerate(builder.states.items()):
            output = Path(directory, f"{index}.db")
            request = RestoreRequest(
                output=output,
                target=AtTxid(Txid(txid)),
                timeline=timeline,
                check="none",
                cache_bytes_max=cache_bytes,
            )
            outcome = restore_inline(builder.objects, request)
            assert output.read_bytes() == state
            assert outcome.bookmark == str(builder.positions[timeline, txid])
            assert outcome.notices == ()
        assert len(names(Path(directory))) == len(builder.states)


@given(histories(), st.sampled_from([PAGE, 64 << 20]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_transaction_is_restored_from_packs_alone(builder: HistoryBuilder, cache_bytes: int) -> None:
    restore_all(all_packed(builder), cache_bytes=cache_bytes)


@given(histories(), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_transaction_is_restored_from_packs_and_segments(builder: HistoryBuilder, data: st.DataObject) -> None:
    """Snapshots lie inside packs, packs inside packs, segments beside the packs that hold them."""
    for timeline in {timeline for timeline, _txid in builder.states}:
        parts = builder.packable(timeline)
        for _round in range(data.draw(st.integers(0, 3)) if parts else 0):
            first = data.draw(st.integers(0, len(parts) - 1))
            last = data.draw(st.integers(first + 1, len(parts)))
            parts[first:last] = [builder.pack(parts[first:last], keep=data.draw(st.booleans()))]
    restore_all(builder)


def steps(*segments: int, frames: int = 1, noise: bool = False) -> HistoryBuilder:
    """Segments of so many transactions, a second apart, each of so many frames; noise does not compress."""
    builder, dice = HistoryBuilder(PAGE), Random(5)
    builder.begin({pgno: page(pgno) for pgno in range(1, 9)}, 10_000)
    for segment in segments:
        for _transaction in range(segment):
            changes = [
                (1 + n % 8, dice.randbytes(PAGE) if noise else page(1000 * builder.txid + n)) for n in range(frames)
            ]
            builder.commit(changes, 8, 11_000 + 1000 * builder.txid)
        builder.seal()
    return builder


def test_from_a_snapshot_in_a_large_pack_only_what_is_needed_is_downloaded(tmp_path: Path) -> None:
    builder, dice = steps(*[4] * 50, noise=True), Random(6)
    builder.snapshot(10_000 + 1000 * builder.txid)
    for _segment in range(50):
        for _transaction in range(4):
            builder.commit([(1 + builder.txid % 8, dice.randbytes(PAGE))], 8, 11_000 + 1000 * builder.txid)
        builder.seal()
    key = builder.pack(builder.packable())
    pack_bytes = len(builder.objects[key])
    for txid in (201, 203, 204, 350, 352):
        outcome = restore_to(tmp_path / f"{txid}.db", builder.objects, AtTxid(Txid(txid)))
        assert (tmp_path / f"{txid}.db").read_bytes() == builder.states[builder.timeline, txid]
        # The end of the pack, which has its index, and the chunks behind the snapshot.
        assert outcome.downloaded_bytes < pack_bytes * 0.6
        # The replica object, the opening segment, the end of the pack; the chunk of the transaction; the snapshot; the
        # chunks before that one.
        in_chunk, alone = txid % 4 != 0, txid <= 204
        assert outcome.requests == {"list": 1, "get": 3 + in_chunk + 1 + (not (in_chunk and alone)), "head": 1}
        assert outcome.plan.requests == 1 + (not (in_chunk and alone))


def test_a_time_in_a_pack_takes_its_end_and_one_chunk(tmp_path: Path) -> None:
    builder = steps(4, 4, 40, noise=True)
    builder.pack(builder.packable())
    outcome = restore_to(tmp_path / "o.db", builder.objects, AtTime(16_500))
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 6]
    # The replica object, the opening segment, the end of the pack; the chunk; the snapshot; the chunk before it.
    assert outcome.requests == {"list": 1, "get": 6, "head": 1}
    assert (outcome.plan.requests, len(outcome.plan.slices)) == (2, 1)


def test_an_index_that_is_not_at_hand_is_asked_for(tmp_path: Path) -> None:
    """Of a large pack the end that a history reads does not hold all of the index."""
    builder = steps(*[1] * 2500)
    key = builder.pack(builder.packable())
    outcome = restore_to(tmp_path / "o.db", builder.objects, AtTxid(Txid(700)))
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 700]
    assert outcome.requests == {"list": 1, "get": 6, "head": 1}
    assert outcome.downloaded_bytes < len(builder.objects[key])


def test_a_dry_run_tells_packs_requests_and_bytes(tmp_path: Path) -> None:
    builder = steps(2, 2, 2, frames=70, noise=True)
    key = builder.pack(builder.packable()[:2])
    request = RestoreRequest(output=tmp_path / "o.db", check="none", dry_run=True)
    plan = restore_inline(builder.objects, request).plan
    size = len(builder.objects[key])
    assert (plan.slices[0].key, plan.slices[0].size_bytes) == (key, size)
    assert (plan.requests, plan.download_bytes) == (2, plan.snapshot.size_bytes + size)
    part = restore_inline(
        builder.objects, RestoreRequest(output=tmp_path / "o.db", target=AtTxid(Txid(2)), dry_run=True)
    )
    assert (part.plan.slices[0].key, part.plan.requests) == (key, 2)
    assert part.plan.slices[0].size_bytes < size * 0.6
    assert names(tmp_path) == []


class PackingStore(MemoryStore):
    """A store in which something is packed, and deleted at once, after a list or a get."""

    def __init__(self, builder: HistoryBuilder, pack: Callable[[dict[str, MemoryObject]], None]) -> None:
        super().__init__({key: MemoryObject(data, 0) for key, data in builder.objects.items()})
        self.list_count = 0
        self.gets: list[str] = []
        self.pack_after_get = ""
        self._pack = pack

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """List, then pack."""
        self.list_count += 1
        found = [info async for info in super().list(prefix, start_after=start_after, limit=limit)]
        if not self.pack_after_get:
            self._pack(self.objects)
        for info in found:
            yield info

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Get, then pack if it is this one."""
        data = await super().get(key, start=start, length=length)
        self.gets.append(key)
        if self.pack_after_get and key.startswith(self.pack_after_get):
            self._pack(self.objects)
        return data


def packer(*counts: int) -> Callable[[dict[str, MemoryObject]], None]:
    """Return what packs the first segments with transactions, or the packs: so many at the first call, and so on."""
    rest = list(counts)

    def pack(objects: dict[str, MemoryObject]) -> None:
        if not rest:
            return
        data = {key: each.data for key, each in objects.items()}
        keys = sorted(key for key in data if key.startswith("packs/"))
        keys += sorted(key for key in data if key.startswith("segments/"))[1:]
        chosen = keys[: rest.pop(0)]
        key, made = make_pack(data, chosen)
        for replaced in chosen:
            del objects[replaced]
        objects[key] = MemoryObject(made, 0)

    return pack


@pytest.mark.parametrize("target", [Latest(), AtTxid(Txid(5)), AtTime(15_500)])
@pytest.mark.parametrize("counts", [(2,), (4,), (2, 2)])
def test_what_was_packed_and_deleted_after_the_list_is_read_from_the_pack(
    tmp_path: Path, target: Latest | AtTxid | AtTime, counts: tuple[int, ...]
) -> None:
    builder = steps(2, 2, 2, 2)
    store = PackingStore(builder, packer(*counts))
    outcome = restore_to(tmp_path / "o.db", store, target)
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, outcome.txid]
    assert outcome.txid == (8 if target == Latest() else 5)
    assert outcome.requests["list"] == store.list_count == 1 + len(counts)


def test_what_was_packed_and_deleted_after_the_plan_is_the_same_transaction_from_the_pack(tmp_path: Path) -> None:
    """What was planned stays planned: a transaction that came meanwhile does not count."""
    builder = steps(2, 2, 2, frames=70, noise=True)
    first, second = builder.pack(builder.packable()[:1]), builder.pack(builder.packable()[:1])
    store = PackingStore(builder, packer(3))
    store.pack_after_get = "snapshots/"
    outcome = restore_to(tmp_path / "o.db", store)
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 6]
    assert (outcome.txid, store.list_count) == (6, 2)
    (part,) = outcome.plan.slices
    assert part.key not in {first, second}
    assert store.gets.count(part.key) == 2


def test_what_is_stored_while_a_restore_plans_anew_does_not_count(tmp_path: Path) -> None:
    """Latest was decided with the first plan: bookmark and transaction that were told stay true."""
    builder = steps(2, 2, 2, frames=70, noise=True)
    for _pack in range(2):
        builder.pack(builder.packable()[:1])
    builder.commit([(1, page(1))], 8, 30_000)
    key = builder.seal()
    added, pack_all = MemoryObject(builder.objects.pop(key), 0), packer(3)

    def pack(objects: dict[str, MemoryObject]) -> None:
        pack_all(objects)
        objects[key] = added

    store = PackingStore(builder, pack)
    store.pack_after_get = "snapshots/"
    outcome = restore_to(tmp_path / "o.db", store)
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 6]
    assert (outcome.txid, store.list_count) == (6, 2)


def test_a_replica_that_keeps_changing_is_given_up_after_three_lists(tmp_path: Path) -> None:
    builder = steps(*[1] * 8)
    store = PackingStore(builder, packer(2, 2, 2, 2))
    with pytest.raises(ObjectNotFound):
        restore_to(tmp_path / "o.db", store)
    assert store.list_count == 3
    assert names(tmp_path) == []


async def test_a_history_is_read_again_when_what_was_listed_is_gone() -> None:
    builder = steps(2, 2, 2, 2)
    store = PackingStore(builder, packer(2, 2))
    history = await read_history(store, InlineRunner())
    assert store.list_count == 3
    assert history.problems == ()
    assert history.timelines[0].ranges[-1].last_txid == 8
    with pytest.raises(ObjectNotFound):
        await read_history(PackingStore(steps(*[1] * 8), packer(2, 2, 2)), InlineRunner())


async def test_segments_that_a_pack_replaces_are_not_read() -> None:
    builder = steps(2, 2, 2, 2)
    keys = builder.packable()
    builder.pack(keys[:3], keep=True)
    store = PackingStore(builder, packer())
    history = await read_history(store, InlineRunner())
    assert history.problems == ()
    assert [each.key for each in history.timelines[0].spares] == keys[:3]
    assert len(store.gets) == 4
    assert not set(store.gets) & set(keys[:3])


# -- damage ------------------------------------------------------------------------------------------------------------


def damaged(builder: HistoryBuilder, key: str, at: float) -> None:
    """Change one byte of an object."""
    data = bytearray(builder.objects[key])
    data[int(at * len(data))] ^= 1
    builder.objects[key] = bytes(data)


@pytest.mark.parametrize("at", [0.05, 0.3, 0.6, 0.8, 0.999])
@pytest.mark.parametrize("target", [Latest(), AtTxid(Txid(3)), AtTime(13_500)])
def test_a_damaged_pack_gives_way_to_what_it_replaced(
    tmp_path: Path, at: float, target: Latest | AtTxid | AtTime
) -> None:
    builder = steps(2, 2, 2, frames=70, noise=True)
    key = builder.pack(builder.packable(), keep=True)
    damaged(builder, key, at)
    outcome = restore_to(tmp_path / "o.db", builder.objects, target)
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, outcome.txid]
    assert outcome.txid == (6 if target == Latest() else 3)
    # Damage behind what was needed nobody meets; that of the end of the object the history tells.
    if target == Latest() and at < 0.99:
        assert any(key in notice and "is damaged" in notice for notice in outcome.notices)


@pytest.mark.parametrize("at", [0.05, 0.3, 0.6])
def test_a_damaged_pack_whose_segments_are_gone_is_an_error_with_its_place(tmp_path: Path, at: float) -> None:
    builder = steps(2, 2, 2, frames=70, noise=True)
    key = builder.pack(builder.packable())
    damaged(builder, key, at)
    with pytest.raises(CorruptObject) as caught:
        restore_to(tmp_path / "o.db", builder.objects)
    assert key in caught.value.detail
    assert names(tmp_path) == []


def with_other_pages(builder: HistoryBuilder, data: bytes) -> bytes:
    """Return a pack whose first chunk has other pages of the same compressed size, every block right in itself."""
    chunk = next(item for item in read_pack(io.BytesIO(data).read) if isinstance(item, SegmentChunk))
    base = image_pages(builder.states[builder.timeline, 0], PAGE)
    table = chunk.table
    references = [base[pgno] for pgno, flag in zip(table.pgnos, table.flags, strict=True) if flag & FLAG_REFERENCE]
    bodies = (compress_pages([Random(n).randbytes(PAGE)] * len(table.pgnos), references) for n in range(100))
    body = next(body for body in bodies if len(body) == len(chunk.body))
    block = encode_block(BlockType.CHUNK, chunk.head, body)
    return data[: chunk.offset] + block + data[chunk.offset + chunk.block_bytes :]


def test_a_pack_whose_content_is_another_one_is_noticed_by_the_database_checksum(tmp_path: Path) -> None:
    builder = steps(1, 2, 2, noise=True)
    key = builder.pack(builder.packable(), keep=True)
    builder.objects[key] = with_other_pages(builder, builder.objects[key])
    outcome = restore_to(tmp_path / "o.db", builder.objects)
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 5]
    assert any("database checksum" in notice for notice in outcome.notices)
    for segment in builder.packable():
        del builder.objects[segment]
    with pytest.raises(RestoreMismatch):
        restore_to(tmp_path / "p.db", builder.objects)
    assert names(tmp_path) == ["o.db"]


def test_a_part_of_a_pack_that_does_not_follow_the_snapshot_is_refused(tmp_path: Path) -> None:
    """The snapshot inside the pack is of another database with the same numbers."""
    builder, other = steps(2, 2), HistoryBuilder(PAGE)
    other.begin({pgno: page(99 + pgno) for pgno in range(1, 9)}, 10_000)
    other.commit([(1, page(5))], 8, 11_000)
    other.commit([(2, page(6))], 8, 12_000)
    other.seal()
    key = other.snapshot(12_000)
    builder.objects[key] = other.objects[key]
    builder.pack(builder.packable())
    with pytest.raises(RestoreMismatch, match="the state before packs/"):
        restore_to(tmp_path / "o.db", builder.objects)
    assert names(tmp_path) == []
