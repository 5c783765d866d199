"""Protection in which a day passes when a test sets the clock ahead, and what it left."""

from __future__ import annotations

from pathlib import Path

from tests.engine.protection import App, Protection
from walrep.clock import SystemClock
from walrep.core.events import Flushed
from walrep.core.names import SnapshotName, parse_snapshot_key
from walrep.core.snapshots import SnapshotPolicy
from walrep.core.target import Latest, Target
from walrep.engine.fetch import read_history
from walrep.engine.restorer import RestoreRequest, restore
from walrep.runner import InlineRunner
from walrep.store.memory import MemoryObject, MemoryStore

__all__ = ["DAILY", "FULL", "begin_days", "check_whole", "flush", "kinds", "names", "next_day", "restored"]

DAY = 86_400_000
DAILY = SnapshotPolicy(at_s=0, look_s=0.02, again_s=0.2)
FULL = SnapshotPolicy(at_s=0, look_s=0.02, again_s=0.2, full_days=0)


def begin_days(protection: Protection) -> None:
    """Let there be a snapshot a day by the protection's clock, which is the store's, too; nothing is deleted."""

    class AheadStore(MemoryStore):
        def __init__(self, objects: dict[str, MemoryObject]) -> None:
            super().__init__(objects, protection.clock)

    protection.kind = AheadStore
    protection.change(snapshots=DAILY, retention=None)


def next_day(protection: Protection) -> None:
    protection.clock.ahead_ms += DAY


async def flush(app: App, protection: Protection, count: int = 1) -> None:
    for _ in range(count):
        flushed = len(protection.of(Flushed))
        app.commit(1)
        await protection.until_count(Flushed, flushed + 1)


def names(protection: Protection) -> list[SnapshotName]:
    return [name for key in protection.keys("snapshots/") if (name := parse_snapshot_key(key)) is not None]


def kinds(protection: Protection) -> list[str]:
    return ["full" if name.full is None else f"on {name.full.txid}" for name in names(protection)]


async def restored(protection: Protection, folder: Path, target: Target) -> bytes:
    output = folder / "restored.db"
    request = RestoreRequest(output=output, target=target, check="full")
    await restore(protection.store(), request, clock=SystemClock(), runner=InlineRunner())
    image = output.read_bytes()
    output.unlink()
    return image


async def check_whole(app: App, protection: Protection, folder: Path) -> None:
    app.close()
    assert protection.ended_with() is None
    assert (await read_history(protection.store(), InlineRunner())).problems == ()
    assert await restored(protection, folder, Latest()) == app.path.read_bytes()
