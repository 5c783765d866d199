"""What compaction knows of a replica: one fact for each object that holds transactions, and where the facts come from.

    INV-24  The newest segment of each writer that the store has acknowledged is not deleted, also when a pack holds
            it: the writer's next start looks for it, and a take-over counts on from it. A timeline's id tells whose
            its segments are.

What contradicts others that hold the same transactions is no fact: it is neither packed, nor deleted, nor a reason to
delete anything. Whoever reads the replica's history is told of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from walrep.core.history import History
from walrep.core.names import PackName, pack_key, parse_segment_name
from walrep.core.objects import PackFooter, SegmentFooter, SegmentHeader
from walrep.core.pack import pack_name
from walrep.core.units import Position, Seq, TimelineId, Txid, timeline_nonce

__all__ = [
    "Fact",
    "Leftover",
    "PackFact",
    "SegmentFact",
    "Stored",
    "newest_of_writers",
    "pack_fact",
    "segment_fact",
    "stored_from",
]


class SegmentFact(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a durable segment. `left`, of one that opens a timeline: the position of its parent.

    `seen_ms`: the earliest and the latest at which one of its transactions was seen, or when it opened the timeline.
    """

    key: str
    timeline: TimelineId
    seq: Seq
    size_bytes: int
    page_size: int
    txid_before: Txid
    txid_after: Txid
    checksum_before: int
    checksum_after: int
    first_seen_ms: int
    seen_ms: tuple[int, int] = (0, 0)
    is_opening: bool = False
    is_fence: bool = False
    left: Position | None = None

    @property
    def pinned(self) -> bool:
        """Whether it is packed with none: INV-22."""
        return self.is_opening or self.is_fence

    @property
    def first_seq(self) -> Seq:
        """Its number."""
        return self.seq

    @property
    def last_seq(self) -> Seq:
        """Its number."""
        return self.seq


class PackFact(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a pack; `verified` as INV-23 has it, by this process: it does not outlive it."""

    name: PackName
    size_bytes: int
    page_size: int
    checksum_before: int
    checksum_after: int
    stored_ms: int
    verified: bool
    key: str = ""
    """Follows from the name."""

    def __post_init__(self) -> None:
        # Asked for often, and not cheap to make.
        msgspec.structs.force_setattr(self, "key", pack_key(self.name))

    @property
    def timeline(self) -> TimelineId:
        """Its timeline."""
        return self.name.timeline

    @property
    def txid_before(self) -> Txid:
        """The transaction that it continues."""
        return self.name.txid_before

    @property
    def txid_after(self) -> Txid:
        """Its last transaction."""
        return self.name.txid_after

    @property
    def first_seq(self) -> Seq:
        """The number of its first segment."""
        return self.name.first_seq

    @property
    def last_seq(self) -> Seq:
        """The number of its last segment."""
        return self.name.last_seq

    @property
    def first_seen_ms(self) -> int:
        """When its first transaction was seen."""
        return self.name.first_seen_ms


Fact = SegmentFact | PackFact


class Leftover(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of which only the key is known, since a pack with its number is there."""

    key: str
    timeline: TimelineId
    seq: Seq


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica holds of transactions, durable. An object that is named twice counts once.

    `pending_ms`: when the oldest commit that is not durable was seen.
    """

    segments: Sequence[SegmentFact]
    packs: Sequence[PackFact] = ()
    leftovers: Sequence[Leftover] = ()
    pending_ms: int | None = None


def segment_fact(key: str, header: SegmentHeader, footer: SegmentFooter, size_bytes: int) -> SegmentFact:
    """Return what is known of a segment, from its ends."""
    start = header.start
    return SegmentFact(
        key=key,
        timeline=header.timeline,
        seq=header.seq,
        size_bytes=size_bytes,
        page_size=header.page_size,
        txid_before=header.txid_before,
        txid_after=footer.txid_after,
        checksum_before=header.checksum_before,
        checksum_after=footer.checksum_after,
        first_seen_ms=footer.first_seen_ms,
        seen_ms=(header.created_ms,) * 2 if start else (footer.earliest_seen_ms, footer.latest_seen_ms),
        is_opening=start is not None,
        is_fence=header.fence,
        left=start.parent if start else None,
    )


def pack_fact(footer: PackFooter, size_bytes: int, *, stored_ms: int, verified: bool) -> PackFact:
    """Return what is known of a pack, from its footer."""
    return PackFact(
        name=pack_name(footer),
        size_bytes=size_bytes,
        page_size=footer.header.page_size,
        checksum_before=footer.header.checksum_before,
        checksum_after=footer.checksum_after,
        stored_ms=stored_ms,
        verified=verified,
    )


def stored_from(history: History, *, verified: frozenset[str] = frozenset(), pending_ms: int | None = None) -> Stored:
    """Return what a replica holds, from its history; `verified` are the keys of packs that were read back.

    How old a pack is, is told by the clock of who made it. What is in no timeline's chain, and replaced by nothing that
    is, is left out.
    """
    misfits = frozenset[str]().union(*(timeline.misfits for timeline in history.timelines))
    segments = [each for timeline in history.timelines for each in timeline.segments if each.key not in misfits]
    packs = [each for timeline in history.timelines for each in timeline.packs if each.key not in misfits]
    return Stored(
        segments=[segment_fact(each.key, each.header, each.footer, each.size_bytes) for each in segments],
        packs=[
            pack_fact(each.footer, each.size_bytes, stored_ms=each.header.created_ms, verified=each.key in verified)
            for each in packs
        ],
        leftovers=list(_leftovers(history)),
        pending_ms=pending_ms,
    )


def newest_of_writers(stored: Stored) -> frozenset[str]:
    """Return the keys of the segments that are not deleted because they are the newest of their writers. INV-24."""
    newest: dict[str, SegmentFact | Leftover] = {}
    known: list[SegmentFact | Leftover] = [*stored.segments, *stored.leftovers]
    for each in known:
        writer = timeline_nonce(each.timeline)
        if writer not in newest or newest[writer].seq < each.seq:
            newest[writer] = each
    return frozenset(each.key for each in newest.values())


def _leftovers(history: History) -> Iterator[Leftover]:
    for timeline in history.timelines:
        for spare in timeline.unread:
            name = parse_segment_name(spare.key)
            if name is not None:
                yield Leftover(key=spare.key, timeline=timeline.id, seq=name.seq)
