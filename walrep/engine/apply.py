"""From the bytes of a plan's objects, as they arrive, to pages: what a restore does between two awaits.

Objects arrive in parts. A container is parsed by pulling, so that a parser is advanced only while the bytes of a whole
block, of the largest there may be, are at hand, or the object has ended.

Nothing is believed: a snapshot has to be what its key says, the database checksum is compared after it, before and
after each segment and pack, and after every transaction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from walrep.core.chunk import FLAG_COMMIT, FLAG_REFERENCE, decode_pages
from walrep.core.container import BLOCK_HEADER_BYTES, BODY_BYTES_MAX, HEAD_BYTES_MAX, PREAMBLE_BYTES, TAIL_BYTES
from walrep.core.history import Pack, Snapshot
from walrep.core.names import FullName
from walrep.core.objects import PackHeader, SegmentFooter, SegmentHeader, SnapshotFooter, SnapshotHeader
from walrep.core.pack import ChunkRange, IndexBlock, Read, read_pack, read_pack_chunks
from walrep.core.restore import RestorePlan
from walrep.core.segment import SegmentChunk, read_segment
from walrep.core.slices import Slice
from walrep.core.snapshot import SnapshotPages, read_snapshot
from walrep.core.units import format_checksum
from walrep.engine.pagefile import PageFile
from walrep.errors import CorruptObject, RestoreMismatch

__all__ = ["BlockBatch", "ObjectFeed", "SliceApplier", "SnapshotLoader", "naming"]

T = TypeVar("T")

_STEP_BYTES_MAX = PREAMBLE_BYTES + BLOCK_HEADER_BYTES + HEAD_BYTES_MAX + BODY_BYTES_MAX + TAIL_BYTES + 1
_BATCH_PAGES_BYTES = 4 << 20


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Add the object's key to what a parser complains about."""
    try:
        yield
    except CorruptObject as error:
        error.detail = f"{key}: {error.detail}" if error.detail else key
        raise


class ObjectFeed(Generic[T]):
    """Feeds a pulling parser with the parts of one object."""

    def __init__(self, parse: Callable[[Callable[[int], bytes]], Iterator[T]]) -> None:
        self._parts: deque[memoryview] = deque()
        self._available_bytes = 0
        self._ended = False
        self._items = parse(self._read)

    def feed(self, data: bytes, *, final: bool) -> Iterator[T]:
        """Take the next part of the object; yield what can be parsed by now, before a defect is raised.

        Raises:
            CorruptObject: from the parser.

        """
        if data:
            self._parts.append(memoryview(data))
            self._available_bytes += len(data)
        self._ended = final
        while self._ended or self._available_bytes >= _STEP_BYTES_MAX:
            try:
                item = next(self._items)
            except StopIteration:
                return
            yield item

    def _read(self, count: int) -> bytes:
        taken: list[memoryview] = []
        wanted = count
        while wanted and self._parts:
            part = self._parts.popleft()
            if len(part) > wanted:
                self._parts.appendleft(part[wanted:])
                part = part[:wanted]
            taken.append(part)
            wanted -= len(part)
        self._available_bytes -= count - wanted
        return b"".join(taken)


class BlockBatch(msgspec.Struct, frozen=True):
    """Blocks of a snapshot that are worked on together, and the range of their page numbers."""

    blocks: list[SnapshotPages]
    lowest: int
    highest: int

    def overlaps(self, other: BlockBatch) -> bool:
        """Return whether they may have a page in common: then the later one must be written after the other."""
        return self.lowest <= other.highest and other.lowest <= self.highest


