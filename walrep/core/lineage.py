"""May this writer write to this replica? Pure decisions about lineage; see docs/design.md, "One writer".

A writer's lineage is its local state: the replica's id and the number of the next segment. Without it, a replica that
exists is refused: an ephemeral host that booted empty, or a mistyped URL, must not bury somebody's history.
"""

from __future__ import annotations

import enum

import msgspec

from walrep.core.objects import REPLICA_FORMAT, ReplicaInfo
from walrep.core.state import LocalState
from walrep.core.units import Seq
from walrep.errors import ReplicaConflict

__all__ = ["Claim", "SequenceCheck", "check_sequence", "plan_claim"]


class Claim(enum.Enum):
    """What to do with the replica object."""

    CREATE = "create it"
    CONTINUE = "go on in it"
    ADOPT = "begin a new timeline in it, without lineage"


def plan_claim(state: LocalState | None, info: ReplicaInfo | None, *, url: str, new_timeline: bool) -> Claim:
    """Decide how to take up a replica, from the local state and the replica object (None: there is none).

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
        if state is None or state.next_seq == 1 or new_timeline:
            return Claim.CREATE
        raise ReplicaConflict(
            "the replica is gone",
            detail=f"{url}; this host wrote {state.next_seq - 1} segments to replica {state.replica}",
            hint="check the URL; if it was deleted on purpose, start a new one with --new-timeline",
        )
    if state is not None and state.replica == info.replica:
        return Claim.CONTINUE
    if new_timeline:
        return Claim.ADOPT
    raise ReplicaConflict(
        "a replica of another writer is here already" if state is None else "this is not the replica of this database",
        detail=f"{url}; made for {info.database} by {info.created_by.host or 'an unknown host'}",
        hint="if its writer is gone for good and this database shall go on in it, use --new-timeline; else use another "
        "URL. To get the data back, use `walrep restore`",
    )


class SequenceCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Result of comparing the store's newest segments with what the local state says."""

    foreign: Seq | None
    """A segment that another writer put where this one's next would go; None if there is none."""


def check_sequence(listed: list[Seq], *, durable: Seq, outbox: list[Seq]) -> SequenceCheck:
    """Compare the segments listed from number `durable` on with the lineage.

    `durable` is the newest segment that the store has acknowledged (0: none). A listed segment that also waits in the
    outbox was stored and its acknowledgement lost, or is another writer's: the PUT will tell.

    Raises:
        ReplicaConflict: the store has lost segments that it had acknowledged.

    """
    if durable and durable not in listed:
        raise ReplicaConflict(
            f"segment {durable} is missing, though the store had acknowledged it",
            hint="the store lost objects, or somebody deleted them; start a new history with --new-timeline",
        )
    known = {durable, *outbox}
    foreign = [seq for seq in listed if seq not in known]
    return SequenceCheck(foreign=min(foreign) if foreign else None)
