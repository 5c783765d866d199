"""The slow, plain way to rebuild a database from its objects: an oracle for the product's own restore.

Shares the decoders with the product and nothing else: one dictionary of pages, every checksum compared at every
transaction, no cache, no parallel work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from walrep.core.chunk import FLAG_COMMIT, FLAG_REFERENCE, Commit, decode_pages
from walrep.core.names import FullName, parse_snapshot_key
from walrep.core.objects import PackHeader, SegmentHeader, SnapshotFooter, SnapshotHeader
from walrep.core.pack import read_source
from walrep.core.pages import page_hash
from walrep.core.segment import SegmentChunk
from walrep.core.snapshot import SnapshotPages, read_snapshot
from walrep.errors import RestoreMismatch

__all__ = ["ReplayedState", "list_timelines", "replay"]


class ReplayedState(msgspec.Struct):
    """The database after one transaction; `pages` is changed in place as the replay goes on."""

    page_size: int
    pages: dict[int, bytes]
    page_count: int
    txid: int = 0
    rolling: int = 0
    """The checksum, moved along frame by frame."""
    commit: Commit | None = None

    def image(self) -> bytes:
        """Return the database file."""
        hole = bytes(self.page_size)
        return b"".join(self.pages.get(pgno, hole) for pgno in range(1, self.page_count + 1))

    def checksum(self) -> int:
        """Return the database checksum, computed from all pages."""
        total = 0
        for pgno, page in self.pages.items():
            total ^= page_hash(page, pgno)
        return total


def list_timelines(root: Path) -> dict[str, list[Path]]:
    """Return the segments and packs of each timeline in a folder store, by first transaction, large ones first."""
    found: dict[str, list[tuple[tuple[int, int], Path]]] = {}
    for path in sorted([*(root / "segments").glob("*"), *(root / "packs").glob("*/*")]):
        with path.open("rb") as file:
            header = next(read_source(file.read))
        if isinstance(header, SegmentHeader | PackHeader):
            place = (int(header.txid_before), -1 << 62 if _opens(header) else -path.stat().st_size)
            found.setdefault(header.timeline, []).append((place, path))
    return {timeline: [path for _place, path in sorted(found[timeline])] for timeline in sorted(found)}


def replay(root: Path, timeline: str, *, after: Callable[[ReplayedState], None] | None = None) -> ReplayedState:
    """Rebuild a timeline of a folder store from its base to its end; `after` is called at the base and every commit.

    What a pack held already is passed over.

    Raises:
        RestoreMismatch: a checksum differs, or objects do not continue one another.

    """
    bases = sorted((root / "snapshots" / timeline).iterdir())
    state = ReplayedState(0, {}, 0)
    name = parse_snapshot_key(bases[0].relative_to(root).as_posix())
    if name is not None and name.full is not None:
        _read_snapshot(_find_full(root, name.full), state)
    _read_snapshot(bases[0], state)
    if after:
        after(state)
    packed_txid = 0
    for path in list_timelines(root)[timeline]:
        for commit in _apply(path, state, packed_txid):
            if state.rolling != commit.checksum:
                raise RestoreMismatch(f"checksum at transaction {state.txid} in {path.name}")
            if after:
                after(state)
        packed_txid = state.txid if path.parent.name == timeline else packed_txid
    if state.rolling != state.checksum():
        raise RestoreMismatch("the pages do not have the rolling checksum")
    return state


def _find_full(root: Path, wanted: FullName) -> Path:
    for path in sorted((root / "snapshots" / wanted.timeline).iterdir()):
        name = parse_snapshot_key(path.relative_to(root).as_posix())
        if name is not None and name.full is None and name.as_full == wanted:
            return path
    raise RestoreMismatch(f"there is no full snapshot at transaction {wanted.txid} of timeline {wanted.timeline}")


def _read_snapshot(path: Path, state: ReplayedState) -> None:
    """Put the pages of a snapshot on top of those that are there, and compare the checksum."""
    with path.open("rb") as file:
        for item in read_snapshot(file.read):
            if isinstance(item, SnapshotHeader):
                if item.full is not None and item.full.checksum != state.rolling:
                    raise RestoreMismatch(f"{path.name} was made on another full snapshot")
                state.page_size = item.page_size
            elif isinstance(item, SnapshotPages):
                references = [state.pages[pgno] for pgno in item.pgnos] if item.is_delta else []
                content = item.decode(state.page_size, references)
                for index, pgno in enumerate(item.pgnos):
                    state.pages[pgno] = content[index * state.page_size : (index + 1) * state.page_size]
            elif isinstance(item, SnapshotFooter):
                state.page_count, state.txid = item.page_count, item.txid
                _cut(state, item.page_count)
                state.rolling = state.checksum()
                if state.rolling != item.checksum:
                    raise RestoreMismatch(f"checksum of {path.name}")


def _opens(header: SegmentHeader | PackHeader) -> bool:
    return isinstance(header, SegmentHeader) and header.start is not None


def _apply(path: Path, state: ReplayedState, packed_txid: int) -> Iterator[Commit]:
    """Apply an object, unless a pack up to that transaction held it already."""
    with path.open("rb") as file:
        for item in read_source(file.read):
            if isinstance(item, SegmentHeader | PackHeader) and not _opens(item):
                if item.txid_before < packed_txid:
                    return
                if (item.txid_before, item.checksum_before, item.pages_before) != (
                    state.txid,
                    state.rolling,
                    state.page_count,
                ):
                    raise RestoreMismatch(f"{path.name} does not continue transaction {state.txid}")
            elif isinstance(item, SegmentChunk):
                yield from _apply_chunk(item, state)


def _apply_chunk(chunk: SegmentChunk, state: ReplayedState) -> Iterator[Commit]:
    table, size = chunk.table, state.page_size
    references = [state.pages[p] for p, flag in zip(table.pgnos, table.flags, strict=True) if flag & FLAG_REFERENCE]
    content = decode_pages(chunk.body, references, page_count=len(table.pgnos), page_size=size, offset=chunk.offset)
    commits = iter(table.commits)
    for index, (pgno, flag) in enumerate(zip(table.pgnos, table.flags, strict=True)):
        page = content[index * size : (index + 1) * size]
        old = state.pages.get(pgno)
        state.rolling ^= page_hash(page, pgno) ^ (page_hash(old, pgno) if old is not None else 0)
        state.pages[pgno] = page
        if flag & FLAG_COMMIT:
            commit = next(commits)
            _cut(state, commit.pages_after)
            state.page_count, state.commit = commit.pages_after, commit
            state.txid += 1
            yield commit


def _cut(state: ReplayedState, page_count: int) -> None:
    """Drop the pages beyond the size."""
    if page_count < state.page_count or len(state.pages) > page_count:
        for pgno in [pgno for pgno in state.pages if pgno > page_count]:
            state.rolling ^= page_hash(state.pages.pop(pgno), pgno)
