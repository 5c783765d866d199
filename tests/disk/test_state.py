"""The state directory: one user at a time, its state old or new, its hash array right or none."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.core.test_journal import make_entry
from tests.disk.spooling import SpoolRig, kill_points
from walrep.core.journal import JournalEntry
from walrep.core.objects import Writer
from walrep.core.pages import PageHashes
from walrep.core.state import STATE_FORMAT, CaptureMark, CleanEnd, LocalState
from walrep.core.units import Checksum, Position, Seq, TimelineId, Txid
from walrep.disk.state import HashStore, StateDirectory
from walrep.errors import DatabaseInUse, SpoolError

STATE = LocalState(
    format=STATE_FORMAT,
    replica="0123456789abcdef",
    url="file:///backup",
    writer=Writer(nonce="n", host="box", pid=4),
    timeline_number=3,
    timeline=TimelineId("00003-00000000"),
    parent=Position(TimelineId("00002-00000000"), Txid(9), Checksum((1 << 64) - 1)),
    next_seq=Seq(12),
    page_size=65536,
    txid=Txid(1 << 50),
    checksum=Checksum((1 << 64) - 1),
    page_count=77,
    mark=CaptureMark((0xFFFF_FFFF, 0), 5, (1, 2)),
    inode=(1 << 64) - 1,
    clean_end=CleanEnd(1 << 40, 1_795_000_000_000_000_000, (1 << 64) - 1),
)


def test_the_state_round_trips(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "a" / "b")
    assert directory.load() is None
    directory.save(STATE)
    assert directory.load() == STATE
    directory.close()


def test_only_its_owner_may_look(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.save(STATE)
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "state.json").stat().st_mode & 0o077 == 0
    directory.close()


def test_a_second_user_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path)
    with pytest.raises(DatabaseInUse, match=f"process {os.getpid()}"):
        StateDirectory(tmp_path)
    first.close()
    StateDirectory(tmp_path).close()


def test_a_killed_user_lets_go(tmp_path: Path) -> None:
    program = "import os, sys; from pathlib import Path; from walrep.disk.state import StateDirectory; "
    program += "StateDirectory(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    StateDirectory(tmp_path).close()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"format":"1"}', b'{"url":"\xff"}', b'{"x":' + b"[" * 100_000]
)
def test_a_state_that_cannot_be_read_is_an_error_with_a_hint(tmp_path: Path, content: bytes) -> None:
    directory = StateDirectory(tmp_path)
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(SpoolError, match="cannot be read") as caught:
        directory.load()
    assert "--new-timeline" in caught.value.hint
    directory.close()


def test_a_state_of_a_later_version_is_refused(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    directory.save(msgspec.structs.replace(STATE, format=STATE_FORMAT + 1))
    with pytest.raises(SpoolError, match="does not know"):
        directory.load()
    directory.close()


def test_a_kill_while_the_state_is_saved_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.save(STATE)
    new = msgspec.structs.replace(STATE, next_seq=Seq(13))
    with kill_points(tmp_path / "state", tmp_path / "killed") as copies:
        directory.save(new)
    found = []
    for copy in copies:
        again = StateDirectory(copy)
        found.append(again.load())
        again.close()
    assert (found[0], found[-1]) == (STATE, new)
    assert all(state in (STATE, new) for state in found)
    assert len(found) > 3
    directory.close()


def change(pgnos: list[int], seed: int, cut: int | None = None) -> JournalEntry:
    """Return an entry that gives these pages new hashes, and then cuts the database to `cut` pages."""
    dice = random.Random(seed)
    values = [dice.getrandbits(63) + 1 for _ in pgnos]
    return make_entry(pgnos, values, [] if cut is None else [(len(pgnos) - 1, cut)], cut or max(pgnos))


def base_of(count: int) -> PageHashes:
    hashes = PageHashes()
    for pgno in range(1, count + 1):
        hashes.set(pgno, random.Random(pgno).getrandbits(64))
    hashes.commit(count)
    return hashes


def load(directory: Path) -> PageHashes | None:
    return HashStore(directory).load()


def test_what_was_appended_is_loaded(tmp_path: Path) -> None:
    store = HashStore(tmp_path)
    assert store.load() is None
    base = base_of(10)
    store.reset(base.to_bytes())
    loaded = store.load()
    assert loaded is not None
    assert (loaded.to_bytes(), loaded.checksum) == (base.to_bytes(), base.checksum)
    store.append([change([3, 12], 1), change([1, 2], 2, cut=5)])
    store.append([change([6], 3)])
    store.sync()
    store.close()
    again = load(tmp_path)
    assert again is not None
    again.commit(6)
    assert [pgno for pgno, value in enumerate(again.slots) if value] == [1, 2, 3, 4, 5, 6]
    assert list(again.slots[4:6]) == list(base.slots[4:6])
    assert (tmp_path / "pages.log").stat().st_size < 1000


def test_a_reset_forgets_what_was_appended(tmp_path: Path) -> None:
    store = HashStore(tmp_path)
    store.reset(base_of(10).to_bytes())
    store.append([change([3], 1)])
    store.reset(base_of(4).to_bytes())
    loaded = store.load()
    assert loaded is not None
    assert loaded.to_bytes() == base_of(4).to_bytes()
    store.close()


def fill_beyond_the_limit(store: HashStore) -> None:
    """Append more than the 4 MiB from which the log is folded into the base."""
    for seed in range(40):
        store.append([change(list(range(1, 10_001)), seed)])


def test_the_log_is_folded_into_the_base_when_it_outgrows_it(tmp_path: Path) -> None:
    store = HashStore(tmp_path)
    store.reset(base_of(50).to_bytes())
    fill_beyond_the_limit(store)
    expected = store.load()
    assert expected is not None
    assert (tmp_path / "pages.log").stat().st_size > 4 << 20
    store.sync()
    assert not (tmp_path / "pages.log").exists()
    assert (tmp_path / "pages").stat().st_size == 16 + 8 * 10_001
    loaded = load(tmp_path)
    assert loaded is not None
    assert loaded.to_bytes() == expected.to_bytes()
    store.append([change([3], 99)])
    store.sync()
    store.close()
    assert (tmp_path / "pages.log").stat().st_size < 1000


def test_a_kill_while_the_log_is_folded_changes_nothing(tmp_path: Path) -> None:
    """Between the new base and the removal of the log the base includes what the log applies again."""
    directory = tmp_path / "state"
    directory.mkdir()
    store = HashStore(directory)
    store.reset(base_of(50).to_bytes())
    fill_beyond_the_limit(store)
    store.append([change([2, 7], 77, cut=9), change([12], 78)])
    expected = store.load()
    assert expected is not None
    with kill_points(directory, tmp_path / "killed") as copies:
        store.sync()
    both = 0
    for copy in copies:
        loaded = load(copy)
        assert loaded is not None
        assert loaded.to_bytes() == expected.to_bytes()
        both += (copy / "pages.log").exists() and (copy / "pages").stat().st_size != (
            copies[0] / "pages"
        ).stat().st_size
    assert both > 0
    store.close()


def test_a_damaged_base_is_none(tmp_path: Path) -> None:
    store = HashStore(tmp_path)
    store.reset(base_of(6).to_bytes())
    path = tmp_path / "pages"
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert load(tmp_path) is None
        path.write_bytes(content[:at])
        assert load(tmp_path) is None
    path.write_bytes(content + b"\0" * 8)
    assert load(tmp_path) is None


def test_damage_is_never_taken_for_the_array(tmp_path: Path) -> None:
    """Whatever byte of the hash store is changed, a start finds the right array, none, or an error."""
    rig = SpoolRig(tmp_path / "state")
    rig.begin({pgno: bytes([pgno]) * 512 for pgno in range(1, 4)})
    for number in range(3):
        rig.commit((1, bytes([9 + number]) * 512))
    rig.seal()
    rig.commit((2, bytes([77]) * 512))
    right = rig.log.encoder.hashes.to_bytes()
    rig.close()
    answers = set()
    for name in ("pages", "pages.log", "journal-0000000000000003"):
        content = (tmp_path / "state" / name).read_bytes()
        for at in range(0, len(content), 3):
            shutil.copytree(tmp_path / "state", tmp_path / "copy")
            (tmp_path / "copy" / name).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            answers.add(answer_of(tmp_path / "copy", right))
            shutil.rmtree(tmp_path / "copy")
    assert answers == {"right", "none", "error"}


def answer_of(copy: Path, right: bytes) -> str:
    """Say what a start finds: a damaged journal may give the transaction before, which is right as well."""
    rig = SpoolRig(copy)
    try:
        recovered = rig.spool.recover()
        if recovered is None:
            return "none"
        if recovered.txid == 4:
            assert recovered.hashes.to_bytes() == right
        else:
            assert (recovered.txid, recovered.hashes.checksum) == (3, rig.spool.state.checksum)
    except SpoolError:
        return "error"
    finally:
        rig.close()
    return "right"


def test_a_state_of_an_earlier_version_is_read_and_its_boot_is_not_known(tmp_path: Path) -> None:
    """Nothing that it says of the file is believed then without the file itself (INV-29)."""
    directory = StateDirectory(tmp_path / "state")
    directory.save(STATE)
    path = tmp_path / "state" / "state.json"
    said = msgspec.json.decode(path.read_bytes())
    del said["boot_id"], said["clean_end"]["ctime_ns"]
    path.write_bytes(msgspec.json.encode(said))
    loaded = directory.load()
    assert loaded is not None
    assert loaded.clean_end is not None
    assert (loaded.boot_id, loaded.clean_end.ctime_ns) == ("", 0)
    directory.close()
