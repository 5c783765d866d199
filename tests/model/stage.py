"""What the hosts of one run share: time, the store, the images, and what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.model.images import Images
from tests.model.nursery import Nursery
from tests.model.place import Place
from walrep.core.compaction import CompactionPolicy
from walrep.core.flush import FlushPolicy
from walrep.core.retention import RetentionPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.testing.clock import SimClock

__all__ = ["BEGIN_MS", "Found", "Setup", "Stage"]

BEGIN_MS = 1_803_859_200_000
"""Monday, 1 March 2027, 00:00 UTC: later than the modification times that real writes leave."""

MINUTE_MS = 60_000


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change in a run."""

    page_size: int = 4096
    auto_vacuum: int = 0
    cache_pages: int = 200
    autocheckpoint: int = 1000
    synchronous: str = "normal"
    creates_only: bool = True
    busy_s: float = 5.0
    outbox_bytes_max: int = 1 << 30
    cache_bytes_max: int = 256 << 20
    rpo_s: float = 2.0
    segment_bytes_max: int = 64 << 20
    rival_check_s: float = 60.0
    puts_per_day_max: int | None = None

    flush_first_s: float = 0.2
    compaction: CompactionPolicy = CompactionPolicy(
        spans_ms=(MINUTE_MS, 10 * MINUTE_MS), settle_ms=1000, grace_ms=MINUTE_MS // 2
    )
    retention: RetentionPolicy = RetentionPolicy(window_s=4 * 3600.0, grace_s=60.0)
    snapshots: SnapshotPolicy = SnapshotPolicy(
        full_days=3, outgrown_bytes_min=1 << 20, day_ms=20 * MINUTE_MS, look_s=10.0
    )

    @property
    def flush(self) -> FlushPolicy:
        """When segments are sealed."""
        return FlushPolicy(
            rpo_s=self.rpo_s, first_commit_s=self.flush_first_s, segment_bytes_max=self.segment_bytes_max
        )


def draw_setup(dice: Random) -> Setup:
    """Draw the setup of a run."""
    return Setup(
        page_size=dice.choice((512, 1024, 4096, 4096, 8192)),
        auto_vacuum=dice.choice((0, 0, 1, 2)),
        cache_pages=dice.choice((5, 200)),
        autocheckpoint=dice.choice((0, 10, 100, 1000)),
        synchronous=dice.choice(("normal", "normal", "full")),
        creates_only=dice.random() < 0.7,
        outbox_bytes_max=dice.choice((300_000, 1 << 30, 1 << 30)),
        cache_bytes_max=dice.choice((50_000, 256 << 20)),
        segment_bytes_max=dice.choice((40_000, 64 << 20)),
        rpo_s=dice.choice((0.5, 2.0, 10.0)),
        puts_per_day_max=dice.choice((None, None, None, None, 48, 200)),
    )


class Found(msgspec.Struct, kw_only=True):
    """What a run did, and what was wrong."""

    operations: Counter[str] = msgspec.field(default_factory=Counter)
    events: Counter[str] = msgspec.field(default_factory=Counter)
    alarms: Counter[str] = msgspec.field(default_factory=Counter)
    restores: Counter[str] = msgspec.field(default_factory=Counter)
    starts: int = 0
    kills: int = 0
    app_kills: int = 0
    commits: int = 0
    waits: int = 0
    timelines: int = 0
    differing_pages: int = 0
    problems: list[str] = msgspec.field(default_factory=list)


class Stage:
    """Shared by the hosts of a run."""

    def __init__(self, nursery: Nursery, folder: Path, setup: Setup, seed: int) -> None:
        self.nursery = nursery
        self.folder = folder
        self.setup = setup
        self.dice = Random(f"{seed} stage")
        self.clock = SimClock(BEGIN_MS)
        self.place = Place(seed, self.clock, creates_only=setup.creates_only)
        self.images = Images()
        self.found = Found()
        self.trace: list[str] = []
        self.let_pass: Callable[[float], None] = lambda _seconds: None
        """Lets time pass for all hosts."""

    def note(self, *told: Any) -> None:  # noqa: ANN401  whatever tells what happened
        """Note what happened, so that two runs of one seed can be compared."""
        text = " ".join(map(str, told)).replace(str(self.folder), "")
        self.trace.append(f"{self.clock.monotonic_s():.3f} {text}")

    def problem(self, text: str) -> None:
        """Note that something is wrong."""
        self.note("PROBLEM", text)
        self.found.problems.append(text)

    def expect(self, condition: object, text: str) -> None:
        """Note a problem unless the condition holds."""
        if not condition:
            self.problem(text)

    def catch_up(self, monotonic_s: float) -> None:
        """Let the true time be at least this late."""
        behind_s = monotonic_s - self.clock.monotonic_s()
        if behind_s > 0:
            self.clock.advance(behind_s)
