"""Several databases, to one instant: all of them, or none; and after a rename that failed it is known which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from walrep.core.objects import Writer
from walrep.core.state import STATE_FORMAT, LocalState
from walrep.core.target import AtTime, Latest, Target
from walrep.disk.state import StateDirectory
from walrep.engine.parts import OpenedStore
from walrep.engine.restorer import RestoreOutcome, RestoreProgress, RestoreRequest
from walrep.engine.together import DatabaseRestore, restore_together
from walrep.errors import CorruptObject, TargetExists, TargetNotFound, WalrepError
from walrep.runner import InlineRunner
from walrep.store.observe import RequestCounts
from walrep.store.url import FileUrl, StoreUrl
from walrep.testing.clock import SimClock
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import memory_store

PAGE = 512
NAMES = ("one", "two", "three")


def page(value: int) -> bytes:
    return value.to_bytes(4, "big") * (PAGE // 4)


class Rig:
    """Three replicas of which each commits once a second, the second one a little later than the others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "out"
        self.folder.mkdir()
        self.built = {name: self.build(number) for number, name in enumerate(NAMES)}
        self.objects = {name: dict(built.objects) for name, built in self.built.items()}

    @staticmethod
    def build(number: int) -> HistoryBuilder:
        builder = HistoryBuilder(PAGE)
        builder.begin({1: page(number), 2: page(2)}, 10_000)
        for second in range(1, 6):
            seen_ms = 10_000 + 1000 * second + (400 if number == 1 else 0)
            builder.commit([(2, page(100 * number + second))], 2, seen_ms)
            builder.seal()
        return builder

    def output(self, name: str) -> Path:
        return self.folder / f"{name}.db"

    def restore(
        self, target: Target, *, progress: Callable[[RestoreProgress], None] = lambda _state: None, force: bool = False
    ) -> list[RestoreOutcome]:
        wanted = [
            DatabaseRestore(
                database=Path(f"/srv/{name}.db"),
                url=FileUrl(path=Path("/") / name),
                state_dir=self.folder / f".{name}.db-walrep",
                request=RestoreRequest(output=self.output(name), target=target, check="none", force=force),
            )
            for name in NAMES
        ]
        clock = SimClock()
        return clock.run(
            restore_together(wanted, open_store=self._open, clock=clock, runner=InlineRunner(), progress=progress)
        )

    def _open(self, url: StoreUrl, _notify: Callable[[WalrepError, float], None]) -> OpenedStore:
        assert isinstance(url, FileUrl)
        store = memory_store(self.objects[url.path.name])
        return OpenedStore(store=store, upload_p95_s=lambda: 0.0, counts=RequestCounts)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def state(self, name: str, txid: int) -> bytes:
        built = self.built[name]
        return built.states[built.timeline, txid]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_the_instant_is_the_same_and_the_transactions_are_not(rig: Rig) -> None:
    """Commits that were seen later than the instant are not there, in whichever database."""
    outcomes = rig.restore(AtTime(13_200))
    assert [outcome.txid for outcome in outcomes] == [3, 2, 3]
    for name, txid in zip(NAMES, (3, 2, 3), strict=True):
        assert rig.output(name).read_bytes() == rig.state(name, txid)
    assert rig.files() == ["one.db", "three.db", "two.db"]


def test_nothing_is_in_place_before_all_are_proved(rig: Rig) -> None:
    told: list[tuple[int, int]] = []

    def look(state: RestoreProgress) -> None:
        assert [name for name in NAMES if rig.output(name).exists()] == []
        told.append((state.done_bytes, state.total_bytes))

    rig.restore(Latest(), progress=look)
    assert told[-1][0] == told[-1][1] == max(total for _done, total in told)
    assert len(rig.files()) == 3


def test_where_one_cannot_be_planned_nothing_is_written(rig: Rig) -> None:
    rig.output("one").write_bytes(b"precious")
    late = HistoryBuilder(PAGE)
    late.begin({1: page(1)}, 20_000)
    rig.objects["three"] = dict(late.objects)
    with pytest.raises(TargetNotFound) as refused:
        rig.restore(AtTime(13_200), force=True, progress=lambda _state: pytest.fail("one of them was built"))
    assert refused.value.detail.startswith("/srv/three.db: ")
    assert "in place" not in refused.value.detail
    assert rig.files() == ["one.db"]
    assert rig.output("one").read_bytes() == b"precious"


@pytest.mark.parametrize("damaged", NAMES)
def test_where_one_cannot_be_proved_none_is_put_in_place(rig: Rig, damaged: str) -> None:
    rig.output("two").write_bytes(b"precious")
    key = max(key for key in rig.objects[damaged] if key.startswith("segments/"))
    data = bytearray(rig.objects[damaged][key])
    data[len(data) // 2] ^= 1
    rig.objects[damaged][key] = bytes(data)
    with pytest.raises(CorruptObject) as refused:
        rig.restore(Latest(), force=True)
    assert refused.value.detail.startswith(f"/srv/{damaged}.db")
    assert rig.files() == ["two.db"]
    assert rig.output("two").read_bytes() == b"precious"


def test_an_existing_target_is_refused_before_anything_is_built(rig: Rig) -> None:
    rig.output("three").write_bytes(b"precious")
    with pytest.raises(TargetExists):
        rig.restore(Latest(), progress=lambda _state: pytest.fail("one of them was built"))
    assert rig.files() == ["three.db"]


@pytest.mark.parametrize("taken", NAMES)
def test_a_rename_that_fails_says_which_are_in_place(rig: Rig, taken: str) -> None:
    def take(_state: RestoreProgress) -> None:
        rig.output(taken).write_bytes(b"somebody else's")

    with pytest.raises(TargetExists) as refused:
        rig.restore(Latest(), progress=take)
    detail = refused.value.detail
    assert detail.startswith(f"/srv/{taken}.db: ")
    _, _, done = detail.partition("; in place already: ")
    for name in NAMES:
        if str(rig.output(name)) in done.split(", "):
            assert rig.output(name).read_bytes() == rig.state(name, 5)
        elif name != taken:
            assert not rig.output(name).exists()
    assert rig.output(taken).read_bytes() == b"somebody else's"
    assert all(not name.startswith(".") for name in rig.files())


def test_what_walrep_knew_of_a_database_goes_on_from_what_was_restored(rig: Rig) -> None:
    built = rig.built["two"]
    position = built.positions[built.timeline, 5]
    state_dir = rig.folder / ".two.db-walrep"
    directory = StateDirectory(state_dir)
    directory.save(
        LocalState(
            format=STATE_FORMAT,
            replica=built.replica,
            url="file:///two",
            writer=Writer(nonce="0011223344556677"),
            timeline=built.timeline,
            txid=position.txid,
            checksum=position.checksum,
        )
    )
    directory.close()
    outcomes = rig.restore(AtTime(13_200))
    assert [outcome.undo for outcome in outcomes] == [None, str(position), None]
    directory = StateDirectory(state_dir)
    state = directory.load()
    directory.close()
    assert state is not None
    assert state.restored == built.positions[built.timeline, 2]
