"""What the keeper does next: hand over, probe, checkpoint, or take the write lock for a moment.

Two facts of SQLite's log carry the protocol (measured; docs/design.md has the proof):

- A read transaction on a read mark above 0 forbids a restart of the WAL.
- A read transaction on READ-LOCK 0 forbids every backfill, and a restart needs a complete backfill; so while one is
  held at most one non-empty generation can begin, and none of its frames can be discarded.

So the next keeper begins, everything committed is captured, and only then the previous keeper ends (INV-01).
Order of the cases below:

1. The WAL was restarted, so the keeper sits on READ-LOCK 0. It is left only after a PASSIVE checkpoint has shown that
   nobody holds the checkpoint lock: a checkpointer of an SQLite before 3.51.3 that read the header before the
   restart would otherwise mark frames of the new generation as copied (the WAL-reset bug) (INV-05). A blocking
   checkpoint that waits for us holds the checkpoint and the write lock: when it has for a grace, hand over.
   Elsewhere such a checkpoint waits for a read mark, and not for what the mark says: the next keeper may be on the very
   same one, which no hand-over would ever free. Then step aside: a lock of our own on another mark forbids the restart
   while the checkpoint goes on; it forbids no backfill, so that pre-images are not trusted meanwhile (INV-18). Where
   all is copied already a hand-over goes to READ-LOCK 0, which frees every mark.
2. Everything is backfilled: hand over once, to READ-LOCK 0; the app's next write then restarts the WAL.
3. Frames were committed since the keeper began: hand over, so that the app's checkpoints can copy them.
4. A backlog, or long quiet: PASSIVE. Never FULL, RESTART or TRUNCATE, which make the app's writers wait (INV-04).
   A short log is left alone: once it is copied the next commit begins it anew, and has to sync its header. Measured
   with a commit a second and `synchronous=normal`: 21 syncs in 20 commits where each pause was used to copy, and 4
   without walrep. After a long quiet it is copied, so that checkpoints of the app meet nobody.
5. Writers that never pause let the WAL grow: stop them, for the tail of one PASSIVE only. Not when an older reader
   of the app is what holds the checkpoint back: the lock would be wasted; an alarm is raised instead (INV-06).


A blocking checkpoint holds both locks as long as it waits, so nobody commits meanwhile. One process with both, or two
of another container, which the kernel does not tell apart, can also be a PASSIVE in one thread and a writer in another.
Those let go now and then, or commit; so what counts is what lasts (`Standstill`).
"""

from __future__ import annotations

import enum

import msgspec

from walrep.core.wal import WalIndex

__all__ = [
    "CapturePolicy",
    "Growth",
    "KeeperView",
    "Standstill",
    "Step",
    "TickView",
    "Urgency",
    "WriteLockAdvice",
    "next_passive_wait",
    "note_growth",
    "note_locks",
    "plan_tick",
    "plan_write_lock",
]


class CapturePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of the protocol; frames, seconds, bytes.

    `wal_frames_max` is below SQLite's own `wal_autocheckpoint` of 1000: beyond that the app runs a checkpoint in every
    commit, and while a keeper holds the log none of them ends it (measured at 1,000 tx/s: p99 of a commit 3.3 ms with
    4000, 0.2 ms with 900; without walrep 0.15 to 0.2 ms). A checkpoint waits for us when it was seen to in every one of
    at least `probe_looks` looks for `probe_grace_s`. `aside_s_max` is longer than the longest rest of SQLite's own busy
    handler: 0.1 s, or 1 s where it was built without `usleep`. The log grows fast when it has
    grown by `growth_frames` for each `growth_s`.
    """

    passive_frames: int = 500
    idle_s: float = 300.0
    wal_frames_max: int = 900
    reader_alarm_frames: int = 4000
    probe_grace_s: float = 0.1
    probe_looks: int = 4
    growth_frames: int = 64
    growth_s: float = 0.1
    aside_s_max: float = 1.2
    write_lock_wait_s: float = 0.05
    write_lock_budget_s: float = 0.02
    write_lock_interval_s: float = 0.25
    write_lock_tail_frames: int = 1500
    write_lock_rounds: int = 8
    passive_wait_min_s: float = 0.02
    passive_wait_max_s: float = 1.0


class Standstill(msgspec.Struct, frozen=True):
    """One holder of the checkpoint and of the write lock, and nothing committed, in each of some looks.

    `holder` is a process, 0 if the kernel does not tell; `header` is that of the wal-index, as bytes.
    """

    holder: int
    header: bytes
    since_s: float
    looks: int = 1

    def lasts(self, now_s: float, policy: CapturePolicy) -> bool:
        """Say whether this can only be a blocking checkpoint that waits."""
        return self.looks >= policy.probe_looks and now_s - self.since_s >= policy.probe_grace_s


def note_locks(
    before: Standstill | None, *, now_s: float, header: bytes, checkpointer: int | None, writer: int | None
) -> Standstill | None:
    """Return what a look adds, given who holds the two locks (None: nobody)."""
    if checkpointer is None or checkpointer != writer:
        return None
    if before is None or (before.holder, before.header) != (checkpointer, header):
        return Standstill(checkpointer, header, now_s)
    return msgspec.structs.replace(before, looks=before.looks + 1)


class Growth(msgspec.Struct, frozen=True):
    """How many frames had been captured at an earlier look, and whether the log grew fast until then."""

    since_s: float
    frames: int
    is_fast: bool = False


def note_growth(before: Growth, *, now_s: float, frames: int, policy: CapturePolicy) -> Growth:
    """Return what a look adds that has captured `frames` in all."""
    lasted_s, grown = now_s - before.since_s, frames - before.frames
    is_fast = grown >= policy.growth_frames * max(1.0, lasted_s / policy.growth_s)
    return Growth(now_s, frames, is_fast) if is_fast or lasted_s >= policy.growth_s else before


class KeeperView(msgspec.Struct, frozen=True):
    """The keeper: the salts read just before it began, the frames committed then, whether it went to READ-LOCK 0."""

    salts: tuple[int, int]
    max_frame: int
    settled: bool


class TickView(msgspec.Struct, frozen=True, kw_only=True):
    """What one tick sees, after it has captured all it could."""

    index: WalIndex
    keeper: KeeperView
    idle_s: float
    since_passive_s: float
    passive_wait_s: float
    since_write_lock_s: float
    waited_for: bool = False
    """Whether a blocking checkpoint of the app has been waiting for a while, perhaps for our keeper."""
    handed_over: bool = False
    """Whether a hand-over ended in this very tick: writers that never pause would otherwise be handed over for ever."""


class Step(enum.Enum):
    """What to do next."""

    REST = "nothing before something is committed, or the quiet has lasted"
    WAIT = "nothing yet"
    PROBE = "probe the checkpoint lock, then hand over"
    HAND_OVER = "hand over"
    STEP_ASIDE = "let a lock of our own stand in for the keeper"
    PASSIVE = "passive checkpoint"
    WRITE_LOCK = "stop writers for the tail of a passive checkpoint"


def plan_tick(view: TickView, policy: CapturePolicy) -> Step:
    """Decide the next step; the cases are numbered as in the module's text."""
    index, keeper = view.index, view.keeper
    if index.max_frame == 0:
        return Step.REST
    if index.salts != keeper.salts:
        return Step.PROBE
    if index.backlog == 0:
        at_rest = keeper.settled and keeper.max_frame == index.max_frame and not view.waited_for
        return Step.REST if at_rest else Step.HAND_OVER
    return Step.STEP_ASIDE if view.waited_for else _plan_with_backlog(view, policy)


def _plan_with_backlog(view: TickView, policy: CapturePolicy) -> Step:
    index, keeper = view.index, view.keeper
    if not view.handed_over and (index.max_frame != keeper.max_frame or keeper.settled):
        return Step.HAND_OVER
    if index.max_frame > policy.wal_frames_max and view.since_write_lock_s > policy.write_lock_interval_s:
        return Step.WRITE_LOCK
    if index.backlog >= policy.passive_frames or view.idle_s > policy.idle_s:
        return Step.PASSIVE if view.since_passive_s >= view.passive_wait_s else Step.WAIT
    is_current = index.max_frame == keeper.max_frame and not keeper.settled
    return Step.REST if is_current and index.max_frame <= policy.wal_frames_max else Step.WAIT


class Urgency(enum.IntEnum):
    """How soon to look again."""

    QUIET = 0
    """Nothing happened."""
    ACTIVE = 1
    """Something was committed."""
    HURRY = 2
    """Somebody waits, the log grows fast, or a step is under way."""


class WriteLockAdvice(enum.Enum):
    """What to do about a WAL that keeps growing."""

    STARVED = "an older reader holds the checkpoint back"
    CONVERGE = "copy more before stopping anyone"
    TAKE = "take the write lock"


def next_passive_wait(wait_s: float, *, progress: bool, policy: CapturePolicy) -> float:
    """Return how long to wait before the next PASSIVE: a reader in the way is not worth asking 50 times a second."""
    return policy.passive_wait_min_s if progress else min(2 * wait_s, policy.passive_wait_max_s)


def plan_write_lock(
    *, backfilled: int | None, keeper_frame: int, index: WalIndex, rounds: int, policy: CapturePolicy
) -> WriteLockAdvice:
    """Decide, after a PASSIVE that reached frame `backfilled` (None: busy), whether to stop the writers now."""
    if backfilled is None or backfilled < keeper_frame:
        return WriteLockAdvice.STARVED
    if index.max_frame - backfilled > policy.write_lock_tail_frames and rounds < policy.write_lock_rounds:
        return WriteLockAdvice.CONVERGE
    return WriteLockAdvice.TAKE
