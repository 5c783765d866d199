"""The objects that hold transactions, and what ties one to the next.

A segment or a pack is a *link*: it continues another one of its timeline when transaction number and database checksum
both do. Which of several count, where a pack lies beside what it replaces, is for `walrep.core.chain`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from walrep.core.chain import Stretch
from walrep.core.names import PackName, SegmentName
from walrep.core.objects import PackFooter, PackHeader, SegmentFooter, SegmentHeader
from walrep.core.units import Seq, Txid, timeline_nonce

__all__ = [
    "Damage",
    "Joint",
    "Link",
    "Pack",
    "Segment",
    "SegmentEnds",
    "Spare",
    "defect_between",
    "replacing",
]


class SegmentEnds(msgspec.Struct, frozen=True):
    """The header and the footer of a segment."""

    header: SegmentHeader
    footer: SegmentFooter


class Damage(msgspec.Struct, frozen=True):
    """Why header or footer of an object cannot be read, or what of it was found not to be."""

    message: str


class _Link(msgspec.Struct, frozen=True, kw_only=True):
    """What a segment and a pack have in common."""

    key: str
    size_bytes: int
    header: SegmentHeader | PackHeader
    footer: SegmentFooter

    @property
    def page_size(self) -> int:
        """The page size of its database."""
        return self.header.page_size

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

    @property
    def checksum_before(self) -> int:
        """The database checksum before its first transaction."""
        return self.header.checksum_before

    @property
    def checksum_after(self) -> int | None:
        """The database checksum after its last transaction; None where it says nothing about what follows."""
        return self.footer.checksum_after


class Segment(_Link, frozen=True, kw_only=True):
    """One segment object."""

    seq: Seq
    header: SegmentHeader

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
    def checksum_after(self) -> int | None:
        """The database checksum after its last transaction; None for what opens a timeline.

        That one is written before the base is copied: its checksum says nothing about the first transaction.
        """
        return None if self.opens_timeline else self.footer.checksum_after


class Pack(_Link, frozen=True, kw_only=True):
    """One pack object; `header` is what its footer repeats of it."""

    name: PackName
    header: PackHeader
    footer: PackFooter

    @property
    def first_seq(self) -> Seq:
        """The number of the first segment that it replaces."""
        return self.name.first_seq

    @property
    def last_seq(self) -> Seq:
        """The number of the last segment that it replaces."""
        return self.name.last_seq


Link = Segment | Pack


class Spare(msgspec.Struct, frozen=True, kw_only=True):
    """An object that another one replaces; of a segment known by its key alone too."""

    key: str
    size_bytes: int
    replaced_by: str


class Joint(Stretch, Protocol):
    """A stretch, and what tells besides the numbers whether it continues another one."""

    @property
    def page_size(self) -> int:
        """The page size of its database."""
        ...

    @property
    def checksum_before(self) -> int:
        """The database checksum before its first transaction."""
        ...

    @property
    def checksum_after(self) -> int | None:
        """The database checksum after its last transaction; None where it says nothing about what follows."""
        ...


def replacing(segment: SegmentName, packs: Iterable[PackName]) -> PackName | None:
    """Return the first of these packs that replaces a segment; None if none does.

    The numbers of two writers may be the same, and their nonces tell them apart.
    """
    for pack in packs:
        same_writer = not segment.nonce or segment.nonce.startswith(timeline_nonce(pack.timeline))
        if same_writer and pack.first_seq <= segment.seq <= pack.last_seq:
            return pack
    return None


def defect_between(before: Joint, after: Joint) -> str:
    """Return why `after` does not continue `before`; empty if it does."""
    if after.txid_before != before.txid_after:
        return f"it begins after transaction {after.txid_before}, expected {before.txid_after}"
    if after.page_size != before.page_size:
        return "it has another page size"
    if before.checksum_after not in (None, after.checksum_before):
        return "the database checksum is another one"
    return ""