class SnapshotLoader:
    """Splits one of the plan's snapshots into batches, and proves in the end what is there then.

    A differential one comes on top of the full one under it.
    """

    def __init__(self, plan: RestorePlan, snapshot: Snapshot, pages: PageFile) -> None:
        self._plan = plan
        self._snapshot = snapshot
        self._pages = pages
        self._feed: ObjectFeed[SnapshotHeader | SnapshotPages | SnapshotFooter] = ObjectFeed(read_snapshot)
        self._footer: SnapshotFooter | None = None

    def feed(self, data: bytes, *, final: bool) -> list[BlockBatch]:
        """Take the next part of the object and return the batches that are complete.

        Raises:
            CorruptObject: the object is malformed.
            RestoreMismatch: it is another snapshot than its key says.

        """
        blocks: list[SnapshotPages] = []
        with naming(self._snapshot.key):
            for item in self._feed.feed(data, final=final):
                if isinstance(item, SnapshotPages):
                    blocks.append(item)
                elif isinstance(item, SnapshotFooter):
                    self._footer = item
                else:
                    self._check_header(item)
        return self._batches(blocks)

    def finish(self) -> None:
        """Compare the database checksum, when everything is written.

        Raises:
            CorruptObject: the object is empty.
            RestoreMismatch: the pages are not those that were recorded.

        """
        footer, name, hashes = self._footer, self._snapshot.name, self._pages.hashes
        if footer is None:
            # An object without a byte has no part to complain about.
            raise CorruptObject("object ends before its footer", offset=0, detail=self._snapshot.key)
        if (footer.txid, footer.seq) != (name.txid, name.seq):
            raise RestoreMismatch("the snapshot is of another position than its key says", detail=self._snapshot.key)
        hashes.rebuild()
        hashes.commit(footer.page_count)
        if hashes.checksum != footer.checksum:
            raise _mismatch(f"snapshot {self._snapshot.key}", footer.checksum, hashes.checksum)

    def _check_header(self, header: SnapshotHeader) -> None:
        key, name, full = self._snapshot.key, self._snapshot.name, header.full
        if (header.timeline, header.page_size) != (name.timeline, self._plan.page_size):
            raise RestoreMismatch("the snapshot is of another timeline or page size", detail=key)
        if name.full != (None if full is None else FullName(full.timeline, full.txid)):
            raise RestoreMismatch("the snapshot leans on another one than its key says", detail=key)
        # What was loaded before it is the one under it, compared with its own footer by then. INV-31
        if full is not None and full.checksum != self._pages.hashes.checksum:
            raise RestoreMismatch("the full snapshot under it is not the one that it was made on", detail=key)

    def _batches(self, blocks: list[SnapshotPages]) -> list[BlockBatch]:
        batches = []
        start = pages = 0
        for index, block in enumerate(blocks, 1):
            pages += len(block.pgnos)
            if pages * self._plan.page_size >= _BATCH_PAGES_BYTES or index == len(blocks):
                part = blocks[start:index]
                lowest = min(min(each.pgnos) for each in part)
                batches.append(BlockBatch(part, lowest, max(max(each.pgnos) for each in part)))
                start, pages = index, 0
        return batches


_Item = SegmentHeader | PackHeader | ChunkRange | SegmentChunk | IndexBlock | SegmentFooter


