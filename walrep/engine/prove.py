"""Find out what a store really does, by doing it: create-only PUT, ranges, its clock.

Documents do not tell: of the stores tried some answer 200 to `If-None-Match` and overwrite, one answers 501, and a
gateway in front of a store may drop the header. What is found is data (`StoreFacts`), kept in the replica object.
"""

from __future__ import annotations

from contextlib import suppress

from walrep.clock import Clock
from walrep.core.names import PROBE_PREFIX
from walrep.core.objects import StoreFacts
from walrep.errors import AccessDenied, NotSupported, PreconditionFailed
from walrep.store.base import Store

__all__ = ["prove_create_only", "prove_store"]

_RANGE = (100, 50)


async def prove_store(store: Store, clock: Clock, nonce: str) -> StoreFacts:
    """Write an object of its own twice, read a range of it, and delete it: two PUTs, a GET, a HEAD and a DELETE.

    A writer that may not delete leaves the object behind; its prefix is known and it is never counted as a defect.
    """
    key = f"{PROBE_PREFIX}{nonce}"
    content = b"walrep probes what this store does; this object may be deleted. %s\n" % nonce.encode() * 4
    before_ms = clock.now_ms()
    with suppress(NotSupported, PreconditionFailed):
        await store.put(key, content, if_absent=True)
    after_ms = clock.now_ms()
    creates_only = await prove_create_only(store, key, content)
    start, length = _RANGE
    ranges = await store.get(key, start=start, length=length) == content[start : start + length]
    written_ms = (await store.head(key)).modified_ms
    with suppress(AccessDenied):
        await store.delete([key])
    return StoreFacts(
        creates_only=creates_only, ranges=ranges, clock_ahead_ms=_ahead_ms(written_ms, before_ms, after_ms)
    )


async def prove_create_only(store: Store, key: str, content: bytes) -> bool:
    """Say whether the store refuses to create an object that exists; it holds `content` before and after."""
    try:
        await store.put(key, content, if_absent=True)
    except PreconditionFailed:
        return True
    except NotSupported:
        await store.put(key, content)
    return False


def _ahead_ms(written_ms: int, before_ms: int, after_ms: int) -> int:
    """Return how far the store's clock is ahead; many stores tell whole seconds only."""
    if before_ms - 1000 <= written_ms <= after_ms + 1000:
        return 0
    return written_ms - (after_ms if written_ms > after_ms else before_ms)
