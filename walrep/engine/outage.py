"""A store that fails: told once for each class of failure, waited for where that may help, and told when it is over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from walrep.clock import Clock
from walrep.core.backoff import BackoffPolicy, backoff_delay_s
from walrep.core.events import Report, RetryScheduled, StoreBack
from walrep.errors import StoreUnavailable, WalrepError

__all__ = ["Outage"]

T = TypeVar("T")

_AGAIN = BackoffPolicy()
_RETRY_AFTER_S_MAX = 300.0
"""A store is not believed that it will be back later than that."""


class Outage:
    """The failures in a row of one database's store."""

    def __init__(self, database: str, clock: Clock, report: Report) -> None:
        self._database = database
        self._clock = clock
        self._report = report
        self._since_s: float | None = None
        self._told: set[type[WalrepError]] = set()

    async def wait_out(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what `ask` returns; ask again for as long as it fails in a way that may pass or be mended.

        Raises:
            WalrepError: what neither passes nor can be mended.

        """
        failure_count = 0
        while True:
            try:
                answer = await ask()
            except WalrepError as error:
                if not (error.transient or error.mendable):
                    raise
                failure_count += 1
                delay_s = _delay_s(error, failure_count)
                self.failed(error, delay_s)
                await self._clock.sleep(delay_s)
            else:
                self.over()
                return answer

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


def _delay_s(error: WalrepError, failure_count: int) -> float:
    asked_s = error.retry_after_s if isinstance(error, StoreUnavailable) else 0.0
    return max(backoff_delay_s(_AGAIN, failure_count, 1.0), min(asked_s, _RETRY_AFTER_S_MAX))
