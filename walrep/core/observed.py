"""The workload that a replica's history shows, for a forecast of a database that is already protected.

    transactions   counted, over the time from the first to the last one of each timeline
    active hours   the quarters of an hour in which something was committed, as a share of that time. A day that is
                   packed tells its first and its last transaction only, and counts as active between them
    bytes, pages   of the objects, less what the forecast counts as their fixed parts: what was shipped, not what the
                   app changed, which nobody recorded
    database       its size after the newest transaction, and how well the newest full snapshot compressed of which a
                   log tells the size

How well LZ4 compresses the same pages is not seen; it is taken as worse than zstd by as much as it was measured to be.

This module must not know how a history is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from walrep.core.forecast_walrep import INDEX_ROW_BYTES, PACK_BYTES, SEGMENT_BYTES, SEGMENT_ENDS_BYTES
from walrep.core.history import History
from walrep.core.links import Link, Pack
from walrep.core.target import format_duration
from walrep.core.workload import Workload
from walrep.errors import UsageError

__all__ = ["SPAN_MS_MIN", "Observation", "observe_workload"]

SPAN_MS_MIN = 60 * 60 * 1000
"""Less than an hour says nothing about a day."""

QUARTER_MS = 15 * 60 * 1000
"""As fine as the shortest packs tell when something was committed."""

_HINT = "measure again later, or describe the workload: `walrep plan --transactions-per-second N`, without a URL"
_TYPICAL = Workload(transactions_per_s=0.0)


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. `first_ms` and `last_ms`: when the first and the last transaction was.

    `span_ms`: how long that is, without the time between timelines; `active_ms`: how much of it the app was active.
    """

    workload: Workload
    transaction_count: int
    first_ms: int
    last_ms: int
    span_ms: int
    active_ms: int


def observe_workload(history: History) -> Observation:
    """Measure the workload of the objects that count.

    Raises:
        UsageError: there is no transaction, or less than an hour of them.

    """
    runs = [[link for link in timeline.chain if link.transaction_count] for timeline in history.timelines]
    runs = [run for run in runs if run]
    if not runs:
        raise UsageError("the replica has no transactions to measure", hint=_HINT)
    links = [link for run in runs for link in run]
    span_ms = sum(_last_ms(run) - _first_ms(run) for run in runs)
    if span_ms < SPAN_MS_MIN:
        seen = f"its transactions were seen within {format_duration(span_ms)}; an hour is the least"
        raise UsageError("the replica has too little history to measure", detail=seen, hint=_HINT)
    active_ms = min(span_ms, sum(_active_ms(run) for run in runs))
    count = sum(link.transaction_count for link in links)
    newest = links[-1]
    zstd_ratio = _zstd_ratio(history)
    return Observation(
        workload=Workload(
            transactions_per_s=1000 * count / active_ms,
            changed_bytes=sum(_encoded_bytes(link) for link in links) / count,
            pages=sum(link.footer.frame_count for link in links) / count,
            page_size=newest.header.page_size,
            active_hours=24 * active_ms / span_ms,
            database_bytes=newest.footer.pages_after * newest.header.page_size,
            encoded_ratio=1.0,
            zstd_ratio=zstd_ratio,
            lz4_ratio=min(1.0, zstd_ratio * _TYPICAL.lz4_ratio / _TYPICAL.zstd_ratio),
        ),
        transaction_count=count,
        first_ms=min(_first_ms(run) for run in runs),
        last_ms=max(_last_ms(run) for run in runs),
        span_ms=span_ms,
        active_ms=active_ms,
    )


def _first_ms(run: Iterable[Link]) -> int:
    return min(link.footer.earliest_seen_ms for link in run)


def _last_ms(run: Iterable[Link]) -> int:
    return max(link.footer.latest_seen_ms for link in run)


def _active_ms(run: Sequence[Link]) -> int:
    """Return how long the quarters of an hour are together in which something was committed."""
    quarter_count = 0
    counted_to = -1
    spans = sorted((link.footer.earliest_seen_ms, link.footer.latest_seen_ms) for link in run)
    for first, last in ((first_ms // QUARTER_MS, last_ms // QUARTER_MS) for first_ms, last_ms in spans):
        quarter_count += max(0, last - max(first - 1, counted_to))
        counted_to = max(counted_to, last)
    return quarter_count * QUARTER_MS


def _encoded_bytes(link: Link) -> int:
    """Return how much of an object are its transactions, as the forecast adds them up."""
    fixed_bytes = SEGMENT_BYTES
    if isinstance(link, Pack):
        source_count = link.last_seq - link.first_seq + 1
        fixed_bytes = PACK_BYTES + INDEX_ROW_BYTES * link.footer.chunk_count
        fixed_bytes += (SEGMENT_BYTES - SEGMENT_ENDS_BYTES) * source_count
    return max(0, link.size_bytes - fixed_bytes)


def _zstd_ratio(history: History) -> float:
    """Return how well the newest full one compressed of which a log tells the size; 1 at most, else what is typical."""
    ratio = _TYPICAL.zstd_ratio
    coverages = [each for timeline in history.timelines for each in timeline.coverages]
    for coverage in (each for each in coverages if each.links and each.under is None):
        header = coverage.links[0].header
        if header.txid_before == coverage.first_txid and header.pages_before:
            ratio = min(1.0, coverage.snapshot.size_bytes / (header.pages_before * header.page_size))
    return ratio
