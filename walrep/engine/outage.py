"""Tell of a store that fails: each class of failure once, and once that it is over."""

from __future__ import annotations

from walrep.clock import Clock
from walrep.core.events import Report, RetryScheduled, StoreBack
from walrep.errors import WalrepError

__all__ = ["Outage"]


class Outage:
    """The failures in a row of one database's store."""

    def __init__(self, database: str, clock: Clock, report: Report) -> None:
        self._database = database
        self._clock = clock
        self._report = report
        self._since_s: float | None = None
        self._told: set[type[WalrepError]] = set()

    def failed(self, error: WalrepError, delay_s: float) -> None:
        """Note a failure that is tried again after `delay_s`."""
        if self._since_s is None:
            self._since_s = self._clock.monotonic_s()
        # A store that goes down is first a cut connection, then a refused one, then a name that is not found.
        kind = type(error)
        if kind in self._told:
            return
        self._told.add(kind)
        self._report(
            RetryScheduled(database=self._database, message=str(error), delay_s=round(delay_s, 3), hint=error.hint)
        )

    def over(self) -> None:
        """Note that the store did what it was asked."""
        if self._since_s is None:
            return
        self._report(StoreBack(database=self._database, seconds=round(self._clock.monotonic_s() - self._since_s, 3)))
        self._since_s = None
        self._told.clear()
