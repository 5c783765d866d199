"""Makes the golden replica of a format version: `python -m tests.golden.make`. By hand, and only for a new version.

Times, nonces and contents are fixed, so only what zstd makes of them can differ from run to run. `expected.json` beside
the objects records what they must decode to, and the SHA-256 of the database at every transaction;
`expected-packs.json` the same of the pack of the first timeline's segments, which lies beside them. `references` is a
replica of its own, of which differential snapshots lean on pages of a full one:
`python -m tests.golden.make references` makes that alone.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.disk.spooling import SpoolRig
from walrep.core.chunk import ChunkTable
from walrep.core.names import SnapshotName, pack_key, parse_pack_key, segment_key, snapshot_key
from walrep.core.objects import REPLICA_FORMAT, ReplicaInfo, Writer
from walrep.core.pack import IndexBlock, read_source
from walrep.core.packing import build_pack, pack_header
from walrep.core.segment import SegmentChunk
from walrep.core.snapshot import SnapshotPages, read_snapshot
from walrep.disk.peek import segment_ends, snapshot_ends
from walrep.testing.history import HistoryBuilder
from walrep.testing.replay import ReplayedState, list_timelines, replay

__all__ = ["FOLDER", "REFERENCES", "build", "build_references", "describe", "describe_packs", "read_object"]

FOLDER = Path(__file__).parent / f"format-{REPLICA_FORMAT}"
REFERENCES = FOLDER / "references"


def build(folder: Path) -> None:
    """Write the replica into an empty folder."""
    with tempfile.TemporaryDirectory() as work:
        rig = SpoolRig(Path(work))
        _write_history(rig)
        info = ReplicaInfo(
            format=REPLICA_FORMAT,
            replica="r",
            database="/var/lib/app/app.db",
            created_ms=1_795_000_000_000,
            created_by=rig.spool.state.writer,
            walrep="0.1.0",
        )
        (folder / "replica").write_bytes(msgspec.json.format(msgspec.json.encode(info)) + b"\n")
        for item in rig.spool.outbox():
            key = segment_key(item.seq)
            if item.is_snapshot:
                header, footer = snapshot_ends(item.path)
                key = snapshot_key(
                    SnapshotName(timeline=header.timeline, txid=footer.txid, seen_ms=footer.seen_ms, seq=footer.seq)
                )
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(item.path, folder / key)
        rig.close()
    _pack(folder, [segment_key(seq) for seq in (2, 3, 4)])


def _pack(folder: Path, keys: list[str]) -> None:
    """Put the pack of these segments beside them."""
    first, last = (segment_ends(folder / key)[0] for key in (keys[0], keys[-1]))
    writer = Writer(nonce="8899aabbccddeeff", host="packer", pid=9)
    written = io.BytesIO()
    with ExitStack() as stack:
        sources = [stack.enter_context((folder / key).open("rb")).read for key in keys]
        built = build_pack(sources, written.write, pack_header(first, last.seq, writer, 1_795_000_900_000))
    path = folder / pack_key(built.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(written.getvalue())


def _write_history(rig: SpoolRig) -> None:
    """Two timelines: three segments of transactions in the first, one in the second, which names its parent."""

    def page(number: int) -> bytes:
        return Random(number).randbytes(512)

    rig.begin({pgno: page(pgno) for pgno in range(1, 7)})
    rig.commit((2, page(102)[:100] + page(2)[100:]), seen_ms=10_000)
    rig.commit((3, page(3)[:500] + b"tail of page"), (1, page(101)), seen_ms=10_500)
    rig.seal()
    rig.commit(*[(pgno, page(200 + pgno)) for pgno in range(1, 71)], page_count=70, seen_ms=20_000)
    rig.commit((1, page(301)), page_count=4, seen_ms=21_000)
    rig.seal()
    rig.commit((5, page(405)), (1, page(401)), page_count=5, seen_ms=19_000)
    rig.commit((2, page(402)), (2, page(502)), seen_ms=30_000)
    rig.seal()
    rig.begin({pgno: page(600 + pgno) for pgno in range(1, 4)})
    rig.commit((3, page(703)), seen_ms=40_000)
    rig.seal()


def build_references(folder: Path) -> None:
    """Write a replica with differential snapshots against the pages of a full one into an empty folder."""

    def page(number: int) -> bytes:
        return Random(number).randbytes(512)

    def touched(content: bytes, number: int) -> bytes:
        return content[:200] + page(number)[:24] + content[224:]

    history = HistoryBuilder(512, replica="r", nonce="0011223344556677")
    timeline = history.begin({pgno: page(pgno) for pgno in range(1, 91)}, 1_000)
    history.commit([(pgno, touched(history.image[pgno], 100 + pgno)) for pgno in range(1, 81)], 90, 10_000)
    history.commit([(91, page(91)), (2, page(202))], 91, 11_000)
    history.seal()
    # More pages than a block has; page 5 stands there again, plain; page 91 is new; page 2 is another one altogether.
    history.snapshot(12_000, repeated=(5,), full_txid=0, delta=True)
    history.commit([(3, touched(history.image[3], 303))], 60, 20_000)
    history.seal()
    # The base of another timeline, of a database that has shrunk.
    parent = history.positions[timeline, 3]
    history.begin({**history.image, 4: touched(history.image[4], 404)}, 30_000, parent=parent, base=False)
    history.snapshot(30_000, full_txid=0, full_timeline=timeline, delta=True)
    history.commit([(1, page(501))], 60, 40_000)
    history.seal()
    for key, data in history.objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _table(table: ChunkTable) -> dict[str, Any]:
    return {
        "txid_before": table.txid_before,
        "pgnos": table.pgnos,
        "flags": table.flags.hex(),
        "commits": msgspec.to_builtins(table.commits),
    }


def read_object(path: Path) -> list[Any]:
    """Return what an object decodes to, front to back."""
    read: Callable[[Any], Any] = read_snapshot if "snapshots" in path.parts else read_source
    with path.open("rb") as file:
        return list(read(file.read))


def describe(folder: Path) -> dict[str, Any]:
    """Return what the objects in a folder decode to, and the SHA-256 of every state."""
    objects: dict[str, Any] = {}
    for path in sorted([*folder.glob("segments/*"), *folder.glob("snapshots/*/*")]):
        objects[path.relative_to(folder).as_posix()] = [_plain(item) for item in read_object(path)]
    replica = msgspec.json.decode((folder / "replica").read_bytes())
    return {"replica": replica, "objects": objects, "states": _states(folder)}


def describe_packs(folder: Path) -> dict[str, Any]:
    """Return what the packs in a folder decode to, and the SHA-256 of every state without what they replace."""
    paths = sorted(folder.glob("packs/*/*"))
    objects = {path.relative_to(folder).as_posix(): [_plain(item) for item in read_object(path)] for path in paths}
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "replica"
        shutil.copytree(folder, copy)
        for name in filter(None, map(parse_pack_key, objects)):
            for seq in range(name.first_seq, name.last_seq + 1):
                (copy / segment_key(seq)).unlink()
        return {"objects": objects, "states": _states(copy)}


def _plain(item: Any) -> Any:  # noqa: ANN401  whatever an object decodes to
    if isinstance(item, SegmentChunk):
        return _table(item.table)
    if isinstance(item, SnapshotPages):
        return {"delta": item.pgnos} if item.is_delta else item.pgnos
    if isinstance(item, IndexBlock):
        return {"plain": item.plain.hex(), "rows": msgspec.to_builtins(item.rows())}
    return msgspec.to_builtins(item)


def _states(folder: Path) -> dict[str, list[str]]:
    """Return the SHA-256 of the database at every transaction of every timeline."""
    states: dict[str, list[str]] = {}
    for timeline in list_timelines(folder):
        hashes = states.setdefault(timeline, [])

        def note(state: ReplayedState, hashes: list[str] = hashes) -> None:
            hashes.append(hashlib.sha256(state.image()).hexdigest())

        replay(folder, timeline, after=note)
    return states


def _write(folder: Path, name: str, described: dict[str, Any]) -> None:
    (folder / name).write_bytes(msgspec.json.format(msgspec.json.encode(described)) + b"\n")


def _make_references() -> None:
    shutil.rmtree(REFERENCES, ignore_errors=True)
    REFERENCES.mkdir()
    build_references(REFERENCES)
    _write(REFERENCES, "expected.json", describe(REFERENCES))


def main(arguments: list[str]) -> None:
    """Write the golden folder anew."""
    if arguments == ["references"]:
        _make_references()
        return
    readme = (FOLDER / "README.md").read_bytes()
    shutil.rmtree(FOLDER)
    FOLDER.mkdir()
    (FOLDER / "README.md").write_bytes(readme)
    build(FOLDER)
    for name, described in (("expected.json", describe(FOLDER)), ("expected-packs.json", describe_packs(FOLDER))):
        _write(FOLDER, name, described)
    _make_references()


if __name__ == "__main__":
    main(sys.argv[1:])
