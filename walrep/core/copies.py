"""Two copies of one walrep, state and all, at work at once.

They have one nonce, so that both may begin a timeline of the same id, each with a base of its own, whatever store it
is: their openings need not have the same number. The numbers of its transactions then mean two histories, and nothing
but a bookmark, which has the checksum, tells which one is meant. The keys of such bases differ in the segment that they
stand behind; whether the databases did, their footers tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from walrep.core.history import Coverage, Timeline
from walrep.core.records import Known, Needs
from walrep.core.units import Position
from walrep.errors import TargetAmbiguous

__all__ = ["own_timeline", "refuse_shared"]


def refuse_shared(timeline: Timeline, known: Known) -> Needs | None:
    """Refuse to choose by number or by time; return what has to be read to know whether that is necessary.

    Raises:
        TargetAmbiguous: two copies began the timeline.

    """
    bases = _rival_bases(timeline)
    needs = _unread(bases, known)
    if needs is None and len({_checksum(each, known) for each in bases}) > 1:
        raise TargetAmbiguous(
            f"timeline {timeline.id} was written by two copies of one walrep at once",
            detail="their transactions have the same numbers",
            hint="choose by --bookmark, as `walrep replicate` told it when it was stored",
        )
    return needs


def own_timeline(timeline: Timeline, known: Known, position: Position) -> Timeline | Needs:
    """Return the timeline without the bases that are the other copy's, as far as the bookmark is concerned."""
    bases = _rival_bases(timeline)
    needs = _unread(bases, known)
    if needs is not None or not bases:
        return needs or timeline
    fitting: list[Coverage] = []
    for base in bases:
        checksum = _checksum(base, known)
        if position.txid == 0 and checksum == position.checksum:
            # The segments that follow may be the other one's.
            fitting.append(msgspec.structs.replace(base, links=()))
        elif position.txid > 0 and base.links and checksum == base.links[0].header.checksum_before:
            fitting.append(base)
    others = [each for each in timeline.coverages if each.first_txid > 0]
    return msgspec.structs.replace(timeline, coverages=(*fitting, *others)) if fitting or others else timeline


def _rival_bases(timeline: Timeline) -> list[Coverage]:
    """Return what begins with a base, if there is more than one: others of a timeline are behind the same segment."""
    bases = [each for each in timeline.coverages if each.first_txid == 0]
    return bases if len({each.snapshot.name.seq for each in bases}) > 1 else []


def _unread(bases: Sequence[Coverage], known: Known) -> Needs | None:
    unread = tuple(each.snapshot for each in bases if each.snapshot.key not in known.snapshots)
    return Needs(snapshots=unread) if unread else None


def _checksum(base: Coverage, known: Known) -> int:
    return known.snapshots[base.snapshot.key].footer.checksum
