"""What fails around the outbox: the cache costs nothing, nothing is left behind, and nothing goes out unnamed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.disk.spooling import BASE, SpoolRig, page, restored_images
from walrep.core.units import format_seq
from walrep.disk.outbox import OutboxItem
from walrep.errors import SpoolError


def sealed_item(rig: SpoolRig) -> OutboxItem:
    rig.commit((2, page(102)))
    sealed = rig.seal()
    assert sealed is not None
    return sealed.item


def place(directory: Path) -> None:
    """Put a folder where a file is to be written: whatever replaces the file fails."""
    directory.unlink(missing_ok=True)
    directory.mkdir()


def test_a_cache_that_was_removed_is_made_again(rig: SpoolRig) -> None:
    item = sealed_item(rig)
    rig.spool.cache.rmdir()
    rig.spool.keep(item, cache_bytes_max=1 << 30)
    assert [path.name for path in rig.spool.cache.iterdir()] == [format_seq(item.seq)]


def test_what_the_cache_does_not_take_is_removed(rig: SpoolRig) -> None:
    item = sealed_item(rig)
    before = rig.spool.sealed_bytes
    rig.spool.cache.rmdir()
    rig.spool.cache.write_text("in the way")
    rig.spool.keep(item, cache_bytes_max=1 << 30)
    assert not item.path.exists()
    assert rig.spool.sealed_bytes == before - item.size_bytes


def test_what_stays_in_the_outbox_still_counts(rig: SpoolRig) -> None:
    item = sealed_item(rig)
    before = rig.spool.sealed_bytes
    rig.spool.cache.rmdir()
    rig.spool.cache.write_text("in the way")
    place(item.path)
    with pytest.raises(SpoolError):
        rig.spool.keep(item, cache_bytes_max=1 << 30)
    assert rig.spool.sealed_bytes == before


def test_a_segment_that_cannot_be_published_leaves_nothing(rig: SpoolRig) -> None:
    rig.commit((2, page(102)))
    outbox = rig.directory.path / "outbox"
    place(outbox / format_seq(2))
    before = sorted(outbox.iterdir())
    for _attempt in range(3):
        with pytest.raises(SpoolError):
            rig.seal()
    assert sorted(outbox.iterdir()) == before


def test_a_segment_that_the_state_does_not_name_does_not_wait_for_the_store(rig: SpoolRig, tmp_path: Path) -> None:
    """INV-15: it would be sealed again, and the store would hold the first one."""
    rig.commit((2, page(102)))
    path = rig.directory.path / "state.json"
    content = path.read_bytes()
    place(path)
    with pytest.raises(SpoolError):
        rig.seal()
    assert (rig.directory.path / "outbox" / format_seq(2)).exists()
    assert [item.seq for item in rig.spool.outbox()] == [1, 1]
    path.rmdir()
    path.write_bytes(content)
    assert rig.recover() is not None
    assert rig.seal() is not None
    assert [item.seq for item in rig.spool.outbox()] == [1, 1, 2]
    assert restored_images(rig.directory.path, tmp_path / "store") == rig.images


def test_what_was_captured_behind_a_base_that_was_not_published_is_let_go(rig: SpoolRig, tmp_path: Path) -> None:
    """It belongs to no timeline: nothing is sealed of it, and the next timeline begins."""
    rig.commit((2, page(102)))
    rig.seal()
    rig.open()
    rig.commit((3, page(103)))
    assert rig.spool.totals.commit_count == 1
    assert rig.seal() is None
    assert rig.spool.recover() is None
    assert rig.spool.totals.commit_count == 0
    rig.begin(BASE)
    rig.commit((4, page(104)))
    assert rig.seal() is not None
    assert restored_images(rig.directory.path, tmp_path / "store") == rig.images
