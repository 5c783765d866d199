"""The objects that hold transactions, and what ties one to the next.

A segment or a pack is a *link*: it continues another one of its timeline when transaction number and database checksum
both do. Which of several count, where a pack lies beside what it replaces, is for `walrep.core.chain`.
"""

from __future__ import annotations

import msgspec

from walrep.core.names import PackName, SegmentName
from walrep.core.objects import PackFooter, PackHeader, SegmentFooter, SegmentHeader
from walrep.core.units import Seq, Txid, timeline_nonce

__all__ = [
    "Damage",
    "Link",
    "Pack",
    "Segment",
    "SegmentEnds",
    "Spare",
    "covers",
    "defect_between",
]


class SegmentEnds(msgspec.Struct, frozen=True):
    """The header and the footer of a segment."""

    header: SegmentHeader
    footer: SegmentFooter


class Damage(msgspec.Struct, frozen=True):
    """Why header or footer of an object cannot be read, or what of it was found not to be."""

    message: str


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One segment object."""

    key: str
    seq: Seq
    size_bytes: int
    header: SegmentHeader
    footer: SegmentFooter

    @property
    def first_seq(self) -> Seq:
        """Its number."""
        return self.seq

    @property
    def last_seq(self) -> Seq:
        """Its number."""
        return self.seq

    @property
    def opens_timeline(self) -> bool:
        """Whether it opens its timeline, and holds no transaction."""
        return self.header.start is not None

    @property
    def txid_before(self) -> Txid:
        """The transaction that it continues."""
        return self.header.txid_before

    @property
    def txid_after(self) -> Txid:
        """Its last transaction."""
        return self.footer.txid_after

    @property
    def transaction_count(self) -> int:
        """How many transactions it holds."""
        return self.txid_after - self.txid_before


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """One pack object."""

    key: str
    name: PackName
    size_bytes: int
    footer: PackFooter

    @property
    def header(self) -> PackHeader:
        """What its header says, as its footer repeats it."""
        return self.footer.header

    @property
    def first_seq(self) -> Seq:
        """The number of the first segment that it replaces."""
        return self.name.first_seq

    @property
    def last_seq(self) -> Seq:
        """The number of the last segment that it replaces."""
        return self.name.last_seq

    @property
    def opens_timeline(self) -> bool:
        """Whether it opens its timeline: no pack does."""
        return False

    @property
    def txid_before(self) -> Txid:
        """The transaction that it continues."""
        return self.header.txid_before

    @property
    def txid_after(self) -> Txid:
        """Its last transaction."""
        return self.footer.txid_after

    @property
    def transaction_count(self) -> int:
        """How many transactions it holds."""
        return self.txid_after - self.txid_before


Link = Segment | Pack


class Spare(msgspec.Struct, frozen=True, kw_only=True):
    """An object that another one replaces; of a segment known by its key alone too."""

    key: str
    size_bytes: int
    replaced_by: str


def covers(pack: PackName, segment: SegmentName) -> bool:
    """Return whether a pack replaces the segment with this name. The numbers of two writers may be the same."""
    same_writer = not segment.nonce or segment.nonce.startswith(timeline_nonce(pack.timeline))
    return same_writer and pack.first_seq <= segment.seq <= pack.last_seq


def defect_between(before: Link, after: Link) -> str:
    """Return why `after` does not continue `before`; empty if it does."""
    if after.header.txid_before != before.footer.txid_after:
        return f"it begins after transaction {after.header.txid_before}, expected {before.footer.txid_after}"
    if after.header.page_size != before.header.page_size:
        return "it has another page size"
    # The opening segment is written before the base is copied: its checksum says nothing about the first transaction.
    if not before.opens_timeline and after.header.checksum_before != before.footer.checksum_after:
        return "the database checksum is another one"
    return ""
