"""A wrapper that tries again what failed for now: errors that are `transient`, and for a `put` the `mendable` ones.

A store that says when to come back (`retry_after_s`) is not asked before. A `put` with `if_absent` whose answer was
lost may have created the object. Trying it again then meets that object and raises `PreconditionFailed`, which passes
through: only the caller can tell its own object from another writer's, by reading it. It must not know why a request
is made.

`Retries` is the same for one call, for a store that can try a part of an upload again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

import msgspec

from walrep.clock import Clock
from walrep.core.backoff import BackoffPolicy, backoff_delay_s
from walrep.errors import StoreUnavailable, WalrepError
from walrep.store.base import ObjectInfo, Store

__all__ = ["Retries", "RetryPolicy", "RetryingStore"]

T = TypeVar("T")


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to wait between attempts, and until when after the first one an attempt may begin (None: for ever).

    A `put` has a deadline of its own, and so has a request of an upload in parts: thrice the longest silence of a
    connection. With `mend_delay_s`, a `put` also waits for what somebody has to put right, such as an access key: about
    so long between attempts. A store is not believed that it will be back in more than `retry_after_s_max`.
    """

    backoff: BackoffPolicy = BackoffPolicy()
    deadline_s: float | None = 60.0
    put_deadline_s: float | None = None
    part_deadline_s: float = 180.0
    mend_delay_s: float | None = None
    retry_after_s_max: float = 300.0


class Retries:
    """Tries calls again.

    `notify` is told of every failure that is tried again, with the delay before that; the error that ends a call is
    raised and not told. `may_try_again` is asked before that, and its answer is final.
    """

    def __init__(
        self,
        clock: Clock,
        policy: RetryPolicy,
        random: Random,
        notify: Callable[[WalrepError, float], None],
        may_try_again: Callable[[], bool] = lambda: True,
    ) -> None:
        self.policy = policy
        self._may_try_again = may_try_again
        self._clock = clock
        self._random = random
        self._notify = notify

    async def call(
        self, call: Callable[[], Awaitable[T]], *, deadline_s: float | None, mend_delay_s: float | None = None
    ) -> T:
        """Return what `call` returns; no attempt begins later than `deadline_s` after now."""
        attempts = self.begin(deadline_s, mend_delay_s)
        while True:
            try:
                return await call()
            except WalrepError as error:
                await self.wait(error, attempts)

    def begin(self, deadline_s: float | None, mend_delay_s: float | None = None) -> _Attempts:
        """Return the attempts of one call, the first of which begins now."""
        return _Attempts(self._clock, self.policy, deadline_s, mend_delay_s)

    async def wait(self, error: WalrepError, attempts: _Attempts) -> None:
        """Wait until the next attempt; raise the error if there is to be none."""
        delay_s = attempts.next_delay_s(error, self._random.random())
        if delay_s is None or not self._may_try_again():
            raise error
        self._notify(error, delay_s)
        await self._clock.sleep(delay_s)


class RetryingStore:
    """A store that hides what passes by itself; `notify` as for `Retries`."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        policy: RetryPolicy,
        random: Random,
        notify: Callable[[WalrepError, float], None],
    ) -> None:
        self._store = store
        self._policy = policy
        self._retries = Retries(clock, policy, random, notify)

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`.

        Raises:
            PreconditionFailed: the key exists; with `if_absent`, perhaps from an attempt of this very call.

        """
        await self._retries.call(
            lambda: self._store.put(key, source, if_absent=if_absent),
            deadline_s=self._policy.put_deadline_s,
            mend_delay_s=self._policy.mend_delay_s,
        )

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`."""
        return await self._call(lambda: self._store.get(key, start=start, length=length))

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object."""
        return await self._call(lambda: self._store.head(key))

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`, at most `limit`.

        A listing that breaks off goes on after the last key that was yielded, with a new deadline.
        """
        attempts = self._retries.begin(self._policy.deadline_s)
        left_count = limit
        while left_count != 0:
            try:
                async for info in self._store.list(prefix, start_after=start_after, limit=left_count):
                    yield info
                    start_after = info.key
                    left_count = None if left_count is None else left_count - 1
                    attempts = self._retries.begin(self._policy.deadline_s)
            except WalrepError as error:
                if left_count != 0:
                    await self._retries.wait(error, attempts)
            else:
                return

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        await self._call(lambda: self._store.delete(keys))

    async def aclose(self) -> None:
        """Close the store."""
        await self._store.aclose()

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self._retries.call(call, deadline_s=self._policy.deadline_s)


class _Attempts:
    """The attempts of one call."""

    def __init__(self, clock: Clock, policy: RetryPolicy, deadline_s: float | None, mend_delay_s: float | None) -> None:
        self._clock = clock
        self._policy = policy
        self._mend_delay_s = mend_delay_s
        self._ends_s = None if deadline_s is None else clock.monotonic_s() + deadline_s
        self._failure_count = 0

    def next_delay_s(self, error: WalrepError, fraction: float) -> float | None:
        """Count a failure and return the delay before the next attempt; None if there is to be none."""
        delay_s = self._delay_s(error, fraction)
        if delay_s is None or (self._ends_s is not None and self._clock.monotonic_s() + delay_s > self._ends_s):
            return None
        return delay_s

    def _delay_s(self, error: WalrepError, fraction: float) -> float | None:
        if error.transient:
            self._failure_count += 1
            asked_s = error.retry_after_s if isinstance(error, StoreUnavailable) else 0.0
            delay_s = backoff_delay_s(self._policy.backoff, self._failure_count, fraction)
            return max(delay_s, min(asked_s, self._policy.retry_after_s_max))
        if error.mendable and self._mend_delay_s is not None:
            # Between half and one and a half of it, so that databases of one bucket do not come back together.
            return self._mend_delay_s * (0.5 + fraction)
        return None
