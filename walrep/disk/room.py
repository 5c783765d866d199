"""How much of a disk walrep leaves to others: the app must be able to write when walrep's spool may not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from walrep.disk.atomic import map_os_errors

__all__ = ["DiskRoom", "disk_space"]

_LOOK_AGAIN_BYTES = 1 << 20
_SHARE_MAX = 10
"""On a small disk the reserve is at most this part of it: a tenth."""


def disk_space(directory: Path) -> tuple[int, int]:
    """Return the bytes that a user may still write on the disk of a directory, and the bytes of all of it."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def _nothing() -> bool:
    return False


class DiskRoom:
    """The free space of one file system, above a reserve. Asked for every write, it looks once for every MiB.

    `spare` removes what can be done without, and says whether there was any: it is called before anything is refused.
    """

    def __init__(
        self,
        directory: Path,
        reserve_bytes: int,
        space: Callable[[Path], tuple[int, int]] = disk_space,
        spare: Callable[[], bool] = _nothing,
    ) -> None:
        self._directory = directory
        self._space = space
        self._spare = spare
        self._reserve_bytes = reserve_bytes
        self._unseen_bytes = _LOOK_AGAIN_BYTES

    def allows(self, size_bytes: int, *, reserve_share: float = 1.0) -> bool:
        """Say whether so many bytes can be written without touching the reserve, or so large a share of it.

        Raises:
            SpoolError: the file system does not say.

        """
        self._unseen_bytes += size_bytes
        if self._unseen_bytes < _LOOK_AGAIN_BYTES:
            return True
        has_room = self._has_room(size_bytes, reserve_share) or (
            self._spare() and self._has_room(size_bytes, reserve_share)
        )
        self._unseen_bytes = 0 if has_room else _LOOK_AGAIN_BYTES
        return has_room

    def _has_room(self, size_bytes: int, reserve_share: float) -> bool:
        with map_os_errors(f"ask for the free space of {self._directory}"):
            free_bytes, total_bytes = self._space(self._directory)
        reserve_bytes = min(self._reserve_bytes, total_bytes // _SHARE_MAX)
        return free_bytes - size_bytes >= reserve_bytes * reserve_share
