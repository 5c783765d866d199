"""May capture go on where it stood, after a time in which nobody held a keeper?

The proof must come from what is in the files. The cases:

    continue     the same generation, not shorter than what was captured, and the last captured frame has the checksum
                 that was recorded: frames after it are the ones to read next.
    restarted    salt 1 is one higher, the new generation has not reached the last captured frame, which still stands
                 in the file with its checksum, and the frame after it does not continue it: the old generation ended
                 exactly there, and the new one is read from its first frame. (A jump of +1 alone proves only that
                 there was one restart, not that its end was seen.)
    clean end    the database file is the one that was recorded when everything captured had been copied into it, and
                 the log is another one or has no frames: a log is given up only after all of it was copied into the
                 file, so whatever was committed since is in this one, from its first frame.
    compare      one of these two, if the database file turns out to be what was captured, page for page.
    broken       anything else, also the log being behind what was captured (the machine lost its tail): the timeline
                 ends, and a new one begins. Frames of a transaction that was taken back count as if it had been
                 committed: they may stand over the last captured one, or continue it.

"Restarted" and "clean end" rest on what was written before: where a generation ended, and the file's times. Within one
boot of the machine the kernel answers for that. A power cut takes back what was not synced: SQLite's checkpoints end in
fdatasync, which need not write the times of a file, and with synchronous=OFF nothing is synced at all. So after another
boot both are believed only when the file, every page of it, has the hashes of the captured state (INV-29). A page
that has a frame in the log is no exception, because what was missed may have been written over by frames of this log.

Source: measured, 60 random down-times with no wrong resume; see docs/design.md.
"""

from __future__ import annotations

import enum

import msgspec

from walrep.core.state import CaptureMark, CleanEnd
from walrep.core.wal import WalIndex

__all__ = ["ResumeEvidence", "ResumeKind", "ResumePlan", "is_same_boot", "plan_resume"]

_U32 = 1 << 32


class ResumeKind(enum.Enum):
    """How capture goes on."""

    CONTINUE = "continue"
    RESTARTED = "restarted"
    CLEAN_END = "clean end"
    COMPARE = "compare the file"
    BROKEN = "broken"


class ResumeEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the files now, read while the log cannot be restarted.

    `frame_checksum` is that of the frame with the recorded number, if it stands in the WAL with the recorded salts;
    `next_frame_continues` says whether the frame after it is valid after it. `differs` says how the file differs from
    the captured state: empty if it does not, None if they were not compared.
    """

    same_file: bool
    index: WalIndex
    frame_checksum: tuple[int, int] | None
    next_frame_continues: bool
    file: CleanEnd
    same_boot: bool
    differs: str | None = None


class ResumePlan(msgspec.Struct, frozen=True, kw_only=True):
    """How capture goes on, and why."""

    kind: ResumeKind
    reason: str


def plan_resume(  # noqa: PLR0911  one return for each case of the module's text
    mark: CaptureMark, clean_end: CleanEnd | None, evidence: ResumeEvidence
) -> ResumePlan:
    """Decide whether what stands in the files continues what was captured."""
    index = evidence.index
    if not evidence.same_file:
        return _broken("the path names another file than before")
    if clean_end is not None and (index.max_frame == 0 or index.salts != mark.salts):
        plan = _plan_clean_end(clean_end, evidence)
        if plan is not None:
            return plan
    if mark.frame == 0:
        # Every log without a frame has the same salts, so they prove nothing.
        return _broken("no frame had been captured, and the database file is not provably as it was left")
    if index.salts == mark.salts:
        if index.max_frame < mark.frame:
            return _broken("the log has fewer frames than were captured: its tail was lost")
        if evidence.frame_checksum != mark.checksum:
            return _broken("the last captured frame was overwritten in its generation")
        return ResumePlan(kind=ResumeKind.CONTINUE, reason="the log continues at the last captured frame")
    if index.salts[0] != (mark.salts[0] + 1) % _U32:
        return _broken("the log was restarted more than once, or created anew")
    if index.max_frame >= mark.frame or evidence.frame_checksum != mark.checksum:
        return _broken("the log was restarted, and the last captured frame is gone")
    if evidence.next_frame_continues:
        return _broken("the log was restarted after frames that were not captured")
    plan = ResumePlan(kind=ResumeKind.RESTARTED, reason="the log was restarted right after the last captured frame")
    return plan if evidence.same_boot else _once_compared(plan, evidence)


def is_same_boot(recorded: str, now: str) -> bool:
    """Say whether the machine has not been restarted since; what is not known counts as another boot."""
    return bool(recorded) and recorded == now


def _plan_clean_end(clean_end: CleanEnd, evidence: ResumeEvidence) -> ResumePlan | None:
    """Decide on a log that another one has followed, given the file as it was left; None where that is not the case."""
    plan = ResumePlan(kind=ResumeKind.CLEAN_END, reason="the database file is as it was left")
    if not evidence.same_boot:
        return _once_compared(plan, evidence)
    if evidence.file == clean_end:
        return plan
    # A new owner or mode changes the ctime alone, and so does who sets the mtime back.
    alike = msgspec.structs.replace(clean_end, ctime_ns=evidence.file.ctime_ns) == evidence.file
    return _once_compared(plan, evidence) if alike else None


def _once_compared(plan: ResumePlan, evidence: ResumeEvidence) -> ResumePlan:
    """Return the plan if the file was found to be the captured state."""
    if evidence.differs is None:
        return ResumePlan(kind=ResumeKind.COMPARE, reason="what was written before may be lost")
    if evidence.differs:
        return _broken(f"the database file is not what was captured: {evidence.differs}")
    return msgspec.structs.replace(plan, reason=f"{plan.reason}, page for page")


def _broken(reason: str) -> ResumePlan:
    return ResumePlan(kind=ResumeKind.BROKEN, reason=reason)
