"""Numbers with a meaning, and their fixed-width text forms.

Txid       number of a committed SQLite transaction in its timeline, from 1; 0 is the base of the timeline.
           Text: 16 decimal digits, so that the order of names is the order of numbers.
Seq        number of a segment in its replica, from 1, across timelines. Text: 16 decimal digits.
Pgno       page number, from 1, as in SQLite.
Checksum   64-bit database checksum (see `walrep.core.pages`). Text: 16 hexadecimal digits.
TimelineId `<number>-<nonce>`: 5 decimal digits, then 8 hexadecimal digits of the writer that began it. The nonce
           keeps two histories apart that began at the same moment on a store without create-only PUT.
Position   timeline, txid and checksum. Text, the bookmark: `00001-5f3a9c21-0000000000001234-9f8e7d6c5b4a3210`.
"""

from __future__ import annotations

import re
from typing import NewType

import msgspec

from walrep.errors import UsageError

__all__ = [
    "LOCK_BYTE",
    "PAGE_SIZES",
    "Checksum",
    "Pgno",
    "Position",
    "Seq",
    "SeqRange",
    "TimelineId",
    "Txid",
    "format_checksum",
    "format_seq",
    "format_txid",
    "lock_byte_page",
    "make_timeline_id",
    "parse_bookmark",
    "timeline_nonce",
    "timeline_number",
]

Txid = NewType("Txid", int)
Seq = NewType("Seq", int)
Pgno = NewType("Pgno", int)
Checksum = NewType("Checksum", int)
TimelineId = NewType("TimelineId", str)

PAGE_SIZES = tuple(1 << shift for shift in range(9, 17))
LOCK_BYTE = 0x4000_0000
"""Offset of SQLite's lock byte (1 GiB); the page that contains it is never written."""

_BOOKMARK = re.compile(r"(\d{5}-[0-9a-f]{8})-(\d{16})-([0-9a-f]{16})", re.ASCII)


SeqRange = tuple[Seq, Seq]
"""The first and the last of some numbers of segments."""


class Position(msgspec.Struct, frozen=True, order=True):
    """A point in the history of one database: the state after `txid` of `timeline`."""

    timeline: TimelineId
    txid: Txid
    checksum: Checksum

    def __str__(self) -> str:
        return f"{self.timeline}-{format_txid(self.txid)}-{format_checksum(self.checksum)}"


def format_txid(txid: int) -> str:
    """Return the 16-digit text form of a transaction number."""
    return f"{txid:016d}"


def format_seq(seq: int) -> str:
    """Return the 16-digit text form of a segment number."""
    return f"{seq:016d}"


def format_checksum(checksum: int) -> str:
    """Return the 16-digit hexadecimal text form of a database checksum."""
    return f"{checksum:016x}"


def make_timeline_id(number: int, nonce: str) -> TimelineId:
    """Return the id of timeline `number` (from 1) begun by the writer with this hexadecimal nonce."""
    return TimelineId(f"{number:05d}-{nonce[:8]}")


def timeline_number(timeline: TimelineId) -> int:
    """Return the number part of a timeline id."""
    return int(timeline.split("-", 1)[0])


def timeline_nonce(timeline: TimelineId) -> str:
    """Return the first 8 digits of the nonce of the writer that began a timeline: the part behind the number."""
    return timeline.partition("-")[2]


def parse_bookmark(text: str) -> Position:
    """Parse the text form of a position.

    Raises:
        UsageError: the text is not a bookmark.

    """
    match = _BOOKMARK.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            "not a bookmark",
            detail=text,
            hint="a bookmark looks like 00001-5f3a9c21-0000000000001234-9f8e7d6c5b4a3210; "
            "`walrep list` and `walrep restore` print them",
        )
    timeline, txid, checksum = match.groups()
    return Position(TimelineId(timeline), Txid(int(txid)), Checksum(int(checksum, 16)))


def lock_byte_page(page_size: int) -> Pgno:
    """Return the page that contains SQLite's lock byte; it has no content and no checksum term."""
    return Pgno(LOCK_BYTE // page_size + 1)
