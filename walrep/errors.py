"""Every error that walrep raises on purpose, in one tree.

    WalrepError                    exit code
    ├─ UsageError                          2   arguments or configuration are wrong
    ├─ DatabaseError                       3   the database under protection
    │   ├─ DatabaseMissing
    │   ├─ NotADatabase
    │   ├─ NotWalMode
    │   ├─ DatabaseInUse
    │   ├─ DatabaseBusy                        transient
    │   ├─ DatabaseUnreadable                  mendable
    │   ├─ DatabaseReplaced
    │   ├─ UnsupportedFilesystem
    │   ├─ SnapshotFailed
    │   └─ CaptureBroken
    ├─ StoreError                          4   the place where replicas are kept
    │   ├─ ObjectNotFound
    │   ├─ PreconditionFailed
    │   ├─ NotSupported
    │   ├─ AccessDenied                        mendable
    │   ├─ StoreMissing                        mendable
    │   └─ StoreUnavailable                    transient
    ├─ ReplicaConflict                     5   another writer, or no lineage
    ├─ CorruptObject                       6   an object cannot be decoded
    ├─ RestoreError                        7   the target cannot be met
    │   ├─ TargetNotFound
    │   ├─ TargetAmbiguous
    │   ├─ TargetExists
    │   └─ RestoreMismatch
    ├─ SpoolError                          8   local state or disk
    │   └─ SpoolFull
    ├─ NotDurable                          9   stopped before everything captured was durable
    └─ PruneRefused                       10   nothing was deleted: it did not look right

A *transient* error passes by itself. A *mendable* one passes when somebody puts it right, so that a writer that runs
already waits for that, while one that starts refuses.

Exit code 0 is success, 1 an internal error (a broken invariant), 130 a second interrupt.
An operating error says what happened (`message`), to what (`detail`) and what to do next (`hint`).
A broken invariant is a bug: it crashes, and is never caught below the command line.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "CaptureBroken",
    "CorruptObject",
    "DatabaseBusy",
    "DatabaseError",
    "DatabaseInUse",
    "DatabaseMissing",
    "DatabaseReplaced",
    "DatabaseUnreadable",
    "InvariantViolated",
    "NotADatabase",
    "NotDurable",
    "NotSupported",
    "NotWalMode",
    "ObjectNotFound",
    "PreconditionFailed",
    "PruneRefused",
    "ReplicaConflict",
    "RestoreError",
    "RestoreMismatch",
    "SnapshotFailed",
    "SpoolError",
    "SpoolFull",
    "StoreError",
    "StoreMissing",
    "StoreUnavailable",
    "TargetAmbiguous",
    "TargetExists",
    "TargetNotFound",
    "UnsupportedFilesystem",
    "UsageError",
    "WalrepError",
    "check",
]


class WalrepError(Exception):
    """Base of every operating error; carries what a person needs to act on it."""

    exit_code = 1
    transient = False
    mendable = False

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.detail}" if self.detail else self.message


class UsageError(WalrepError):
    """The arguments or the configuration are wrong."""

    exit_code = 2


class DatabaseError(WalrepError):
    """The database under protection cannot be protected."""

    exit_code = 3


class DatabaseMissing(DatabaseError):
    """There is no file at the path, or nothing in it yet."""


class NotADatabase(DatabaseError):
    """The file is a directory, corrupt, encrypted, or something other than a SQLite database."""


class NotWalMode(DatabaseError):
    """The database does not use the write-ahead log."""


class DatabaseInUse(DatabaseError):
    """Another walrep, or an app with an exclusive lock, holds the database."""


class DatabaseBusy(DatabaseError):
    """A lock could not be had just now."""

    transient = True


class DatabaseUnreadable(DatabaseError):
    """The operating system, or SQLite, refuses the files of the database."""

    mendable = True


class DatabaseReplaced(DatabaseError):
    """The path now names another file than the one that is being captured."""


class UnsupportedFilesystem(DatabaseError):
    """SQLite's shared memory is not coherent on this kind of file system."""


class SnapshotFailed(DatabaseError):
    """A snapshot of the database cannot be completed now; nothing else depends on it."""


class CaptureBroken(DatabaseError):
    """The write-ahead log does not continue what was captured; the timeline has to end."""


class StoreError(WalrepError):
    """The object store refused or failed."""

    exit_code = 4


class ObjectNotFound(StoreError):
    """No object has this key."""


class PreconditionFailed(StoreError):
    """A create-only PUT met an object that exists already."""


class NotSupported(StoreError):
    """The store says that it cannot do what was asked."""


class AccessDenied(StoreError):
    """The store, or the operating system under a folder store, denied the request."""

    mendable = True


class StoreMissing(StoreError):
    """The bucket does not exist."""

    mendable = True


class StoreUnavailable(StoreError):
    """The store did not answer, or asked to be tried again, at the earliest after `retry_after_s`."""

    transient = True

    def __init__(self, message: str, *, detail: str = "", hint: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.retry_after_s = retry_after_s


class ReplicaConflict(WalrepError):
    """Another writer owns the replica, or this writer has no lineage in it."""

    exit_code = 5


class CorruptObject(WalrepError):
    """An object is malformed; `offset` is the byte at which it stopped making sense."""

    exit_code = 6

    def __init__(self, message: str, *, offset: int, detail: str = "", hint: str = "") -> None:
        super().__init__(f"{message} (at byte {offset})", detail=detail, hint=hint)
        self.offset = offset


class RestoreError(WalrepError):
    """The restore cannot be done."""

    exit_code = 7


class TargetNotFound(RestoreError):
    """The replica does not hold the target; the message says what it holds."""


class TargetAmbiguous(RestoreError):
    """The target falls between two transactions and the record does not tell on which side."""


class TargetExists(RestoreError):
    """The output file exists, or is in use."""


class RestoreMismatch(RestoreError):
    """The restored database does not have the recorded checksum."""


class SpoolError(WalrepError):
    """Local state, spool or disk failed."""

    exit_code = 8


class SpoolFull(SpoolError):
    """The outbox reached its limit, or the disk is full; `room_bytes` is how much is known to be needed, if it is."""

    def __init__(self, message: str, *, detail: str = "", hint: str = "", room_bytes: int = 0) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.room_bytes = room_bytes


class NotDurable(WalrepError):
    """Stopped while captured transactions were not yet acknowledged by the store."""

    exit_code = 9


class PruneRefused(WalrepError):
    """Retention deleted nothing, because what it would have deleted does not look right."""

    exit_code = 10


class InvariantViolated(AssertionError):
    """A bug in walrep."""


def check(condition: object, message: str) -> None:
    """Raise `InvariantViolated` unless `condition` holds; unlike assert, also under -O."""
    if not condition:
        raise InvariantViolated(message)
