"""What a store that is replicated over three regions makes of a forecast: bytes between the regions.

    bytes = A x objects stored + c x bytes stored + D x objects deleted + L x rows that LISTs read + H x HEADs and GETs
            + F x seconds

From research/objectstores.md, 1.5, whose letters these are; 1.1 to 1.4 there have the stores one by one. F is what the
whole cluster says to itself, whatever is stored: it is told apart, because no strategy can save it. Objects that lie
still cost nothing between regions in any of these stores, and no full resync of a region is counted. Units: bytes; KB
there are 1,000 bytes here.

A store may treat small objects in another way than larger ones. Garage keeps what is smaller than 3,072 bytes in the
row of the object, and every LIST reads the rows of a page and one more from another region, whole, also beyond the
prefix that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from walrep.core.workload import DAY_S, DAYS, KEYS_PER_REQUEST, Access, Forecast

__all__ = [
    "GARAGE_BLOCK",
    "GARAGE_INLINE",
    "GARAGE_INLINE_BYTES",
    "PROFILES",
    "ObjectCost",
    "StoreProfile",
    "Traffic",
    "forecast_traffic",
]

GARAGE_INLINE_BYTES = 3072
"""Smaller objects are kept in their rows (Garage 2.0.0, src/block/manager.rs, INLINE_THRESHOLD)."""


class ObjectCost(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes between regions of one request, beside the payload: `put` A, `delete` D, `row` L, `read` H.

    `inline`: a row that is read carries its object.
    """

    name: str
    put_bytes: float
    delete_bytes: float
    row_bytes: float
    read_bytes: float
    inline: bool = False


class StoreProfile(msgspec.Struct, frozen=True, kw_only=True):
    """How one store replicates. `copies`: c, bytes sent for each byte stored. `idle_bytes_per_s`: F; None: not known.

    `small` is for objects below `small_bytes`, `large` for the others. `creates_only`: it has create-only PUT.
    `basis`: where the numbers come from.
    """

    name: str
    small: ObjectCost
    large: ObjectCost
    small_bytes: int
    copies: float
    idle_bytes_per_s: float | None
    creates_only: bool
    basis: str

    def cost_of(self, object_bytes: float) -> ObjectCost:
        """Return what requests for an object of this size cost."""
        return self.small if object_bytes < self.small_bytes else self.large


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes between regions in 30 days; `caused_bytes` is the sum of what the strategy causes.

    `idle_bytes` are those of the whole cluster, which come on top once for all databases; None: not known.
    """

    profile: str
    strategy: str
    put_bytes: float
    payload_bytes: float
    delete_bytes: float
    list_bytes: float
    read_bytes: float
    caused_bytes: float
    idle_bytes: float | None


GARAGE_INLINE = ObjectCost(
    name="garage-inline", put_bytes=5300, delete_bytes=10_600, row_bytes=400, read_bytes=850, inline=True
)
GARAGE_BLOCK = ObjectCost(name="garage-block", put_bytes=14_000, delete_bytes=14_400, row_bytes=420, read_bytes=820)

_GARAGE_BASIS = "derived from the source of Garage 2.0.0 (44587d29), not measured on one; status exchange not counted"


def _uniform(name: str, put_bytes: float, delete_bytes: float) -> ObjectCost:
    """Return the cost of a store that lists and reads in the region where it is asked."""
    return ObjectCost(name=name, put_bytes=put_bytes, delete_bytes=delete_bytes, row_bytes=0, read_bytes=0)


def _garage(name: str, idle_bytes_per_s: float) -> StoreProfile:
    return StoreProfile(
        name=name,
        small=GARAGE_INLINE,
        large=GARAGE_BLOCK,
        small_bytes=GARAGE_INLINE_BYTES,
        copies=2.1,
        idle_bytes_per_s=idle_bytes_per_s,
        creates_only=False,
        basis=_GARAGE_BASIS,
    )


def _peers(name: str, cost: ObjectCost, idle_bytes_per_s: float | None, basis: str) -> StoreProfile:
    return StoreProfile(
        name=name,
        small=cost,
        large=cost,
        small_bytes=0,
        copies=2.0,
        idle_bytes_per_s=idle_bytes_per_s,
        creates_only=True,
        basis=basis,
    )


_ALL = (
    _garage("garage", 2700),
    _garage("garage-9-nodes", 12_000),
    _peers(
        "ceph",
        _uniform("rgw-multisite", 18_000, 9000),
        24_000,
        "measured: RGW multisite 16.2.15, three zones, application bytes without TLS and TCP; an object 16 to 22 KB, a "
        "deletion 9 to 13 KB, idle 22 to 27 kB/s when quiet and up to 61 after bursts",
    ),
    _peers(
        "minio",
        _uniform("minio-site-replication", 3000, 3000),
        None,
        "an estimate, not measured: one signed PUT and a status for each of two other sites; its scanner reads local "
        "disks only",
    ),
    _peers(
        "seaweedfs",
        _uniform("seaweedfs-filer-sync", 3000, 1000),
        None,
        "an estimate, not measured: what is sent was read in the source (one event, one chunk and one filer insert for "
        "each of two peers), its size taken as MinIO's, a deletion's as one event's",
    ),
)

PROFILES: Mapping[str, StoreProfile] = MappingProxyType({profile.name: profile for profile in _ALL})
"""The stores of which something is known, by name."""


def forecast_traffic(forecast: Forecast, profile: StoreProfile, *, bucket_objects: float = 0.0) -> Traffic:
    """Compute the bytes between regions that a strategy causes, by the formula in the module's text.

    A LIST reads a page of rows and one more, but not more than there are: those that it finds, by default all of the
    strategy's at midnight. `bucket_objects`: how many others there are, as where several databases share a bucket.
    """
    put_bytes = delete_bytes = 0.0
    for flow in forecast.flows:
        cost = profile.cost_of(flow.object_bytes)
        put_bytes += flow.created_count * cost.put_bytes
        delete_bytes += flow.deleted_count * cost.delete_bytes
    list_bytes = 0.0
    for each in (each for each in forecast.accesses if each.verb == "list"):
        own_rows = forecast.live_midnight_count if each.row_count is None else each.row_count
        rows = min(KEYS_PER_REQUEST + 1.0, own_rows + bucket_objects)
        large_rows = min(KEYS_PER_REQUEST + 1.0 - rows, each.large_row_count)
        page_bytes = rows * _row_bytes(profile, each, listed=True) + large_rows * profile.large.row_bytes
        list_bytes += each.request_count * page_bytes
    read_bytes = sum(
        each.request_count * _row_bytes(profile, each, listed=False)
        for each in forecast.accesses
        if each.verb != "list"
    )
    payload_bytes = profile.copies * forecast.upload_bytes
    return Traffic(
        profile=profile.name,
        strategy=forecast.strategy,
        put_bytes=put_bytes,
        payload_bytes=payload_bytes,
        delete_bytes=delete_bytes,
        list_bytes=list_bytes,
        read_bytes=read_bytes,
        caused_bytes=put_bytes + payload_bytes + delete_bytes + list_bytes + read_bytes,
        idle_bytes=None if profile.idle_bytes_per_s is None else profile.idle_bytes_per_s * DAYS * DAY_S,
    )


def _row_bytes(profile: StoreProfile, access: Access, *, listed: bool) -> float:
    cost = profile.cost_of(access.object_bytes)
    return (cost.row_bytes if listed else cost.read_bytes) + (access.object_bytes if cost.inline else 0.0)
