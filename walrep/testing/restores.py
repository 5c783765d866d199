"""Restores in virtual time, inline, from a replica given as its objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from walrep.core.target import Latest, Target
from walrep.engine.restorer import Progress, RestoreOutcome, RestoreRequest, restore
from walrep.runner import InlineRunner
from walrep.sqlite.target import Check
from walrep.store.base import Store
from walrep.store.memory import MemoryObject, MemoryStore
from walrep.testing.clock import SimClock

__all__ = ["memory_store", "restore_inline", "restore_to"]


def memory_store(objects: Mapping[str, bytes]) -> MemoryStore:
    """Return a store that holds these objects."""
    return MemoryStore({key: MemoryObject(data, 0) for key, data in objects.items()})


def restore_inline(
    source: Store | Mapping[str, bytes], request: RestoreRequest, *, progress: Progress | None = None
) -> RestoreOutcome:
    """Do what `request` says; raises what `restore` raises."""
    store = memory_store(source) if isinstance(source, Mapping) else source
    clock = SimClock()
    return clock.run(restore(store, request, clock=clock, runner=InlineRunner(), progress=progress))


def restore_to(
    output: Path,
    source: Store | Mapping[str, bytes],
    target: Target = Latest(),  # noqa: B008 - frozen
    *,
    check: Check = "none",
) -> RestoreOutcome:
    """Restore a model's replica: its pages are no SQLite database, so SQLite is not asked unless `check` says so."""
    return restore_inline(source, RestoreRequest(output=output, target=target, check=check))
