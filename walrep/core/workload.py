"""What a forecast is made from and what it says: a workload in, objects, requests and bytes of 30 days out.

A forecast is arithmetic on a **steady state**: every day is like the one before, and as much expires as is made, unless
a strategy lets nothing expire. Writes are taken as evenly spread over the active hours, so that each falls into a
window of its own until all windows are full. No other order of the same changes makes more windows busy: the counts
are upper bounds, for every strategy alike.

The pages that a transaction writes are taken as drawn at random from the whole database (`distinct_pages`). That fits
updates of random rows, and is an upper bound where some pages are hot.

KB, MB and GB are powers of ten here, as traffic is billed; sizes of walrep's own objects are powers of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from walrep.core.units import PAGE_SIZES
from walrep.errors import UsageError

__all__ = [
    "DAYS",
    "DAY_S",
    "KEYS_PER_REQUEST",
    "NUMBER_MAX",
    "Access",
    "Flow",
    "Forecast",
    "Requests",
    "Workload",
    "count_windows",
    "delete_requests",
    "distinct_pages",
    "format_days",
    "make_forecast",
    "put_requests",
    "standing_flow",
]

DAYS = 30
"""A forecast is about so many days."""

DAY_S = 86_400

KEYS_PER_REQUEST = 1000
"""Keys of one page of a LIST, and of one DeleteObjects (S3)."""

NUMBER_MAX = 1e15
"""No number of a workload is larger: SQLite's largest database has 281 TB."""


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an app does to one database.

    `transactions_per_s` and `active_hours` (of each day): how often it commits, and how long. Of a transaction:
    `changed_bytes` as the app sees them, and `pages` written. The default is a mixed OLTP load: 2,000 transactions
    made 17.8 MB of log, which is 2.2 frames each (research/encoding.md).

    `encoded_ratio`: bytes that walrep ships for each byte that the app changed, without fixed parts; measured 1.1
    mixed, 1.7 random keys, 1.3 job queue, 1.0 random blobs (docs/benchmarks.md). `zstd_ratio`: a snapshot in blocks
    of 64 pages; `lz4_ratio`: pages compressed one by one, as Litestream does; both of 51 MB of realistic SQLite pages
    (research/encoding.md).

    Raises:
        UsageError: a number is not possible.

    """

    transactions_per_s: float
    changed_bytes: float = 140.0
    pages: float = 2.2
    page_size: int = 4096
    active_hours: float = 24.0
    database_bytes: int = 100_000_000
    encoded_ratio: float = 1.1
    zstd_ratio: float = 0.401
    lz4_ratio: float = 0.737

    def __post_init__(self) -> None:
        """Refuse what is not possible."""
        numbers = {field: float(getattr(self, field)) for field in self.__struct_fields__}
        wrong = [field for field, number in numbers.items() if not 0 <= number <= NUMBER_MAX]
        wrong += ["active_hours"] if self.active_hours > DAY_S / 3600 else []
        wrong += ["page_size"] if self.page_size not in PAGE_SIZES else []
        if wrong:
            what = ", ".join(f"{field} = {getattr(self, field)}" for field in wrong)
            raise UsageError("no database has such a workload", detail=what)

    @property
    def active_s(self) -> float:
        """Seconds of a day in which it is written."""
        return self.active_hours * 3600

    @property
    def transactions_per_day(self) -> float:
        """How many transactions a day has."""
        return self.transactions_per_s * self.active_s

    @property
    def busy_days(self) -> float:
        """The share of days on which it is written at all."""
        return min(1.0, self.transactions_per_day)

    @property
    def page_count(self) -> float:
        """Size of the database in pages."""
        return self.database_bytes / self.page_size


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of object, in 30 days: how many are made and deleted, and of what size on average.

    `live_midnight_count`: when the night's work is done; `live_peak_count`: at most, most often just before.
    """

    what: str
    created_count: float
    deleted_count: float
    object_bytes: float
    live_midnight_count: float
    live_peak_count: float


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that read, in 30 days. `object_bytes`: of the objects that they are about, on average.

    A LIST is one request for each page of `KEYS_PER_REQUEST` keys. `row_count`: how many of the strategy's objects it
    finds; None: all that there are. `large_row_count`: how many it finds beside these that no store keeps in their
    rows. `download_bytes`: of all of them.
    """

    what: str
    verb: Literal["get", "head", "list"]
    request_count: float
    object_bytes: float
    row_count: float | None = None
    large_row_count: float = 0.0
    download_bytes: float = 0.0


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """Requests by verb, in 30 days. PUT counts the POSTs of multipart uploads, DELETE one for each batch of keys."""

    put: float
    get: float
    head: float
    list: float
    delete: float


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy costs in 30 days of steady state; `restorable` says in words what it buys.

    Counts are expectations, not whole numbers. `live_bytes`: at midnight; `growth_bytes`: by how much they grow in 30
    days, where not as much expires as is made.
    """

    strategy: str
    restorable: str
    created_count: float
    deleted_count: float
    live_midnight_count: float
    live_peak_count: float
    live_bytes: float
    growth_bytes: float
    requests: Requests
    upload_bytes: float
    download_bytes: float
    flows: tuple[Flow, ...]
    accesses: tuple[Access, ...]
    notes: tuple[str, ...]