class SliceApplier:
    """Applies the plan's segments and packs, or the parts of packs, in order, until its transaction."""

    def __init__(self, plan: RestorePlan, pages: PageFile) -> None:
        self.key = ""
        """Of the object that is being applied."""
        self._plan = plan
        self._pages = pages
        self._txid = int(plan.snapshot.name.txid)
        self._slices = {each.key: each for each in plan.slices}
        self._feed: ObjectFeed[_Item] | None = None

    def is_done(self) -> bool:
        """Return whether the plan's transaction is reached."""
        return self._txid == self._plan.position.txid

    def feed(self, key: str, data: bytes, *, final: bool) -> None:
        """Take the next part of a slice and apply what is complete.

        Raises:
            CorruptObject: the object is malformed.
            RestoreMismatch: it does not fit what is there, or a checksum is not the recorded one.

        """
        if self.is_done():
            return
        if key != self.key or self._feed is None:
            self.key, self._feed = key, ObjectFeed(_parser(self._slices[key]))
        with naming(key):
            for item in self._feed.feed(data, final=final):
                if isinstance(item, SegmentChunk):
                    self._apply(key, item)
                    self._pages.spill_if_full()
                elif not isinstance(item, IndexBlock):
                    self._check_end(key, item)
                # What stands behind the target is of no concern, also when it is damaged.
                if self.is_done():
                    return

    def finish(self) -> None:
        """Compare the end with the plan.

        Raises:
            RestoreMismatch: the plan's transaction was not reached, or is another one than recorded.

        """
        hashes, position = self._pages.hashes, self._plan.position
        if not self.is_done():
            raise RestoreMismatch(f"what was applied ends at transaction {self._txid}, expected {position.txid}")
        if (hashes.checksum, hashes.page_count) != (position.checksum, self._plan.page_count):
            raise _mismatch(f"transaction {position.txid}", position.checksum, hashes.checksum)

    def _check_end(self, key: str, end: SegmentHeader | PackHeader | ChunkRange | SegmentFooter) -> None:
        hashes = self._pages.hashes
        recorded: tuple[int, int, int]
        if isinstance(end, SegmentFooter):
            where, recorded = "after", (end.txid_after, end.checksum_after, end.pages_after)
        else:
            where, recorded = "before", (end.txid_before, end.checksum_before, end.pages_before)
        if recorded != (self._txid, hashes.checksum, hashes.page_count):
            raise _mismatch(f"the state {where} {key}", recorded[1], hashes.checksum)

    def _apply(self, key: str, chunk: SegmentChunk) -> None:
        table, page_size, pages = chunk.table, self._pages.page_size, self._pages
        references = []
        for pgno, flag in zip(table.pgnos, table.flags, strict=True):
            if flag & FLAG_REFERENCE:
                reference = pages.page(pgno)
                if reference is None:
                    raise RestoreMismatch(f"page {pgno} is compressed against one that does not exist", detail=key)
                references.append(reference)
        plain = decode_pages(
            chunk.body, references, page_count=len(table.pgnos), page_size=page_size, offset=chunk.offset
        )
        contents = [plain[start : start + page_size] for start in range(0, len(plain), page_size)]
        self._advance(key, chunk, contents)

    def _advance(self, key: str, chunk: SegmentChunk, contents: list[bytes]) -> None:
        """Move pages, hash array and checksum over the frames of a chunk, up to the plan's transaction."""
        pgnos, flags = chunk.table.pgnos, chunk.table.flags
        state, cache, target = self._pages.hashes, self._pages.cache, self._plan.position.txid
        state.reserve(max(pgnos))
        slots, checksum, highest = state.slots, state.checksum, state.highest
        commits = iter(chunk.table.commits)
        new_hashes = map(xxh3_64_intdigest, contents, pgnos)
        for pgno, flag, content, new_hash in zip(pgnos, flags, contents, new_hashes, strict=True):
            new = new_hash or 1
            checksum ^= slots[pgno] ^ new
            slots[pgno] = new
            cache[pgno] = content
            if pgno > highest:  # noqa: PLR1730 - max() takes three times as long, once a frame
                highest = pgno
            if flag & FLAG_COMMIT:
                commit = next(commits)
                state.checksum, state.highest = checksum, highest
                state.commit(commit.pages_after)
                checksum, highest = state.checksum, state.highest
                self._txid += 1
                if checksum != commit.checksum:
                    raise _mismatch(f"transaction {self._txid} in {key}", commit.checksum, checksum)
                if self._txid == target:
                    return
        state.checksum, state.highest = checksum, highest


def _parser(part: Slice) -> Callable[[Read], Iterator[_Item]]:
    if part.index is not None:
        return partial(read_pack_chunks, index=part.index, rows=part.rows)
    return read_pack if isinstance(part.link, Pack) else read_segment


def _mismatch(what: str, recorded: int, found: int) -> RestoreMismatch:
    return RestoreMismatch(
        f"the database checksum of {what} is not the recorded one",
        detail=f"recorded {format_checksum(recorded)}, found {format_checksum(found)}",
        hint="nothing was put at the target; restore an earlier transaction, and keep the replica for analysis",
    )
