"""The newest full snapshot as it is read from the store, and what of it is not believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.engine.shipment import RecordedFaults, Shipment
from walrep.core.events import FullRead
from walrep.core.names import snapshot_key
from walrep.core.objects import SnapshotFooter, SnapshotHeader
from walrep.core.pages import page_hash
from walrep.core.snapshot import encode_snapshot_end, encode_snapshot_pages, encode_snapshot_start, snapshot_name
from walrep.core.units import Checksum, Position, Seq, Txid
from walrep.disk.full import FullHashes
from walrep.disk.kept import open_kept
from walrep.engine.recall import recall_full
from walrep.engine.settings import SpoolLimits
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.history import HistoryBuilder

PAGE = 512
DAY = 86_400_000


def page(value: int) -> bytes:
    return bytes([value]) * PAGE


class Recalled:
    """What is recalled of a replica; a page of its snapshots may stand there twice."""

    def __init__(self, folder: Path) -> None:
        self.shipment = Shipment(folder, RecordedFaults())
        self.builder = HistoryBuilder(PAGE, replica="r")

    def read(self, known: FullHashes | None = None, replica: str = "r") -> FullHashes | None:
        shipment = self.shipment
        objects = {key: MemoryObject(data, 0) for key, data in self.builder.objects.items()}
        store = MemoryStore(objects, shipment.clock)
        return shipment.clock.run(recall_full(shipment.parts, shipment.settings, store, replica=replica, known=known))

    @property
    def told(self) -> list[FullRead]:
        return [event for event in self.shipment.events if isinstance(event, FullRead)]


@pytest.fixture
def recalled(tmp_path: Path) -> Recalled:
    made = Recalled(tmp_path / "state")
    builder = made.builder
    now_ms = made.shipment.clock.now_ms()
    builder.begin({pgno: page(pgno) for pgno in range(1, 100)}, now_ms)
    builder.commit([(1, page(101)), (90, page(102))], 90, now_ms + 1000)
    builder.seal()
    return made


def test_its_hashes_are_those_of_its_pages(recalled: Recalled) -> None:
    """Also of a page that stands there twice: the last one counts."""
    builder = recalled.builder
    key = builder.snapshot(recalled.shipment.clock.now_ms() + 2000, repeated=(1, 50))
    found = recalled.read()
    assert found is not None
    assert found.array().tolist() == [0, *(page_hash(builder.image[pgno], pgno) for pgno in range(1, 91))]
    snapshot = found.snapshot
    assert (snapshot.key, snapshot.replica, snapshot.page_size) == (key, "r", PAGE)
    assert snapshot.position == builder.positions[builder.timeline, 1]
    assert [(each.key, each.read_bytes, each.failed) for each in recalled.told] == [
        (key, len(builder.objects[key]), "")
    ]
    assert recalled.read(found) is found
    assert len(recalled.told) == 1


def test_its_object_is_kept_when_it_is_proved(recalled: Recalled) -> None:
    builder, folder = recalled.builder, recalled.shipment.settings.state_dir
    key = builder.snapshot(recalled.shipment.clock.now_ms() + 2000, repeated=(1, 50))
    found = recalled.read()
    assert found is not None
    assert (folder / "full.snapshot").read_bytes() == builder.objects[key]
    kept = open_kept(folder, found, bytes_max=1 << 30)
    assert kept is not None
    assert [kept.page(pgno) for pgno in range(1, 91)] == [builder.image[pgno] for pgno in range(1, 91)]
    assert not list(folder.glob("full.snapshot.*"))


@pytest.mark.parametrize("how", ["limit", "another", "disk"])
def test_its_object_is_not_kept_over_the_limit_unproved_or_without_room(recalled: Recalled, how: str) -> None:
    shipment = recalled.shipment
    folder = shipment.settings.state_dir
    key = recalled.builder.snapshot(shipment.clock.now_ms() + 2000)
    limits = SpoolLimits(full_bytes_max=len(recalled.builder.objects[key]) - 1)
    if how == "limit":
        shipment.settings = replace(shipment.settings, spool=limits)
    elif how == "disk":
        (folder / "full.snapshot").mkdir()
    assert (recalled.read(replica="other" if how == "another" else "r") is None) == (how == "another")
    assert not (folder / "full.snapshot").is_file()
    assert not list(folder.glob("full.snapshot.*"))


def test_without_any_there_is_nothing_to_tell(recalled: Recalled) -> None:
    recalled.builder.objects = {}
    assert recalled.read() is None
    assert recalled.told == []


def test_one_that_is_too_old_is_not_read(recalled: Recalled) -> None:
    """The base is full then, whatever it has."""
    recalled.shipment.clock.step_wall(7 * DAY)
    assert recalled.read() is None
    assert recalled.told == []


def test_one_of_another_replica_is_not_believed(recalled: Recalled) -> None:
    assert recalled.read(replica="other") is None
    assert "another one than its key says" in recalled.told[0].failed


def forged(
    change: Callable[[SnapshotHeader, SnapshotFooter], tuple[SnapshotHeader, SnapshotFooter]],
) -> Callable[[Recalled], str]:
    def forge(recalled: Recalled) -> str:
        """Put a snapshot under the key that it should have, with other ends."""
        builder, seen_ms = recalled.builder, recalled.shipment.clock.now_ms() + 2000
        position = builder.positions[builder.timeline, 1]
        header = SnapshotHeader(
            replica="r", timeline=builder.timeline, writer=builder.writer, created_ms=seen_ms, page_size=PAGE
        )
        footer = SnapshotFooter(
            txid=Txid(1),
            seq=Seq(builder.seq),
            seen_ms=seen_ms,
            checksum=position.checksum,
            page_count=90,
            block_count=2,
        )
        key = snapshot_key(snapshot_name(header, footer))
        header, footer = change(header, footer)
        data = encode_snapshot_start(header)
        for pgnos in (range(1, 65), range(65, 91)):
            data += encode_snapshot_pages(pgnos, [builder.image[pgno] for pgno in pgnos])
        builder.objects[key] = data + encode_snapshot_end(footer, len(data))
        return key

    return forge


replace = msgspec.structs.replace


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (forged(lambda header, footer: (header, footer)), ""),
        (forged(lambda header, footer: (header, replace(footer, checksum=footer.checksum ^ 1))), "were recorded"),
        (forged(lambda header, footer: (header, replace(footer, page_count=89))), "were recorded"),
        (forged(lambda header, footer: (header, replace(footer, page_count=91))), "were recorded"),
        (forged(lambda header, footer: (header, replace(footer, txid=Txid(0)))), "another one than its key says"),
        (
            forged(
                lambda header, footer: (replace(header, full=Position(header.timeline, Txid(0), Checksum(1))), footer)
            ),
            "another one than its key says",
        ),
    ],
)
def test_what_is_not_what_was_recorded_is_not_believed(
    recalled: Recalled, forge: Callable[[Recalled], str], told: str
) -> None:
    key = forge(recalled)
    found = recalled.read()
    assert (found is None) == bool(told)
    assert recalled.told[-1].key == key
    assert told in recalled.told[-1].failed
    assert bool(recalled.told[-1].failed) == bool(told)
