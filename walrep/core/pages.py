"""The hash array: one 64-bit hash a page, and the database checksum that is their XOR.

    page hash          xxh3-64 of the page's content, seeded with its page number; 0 is replaced by 1
    absent page        0: beyond the database's size, or the lock-byte page, which has no content
    database checksum  XOR of the hashes of all pages

The array lets a transaction update the checksum from its own pages alone, tells whether a pre-image that was read is
the page that the encoder means, and proves itself: its XOR must be the checksum recorded with it.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from walrep.errors import check

__all__ = ["PageHashes", "page_hash"]


def page_hash(content: bytes | memoryview, pgno: int) -> int:
    """Return the hash of one page's content; never 0."""
    return xxh3_64_intdigest(content, pgno) or 1


class PageHashes:
    """The hash array of one database state, its checksum and its size in pages.

    `slots[pgno]` is the hash of a page, 0 if absent; slot 0 is unused. `highest` is at least the highest page that is
    not absent. A hot loop may work on `slots`, `checksum` and `highest` itself, after `reserve`.
    """

    __slots__ = ("checksum", "highest", "page_count", "slots")

    def __init__(self) -> None:
        self.slots: array[int] = array("Q", [0])
        self.checksum = 0
        self.page_count = 0
        self.highest = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> PageHashes:
        """Rebuild the array from `to_bytes`, and its checksum from the array."""
        hashes = cls()
        hashes.slots = array("Q")
        hashes.slots.frombytes(data)
        check(len(hashes.slots) > 0, "a hash array has at least its unused slot")
        hashes.page_count = hashes.highest = len(hashes.slots) - 1
        hashes.checksum = hashes._xor(0, len(hashes.slots))
        return hashes

    def to_bytes(self) -> bytes:
        """Return the slots up to the database's size, in native byte order."""
        self.reserve(self.page_count)
        return memoryview(self.slots)[: self.page_count + 1].tobytes()

    def differing(self, other: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
        """Return the pages that are not what another array of the same size says, in order, and their hashes.

        Both are copies: a view of `slots` that somebody keeps would forbid them to grow.
        """
        self.reserve(self.page_count)
        check(len(other) == self.page_count + 1, "both arrays are of a database of this size")
        now = np.frombuffer(self.slots, np.uint64, count=self.page_count + 1)
        pgnos = np.flatnonzero(now != other)
        return pgnos, now[pgnos]

    def reserve(self, pgno: int) -> None:
        """Make room for `pgno`."""
        missing = pgno + 1 - len(self.slots)
        if missing > 0:
            self.slots.frombytes(bytes(8 * (missing + len(self.slots) // 8)))

    def set(self, pgno: int, new_hash: int) -> None:
        """Record the hash of a page (0: absent) and update the checksum."""
        self.reserve(pgno)
        self.checksum ^= self.slots[pgno] ^ new_hash
        self.slots[pgno] = new_hash
        self.highest = max(self.highest, pgno)

    def set_many(self, pgnos: npt.NDArray[np.uint32], hashes: npt.NDArray[np.uint64]) -> None:
        """Record many page hashes; of several for one page the last counts. The checksum is left to `rebuild`."""
        if len(pgnos):
            top = int(pgnos.max())
            self.reserve(top)
            np.frombuffer(self.slots, np.uint64)[pgnos] = hashes
            self.highest = max(self.highest, top)

    def commit(self, page_count: int) -> None:
        """End a transaction after which the database has `page_count` pages: what lies beyond is absent.

        Also pages that the same transaction wrote and cut off.
        """
        if self.highest > page_count:
            self.checksum ^= self._xor(page_count + 1, self.highest + 1)
            self.slots[page_count + 1 : self.highest + 1] = array("Q", bytes(8 * (self.highest - page_count)))
            self.highest = page_count
        self.page_count = page_count

    def missing_page(self, lock_page: int) -> int | None:
        """Return the first page of the database that has no hash although it is not the lock-byte page; None if all do.

        INV-28: such a page was never read, and the state does not describe a database.
        """
        self.reserve(self.page_count)
        absent = np.flatnonzero(np.frombuffer(self.slots, np.uint64, count=self.page_count + 1) == 0)
        return next((int(pgno) for pgno in absent if pgno not in (0, lock_page)), None)

    def rebuild(self) -> None:
        """Compute the checksum anew from all slots."""
        self.checksum = self._xor(0, len(self.slots))

    def _xor(self, start: int, stop: int) -> int:
        view = np.frombuffer(self.slots, np.uint64, count=stop)[start:]
        return int(np.bitwise_xor.reduce(view)) if len(view) else 0
