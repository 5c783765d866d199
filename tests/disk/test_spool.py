"""The spool: what was captured is sealed, recovered and limited; a kill at any step loses no transaction."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.disk.spooling import BASE, SpoolRig, kill_points, mark_after, page, restored_images
from walrep.core.journal import entry_from_job
from walrep.core.merge import OpenChunk
from walrep.core.objects import SegmentHeader
from walrep.core.segment import SegmentChunk, read_segment
from walrep.core.units import format_seq
from walrep.errors import SpoolFull


def write_some(rig: SpoolRig) -> None:
    """Three transactions: a change, growth over two chunks, and a shrink."""
    rig.commit((2, page(102)), (3, page(103)))
    rig.commit(*[(pgno, page(200 + pgno)) for pgno in range(1, 81)], page_count=80)
    rig.commit((1, page(301)), page_count=3)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name not in {"lock", "outbox", "cache", "full"})


def test_what_is_sealed_is_every_transaction(rig: SpoolRig, tmp_path: Path) -> None:
    write_some(rig)
    assert rig.seal() is not None
    rig.commit((2, page(402)))
    assert rig.seal() is not None
    assert restored_images(rig.directory.path, tmp_path / "store") == rig.images
    position = rig.spool.state.position()
    assert position is not None
    assert (position.txid, position.checksum) == (4, rig.log.encoder.hashes.checksum)


def test_a_sealed_segment_says_what_it_holds(rig: SpoolRig) -> None:
    write_some(rig)
    sealed = rig.seal()
    assert sealed is not None
    assert (sealed.header.seq, sealed.header.txid_before, sealed.footer.txid_after) == (2, 0, 3)
    assert (sealed.footer.chunk_count, sealed.footer.frame_count, sealed.footer.pages_after) == (4, 83, 3)
    with sealed.item.path.open("rb") as file:
        items = list(read_segment(file.read))
    assert (items[0], items[-1]) == (sealed.header, sealed.footer)
    assert sealed.item.size_bytes == sealed.item.path.stat().st_size


def test_nothing_pending_is_not_sealed(rig: SpoolRig) -> None:
    assert rig.seal() is None
    write_some(rig)
    assert rig.seal() is not None
    assert rig.seal() is None


@pytest.mark.parametrize("sealed_after", [0, 1, 2, 3])
def test_what_was_appended_is_recovered(tmp_path: Path, sealed_after: int) -> None:
    """From the state, the hash store and the journal; whatever part of it was sealed."""
    rig = SpoolRig(tmp_path / "state")
    rig.begin(BASE)
    for number in range(3):
        if number == sealed_after:
            rig.seal()
        rig.commit((2, page(500 + number)), (6 + number, page(600 + number)), page_count=6 + number)
    if sealed_after == 3:
        rig.seal()
    hashes = rig.log.encoder.hashes
    rig.close()
    again = SpoolRig(tmp_path / "state")
    recovered = again.recover()
    assert recovered is not None
    assert (recovered.txid, recovered.mark) == (3, mark_after(3))
    assert recovered.hashes.to_bytes() == hashes.to_bytes()
    assert recovered.hashes.checksum == hashes.checksum
    assert again.spool.totals.commit_count == 3 - sealed_after
    again.close()


def check_convergence(copy: Path, original: SpoolRig, tmp_path: Path) -> int:
    """Start on what a kill left, commit, seal and compare all transactions; return the next segment's number before."""
    rig = SpoolRig(copy)
    next_seq = rig.spool.state.next_seq
    rig.go_on_from(original, len(original.images) - 1)
    recovered = rig.recover()
    assert recovered is not None
    assert recovered.txid == len(original.images) - 1
    rig.commit((1, page(999)))
    assert rig.seal() is not None
    assert restored_images(copy, tmp_path / "store") == rig.images
    assert names(copy) == [f"journal-{format_seq(rig.spool.state.next_seq)}", "pages", "pages.log", "state.json"]
    rig.close()
    return next_seq


