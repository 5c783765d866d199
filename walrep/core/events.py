"""What walrep tells while it works: frozen values, handed to one `report` callable.

Code that works returns or reports; only the command line turns an event into a line of log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import msgspec

__all__ = [
    "Alarm",
    "AlarmKey",
    "Attached",
    "Detached",
    "Event",
    "Failed",
    "Flushed",
    "FullRead",
    "Packed",
    "Pruned",
    "Removed",
    "Report",
    "Resumed",
    "RetryScheduled",
    "RpoRestored",
    "RpoWidened",
    "SnapshotWritten",
    "Stopping",
    "StoreBack",
    "TimelineBegan",
]

Level = Literal["debug", "info", "warning", "error"]

AlarmKey = Literal[
    "app-sqlite",
    "clock-apart",
    "compaction",
    "damaged-pack",
    "long-reader",
    "may-not-delete",
    "no-create-only",
    "no-ranges",
    "prune-refused",
    "puts-exceeded",
    "rival-writer",
    "snapshot",
    "timeline-ended",
    "unchecked-frames",
    "upload-bytes",
    "waiting",
]
"""All alarms; docs/operations.md says what each means and what to do."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of all events; `database` is the path as the user gave it."""

    level: ClassVar[Level] = "info"
    database: str


class Attached(Event, frozen=True, kw_only=True, tag="attached"):
    """The database is held; its commits are seen from now on."""

    page_size: int
    page_count: int
    wal_frames: int


class Resumed(Event, frozen=True, kw_only=True, tag="resumed"):
    """Capture continues where the state on disk ended, without a snapshot."""

    timeline: str
    txid: int
    reason: str


class TimelineBegan(Event, frozen=True, kw_only=True, tag="timeline-began"):
    """A new timeline began; nothing is lost of the one before. `base`: its kind, full or differential, and why."""

    timeline: str
    reason: str
    parent: str | None
    base: str
    base_reason: str


class SnapshotWritten(Event, frozen=True, kw_only=True, tag="snapshot-written"):
    """A snapshot is durable; it holds `stored_pages` of the database's `page_count` pages."""

    timeline: str
    txid: int
    page_count: int
    stored_pages: int
    object_bytes: int
    kind: str
    seconds: float


class FullRead(Event, frozen=True, kw_only=True, tag="full-read"):
    """The newest full snapshot was read from the store, so that a base holds only what differs from it.

    `failed`: why it was of no use; the base is full then.
    """

    key: str
    read_bytes: int
    seconds: float
    failed: str = ""


class Flushed(Event, frozen=True, kw_only=True, tag="flushed"):
    """A segment is durable; `rpo_s` was the RPO in force when it was sealed."""

    bookmark: str
    seq: int
    transactions: int
    object_bytes: int
    lag_s: float
    reason: str
    rpo_s: float


class RpoWidened(Event, frozen=True, kw_only=True, tag="rpo-widened"):
    """The budget does not last at the RPO that was asked for; `rpo_s` is the one in force."""

    level: ClassVar[Level] = "warning"
    rpo_s: float
    reason: str


class RpoRestored(Event, frozen=True, kw_only=True, tag="rpo-restored"):
    """The RPO that was asked for is in force again, after so many seconds."""

    rpo_s: float
    seconds: float


class Packed(Event, frozen=True, kw_only=True, tag="packed"):
    """A pack is durable; `downloaded_bytes` is what was missing locally of what it was made of."""

    key: str
    object_bytes: int
    downloaded_bytes: int
    reason: str


class Removed(Event, frozen=True, kw_only=True, tag="removed"):
    """Objects were deleted that packs hold."""

    objects: int


class Pruned(Event, frozen=True, kw_only=True, tag="pruned"):
    """Retention deleted objects that nothing in the window, and nobody, needs."""

    objects: int
    object_bytes: int


class StoreBack(Event, frozen=True, kw_only=True, tag="store-back"):
    """The store does what it is asked again, after failures that were told."""

    seconds: float


class RetryScheduled(Event, frozen=True, kw_only=True, tag="retry"):
    """The store failed in a way that may pass, or that somebody can mend; told once per kind of failure."""

    level: ClassVar[Level] = "warning"
    message: str
    delay_s: float
    hint: str = ""


class Alarm(Event, frozen=True, kw_only=True, tag="alarm"):
    """Something needs a person; `key` is stable, so that the same condition is told once until it ends."""

    level: ClassVar[Level] = "warning"
    key: AlarmKey
    message: str
    hint: str = ""


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    """Protection of this database ended with an error."""

    level: ClassVar[Level] = "error"
    message: str
    detail: str
    hint: str
    exit_code: int


class Stopping(Event, frozen=True, kw_only=True, tag="stopping"):
    """A stop was asked for; what is captured is being made durable."""


class Detached(Event, frozen=True, kw_only=True, tag="detached"):
    """The database is let go: `clean` when the state proves where the log ended, so that a start resumes."""

    position: str | None
    clean: bool
    durable: bool


Report = Callable[[Event], None]