def make_forecast(
    names: tuple[str, str],
    flows: Sequence[Flow],
    accesses: Sequence[Access],
    *,
    part_bytes: int,
    delete_request_count: float,
    notes: Sequence[str] = (),
) -> Forecast:
    """Add up what a strategy does; `names` are the strategy's and what is restorable with it."""
    by_verb = {"get": 0.0, "head": 0.0, "list": 0.0}
    for access in accesses:
        by_verb[access.verb] += access.request_count
    return Forecast(
        strategy=names[0],
        restorable=names[1],
        created_count=sum(flow.created_count for flow in flows),
        deleted_count=sum(flow.deleted_count for flow in flows),
        live_midnight_count=sum(flow.live_midnight_count for flow in flows),
        live_peak_count=sum(flow.live_peak_count for flow in flows),
        live_bytes=sum(flow.live_midnight_count * flow.object_bytes for flow in flows),
        growth_bytes=sum((flow.created_count - flow.deleted_count) * flow.object_bytes for flow in flows),
        requests=Requests(
            put=sum(flow.created_count * put_requests(flow.object_bytes, part_bytes) for flow in flows),
            delete=delete_request_count,
            **by_verb,
        ),
        upload_bytes=sum(flow.created_count * flow.object_bytes for flow in flows),
        download_bytes=sum(access.download_bytes for access in accesses),
        flows=tuple(flows),
        accesses=tuple(accesses),
        notes=tuple(notes),
    )


def standing_flow(what: str, count: float, object_bytes: float) -> Flow:
    """Return the flow of objects that are neither made nor deleted."""
    return Flow(
        what=what,
        created_count=0.0,
        deleted_count=0.0,
        object_bytes=object_bytes,
        live_midnight_count=count,
        live_peak_count=count,
    )


def count_windows(event_count: float, window_count: float) -> float:
    """Return in how many of so many windows there is one of so many events, if they are evenly spread: the smaller."""
    return min(event_count, window_count)


def distinct_pages(write_count: float, page_count: float) -> float:
    """Return how many of a database's pages so many writes to random pages touch: P (1 - e^(-k/P)).

    The expected number of occupied cells after k balls into P (Feller, An Introduction to Probability Theory I, IV.2),
    for large P. It reproduces what Litestream's levels were measured to hold of 10 random updates a second on 100 MB:
    0.99, 0.94 and 0.54 of the writes in 30 s, 5 min and 1 h, against 0.98, 0.94 and about 0.6 (research/litestream.md,
    2.7).
    """
    return page_count * -math.expm1(-write_count / page_count) if page_count else 0.0


def put_requests(object_bytes: float, part_bytes: int) -> int:
    """Return how many PUT and POST requests store an object: one, or with more than a part its parts and two more."""
    parts = math.ceil(object_bytes / part_bytes)
    return 1 if parts <= 1 else parts + 2


def delete_requests(object_count: float, batch_count: float) -> float:
    """Return how many DELETE requests delete so many objects in so many batches."""
    return max(min(object_count, batch_count), object_count / KEYS_PER_REQUEST)


def format_days(days: float) -> str:
    """Return a number of days for people: `1 day`, `30 days`."""
    return f"{days:g} day{'' if days == 1 else 's'}"