def test_a_kill_at_any_step_of_a_seal_loses_no_transaction(rig: SpoolRig, tmp_path: Path) -> None:
    """INV-15: the next start finds the state before it or the state after it."""
    write_some(rig)
    with kill_points(rig.directory.path, tmp_path / "killed") as copies:
        rig.seal()
    found = [check_convergence(copy, rig, tmp_path) for copy in copies]
    assert len(found) > 10
    assert found == sorted(found)
    assert set(found) == {2, 3}


def test_a_kill_between_two_appends_to_the_hash_store_loses_no_transaction(rig: SpoolRig, tmp_path: Path) -> None:
    """A seal notes its chunks in the hash store before the state; what is there already is applied again."""
    write_some(rig)
    with kill_points(rig.directory.path, tmp_path / "killed") as copies:
        rig.seal()
    whole = next(copy for copy in copies if (copy / "outbox" / format_seq(2)).exists())
    log = (whole / "pages.log").read_bytes()
    assert len(log) > 500
    for length in range(16, len(log), 97):
        torn = tmp_path / "torn"
        shutil.copytree(whole, torn)
        (torn / "pages.log").write_bytes(log[:length])
        assert check_convergence(torn, rig, tmp_path) == 2
        shutil.rmtree(torn)


def test_a_kill_while_a_timeline_is_opened_leaves_the_one_before_or_none(rig: SpoolRig, tmp_path: Path) -> None:
    write_some(rig)
    rig.seal()
    with kill_points(rig.directory.path, tmp_path / "killed") as copies:
        rig.open()
    outcomes = []
    for copy in copies:
        again = SpoolRig(copy)
        state, listed = again.spool.state, [item.seq for item in again.spool.outbox() if not item.is_snapshot]
        if state.timeline is None:
            assert (listed, again.spool.recover()) == ([1, 2, 3], None)
            assert state.parent == rig.spool.state.parent
        else:
            recovered = again.spool.recover()
            assert listed == [1, 2]
            assert recovered is not None
            assert recovered.txid == 3
        outcomes.append(state.timeline is None)
        again.close()
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_a_kill_while_a_base_is_published_leaves_no_base_or_a_whole_timeline(tmp_path: Path) -> None:
    """INV-15: a base without the state that belongs to it is removed; it is made again."""
    rig = SpoolRig(tmp_path / "state")
    rig.open()
    with kill_points(tmp_path / "state", tmp_path / "killed") as copies:
        rig.publish_base(BASE)
    rig.close()
    outcomes = []
    for copy in copies:
        again = SpoolRig(copy)
        bases = [item for item in again.spool.outbox() if item.is_snapshot]
        recovered = again.spool.recover()
        assert (recovered is not None) == bool(bases) == (again.spool.state.timeline is not None)
        if recovered is not None:
            assert restored_images(copy, tmp_path / "store") == rig.images
        else:
            again.publish_base(BASE)
            again.commit((1, page(77)))
            again.seal()
            assert restored_images(copy, tmp_path / "store") == again.images
        outcomes.append(bool(bases))
        again.close()
    assert set(outcomes) == {False, True}


def test_a_kill_while_what_is_durable_is_kept_costs_nothing(rig: SpoolRig, tmp_path: Path) -> None:
    write_some(rig)
    rig.seal()
    first = rig.spool.outbox()[0]
    with kill_points(rig.directory.path, tmp_path / "killed") as copies:
        rig.spool.keep(first, cache_bytes_max=1 << 30)
    for copy in copies:
        check_convergence(copy, rig, tmp_path)


def test_a_transaction_that_was_not_captured_to_its_end_is_cut_off(rig: SpoolRig, tmp_path: Path) -> None:
    rig.commit((2, page(102)))
    jobs = rig.log.add(*[(pgno, 0 if pgno < 150 else 150, page(pgno)) for pgno in range(1, 151)])
    for job in jobs[:2]:
        rig.spool.append(entry_from_job(job, mark_after(99)))
    assert rig.spool.in_transaction
    assert rig.seal() is None
    copy = tmp_path / "copy"
    shutil.copytree(rig.directory.path, copy)
    assert check_convergence(copy, rig, tmp_path) == 2


