"""When a snapshot is made, and of which kind.

One a day when something was committed since the last, at a time of day that is spread by the replica's identity, so
that many databases on one host, and many hosts at one store, do not all begin at midnight. One more when the logs since
the last have outgrown the database: a restore would read them all.

A snapshot is **full**, or **differential**: the pages in which it differs from exactly one full one of this replica,
whatever its timeline, and never from another differential. It is full when there is no full one to lean on, when that
one is a week old, and when so many pages have changed that leaning on it saves little. The same rule is for the base
of a timeline: so neither a restart nor a restore uploads the database again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from walrep.core.names import SnapshotName, snapshot_key
from walrep.core.target import format_duration
from walrep.core.units import Checksum, Position, Seq, TimelineId, Txid, timeline_number

__all__ = [
    "FullSnapshot",
    "SnapshotFacts",
    "SnapshotKind",
    "SnapshotPlan",
    "SnapshotPolicy",
    "full_under",
    "may_lean",
    "newest_full",
    "plan_kind",
    "plan_snapshot",
]

_DAY_MS = 24 * 60 * 60 * 1000


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """`automatic`: without being asked for. `at_s`: seconds after midnight, UTC; None: spread.

    `full_days`: how old a full one is leant on. `outgrown_bytes_min`: logs below that never call for one more.
    `changed_share_max`: of the pages, for a differential one. `day_ms` is a day. `look_s`: how often to ask whether
    one is due. `again_s`: how long to wait when one has failed.
    """

    automatic: bool = True
    at_s: int | None = None
    full_days: int = 7
    outgrown_bytes_min: int = 64 << 20
    changed_share_max: float = 0.5
    day_ms: int = _DAY_MS
    look_s: float = 60.0
    again_s: float = 3600.0


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when it is asked whether a snapshot is due. `identity`: the replica's.

    `last_ms`, `last_txid`: when the last snapshot was seen, and where it stands. `log_bytes`: sealed since.
    """

    identity: str
    now_ms: int
    last_ms: int
    last_txid: Txid
    txid: Txid
    log_bytes: int
    database_bytes: int


class SnapshotPlan(msgspec.Struct, frozen=True, kw_only=True):
    """When to make a snapshot (None: not before something is committed), and why."""

    at_ms: int | None
    reason: str


class FullSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A full snapshot that others may lean on; `checksum` is that of the database there."""

    replica: str
    name: SnapshotName
    page_size: int
    checksum: Checksum

    @property
    def key(self) -> str:
        """Its key."""
        return snapshot_key(self.name)

    @property
    def position(self) -> Position:
        """Where it stands."""
        return Position(self.name.timeline, self.name.txid, self.checksum)


SnapshotKind = Literal["full", "differential"]


class Placed(Protocol):
    """Something that stands at a transaction of a timeline, where segment `seq` ends."""

    @property
    def timeline(self) -> TimelineId:
        """Its timeline."""
        ...

    @property
    def txid(self) -> Txid:
        """The transaction."""
        ...

    @property
    def seq(self) -> Seq:
        """The newest segment that it includes."""
        ...


P = TypeVar("P", bound=Placed)


def plan_snapshot(facts: SnapshotFacts, policy: SnapshotPolicy) -> SnapshotPlan:
    """Decide when the next snapshot is made."""
    if not policy.automatic:
        return SnapshotPlan(at_ms=None, reason="snapshots are made only when somebody asks for one")
    if facts.txid == facts.last_txid:
        return SnapshotPlan(at_ms=None, reason="nothing was committed since the last")
    if facts.log_bytes > max(facts.database_bytes, policy.outgrown_bytes_min):
        return SnapshotPlan(at_ms=0, reason="the logs since the last are larger than the database")
    return SnapshotPlan(at_ms=_next_time(facts, policy), reason="daily")


def plan_kind(
    full: FullSnapshot | None,
    pages: tuple[int, int],
    *,
    replica: str,
    page_size: int,
    now_ms: int,
    policy: SnapshotPolicy,
) -> tuple[SnapshotKind, str]:
    """Decide of which kind the next snapshot is, and why; `pages`: how many differ from the full one, of how many.

    `replica` and `page_size` are those of the database: what is known may be of another one.
    """
    if full is None or full.replica != replica:
        return "full", "there is no full snapshot of this replica to lean on"
    if full.page_size != page_size:
        return "full", f"the last full one has pages of {full.page_size} bytes"
    # A clock that was set back must not make the full one young for ever.
    age_ms = abs(now_ms - full.name.seen_ms)
    # A snapshot a day is made a little earlier or later than a day after the one before.
    if age_ms > (policy.full_days - 0.5) * policy.day_ms:
        return "full", f"the last full one is {format_duration(age_ms)} old"
    changed, count = pages
    if changed > policy.changed_share_max * count:
        return "full", f"{changed} of {count} pages differ from the last full one"
    where = f"transaction {full.name.txid} of timeline {full.name.timeline}"
    return "differential", f"{changed} of {count} pages differ from the full one of {where}"


def may_lean(full: FullSnapshot, timeline: TimelineId) -> bool:
    """Say whether the base of a timeline may lean on a full snapshot: on one of a timeline with a lower number.

    INV-31. Of what a writer begins while its replica is taken over, the number may be the same; no key can tell of such
    a base.
    """
    return timeline_number(full.name.timeline) < timeline_number(timeline)


class _Named(Protocol):
    """A full snapshot by its name."""

    @property
    def name(self) -> SnapshotName:
        """What its key says."""
        ...


N = TypeVar("N", bound=_Named)


def full_under(seq: Seq, full: Iterable[N]) -> N | None:
    """Return on which of the full snapshots of one place a differential one with this number was made.

    Two copies of one state may both have made one, where a store does not keep the second from it: the newest counts
    that was there by then.
    """
    return max((each for each in full if each.name.seq <= seq), key=lambda each: each.name.seq, default=None)


def newest_full(full: Iterable[P]) -> tuple[P, ...]:
    """Return the newest of these full snapshots: of each timeline that has the highest number among them, the last one.

    By their places alone: a clock that steps must not make an older one the newest. INV-30
    """
    newest: dict[TimelineId, P] = {}
    for each in full:
        before = newest.get(each.timeline)
        if before is None or (before.txid, before.seq) <= (each.txid, each.seq):
            newest[each.timeline] = each
    number = max(map(timeline_number, newest), default=0)
    return tuple(each for timeline, each in sorted(newest.items()) if timeline_number(timeline) == number)


def _next_time(facts: SnapshotFacts, policy: SnapshotPolicy) -> int:
    """Return the first time of day, as the policy has it, after the last snapshot."""
    if policy.at_s is None:
        of_day_ms = xxh3_64_intdigest(facts.identity.encode()) % policy.day_ms
    else:
        of_day_ms = policy.at_s * 1000 % policy.day_ms
    # A last one that a clock since set back calls later than now was made now, as far as anybody can tell.
    last_ms = min(facts.last_ms, facts.now_ms)
    days = (last_ms - of_day_ms) // policy.day_ms + 1
    return days * policy.day_ms + of_day_ms
