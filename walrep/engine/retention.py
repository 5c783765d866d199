"""Apply retention to one database's replica while it is written: once a day, and only if something has expired."""

from __future__ import annotations

from collections.abc import Mapping

from walrep.clock import Clock
from walrep.core.compaction import DAY_MS
from walrep.core.holding import Holding
from walrep.core.retention import RetentionPolicy, is_anything_expired
from walrep.core.stored import SegmentFact
from walrep.engine.janitor import Janitor, PruneOutcome
from walrep.errors import CorruptObject, PruneRefused

__all__ = ["DailyRetention"]


class DailyRetention:
    """Prunes one replica at the first opportunity of each day, UTC.

    What the replica held when it was last looked at is kept, so that a day on which nothing was stored and nothing
    expires costs no request.
    """

    def __init__(self, janitor: Janitor, policy: RetentionPolicy, clock: Clock) -> None:
        self._janitor = janitor
        self._policy = policy
        self._clock = clock
        self._done_day = 0
        self._holding: Holding | None = None

    def note_stored(self) -> None:
        """Note that the replica holds more than was seen."""
        self._holding = None

    def next_ms(self) -> int:
        """Return when the next day begins for which nothing is done yet."""
        return (self._done_day + 1) * DAY_MS

    async def run(self, segments: Mapping[str, SegmentFact]) -> PruneOutcome:
        """Prune, unless that is done for today; see `Janitor.run`."""
        now_ms = self._clock.now_ms()
        if now_ms < self.next_ms():
            return PruneOutcome()
        outcome = PruneOutcome(holding=self._holding)
        if self._holding is None or is_anything_expired(self._holding, self._policy, now_ms):
            try:
                outcome = await self._janitor.run(segments, self._policy, yes=False)
            except (PruneRefused, CorruptObject):
                # It will look no better in a minute.
                self._done_day = now_ms // DAY_MS
                raise
        self._done_day = now_ms // DAY_MS
        self._holding = outcome.holding
        return outcome
