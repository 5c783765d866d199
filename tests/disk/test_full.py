"""The hash array of the last full snapshot: there, or as if there had never been one."""

from __future__ import annotations

from pathlib import Path

import pytest

from walrep.core.names import SnapshotName
from walrep.core.snapshots import FullSnapshot
from walrep.core.units import Checksum, Seq, TimelineId, Txid
from walrep.disk.full import FullHashes, forget_full, load_full, save_full
from walrep.errors import SpoolError

NAME = SnapshotName(timeline=TimelineId("00001-01234567"), txid=Txid(7), seen_ms=9000, seq=Seq(3))
FULL = FullHashes(
    snapshot=FullSnapshot(replica="r", name=NAME, page_size=512, checksum=Checksum(5)), hashes=bytes(range(80))
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert load_full(tmp_path) is None
    save_full(tmp_path, FULL)
    assert load_full(tmp_path) == FULL
    other = FullHashes(snapshot=FULL.snapshot, hashes=bytes(8))
    save_full(tmp_path, other)
    assert load_full(tmp_path) == other
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_what_is_forgotten_is_not_loaded(tmp_path: Path) -> None:
    forget_full(tmp_path)
    save_full(tmp_path, FULL)
    forget_full(tmp_path)
    assert load_full(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_damage_anywhere_is_noticed(tmp_path: Path) -> None:
    """A hash that is not what the full snapshot has would leave a page out of the next ones."""
    save_full(tmp_path, FULL)
    path = tmp_path / "full"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert load_full(tmp_path) is None
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert load_full(tmp_path) is None


def test_a_whole_file_of_another_form_is_none(tmp_path: Path) -> None:
    """As one that a later version wrote."""
    save_full(tmp_path, FULL.snapshot)  # type: ignore[arg-type]
    assert load_full(tmp_path) is None


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    with pytest.raises(SpoolError):
        load_full(tmp_path)
