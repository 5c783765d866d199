"""What a restore refuses, and that nothing is at the target then."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from walrep.core import chunk
from walrep.core.names import segment_key
from walrep.core.target import AtTxid
from walrep.core.units import Txid
from walrep.engine.restorer import RestoreProgress, RestoreRequest, restore
from walrep.errors import (
    CorruptObject,
    ObjectNotFound,
    RestoreError,
    RestoreMismatch,
    TargetNotFound,
)
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryStore
from walrep.testing.clock import SimClock
from walrep.testing.faults import Fault, FaultyStore, ScriptedFaults
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import memory_store, restore_inline, restore_to

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


def assert_refused(objects: Mapping[str, bytes], directory: Path, *errors: type[Exception]) -> Exception:
    output = directory / "o.db"
    with pytest.raises(errors) as caught:
        restore_to(output, objects)
    assert names(directory) == []
    return caught.value


def test_a_flipped_bit_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    """Every object, every 7th byte: either an error and nothing at the target, or the right bytes."""
    builder = small()
    expected = builder.states[builder.timeline, 3]
    refused = 0
    for key, data in builder.objects.items():
        for at in range(0, len(data), 7):
            objects = {**builder.objects, key: data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]}
            try:
                restore_to(tmp_path / "o.db", objects)
            except (CorruptObject, RestoreError):
                refused += 1
                assert names(tmp_path) == []
            else:
                assert (tmp_path / "o.db").read_bytes() == expected
                (tmp_path / "o.db").unlink()
    assert refused > 100


@pytest.mark.parametrize("length", [0, 10, 16, 100, -20, -1])
def test_a_truncated_object_is_refused(tmp_path: Path, length: int) -> None:
    builder = small()
    for key in builder.objects:
        if key not in {"replica", segment_key(1)}:
            objects = {**builder.objects, key: builder.objects[key][:length]}
            assert_refused(objects, tmp_path, CorruptObject, TargetNotFound)


def test_the_key_of_a_corrupt_object_is_named(tmp_path: Path) -> None:
    builder = small()
    key = next(key for key in builder.objects if key.startswith("snapshots/"))
    error = assert_refused({**builder.objects, key: builder.objects[key][:-1]}, tmp_path, CorruptObject)
    assert key in str(error)


def test_a_wrong_reference_is_noticed_although_zstd_does_not(tmp_path: Path) -> None:
    """A base that differs in one page, with its own right checksum, under the segments of another."""
    builder, other = small(), HistoryBuilder(PAGE)
    other.begin({1: page(1), 2: page(99), 3: page(3)}, 10_000)
    key = next(key for key in builder.objects if key.startswith("snapshots/"))
    error = assert_refused({**builder.objects, key: other.objects[key]}, tmp_path, RestoreMismatch)
    assert "before segments/" in str(error)


def test_a_wrong_transaction_checksum_is_noticed(tmp_path: Path) -> None:
    """The segment is well-formed and its footer is right, but a transaction in the middle is not what it says."""
    builder = small()
    wrong = small()
    wrong_commit = chunk.Commit(3, 12345, 11_000, 10_990)
    wrong.image, wrong.txid = dict(builder.image), builder.txid
    wrong.commit([(1, page(50))], 4, 14_000)
    wrong.commit([(1, page(51))], 4, 15_000)
    frame = wrong._frames[0]
    wrong._frames[0] = msgspec.structs.replace(frame, commit=wrong_commit)
    wrong.seal()
    error = assert_refused(wrong.objects, tmp_path, RestoreMismatch)
    assert "transaction 4" in str(error)


def test_a_snapshot_under_the_key_of_another_position_is_refused(tmp_path: Path) -> None:
    builder = small()
    base = next(key for key in builder.objects if key.startswith("snapshots/"))
    later = builder.snapshot(20_000)
    objects = {**builder.objects, later: builder.objects[base], base: builder.objects[later]}
    assert_refused(objects, tmp_path, RestoreMismatch)


def test_damage_behind_the_target_does_not_matter(tmp_path: Path) -> None:
    builder = HistoryBuilder(65536)
    builder.begin({1: os.urandom(65536)}, 10_000)
    for txid in range(8):
        builder.commit([(1, os.urandom(65536))], 1, 11_000 + txid)
    key = builder.seal()
    data = bytearray(builder.objects[key])
    data[len(data) - 3 * 65536] ^= 1
    objects = {**builder.objects, key: bytes(data)}
    with pytest.raises(CorruptObject):
        restore_to(tmp_path / "latest.db", objects)
    with pytest.raises(CorruptObject):
        restore_to(tmp_path / "inside.db", objects, AtTxid(Txid(2)))
    assert names(tmp_path) == []


def test_an_object_that_is_gone_is_planned_around(tmp_path: Path) -> None:
    """A newer snapshot vanishes between the list and its reading: the older one and more segments do."""
    builder = small()
    key = builder.snapshot(20_000)
    store = memory_store(builder.objects)

    class Vanishing(MemoryStore):
        async def get(self, key_: str, *, start: int = 0, length: int | None = None) -> bytes:
            if key_ == key:
                self.objects.pop(key, None)
            return await super().get(key_, start=start, length=length)

    outcome = restore_to(tmp_path / "o.db", Vanishing(store.objects))
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 3]
    assert outcome.requests["list"] == 2
    assert outcome.plan.snapshot.name.txid == 0
    assert names(tmp_path) == ["o.db"]


def test_an_object_that_stays_gone_is_an_error_after_three_attempts(tmp_path: Path) -> None:
    gone = Fault(verb="get", number=5, always=True, error=lambda: ObjectNotFound("no such object"))
    store = FaultyStore(memory_store(small().objects), ScriptedFaults(gone))
    with pytest.raises(ObjectNotFound):
        restore_to(tmp_path / "o.db", store)
    assert len(store.struck) == 3
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", range(1, 6))
def test_a_store_that_fails_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    store = FaultyStore(memory_store(small().objects), ScriptedFaults(Fault(verb="get", number=number)))
    with pytest.raises(Exception, match="the store did not answer"):
        restore_to(tmp_path / "o.db", store)
    assert len(store.struck) == 1
    assert names(tmp_path) == []


def test_a_restore_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    builder = small()

    class Stuck(MemoryStore):
        async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
            if key.startswith("snapshots/"):
                await asyncio.Event().wait()
            return await super().get(key, start=start, length=length)

    clock = SimClock()

    async def main() -> None:
        store = Stuck(memory_store(builder.objects).objects)
        request = RestoreRequest(output=tmp_path / "o.db")
        async with asyncio.timeout(10):
            await restore(store, request, clock=clock, runner=InlineRunner())

    with pytest.raises(TimeoutError):
        clock.run(main())
    assert names(tmp_path) == []


def test_a_snapshot_that_contradicts_its_own_checksum_is_named(tmp_path: Path) -> None:
    builder = HistoryBuilder(PAGE)
    builder.begin({1: page(1), 2: page(2)}, 10_000, base=False)
    right = builder.image
    builder.image = {1: page(1), 2: page(3)}
    key = builder.snapshot(10_000)
    builder.image = right
    # The same length and position, other pages: only the checksum of the pages tells.
    other = HistoryBuilder(PAGE)
    other.begin(right, 10_000)
    footer = len(builder.objects[key]) - builder.objects[key].rindex(b"\x04\0\0\0")
    spliced = other.objects[key][: -(len(other.objects[key]) - other.objects[key].rindex(b"\x04\0\0\0"))]
    assert len(spliced) == len(builder.objects[key]) - footer
    error = assert_refused(
        {**builder.objects, key: spliced + builder.objects[key][-footer:]}, tmp_path, RestoreMismatch
    )
    assert f"snapshot {key}" in str(error)


def test_a_file_that_does_not_read_back_as_written_is_refused(tmp_path: Path) -> None:
    """Somebody, or the disk, changes a page after it was written."""

    def tamper(progress: RestoreProgress) -> None:
        if progress.phase == "segments":
            (temporary,) = tmp_path.iterdir()
            with temporary.open("r+b") as file:
                file.write(b"\xff")

    builder = HistoryBuilder(PAGE)
    builder.begin({1: page(1), 2: page(2)}, 10_000)
    builder.commit([(2, page(3))], 2, 11_000)
    builder.seal()
    with pytest.raises(RestoreMismatch, match="read back"):
        restore_inline(builder.objects, RestoreRequest(output=tmp_path / "o.db", check="none"), progress=tamper)
    assert names(tmp_path) == []
