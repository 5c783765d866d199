"""The model: every image that the database of an app has had, each after the one before it.

A crash may take commits back: then the next image follows an older one, and there are two lines of them.
"""

from __future__ import annotations

import msgspec

__all__ = ["Entry", "Images"]


class Entry(msgspec.Struct, eq=False):
    """The database after one commit. `true_ms`: when that was; `wall_ms`: what the host's clock showed."""

    number: int
    digest: str
    hashes: bytes
    checksum: int
    parent: Entry | None
    depth: int
    true_ms: int
    wall_ms: int

    def before(self, count: int) -> Entry | None:
        """Return the image so many commits earlier, if there were so many."""
        entry: Entry | None = self
        for _ in range(count):
            entry = entry.parent if entry is not None else None
        return entry

    def differing_pages(self, hashes: bytes) -> int:
        """Return how many pages differ; those that only one of the two has count."""
        longest = max(len(hashes), len(self.hashes))
        return sum(hashes[at : at + 8] != self.hashes[at : at + 8] for at in range(0, longest, 8))


class Images:
    """All images, of all hosts."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, image: tuple[str, bytes, int], parent: Entry | None, *, true_ms: int, wall_ms: int) -> Entry:
        """Note what a commit has made of the image before; `image`: digest, hashes of pages, checksum."""
        digest, hashes, checksum = image
        depth = 0 if parent is None else parent.depth + 1
        entry = Entry(len(self.entries), digest, hashes, checksum, parent, depth, true_ms, wall_ms)
        self.entries.append(entry)
        return entry

    def with_checksum(self, checksum: int) -> list[Entry]:
        """Return the images that have a database checksum, the newest first."""
        return [each for each in reversed(self.entries) if each.checksum == checksum]

    def earlier(self, entry: Entry, digest: str) -> Entry | None:
        """Return the newest of an image's forebears that looks like this."""
        found: Entry | None = entry
        while found is not None and found.digest != digest:
            found = found.parent
        return found
