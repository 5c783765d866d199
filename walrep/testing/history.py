"""Makes replicas from a model: databases are dictionaries of pages, transactions change them.

The encoding is written anew here, from the format's description and with whole page versions at hand, so that a test
of the restore is not a test of the encoder against itself. Every state is remembered for comparison.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from walrep.core.census import segments_to_read
from walrep.core.chunk import (
    FLAG_COMMIT,
    FLAG_REFERENCE,
    ChunkTable,
    Commit,
    chunk_frames,
    compress_pages,
    decode_table,
    encode_table,
)
from walrep.core.container import BlockType, encode_block, read_block
from walrep.core.history import Damage, History, SegmentEnds, build_history
from walrep.core.index import parse_index
from walrep.core.names import (
    REPLICA_KEY,
    parse_pack_key,
    parse_pruned_key,
    parse_segment_name,
    segment_key,
    snapshot_key,
)
from walrep.core.objects import (
    PackFooter,
    ReplicaInfo,
    SegmentFooter,
    SegmentHeader,
    SnapshotFooter,
    SnapshotHeader,
    TimelineStart,
    Writer,
)
from walrep.core.pack import read_source
from walrep.core.pages import page_hash
from walrep.core.records import Known, Needs, SnapshotEnds
from walrep.core.segment import SegmentChunk, encode_segment_end, encode_segment_start, read_segment
from walrep.core.snapshot import (
    delta_block_pages,
    encode_snapshot_end,
    encode_snapshot_pages,
    encode_snapshot_start,
    read_snapshot,
    snapshot_block_pages,
    snapshot_name,
)
from walrep.core.units import Checksum, Position, Seq, TimelineId, Txid, lock_byte_page, make_timeline_id
from walrep.engine.ends import parse_prune_record
from walrep.errors import CorruptObject, check
from walrep.store.base import Store
from walrep.testing.packs import make_pack

__all__ = ["HistoryBuilder", "Image", "history_of", "image_bytes", "image_checksum", "image_pages", "known_of"]

Image = Mapping[int, bytes]
"""The pages of a database by number; what is missing below the highest is a hole."""

_REPLICA = "0123456789abcdef"


class _Frame(msgspec.Struct, frozen=True):
    pgno: int
    content: bytes
    commit: Commit | None


def image_bytes(image: Image, page_count: int, page_size: int) -> bytes:
    """Return the database file."""
    return b"".join(image.get(pgno, bytes(page_size)) for pgno in range(1, page_count + 1))


def image_pages(database: bytes, page_size: int) -> dict[int, bytes]:
    """Return the pages of a database file."""
    return {
        start // page_size + 1: database[start : start + page_size]
        for start in range(0, len(database), page_size)
        if start // page_size + 1 != lock_byte_page(page_size)
    }


def image_checksum(image: Image) -> int:
    """Return the database checksum, page by page."""
    checksum = 0
    for pgno, content in image.items():
        checksum ^= page_hash(content, pgno)
    return checksum


def history_of(objects: Mapping[str, bytes], replica: str = "", *, skip_replaced: bool = False) -> History:
    """Return the history of a replica given as its objects; a segment or pack that does not parse is damaged.

    With `skip_replaced`, segments in the range of a readable pack are left unread, as the product does.
    """
    ends: dict[str, SegmentEnds | Damage] = {}
    packs: dict[str, PackFooter | Damage] = {}
    sizes = {key: len(data) for key, data in objects.items()}
    # Packs come first.
    for key, data in sorted(objects.items()):
        name = parse_segment_name(key)
        if name is None and parse_pack_key(key) is None:
            continue
        if name is not None and skip_replaced and key not in segments_to_read(sizes, packs):
            continue
        try:
            header, *_middle, footer = read_source(io.BytesIO(data).read)
        except CorruptObject as error:
            (packs if name is None else ends)[key] = Damage(str(error))
            continue
        if isinstance(footer, PackFooter):
            packs[key] = footer
        elif isinstance(header, SegmentHeader) and isinstance(footer, SegmentFooter):
            ends[key] = SegmentEnds(header, footer)
    records = [
        parse_prune_record(key, data) for key, data in sorted(objects.items()) if parse_pruned_key(key) is not None
    ]
    return build_history(sizes, ends, replica, packs, records)


def known_of(objects: Mapping[str, bytes], needs: Needs, known: Known | None = None) -> Known:
    """Return what is known and what a plan asked for, from a replica given as its objects."""
    before = known or Known()
    commits = {each.key: _commits_in(objects[each.key]) for each in needs.segments}
    snapshots = {}
    for snapshot in needs.snapshots:
        parts = list(read_snapshot(io.BytesIO(objects[snapshot.key]).read))
        snapshots[snapshot.key] = SnapshotEnds(cast("SnapshotHeader", parts[0]), cast("SnapshotFooter", parts[-1]))
    indexes = {
        each.key: parse_index(io.BytesIO(objects[each.key][each.footer.index_offset :]).read, each.footer)
        for each in needs.packs
    }
    chunks = {}
    for chunk in needs.chunks:
        block = objects[chunk.pack.key][chunk.offset : chunk.offset + chunk.block_bytes]
        head = read_block(io.BytesIO(block).read, chunk.offset).head
        table = decode_table(head, page_size=chunk.pack.header.page_size, offset=chunk.offset)
        chunks[chunk.pack.key, chunk.number] = table.commits
    return before.joined(Known(commits=commits, snapshots=snapshots, indexes=indexes, chunks=chunks))


def _commits_in(segment: bytes) -> list[Commit]:
    items = read_segment(io.BytesIO(segment).read)
    return [commit for item in items if isinstance(item, SegmentChunk) for commit in item.table.commits]


class HistoryBuilder:
    """Writes one replica's history, object by object, into `objects`.

    `states` maps (timeline, txid) to the database file there, `positions` to its position.
    """

    def __init__(self, page_size: int = 512, *, replica: str = _REPLICA, nonce: str = "a1b2c3d4e5f60718") -> None:
        self.page_size = page_size
        self.replica = replica
        self.writer = Writer(nonce=nonce, host="test", pid=1)
        self.objects: dict[str, bytes] = {}
        self.states: dict[tuple[TimelineId, int], bytes] = {}
        self.positions: dict[tuple[TimelineId, int], Position] = {}
        self.timeline = TimelineId("")
        self.seq = 0
        self.txid = 0
        self.page_count = 0
        self.image: dict[int, bytes] = {}
        self._number = 0
        self._segments: dict[TimelineId, list[str]] = {}
        self._frames: list[_Frame] = []
        self._sealed_image: dict[int, bytes] = {}
        self._sealed = (0, 0, 0)
        info = ReplicaInfo(
            format=1, replica=replica, database="/app.db", created_ms=0, created_by=self.writer, walrep="test"
        )
        self.objects[REPLICA_KEY] = msgspec.json.encode(info)

    def begin(
        self,
        image: Image,
        seen_ms: int,
        *,
        parent: Position | None = None,
        looked_ms: int | None = None,
        base: bool = True,
        fence: bool = False,
    ) -> TimelineId:
        """Open a timeline with this image; without `base`, leave its first snapshot out."""
        self._number += 1
        self.timeline = make_timeline_id(self._number, self.writer.nonce)
        self.image = dict(image)
        self.page_count = max(image)
        self.txid = 0
        self._frames.clear()
        self._seal_header_state()
        self._remember()
        reason = "new replica" if parent is None else "restore"
        self._put_segment(TimelineStart(reason=reason, parent=parent, looked_ms=looked_ms), seen_ms, fence=fence)
        if base:
            self.snapshot(seen_ms)
        return self.timeline

    def commit(
        self, pages: Sequence[tuple[int, bytes]], page_count: int, seen_ms: int, *, looked_ms: int | None = None
    ) -> int:
        """Commit a transaction of these frames, after which the database has `page_count` pages; return its txid."""
        check(len(pages) > 0, "a transaction has a frame")
        for pgno, content in pages:
            self.image[pgno] = content
        self.image = {pgno: content for pgno, content in self.image.items() if pgno <= page_count}
        self.page_count = page_count
        self.txid += 1
        looked = seen_ms - 10 if looked_ms is None else looked_ms
        end = Commit(page_count, image_checksum(self.image), seen_ms, looked)
        last = len(pages) - 1
        self._frames += [
            _Frame(pgno, content, end if index == last else None) for index, (pgno, content) in enumerate(pages)
        ]
        self._remember()
        return self.txid

    def seal(self) -> str:
        """Write what was committed since the last seal as a segment; return its key."""
        return self._put_segment(
            None, self._frames[-1].commit.seen_ms if self._frames and self._frames[-1].commit else 0
        )

    def snapshot(
        self,
        seen_ms: int,
        *,
        repeated: Sequence[int] = (),
        full_txid: int | None = None,
        full_timeline: TimelineId | None = None,
        delta: bool = False,
    ) -> str:
        """Write a snapshot of the state at the last seal; pages in `repeated` stand first with other contents.

        With `full_txid` a differential one, of the pages that differ from the state there: in `full_timeline`, or else
        in this one. With `delta` against its pages, as far as they stand nowhere before.
        """
        check(not self._frames, "seal first: a snapshot stands between two segments")
        full = None if full_txid is None else self.positions[full_timeline or self.timeline, full_txid]
        under = {} if full is None else image_pages(self.states[full.timeline, full.txid], self.page_size)
        order = [*repeated, *(pgno for pgno in sorted(self.image) if under.get(pgno) != self.image[pgno])]
        stale = dict.fromkeys(range(len(repeated)), b"\xee" * self.page_size)
        contents = [stale.get(index, self.image[pgno]) for index, pgno in enumerate(order)]
        header = SnapshotHeader(
            replica=self.replica,
            timeline=self.timeline,
            writer=self.writer,
            created_ms=seen_ms,
            page_size=self.page_size,
            full=full,
        )
        data = encode_snapshot_start(header)
        blocks = self._page_blocks(order, contents, under if delta else {})
        data += b"".join(blocks)
        footer = SnapshotFooter(
            txid=Txid(self.txid),
            seq=Seq(self.seq),
            seen_ms=seen_ms,
            checksum=image_checksum(self.image),
            page_count=self.page_count,
            block_count=len(blocks),
            stored_pages=len(order),
        )
        key = snapshot_key(snapshot_name(header, footer))
        self.objects[key] = data + encode_snapshot_end(footer, len(data))
        return key

    def _page_blocks(self, order: Sequence[int], contents: Sequence[bytes], under: Image) -> list[bytes]:
        """Return the blocks of these pages, each with a reference in `under` or each without."""
        blocks: list[bytes] = []
        run: list[int] = []

        def leans(index: int) -> bool:
            return order[index] in under and order[index] not in order[:index]

        for index in range(len(order)):
            run.append(index)
            is_delta = leans(index)
            step = (delta_block_pages if is_delta else snapshot_block_pages)(self.page_size)
            if index + 1 == len(order) or len(run) == step or leans(index + 1) != is_delta:
                pgnos = [order[each] for each in run]
                references = [under[pgno] for pgno in pgnos] if is_delta else []
                blocks.append(encode_snapshot_pages(pgnos, [contents[each] for each in run], references))
                run = []
        return blocks

    def pack(self, keys: Sequence[str], *, keep: bool = False) -> str:
        """Write a pack of these segments and packs, in order, and remove them unless `keep`; return its key."""
        key, data = make_pack(self.objects, keys)
        for replaced in () if keep else keys:
            del self.objects[replaced]
        self.objects[key] = data
        return key

    def packable(self, timeline: TimelineId | None = None) -> list[str]:
        """Return the segments with transactions, of one timeline (None: the current one), in order."""
        name = timeline or self.timeline
        return [key for key in self._segments.get(name, ()) if key in self.objects]

    async def store_in(self, store: Store) -> None:
        """Put every object into a store."""
        for key, data in self.objects.items():
            await store.put(key, data)

    def _remember(self) -> None:
        checksum = Checksum(image_checksum(self.image))
        where = (self.timeline, self.txid)
        self.states[where] = image_bytes(self.image, self.page_count, self.page_size)
        self.positions[where] = Position(self.timeline, Txid(self.txid), checksum)

    def _seal_header_state(self) -> None:
        self._sealed_image = dict(self.image)
        self._sealed = (self.txid, image_checksum(self.image), self.page_count)

    def _put_segment(self, start: TimelineStart | None, created_ms: int, *, fence: bool = False) -> str:
        self.seq += 1
        txid, checksum, pages = self._sealed
        header = SegmentHeader(
            replica=self.replica,
            seq=Seq(self.seq),
            timeline=self.timeline,
            writer=self.writer,
            created_ms=created_ms,
            page_size=self.page_size,
            txid_before=Txid(txid),
            checksum_before=checksum,
            pages_before=pages,
            start=start,
            fence=fence,
        )
        data = encode_segment_start(header)
        blocks = self._chunk_blocks(txid)
        data += b"".join(blocks)
        commits = [frame.commit for frame in self._frames if frame.commit is not None]
        footer = SegmentFooter(
            txid_after=Txid(self.txid),
            checksum_after=image_checksum(self.image),
            pages_after=self.page_count,
            first_looked_ms=commits[0].looked_ms if commits else 0,
            first_seen_ms=commits[0].seen_ms if commits else 0,
            last_seen_ms=commits[-1].seen_ms if commits else 0,
            earliest_seen_ms=min((commit.seen_ms for commit in commits), default=0),
            latest_seen_ms=max((commit.seen_ms for commit in commits), default=0),
            chunk_count=len(blocks),
            frame_count=len(self._frames),
        )
        key = segment_key(self.seq)
        if start is None and commits:
            self._segments.setdefault(self.timeline, []).append(key)
        self.objects[key] = data + encode_segment_end(footer, len(data))
        self._frames.clear()
        self._seal_header_state()
        return key

    def _chunk_blocks(self, txid: int) -> list[bytes]:
        """Return the chunk blocks of the open frames, each compressed against the image before its first frame."""
        blocks = []
        image = self._sealed_image
        step = chunk_frames(self.page_size)
        for start in range(0, len(self._frames), step):
            frames = self._frames[start : start + step]
            flags = bytearray(FLAG_COMMIT if frame.commit else 0 for frame in frames)
            references = []
            for index, pgno in enumerate(frame.pgno for frame in frames):
                is_first = all(earlier.pgno != pgno for earlier in frames[:index])
                if is_first and pgno in image:
                    flags[index] |= FLAG_REFERENCE
                    references.append(image[pgno])
            commits = [frame.commit for frame in frames if frame.commit is not None]
            table = ChunkTable(txid, [frame.pgno for frame in frames], bytes(flags), commits)
            body = compress_pages([frame.content for frame in frames], references)
            blocks.append(encode_block(BlockType.CHUNK, encode_table(table), body))
            txid += len(commits)
            for frame in frames:
                image[frame.pgno] = frame.content
                if frame.commit is not None:
                    image = {p: content for p, content in image.items() if p <= frame.commit.pages_after}
        return blocks
