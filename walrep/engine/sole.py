"""Is this writer still the only one with its state, and does a PUT that succeeded prove it?

    INV-36  A segment counts as stored only where nobody else can have written its number and had it freed again since
            this writer last proved that it was alone. A number is freed when a pack holds its segment, after a grace.

A PUT that must not overwrite meets whoever has the number now. A copy of this state, on a clone of the host, would
write under the very names that this writer uses next; where both run on, and one rests while the other's segments are
packed and deleted, the PUT of the first one meets nothing. So after a rest, or where the PUT itself took long, one
LIST is asked: the newest segment of every writer stays (INV-24), and is behind it.
"""

from __future__ import annotations

from asyncio import Event
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import msgspec

from walrep.clock import Clock
from walrep.core.lineage import is_proof_stale
from walrep.core.objects import SegmentHeader
from walrep.core.state import LocalState
from walrep.core.units import Seq
from walrep.engine.lineage import refuse_copies
from walrep.engine.outage import Outage
from walrep.store.base import Store

__all__ = ["Moment", "SoleWriter"]


class Moment(msgspec.Struct, frozen=True):
    """By two clocks: one of them may stand still while the machine sleeps, the other one may be set."""

    monotonic_s: float
    wall_ms: int


class SoleWriter:
    """Knows when it was last proved that this writer was alone."""

    def __init__(self, store: Store, clock: Clock, outage: Outage, *, grace_s: float) -> None:
        self._store = store
        self._clock = clock
        self._outage = outage
        self._grace_s = grace_s
        self._proved: Moment | None = None

    def now(self) -> Moment:
        """Return the present, for `note`."""
        return Moment(self._clock.monotonic_s(), self._clock.now_ms())

    def note(self, asked: Moment) -> None:
        """Note a proof that was asked for then."""
        self._proved = asked

    @asynccontextmanager
    async def storing(self, state: LocalState, header: SegmentHeader) -> AsyncIterator[Callable[[], None]]:
        """Store a segment in the body; prove it before if the last proof is too old, and after if that took long.

        The body calls what it is given when its PUT met nobody, which is a proof. While the store fails, wait.

        Raises:
            ReplicaConflict: another writer has taken over.

        """
        await self._prove(state, Seq(header.seq - 1), [header])
        began, met_nobody = self.now(), Event()
        yield met_nobody.set
        await self._prove(state, header.seq, [])
        if met_nobody.is_set() and (self._proved is None or self._proved.monotonic_s < began.monotonic_s):
            self._proved = began

    async def _prove(self, state: LocalState, after: Seq, waiting: list[SegmentHeader]) -> None:
        asked = self.now()
        if self._proved is not None and not is_proof_stale(_elapsed_s(self._proved, asked), self._grace_s):
            return
        await self._outage.wait_out(partial(refuse_copies, self._store, state, after, waiting))
        self._proved = asked


def _elapsed_s(before: Moment, after: Moment) -> float:
    return max(after.monotonic_s - before.monotonic_s, abs(after.wall_ms - before.wall_ms) / 1000)
