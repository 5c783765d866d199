"""What happens to a replica's objects, day by day: a store that keeps the books, and the books."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from walrep.core.links import replacing
from walrep.core.names import PackName, parse_pack_key, parse_segment_name
from walrep.store.base import ObjectInfo, Store
from walrep.store.observe import RequestCounts

__all__ = ["Day", "KeptStore", "Ledger", "difference", "lasting"]


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What one day took. Bytes up are by kind.

    `live_midnight`: of what is live when the night's packing is done, what does not wait for being deleted.
    """

    name: str
    live_max: int
    created: int
    deleted: int
    requests: RequestCounts
    segment_bytes: int
    pack_bytes: int
    snapshot_bytes: int
    live_midnight: int | None = None
    planned: bool = False
    """Whether it was planned on recorded sizes rather than run."""


class Ledger:
    """The objects of one replica, and sums since the last day was closed; `counts` tells the requests so far."""

    def __init__(self, counts: Callable[[], RequestCounts]) -> None:
        self.counts = counts
        self.live: dict[str, int] = {}
        self.live_max = 0
        self.created = self.deleted = 0
        self.bytes_by_kind: dict[str, int] = {}
        self._counted = RequestCounts()

    def put(self, key: str, size_bytes: int) -> None:
        """Note a successful PUT."""
        self.created += key not in self.live
        self.live[key] = size_bytes
        kind = key.partition("/")[0]
        self.bytes_by_kind[kind] = self.bytes_by_kind.get(kind, 0) + size_bytes
        self.live_max = max(self.live_max, len(self.live))

    def delete(self, keys: Sequence[str]) -> None:
        """Note a successful DELETE."""
        for key in keys:
            if self.live.pop(key, None) is not None:
                self.deleted += 1

    def close_day(self, name: str) -> Day:
        """Return the sums, and begin anew."""
        counts = self.counts()
        day = Day(
            name=name,
            live_max=self.live_max,
            created=self.created,
            deleted=self.deleted,
            requests=difference(counts, self._counted),
            segment_bytes=self.bytes_by_kind.get("segments", 0),
            pack_bytes=self.bytes_by_kind.get("packs", 0),
            snapshot_bytes=self.bytes_by_kind.get("snapshots", 0),
        )
        self._counted = counts
        self.live_max, self.created, self.deleted, self.bytes_by_kind = len(self.live), 0, 0, {}
        return day


def difference(after: RequestCounts, before: RequestCounts) -> RequestCounts:
    """Return what was counted in between."""
    return RequestCounts(
        **{name: getattr(after, name) - getattr(before, name) for name in RequestCounts.__struct_fields__}
    )


def lasting(keys: Iterable[str]) -> int:
    """Return how many of these objects are not replaced by a pack among them: those wait for being deleted."""
    there = list(keys)
    packs = {key: name for key in there if (name := parse_pack_key(key)) is not None}
    replaced = {key for key, name in packs.items() if any(_holds(other, name) for other in packs.values())}
    for key in there:
        segment = parse_segment_name(key)
        if segment is not None and replacing(segment, packs.values()) is not None:
            replaced.add(key)
    return len(there) - len(replaced)


def _holds(large: PackName, small: PackName) -> bool:
    return (
        large != small
        and large.timeline == small.timeline
        and large.first_seq <= small.first_seq
        and small.last_seq <= large.last_seq
    )


class KeptStore:
    """A store that notes in a ledger what it was made to hold; reads go through as they are."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`."""
        size_bytes = _size_of(source)
        await self._store.put(key, source, if_absent=if_absent)
        self._ledger.put(key, size_bytes)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`."""
        return await self._store.get(key, start=start, length=length)

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object."""
        return await self._store.head(key)

    def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`."""
        return self._store.list(prefix, start_after=start_after, limit=limit)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        await self._store.delete(keys)
        self._ledger.delete(keys)

    async def aclose(self) -> None:
        """Close the store; the books stay."""
        await self._store.aclose()


def _size_of(source: bytes | Path) -> int:
    return source.stat().st_size if isinstance(source, Path) else len(source)
