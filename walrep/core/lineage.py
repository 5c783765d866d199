"""May this writer write to this replica? Pure decisions about lineage; see docs/design.md, "One writer".

A writer's lineage is its local state: the replica's id and the number of the next segment. Without it, a replica that
exists is refused: an ephemeral host that booted empty, or a mistyped URL, must not bury somebody's history.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from typing import Protocol

from walrep.core.names import SegmentName
from walrep.core.objects import REPLICA_FORMAT, ReplicaInfo, SegmentHeader
from walrep.core.state import LocalState
from walrep.core.target import format_duration, format_time
from walrep.core.units import Seq, TimelineId, timeline_number
from walrep.errors import ReplicaConflict

__all__ = [
    "ACTIVE_MS",
    "Claim",
    "Numbered",
    "Rivalry",
    "conflict_with",
    "is_proof_stale",
    "judge_rival",
    "newest_segments",
    "plan_claim",
    "refuse_active_writer",
    "refuse_lost",
    "unknown_names",
]

ACTIVE_MS = 10 * 60 * 1000
"""A writer whose newest segment is younger may still be at work."""


class Claim(enum.Enum):
    """What to do with the replica object."""

    CREATE = "create it"
    CONTINUE = "go on in it"
    ADOPT = "begin a new timeline in it, without lineage"


def plan_claim(state: LocalState | None, info: ReplicaInfo | None, *, url: str, may_adopt: bool) -> Claim:
    """Decide how to take up a replica, from the local state and the replica object (None: there is none).

    `may_adopt`: the user said that this writer may go on in a replica of which it has no lineage.

    Raises:
        ReplicaConflict: the writer may not write here.

    """
    if info is not None and info.format != REPLICA_FORMAT:
        raise ReplicaConflict(
            f"the replica has format {info.format}, which this walrep does not know",
            detail=url,
            hint="use the version of walrep that made it",
        )
    if info is None:
        if state is None or state.next_seq == 1 or may_adopt:
            return Claim.CREATE
        raise ReplicaConflict(
            "the replica is gone",
            detail=f"{url}; this host wrote {state.next_seq - 1} segments to replica {state.replica}",
            hint="check the URL; if it was deleted on purpose, start a new one with --new-timeline",
        )
    if state is not None and state.replica == info.replica:
        return Claim.CONTINUE
    if may_adopt:
        return Claim.ADOPT
    raise ReplicaConflict(
        "a replica of another writer is here already" if state is None else "this is not the replica of this database",
        detail=f"{url}; made for {info.database} by {info.created_by.host or 'an unknown host'}",
        hint="if its writer is gone for good and this database shall go on in it, as after a restore on a new host, "
        "use --new-timeline, which uploads only what differs; else use another URL. To get the data back, use "
        "`walrep restore`",
    )


class Numbered(Protocol):
    """What has numbers of segments."""

    @property
    def key(self) -> str:
        """The key of the object."""
        ...

    @property
    def timeline(self) -> TimelineId:
        """Its timeline."""
        ...

    @property
    def last_seq(self) -> Seq:
        """The number of its last segment."""
        ...


def refuse_lost(listed: Collection[SegmentName], durable: SegmentName, *, replaced: bool = False) -> None:
    """Refuse to go on where the store has lost the newest segment that it has acknowledged (number 0: none).

    `replaced`: the one behind it is there, and what became of this one is known.

    Raises:
        ReplicaConflict: it is not among those that are listed from its number on.

    """
    if durable.seq and not replaced and durable not in listed:
        raise ReplicaConflict(
            f"segment {durable.seq} is missing, though the store had acknowledged it",
            hint="the store lost objects, or somebody deleted them; start a new history with --new-timeline",
        )


def unknown_names(listed: Iterable[SegmentName], *, after: SegmentName, creates_only: bool) -> list[SegmentName]:
    """Return, in order, what stands behind one's own newest segment, or beside it.

    Where keys tell writers apart, only those with one's own nonce: the others are judged by what they hold.
    """
    own = after.nonce
    return sorted(name for name in listed if (name.seq > after.seq if name.nonce == own else creates_only))


def is_proof_stale(elapsed_s: float, grace_s: float) -> bool:
    """Say whether a number may have been written and freed again since it was proved that nobody else writes. INV-36.

    Compaction deletes a segment that a pack holds when that is older than `grace_s`. Up to half of it the PUT that
    proves it again may take.
    """
    return elapsed_s >= grace_s / 2


def newest_segments(known: Collection[Numbered]) -> frozenset[str]:
    """Return the keys of what a writer's next start looks for, and of what a take-over counts on from. INV-24.

    That is the newest of all, and that of the newest timeline: where keys tell writers apart, one that was shut out may
    have gone on to a higher number.
    """
    number = max((timeline_number(each.timeline) for each in known), default=0)
    groups = {each.timeline for each in known if timeline_number(each.timeline) == number}
    last = {group: max(each.last_seq for each in known if each.timeline == group) for group in groups}
    newest = max((each.last_seq for each in known), default=0)
    return frozenset(each.key for each in known if each.last_seq in {newest, last.get(each.timeline, newest)})


def refuse_active_writer(newest: SegmentHeader, *, own_nonce: str, now_ms: int) -> None:
    """Refuse to bury the history of a writer that was at work a moment ago.

    Raises:
        ReplicaConflict: it wrote within the last ten minutes.

    """
    age_ms = now_ms - newest.created_ms
    if newest.writer.nonce == own_nonce or age_ms > ACTIVE_MS:
        return
    raise ReplicaConflict(
        f"another walrep wrote to this replica {format_duration(max(0, age_ms))} ago",
        detail=_who(newest),
        hint="stop that one. Where it cannot be reached, --take-over shuts it out, so that nothing of either is lost",
    )


class Rivalry(enum.Enum):
    """What to do about another writer's segments beside one's own, on a store without create-only PUT."""

    YIELD = "the other one took over later"
    GO_ON = "the other one was shut out and has not noticed yet"


def judge_rival(theirs: SegmentHeader, *, first_seq: Seq, nonce: str) -> Rivalry:
    """Decide between two writers: the one whose first segment is later goes on, and both come to the same decision.

    `theirs` is the other's lowest segment that is not lower than one's own first; it is the other's first if
    it is a fence, or opens the replica. `first_seq` and `nonce` are one's own.
    """
    is_first = theirs.fence or (theirs.start is not None and theirs.seq == 1)
    later = is_first and (theirs.seq, theirs.writer.nonce) > (first_seq, nonce)
    return Rivalry.YIELD if later else Rivalry.GO_ON


def conflict_with(theirs: SegmentHeader) -> ReplicaConflict:
    """Return the error of a writer that was shut out."""
    return ReplicaConflict(
        "another walrep took this replica over" if theirs.start else "another walrep writes to this replica",
        detail=_who(theirs),
        hint="let one of the two protect the database; this one goes on with --take-over. What it captured and did not "
        "store is kept in its state directory",
    )


def _who(header: SegmentHeader) -> str:
    writer = header.writer
    host = writer.host or "an unknown host"
    return f"process {writer.pid} on {host} wrote segment {header.seq} at {format_time(header.created_ms)}"
