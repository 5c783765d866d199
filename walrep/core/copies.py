"""Two copies of one walrep, state and all, at work at once on a store that cannot keep them apart.

They have one nonce, so that both may begin a timeline of the same id, each with a base of its own. The numbers of its
transactions then mean two histories, and nothing but a bookmark, which has the checksum, tells which one is meant.
"""

from __future__ import annotations

import msgspec

from walrep.core.history import Coverage, Timeline
from walrep.core.records import Known, Needs
from walrep.core.units import Position
from walrep.errors import TargetAmbiguous

__all__ = ["own_timeline", "refuse_shared"]


def refuse_shared(timeline: Timeline) -> None:
    """Refuse to choose by number or by time.

    Raises:
        TargetAmbiguous: two copies began the timeline.

    """
    if _is_shared(timeline):
        raise TargetAmbiguous(
            f"timeline {timeline.id} was written by two copies of one walrep at once",
            detail="their transactions have the same numbers",
            hint="choose by --bookmark, as `walrep replicate` told it when it was stored",
        )


def own_timeline(timeline: Timeline, known: Known, position: Position) -> Timeline | Needs:
    """Return the timeline without the bases that are the other copy's, as far as the bookmark is concerned."""
    if not _is_shared(timeline):
        return timeline
    bases = [each for each in timeline.coverages if each.first_txid == 0]
    unread = tuple(each.snapshot for each in bases if each.snapshot.key not in known.snapshots)
    if unread:
        return Needs(snapshots=unread)
    fitting: list[Coverage] = []
    for base in bases:
        checksum = known.snapshots[base.snapshot.key].footer.checksum
        if position.txid == 0 and checksum == position.checksum:
            # The segments that follow may be the other one's.
            fitting.append(msgspec.structs.replace(base, links=()))
        elif position.txid > 0 and base.links and checksum == base.links[0].header.checksum_before:
            fitting.append(base)
    others = [each for each in timeline.coverages if each.first_txid > 0]
    return msgspec.structs.replace(timeline, coverages=(*fitting, *others)) if fitting or others else timeline


def _is_shared(timeline: Timeline) -> bool:
    """Say whether two copies began it: one has one base, and what else stands there is behind the same segment."""
    return len({each.name.seq for each in timeline.snapshots if each.name.txid == 0}) > 1
