"""The settings of replication: what `config` composes from files and arguments, and `app` hands on."""

from __future__ import annotations

from pathlib import Path

import msgspec

from walrep.core.budget import BudgetPolicy
from walrep.core.checkpoint import CapturePolicy
from walrep.core.compaction import CompactionPolicy
from walrep.core.flush import FlushPolicy
from walrep.core.retention import RetentionPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.store.s3_url import S3Access
from walrep.store.url import StoreUrl

__all__ = ["DatabaseSettings", "ReplicateSettings", "SpoolLimits", "default_state_dir"]


class SpoolLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much local disk walrep may use for one database.

    `outbox_bytes_max`: captured, not yet durable; at the limit the timeline ends loudly rather than fill the disk.
    `cache_bytes_max`: durable segments, kept so that packs need no download; evicted at no loss.
    `full_bytes_max`: the last full snapshot, kept so that differential ones are small; a larger one is not, at no loss.
    `disk_reserve_bytes`: free space that is left to others, at most a tenth of the disk; then as at the outbox's limit.
    """

    outbox_bytes_max: int = 1 << 30
    cache_bytes_max: int = 256 << 20
    full_bytes_max: int = 1 << 30
    disk_reserve_bytes: int = 64 << 20


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One database and its replica.

    `retention` None: nothing is deleted by age here; somebody else runs `prune`.
    """

    path: Path
    url: StoreUrl
    state_dir: Path
    flush: FlushPolicy = FlushPolicy()
    spool: SpoolLimits = SpoolLimits()
    retention: RetentionPolicy | None = RetentionPolicy()
    snapshots: SnapshotPolicy = SnapshotPolicy()
    budget: BudgetPolicy = BudgetPolicy()
    enable_wal: bool = False
    wait: bool = False
    new_timeline: bool = False
    take_over: bool = False


class ReplicateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `walrep replicate` runs with.

    `rival_check_s`: how often a writer looks for another one where the store has no create-only PUT. `s3`: what the
    URLs of buckets leave open. `upload_bytes_per_s`: how fast all databases together upload; None: as it goes.
    """

    databases: tuple[DatabaseSettings, ...]
    shutdown_deadline_s: float = 30.0
    rival_check_s: float = 15 * 60.0
    s3: S3Access = S3Access()
    upload_bytes_per_s: int | None = None
    compaction: CompactionPolicy = CompactionPolicy()
    capture: CapturePolicy = CapturePolicy()


def default_state_dir(path: Path) -> Path:
    """Return where walrep keeps its state for a database: beside the file that the path leads to.

    A symbolic link is followed, so that one database has one state whatever name it is reached by.
    """
    real = path.resolve()
    return real.parent / f".{real.name}-walrep"
