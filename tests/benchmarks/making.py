"""Results for tests: what runs would have shown."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.counts import Counted, Kind
from benchmarks.compare.results import Result, spread

NO_REQUESTS = Counted(
    requests={}, failed=0, up_bytes=0, down_bytes=0, created=0, deleted=0, live=0, live_bytes=0, kinds={}
)


def counted(kinds: dict[str, Kind], **requests: int) -> Counted:
    return Counted(
        requests=requests,
        failed=0,
        up_bytes=sum(kind.bytes for kind in kinds.values()),
        down_bytes=0,
        created=sum(kind.created for kind in kinds.values()),
        deleted=0,
        live=sum(kind.live for kind in kinds.values()),
        live_bytes=sum(kind.live_bytes for kind in kinds.values()),
        kinds=kinds,
    )


def result(strategy: str, **rest: Any) -> Result:  # noqa: ANN401 - fields of Result
    fields: dict[str, Any] = {
        "workload": "steady",
        "strategy": strategy,
        "round": 0,
        "together": False,
        "seconds": 100.0,
        "day_s": 86_400.0,
        "database_count": 1,
        "database_bytes": 10_000_000,
        "pages_per_transaction": 3.0,
        "transactions": 1000,
        "changed_bytes": 100_000,
        "latency_us": spread([100.0, 200.0]),
        "lag_s": None,
        "unacknowledged": 0,
        "start": NO_REQUESTS,
        "run": NO_REQUESTS,
        "start_cpu_s": 0.0,
        "cpu_s": 1.0,
        "rss_peak_bytes": 0,
        "local_peak_bytes": 0,
        "wal_peak_bytes": 0,
        "load_average": 0.0,
        "restores": (),
        "live_series": (),
        "exit_code": 0,
        "incidents": (),
    }
    return Result(**fields | rest)