def test_a_journal_torn_at_any_byte_gives_whole_transactions(rig: SpoolRig, tmp_path: Path) -> None:
    ends = [16]
    journal = rig.directory.path / f"journal-{format_seq(2)}"
    for number in range(4):
        rig.commit((1 + number, page(100 + number)))
        ends.append(journal.stat().st_size)
    content = journal.read_bytes()
    for length in range(16, len(content) + 1, 41):
        copy = tmp_path / "copy"
        shutil.copytree(rig.directory.path, copy)
        (copy / journal.name).write_bytes(content[:length])
        again = SpoolRig(copy)
        whole = sum(1 for end in ends[1:] if end <= length)
        again.go_on_from(rig, whole)
        recovered = again.recover()
        assert recovered is not None
        assert (recovered.txid, recovered.mark) == (whole, mark_after(whole))
        again.commit((5, page(55)))
        again.seal()
        assert restored_images(copy, tmp_path / "store") == again.images
        again.close()
        shutil.rmtree(copy)


def test_recovering_again_in_the_same_process_counts_nothing_twice(rig: SpoolRig, tmp_path: Path) -> None:
    """As after an outbox that was full: the spool stays, capture begins anew."""
    write_some(rig)
    assert rig.recover() is not None
    assert rig.recover() is not None
    sealed = rig.seal()
    assert sealed is not None
    assert (sealed.footer.chunk_count, sealed.footer.frame_count) == (4, 83)
    assert restored_images(rig.directory.path, tmp_path / "store") == rig.images


def test_a_merged_chunk_stands_for_those_before_it(rig: SpoolRig, tmp_path: Path) -> None:
    chunk = OpenChunk(512)
    for number in range(5):
        for job in rig.log.add((2, 5, page(700 + number))):
            rig.spool.append(entry_from_job(job, mark_after(number + 1)))
            chunk.add(job)
        rig.pages[2] = page(700 + number)
        rig.images.append(rig.image())
    rig.spool.append(entry_from_job(chunk.merged(), mark_after(5), supersedes=5))
    rig.commit((3, page(800)))
    copy = tmp_path / "copy"
    shutil.copytree(rig.directory.path, copy)
    sealed = rig.seal()
    assert sealed is not None
    with sealed.item.path.open("rb") as file:
        chunks = [item for item in read_segment(file.read) if isinstance(item, SegmentChunk)]
    assert [len(item.table.commits) for item in chunks] == [5, 1]
    assert restored_images(rig.directory.path, tmp_path / "store") == rig.images
    assert check_convergence(copy, rig, tmp_path) == 2


def test_the_outbox_has_a_limit(tmp_path: Path) -> None:
    """Journal included: at the limit nothing more is taken, and what is there stays."""
    rig = SpoolRig(tmp_path / "state", outbox_bytes_max=20_000)
    rig.begin(BASE)

    def fill() -> int:
        count = 0
        while count < 1000:
            rig.commit((1 + count % 5, page(count)))
            count += 1
        return count

    with pytest.raises(SpoolFull) as full:
        fill()
    assert full.value.exit_code == 8
    assert "outbox-limit" in full.value.hint
    assert 20_000 < rig.spool.outbox_bytes < 22_000
    rig.seal()
    assert restored_images(rig.directory.path, tmp_path / "store") == rig.images
    for item in rig.spool.outbox():
        rig.spool.keep(item, cache_bytes_max=0)
    assert rig.spool.outbox_bytes == 0
    with pytest.raises(SpoolFull):
        fill()
    rig.close()


def test_the_size_of_the_outbox_is_right_after_a_start(rig: SpoolRig, tmp_path: Path) -> None:
    write_some(rig)
    rig.seal()
    rig.commit((1, page(9)))
    copy = tmp_path / "copy"
    shutil.copytree(rig.directory.path, copy)
    again = SpoolRig(copy)
    again.recover()
    assert again.spool.outbox_bytes == rig.spool.outbox_bytes > 0
    again.close()


