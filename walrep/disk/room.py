"""How much of a disk walrep leaves to others: the app must be able to write when walrep's spool may not."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["DiskRoom"]

_LOOK_AGAIN_BYTES = 1 << 20
_SHARE_MAX = 10
"""On a small disk the reserve is at most this part of it: a tenth."""


class DiskRoom:
    """The free space of one file system, above a reserve. Asked for every write, it looks once for every MiB."""

    def __init__(self, directory: Path, reserve_bytes: int) -> None:
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._unseen_bytes = _LOOK_AGAIN_BYTES

    def allows(self, size_bytes: int, *, reserve_share: float = 1.0) -> bool:
        """Say whether so many bytes can be written without touching the reserve, or so large a share of it."""
        self._unseen_bytes += size_bytes
        if self._unseen_bytes < _LOOK_AGAIN_BYTES:
            return True
        disk = os.statvfs(self._directory)
        reserve = min(self._reserve_bytes, disk.f_blocks * disk.f_frsize // _SHARE_MAX)
        has_room = disk.f_bavail * disk.f_frsize - size_bytes >= reserve * reserve_share
        self._unseen_bytes = 0 if has_room else _LOOK_AGAIN_BYTES
        return has_room
