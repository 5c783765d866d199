"""From a target to a plan: read what the decision needs, until it is made."""

from __future__ import annotations

import msgspec

from walrep.core.history import History
from walrep.core.records import Known
from walrep.core.restore import RestorePlan, plan_restore
from walrep.core.target import Latest, Target
from walrep.engine.fetch import ReplicaReader

__all__ = ["Wanted", "plan_wanted"]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asks for. `timeline` is a full id or a number, None to choose by the target."""

    target: Target = Latest()
    timeline: str | None = None
    nearest_before: bool = False


async def plan_wanted(reader: ReplicaReader, history: History, wanted: Wanted, now_ms: int) -> RestorePlan:
    """Return the plan of a restore; see `walrep.core.restore.plan_restore` for what it raises."""
    known = Known()
    while True:
        step = plan_restore(
            history,
            known,
            wanted.target,
            timeline=wanted.timeline,
            nearest_before=wanted.nearest_before,
            now_ms=now_ms,
        )
        if isinstance(step, RestorePlan):
            return step
        known = await reader.learn(known, step)
