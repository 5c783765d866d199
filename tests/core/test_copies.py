"""Two copies of one state at work at once: what is restored of a timeline that both began."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from walrep.core.names import parse_snapshot_key, snapshot_key
from walrep.core.records import Known
from walrep.core.restore import RestorePlan, plan_restore
from walrep.core.target import AtBookmark, AtTime, AtTxid, Latest, Target
from walrep.core.units import Checksum, Position, Seq, Txid
from walrep.errors import TargetAmbiguous, TargetNotFound
from walrep.testing.history import HistoryBuilder, history_of, known_of

PAGE = 512
SECOND = 1000


def build(first: int) -> HistoryBuilder:
    """A base, and three transactions, a second apart, in a segment each; `first` tells one history from another."""
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: bytes([first + pgno]) * PAGE for pgno in range(1, 5)}, SECOND)
    for txid in (1, 2, 3):
        builder.commit([(1, bytes([100 + first + txid]) * PAGE)], 4, (1 + txid) * SECOND)
        builder.seal()
    return builder


def base_of(builder: HistoryBuilder, *, behind: int = 0) -> dict[str, bytes]:
    """Return the base, as one that was made so many segments later."""
    ((key, data),) = [(key, data) for key, data in builder.objects.items() if key.startswith("snapshots/")]
    name = parse_snapshot_key(key)
    assert name is not None
    return {snapshot_key(msgspec.structs.replace(name, seq=Seq(name.seq + behind), seen_ms=name.seen_ms + 1)): data}


def plan(objects: Mapping[str, bytes], target: Target) -> RestorePlan:
    history, known = history_of(objects), Known()
    while True:
        step = plan_restore(history, known, target, timeline=None, nearest_before=False, now_ms=60 * SECOND)
        if isinstance(step, RestorePlan):
            return step
        known = known_of(objects, step, known)


ONE, OTHER = build(10), build(50)
BOTH = {**ONE.objects, **base_of(OTHER, behind=1)}
"""The other one's first segment met one of the same number, and nothing more came of it."""


@pytest.mark.parametrize("target", [AtTxid(Txid(0)), AtTxid(Txid(3)), Latest(), AtTime(3 * SECOND)], ids=repr)
def test_a_number_and_a_time_would_mean_either(target: Target) -> None:
    assert plan({**ONE.objects, **base_of(ONE, behind=1)}, target).position.timeline == ONE.timeline
    with pytest.raises(TargetAmbiguous, match="two copies"):
        plan(BOTH, target)


@pytest.mark.parametrize("txid", [0, 1, 3])
def test_a_bookmark_leads_to_its_own_base(txid: int) -> None:
    position = ONE.positions[ONE.timeline, txid]
    found = plan(BOTH, AtBookmark(position))
    assert (found.position, len(found.slices)) == (position, txid)
    assert found.snapshot.key in ONE.objects


def test_the_bookmark_of_the_other_base_leads_there() -> None:
    position = OTHER.positions[OTHER.timeline, 0]
    assert OTHER.timeline == ONE.timeline
    found = plan(BOTH, AtBookmark(position))
    assert (found.position, found.slices) == (position, ())
    assert found.snapshot.key in base_of(OTHER, behind=1)


@pytest.mark.parametrize("txid", [0, 2])
def test_a_bookmark_of_neither_is_refused(txid: int) -> None:
    position = Position(ONE.timeline, Txid(txid), Checksum(1))
    with pytest.raises(TargetNotFound, match="contradicts"):
        plan(BOTH, AtBookmark(position))