def test_a_base_goes_after_the_segment_that_opened_its_timeline(rig: SpoolRig) -> None:
    write_some(rig)
    rig.seal()
    (rig.directory.path / "outbox" / "notes.txt").write_text("not ours")
    assert [(item.seq, item.is_snapshot) for item in rig.spool.outbox()] == [(1, False), (1, True), (2, False)]


def change_state(directory: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = directory / "state.json"
    state = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    change(state)
    path.write_bytes(msgspec.json.encode(state))


def test_what_the_state_does_not_name_is_removed(rig: SpoolRig, tmp_path: Path) -> None:
    """INV-15: a segment beyond the state's next one, or the base of a timeline that the state does not have."""
    write_some(rig)
    rig.seal()
    older, without = tmp_path / "older", tmp_path / "without"
    for copy in (older, without):
        shutil.copytree(rig.directory.path, copy)
    change_state(older, lambda state: state.update(next_seq=2))
    change_state(without, lambda state: state.update(next_seq=2, timeline=None))
    for copy, expected in ((older, [(1, False), (1, True)]), (without, [(1, False)])):
        again = SpoolRig(copy)
        assert [(item.seq, item.is_snapshot) for item in again.spool.outbox()] == expected
        again.close()


def test_the_base_of_an_older_timeline_that_waits_is_not_removed(rig: SpoolRig, tmp_path: Path) -> None:
    rig.open()
    copy = tmp_path / "copy"
    shutil.copytree(rig.directory.path, copy)
    again = SpoolRig(copy)
    assert [(item.seq, item.is_snapshot) for item in again.spool.outbox()] == [(1, False), (1, True), (2, False)]
    again.close()


def test_temporary_files_of_a_killed_run_are_removed(rig: SpoolRig, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(rig.directory.path, copy)
    (copy / "outbox" / "0000000000000002.abc.tmp").write_bytes(b"half a segment")
    SpoolRig(copy).close()
    assert not list((copy / "outbox").glob("*.tmp"))


def test_the_cache_evicts_the_oldest_first(rig: SpoolRig) -> None:
    for number in range(4):
        rig.commit((1, page(number)))
        rig.seal()
    segments = [item for item in rig.spool.outbox() if not item.is_snapshot][1:]
    room = sum(item.size_bytes for item in segments[2:])
    for item in rig.spool.outbox():
        rig.spool.keep(item, cache_bytes_max=room)
    cache = rig.directory.path / "cache"
    assert [path.name for path in sorted(cache.iterdir())] == [item.path.name for item in segments[2:]]
    assert rig.spool.outbox() == []
    assert rig.spool.outbox_bytes == 0


def test_a_base_is_not_cached(rig: SpoolRig) -> None:
    """It is as large as the database, and no pack is built from it."""
    for item in rig.spool.outbox():
        rig.spool.keep(item, cache_bytes_max=1 << 30)
    assert [path.name for path in (rig.directory.path / "cache").iterdir()] == [format_seq(1)]


def test_a_segment_header_names_the_writer_of_now(rig: SpoolRig, tmp_path: Path) -> None:
    rig.commit((1, page(4)))
    rig.spool.update(writer=msgspec.structs.replace(rig.spool.state.writer, pid=77))
    sealed = rig.seal()
    assert sealed is not None
    with sealed.item.path.open("rb") as file:
        header = next(read_segment(file.read))
    assert isinstance(header, SegmentHeader)
    assert header.writer.pid == 77
    assert restored_images(rig.directory.path, tmp_path / "store") == rig.images


def test_what_vanishes_from_the_cache_is_not_missed(rig: SpoolRig) -> None:
    """Packing removes segments there on another thread; a link that leads nowhere looks the same to a scan."""
    write_some(rig)
    sealed = rig.seal()
    assert sealed is not None
    vanished = rig.directory.path / "cache" / format_seq(0)
    vanished.symlink_to("gone")
    rig.spool.keep(sealed.item, cache_bytes_max=0)
    assert [*vanished.parent.iterdir()] == [vanished]
