"""Which bytes of which segments and packs lead from a snapshot to a transaction.

A segment is taken whole. Of a pack only the chunks from the snapshot's position up to the one that holds the
transaction, found in its index; when that is all of them the whole object, index and footer included, and without
having read the index.

A chunk is compressed against the pages before its first frame. So nobody can begin within a chunk: a snapshot that lies
inside a pack is of use for what follows only where one chunk ends and the next begins, which is where a segment ended.
"""

from __future__ import annotations

import msgspec

from walrep.core.history import Coverage, Link, Pack, Segment, Timeline
from walrep.core.index import PackIndex
from walrep.core.records import Known, Needs, PackChunk
from walrep.core.units import Txid

__all__ = [
    "PACK_END_BYTES",
    "PART_BYTES",
    "WHOLE_BYTES_MAX",
    "Slice",
    "State",
    "plan_slices",
    "split_parts",
    "state_at",
]

PART_BYTES = 8 << 20
"""A restore gets larger objects in parts of this size."""

WHOLE_BYTES_MAX = 256 << 10
"""Segments up to this size are read whole when the replica's history is read, and kept for the restore."""

PACK_END_BYTES = 16 << 10
"""What is read of a pack with the history, from its end, and kept: the footer, and mostly the index."""


class State(msgspec.Struct, frozen=True):
    """What is recorded of the state after a transaction."""

    checksum: int
    page_count: int
    seen_ms: int
    page_size: int


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of a segment or pack. With `index`, only the chunks of `rows`; else the whole object.

    From the offset `kept_from` on it was read before, when the plan was made; None: nothing was.
    """

    link: Link
    start: int
    length: int
    index: PackIndex | None = None
    rows: range = range(0)
    kept_from: int | None = None

    @property
    def key(self) -> str:
        """The key of the object."""
        return self.link.key

    @property
    def size_bytes(self) -> int:
        """How many bytes of the object are needed."""
        return self.length

    @property
    def state_before(self) -> tuple[int, int, int]:
        """Transaction, database checksum and size in pages with which it begins."""
        if self.index is not None:
            return self.index.state_before(self.rows.start)
        header = self.link.header
        return header.txid_before, header.checksum_before, header.pages_before

    def parts(self) -> list[tuple[int, int]]:
        """Return the (start, length) of the ranges in which it is read; what was read before is one of its own."""
        end = self.start + self.length
        fresh_end = end if self.kept_from is None else self.kept_from
        parts = [(self.start + start, length) for start, length in split_parts(fresh_end - self.start)]
        return parts + ([(fresh_end, end - fresh_end)] if fresh_end < end else [])

    def parts_to_get(self) -> list[tuple[int, int]]:
        """Return those of its parts that still have to be asked for."""
        size_bytes = self.link.size_bytes
        if isinstance(self.link, Segment):
            return self.parts() if size_bytes > WHOLE_BYTES_MAX else []
        end = size_bytes - PACK_END_BYTES
        return [(start, length) for start, length in self.parts() if start != self.kept_from and start < end]


def split_parts(size_bytes: int) -> list[tuple[int, int]]:
    """Return the (start, length) of the ranges in which an object of this size is read."""
    return [(start, min(PART_BYTES, size_bytes - start)) for start in range(0, size_bytes, PART_BYTES)]


def plan_slices(coverage: Coverage, txid: Txid, known: Known) -> tuple[Slice, ...] | Needs | None:
    """Return what leads from the coverage's snapshot to `txid`; None if the snapshot lies within a chunk."""
    first_txid = coverage.first_txid
    if txid == first_txid:
        return ()
    links = [link for link in coverage.links if link.header.txid_before < txid]
    unread = tuple(
        link
        for link in links
        if isinstance(link, Pack) and _is_part(link, first_txid, txid) and link.key not in known.indexes
    )
    if unread:
        return Needs(packs=unread)
    slices = [_slice(link, first_txid, txid, known) for link in links]
    found = tuple(each for each in slices if each is not None)
    return found if len(found) == len(slices) else None


def state_at(timeline: Timeline, coverage: Coverage, txid: Txid, known: Known) -> State | Needs:
    """Return what is recorded of the state after `txid`, from the cheapest record that tells."""
    holder = next((each for each in timeline.chain if each.header.txid_before < txid <= each.footer.txid_after), None)
    if holder is not None and txid == holder.footer.txid_after:
        footer = holder.footer
        return State(footer.checksum_after, footer.pages_after, footer.last_seen_ms, holder.header.page_size)
    if isinstance(holder, Pack):
        return _state_in_pack(holder, txid, known)
    if holder is not None and txid > coverage.first_txid:
        return _state_in_segment(holder, txid, known)
    seen_ms = coverage.snapshot.name.seen_ms
    if coverage.links and coverage.links[0].header.txid_before == txid:
        header = coverage.links[0].header
        return State(header.checksum_before, header.pages_before, seen_ms, header.page_size)
    ends = known.snapshots.get(coverage.snapshot.key)
    if ends is None:
        return Needs(snapshots=(coverage.snapshot,))
    return State(ends.footer.checksum, ends.footer.page_count, seen_ms, ends.header.page_size)


def _state_in_segment(segment: Segment, txid: Txid, known: Known) -> State | Needs:
    commits = known.commits.get(segment.key)
    if commits is None:
        return Needs(segments=(segment,))
    commit = commits[txid - segment.header.txid_before - 1]
    return State(commit.checksum, commit.pages_after, commit.seen_ms, segment.header.page_size)


def _state_in_pack(pack: Pack, txid: Txid, known: Known) -> State | Needs:
    index = known.indexes.get(pack.key)
    if index is None:
        return Needs(packs=(pack,))
    number = index.row_holding(txid)
    row = index.row(number)
    if row.txid_after == txid:
        return State(row.checksum_after, row.pages_after, row.last_seen_ms, pack.header.page_size)
    commits = known.chunks.get((pack.key, number))
    if commits is None:
        return Needs(chunks=(PackChunk(pack, number, row.offset, row.block_bytes),))
    commit = commits[txid - row.txid_before - 1]
    return State(commit.checksum, commit.pages_after, commit.seen_ms, pack.header.page_size)


def _is_part(link: Link, first_txid: int, txid: int) -> bool:
    """Return whether not all of a link is needed."""
    return link.header.txid_before < first_txid or txid < link.footer.txid_after


def _slice(link: Link, first_txid: int, txid: int, known: Known) -> Slice | None:
    """Return what is needed of a link; None if the snapshot lies within one of its chunks."""
    if isinstance(link, Segment) or not _is_part(link, first_txid, txid):
        return Slice(link=link, start=0, length=link.size_bytes)
    index = known.indexes[link.key]
    first = index.row_after(max(first_txid, link.header.txid_before))
    if first is None:
        return None
    last = index.row_holding(min(txid, link.footer.txid_after))
    start, length = index.byte_range(first, last + 1)
    kept_from = int(index.rows["offset"][last]) if (link.key, last) in known.chunks else None
    return Slice(link=link, start=start, length=length, index=index, rows=range(first, last + 1), kept_from=kept_from)
