"""Golden files: what was written once is read for ever. `tests/golden/format-1/README.md` says what each is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from tests.golden.make import FOLDER, REFERENCES, build, build_references, describe, describe_packs, read_object
from walrep.core.chunk import encode_table
from walrep.core.index import IndexBuilder
from walrep.core.names import parse_pack_key, parse_segment_key, parse_snapshot_key
from walrep.core.pack import IndexBlock, encode_pack_end, encode_pack_start
from walrep.core.segment import SegmentChunk, encode_segment_end, encode_segment_start
from walrep.core.snapshot import SnapshotPages, encode_snapshot_end, encode_snapshot_pages, encode_snapshot_start
from walrep.core.target import AtTxid
from walrep.engine.restorer import RestoreRequest
from walrep.testing.restores import restore_inline

EXPECTED: dict[str, Any] = msgspec.json.decode((FOLDER / "expected.json").read_bytes())
EXPECTED_PACKS: dict[str, Any] = msgspec.json.decode((FOLDER / "expected-packs.json").read_bytes())
EXPECTED_REFERENCES: dict[str, Any] = msgspec.json.decode((REFERENCES / "expected.json").read_bytes())
DIFFERENTIALS = [key for key in EXPECTED_REFERENCES["objects"] if "-diff-" in key]
SEGMENTS = [key for key in EXPECTED["objects"] if key.startswith("segments/")]
SNAPSHOTS = [key for key in EXPECTED["objects"] if key.startswith("snapshots/")]


def test_every_object_and_every_state_is_as_recorded() -> None:
    found = describe(FOLDER)
    assert found["states"] == EXPECTED["states"]
    assert msgspec.to_builtins(found) == EXPECTED


def test_every_pack_is_as_recorded_and_holds_every_state() -> None:
    found = describe_packs(FOLDER)
    assert found["states"] == EXPECTED["states"]
    assert msgspec.to_builtins(found) == EXPECTED_PACKS


def test_the_golden_replica_has_what_its_readme_says() -> None:
    assert len(SEGMENTS) == 6
    assert len(SNAPSHOTS) == 2
    assert [len(hashes) for hashes in EXPECTED["states"].values()] == [7, 2]
    assert {key for key in SEGMENTS if parse_segment_key(key) is None} == set()
    assert {key for key in SNAPSHOTS if parse_snapshot_key(key) is None} == set()
    names = [parse_pack_key(key) for key in EXPECTED_PACKS["objects"]]
    assert [(name.first_txid, name.last_txid, name.first_seq, name.last_seq) for name in names if name] == [
        (1, 6, 2, 4)
    ]


@pytest.mark.parametrize("key", SEGMENTS)
def test_the_fixed_parts_of_a_segment_are_encoded_to_the_same_bytes(key: str) -> None:
    """Header, footer and tail are not compressed; a table is, so its plain form is compared."""
    data = (FOLDER / key).read_bytes()
    header, *chunks, footer = read_object(FOLDER / key)
    assert data.startswith(encode_segment_start(header))
    end = len(data) - len(encode_segment_end(footer, 0))
    assert data[end:] == encode_segment_end(footer, end)
    for chunk in chunks:
        assert isinstance(chunk, SegmentChunk)
        head_bytes = int.from_bytes(data[chunk.offset + 4 : chunk.offset + 8], "little")
        head = data[chunk.offset + 24 : chunk.offset + 24 + head_bytes]
        assert zstandard.decompress(encode_table(chunk.table)) == zstandard.decompress(head)


@pytest.mark.parametrize("key", EXPECTED_PACKS["objects"])
def test_the_fixed_parts_of_a_pack_are_encoded_to_the_same_bytes(key: str) -> None:
    """Its chunks are those of its segments; of its index, which is compressed, the plain form is compared."""
    data = (FOLDER / key).read_bytes()
    header, *items, footer = read_object(FOLDER / key)
    start = encode_pack_start(header)
    assert data.startswith(start)
    end = len(data) - len(encode_pack_end(footer, 0))
    assert data[end:] == encode_pack_end(footer, end)
    chunks = b"".join(
        (FOLDER / segment).read_bytes()[chunk.offset : chunk.offset + chunk.block_bytes]
        for segment in SEGMENTS[1:4]
        for chunk in read_object(FOLDER / segment)
        if isinstance(chunk, SegmentChunk)
    )
    assert data[len(start) : footer.index_offset] == chunks
    index = IndexBuilder(header)
    made = [index.add(item, item.offset) for item in items if isinstance(item, SegmentChunk)]
    assert [*filter(None, made), index.rest()] == [item.plain for item in items if isinstance(item, IndexBlock)]


@pytest.mark.parametrize("key", SNAPSHOTS)
def test_the_fixed_parts_of_a_snapshot_are_encoded_to_the_same_bytes(key: str) -> None:
    data = (FOLDER / key).read_bytes()
    header, *blocks, footer = read_object(FOLDER / key)
    assert data.startswith(encode_snapshot_start(header))
    for block in blocks:
        assert isinstance(block, SnapshotPages)
        content = block.decode(512)
        pages = [content[at : at + 512] for at in range(0, len(content), 512)]
        again = encode_snapshot_pages(block.pgnos, pages)
        head_bytes = int.from_bytes(again[4:8], "little")
        assert data[block.offset : block.offset + 8] == again[:8]
        assert data[block.offset + 24 :].startswith(again[24 : 24 + head_bytes])
    end = len(data) - len(encode_snapshot_end(footer, 0))
    assert data[end:] == encode_snapshot_end(footer, end)


def test_the_same_history_is_encoded_to_the_same_objects(tmp_path: Path) -> None:
    """A change of what is written is a new format version; what zstd makes of it may change with zstd."""
    build(tmp_path)
    assert msgspec.to_builtins(describe(tmp_path)) == EXPECTED
    assert msgspec.to_builtins(describe_packs(tmp_path)) == EXPECTED_PACKS


def test_every_differential_snapshot_and_every_state_on_top_is_as_recorded() -> None:
    found = describe(REFERENCES)
    assert found["states"] == EXPECTED_REFERENCES["states"]
    assert msgspec.to_builtins(found) == EXPECTED_REFERENCES
    assert [len(hashes) for hashes in EXPECTED_REFERENCES["states"].values()] == [4, 2]


@pytest.mark.parametrize("key", DIFFERENTIALS)
def test_a_differential_snapshot_of_then_is_restored(key: str, tmp_path: Path) -> None:
    blocks = EXPECTED_REFERENCES["objects"][key][1:-1]
    assert any(isinstance(block, dict) for block in blocks)
    name = parse_snapshot_key(key)
    assert name is not None
    paths = [path for path in REFERENCES.rglob("*") if path.is_file() and path.name != "expected.json"]
    objects = {path.relative_to(REFERENCES).as_posix(): path.read_bytes() for path in paths}
    outcome = restore_inline(
        objects,
        RestoreRequest(output=tmp_path / "o.db", target=AtTxid(name.txid), timeline=name.timeline, check="none"),
    )
    assert outcome.plan.snapshot.key == key
    restored = hashlib.sha256((tmp_path / "o.db").read_bytes()).hexdigest()
    assert restored == EXPECTED_REFERENCES["states"][name.timeline][name.txid]


def test_the_same_differential_snapshots_are_encoded_to_the_same_objects(tmp_path: Path) -> None:
    build_references(tmp_path)
    assert msgspec.to_builtins(describe(tmp_path)) == EXPECTED_REFERENCES
