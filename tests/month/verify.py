"""Restore what was noted, byte for byte, and tell where in the replica each transaction was found."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from walrep.clock import Clock
from walrep.core.names import parse_pack_key
from walrep.core.pack import read_source
from walrep.core.restore import RestorePlan
from walrep.core.segment import SegmentChunk
from walrep.core.target import AtTxid
from walrep.core.units import Txid
from walrep.engine.restorer import RestoreRequest, restore
from walrep.runner import Runner
from walrep.store.base import Store

__all__ = ["TIERS", "Noted", "Restored", "Verifier"]

TIERS = ("base", "segment", "quarter pack", "day pack", "chunk middle", "timeline edge")


class Noted(msgspec.Struct, frozen=True, order=True):
    """A transaction, and the SHA-256 of the whole database after it, as SQLite saw it then."""

    timeline: str
    txid: int
    digest: str


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """How many were restored, how many of each tier (one may be of several), and which were not what they had been."""

    count: int
    by_tier: dict[str, int]
    wrong: list[str]


class Verifier:
    """Restores from one replica, which nobody writes meanwhile; `quarter_ms` is the smaller span of its packs."""

    def __init__(self, store: Store, folder: Path, *, clock: Clock, runner: Runner, quarter_ms: int) -> None:
        self._store = store
        self._output = folder / "restored.db"
        self._clock = clock
        self._runner = runner
        self._quarter_ms = quarter_ms
        self._chunk_ends: dict[str, list[int]] = {}

    async def run(self, noted: Sequence[Noted]) -> Restored:
        """Restore all of them.

        Raises:
            WalrepError: one cannot be restored.

        """
        last = {each.timeline: each.txid for each in sorted(noted)}
        tiers: Counter[str] = Counter()
        wrong = []
        for each in noted:
            plan = await self._restore(each)
            digest = await self._runner.run(self._take_digest)
            if digest != each.digest:
                wrong.append(f"transaction {each.txid} of timeline {each.timeline}")
            tiers[self._place_of(plan)] += 1
            tiers["chunk middle"] += await self._stops_within_chunk(plan)
            tiers["timeline edge"] += each.txid in {0, 1, last[each.timeline]}
        return Restored(count=len(noted), by_tier={tier: tiers[tier] for tier in TIERS}, wrong=wrong)

    async def _restore(self, noted: Noted) -> RestorePlan:
        # SQLite's own check is left out: every byte is compared.
        request = RestoreRequest(
            output=self._output, target=AtTxid(Txid(noted.txid)), timeline=noted.timeline, check="none"
        )
        return (await restore(self._store, request, clock=self._clock, runner=self._runner)).plan

    def _take_digest(self) -> str:
        digest = hashlib.sha256(self._output.read_bytes()).hexdigest()
        self._output.unlink()
        return digest

    def _place_of(self, plan: RestorePlan) -> str:
        if not plan.slices:
            return "base"
        pack = parse_pack_key(plan.slices[-1].key)
        if pack is None:
            return "segment"
        # What began in a quarter belongs to it, also where it ends a little behind it.
        return "quarter pack" if pack.last_seen_ms - pack.first_seen_ms < 1.5 * self._quarter_ms else "day pack"

    async def _stops_within_chunk(self, plan: RestorePlan) -> bool:
        """Say whether the chunk that holds the transaction holds others behind it."""
        if not plan.slices:
            return False
        key = plan.slices[-1].key
        if key not in self._chunk_ends:
            items = read_source(io.BytesIO(await self._store.get(key)).read)
            tables = [item.table for item in items if isinstance(item, SegmentChunk)]
            self._chunk_ends[key] = [table.txid_before + len(table.commits) for table in tables if table.commits]
        return plan.position.txid not in self._chunk_ends[key]
