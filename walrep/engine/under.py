"""Is the full snapshot under a differential one in the store?

    INV-31  A differential snapshot is stored only when the store was seen to hold the full one under it, and used only
            on top of that very one: timeline, transaction, and database checksum.

Retention does not delete the newest full one (INV-30), so it is asked for once; but others may delete, and one that was
made may not have got there.
"""

from __future__ import annotations

from functools import partial

from walrep.core.names import SNAPSHOTS_PREFIX, parse_snapshot_key
from walrep.core.objects import SnapshotFooter
from walrep.core.units import Checksum, Position, TimelineId, format_txid
from walrep.engine.outage import Outage
from walrep.store.base import Store

__all__ = ["StoredFull"]


class StoredFull:
    """The full snapshots that the store was seen to hold."""

    def __init__(self, store: Store, outage: Outage) -> None:
        self._store = store
        self._outage = outage
        self._known: set[Position] = set()

    def note(self, timeline: TimelineId, footer: SnapshotFooter) -> None:
        """Note that one was stored just now."""
        self._known.add(Position(timeline, footer.txid, Checksum(footer.checksum)))

    async def is_stored(self, full: Position) -> bool:
        """Say whether the store holds it; while the store fails, wait. One LIST, the first time."""
        if full not in self._known and await self._outage.wait_out(partial(self._look, full)):
            self._known.add(full)
        return full in self._known

    async def _look(self, full: Position) -> bool:
        prefix = f"{SNAPSHOTS_PREFIX}{full.timeline}/{format_txid(full.txid)}-"
        names = [parse_snapshot_key(info.key) async for info in self._store.list(prefix)]
        return any(name is not None and name.full is None for name in names)
