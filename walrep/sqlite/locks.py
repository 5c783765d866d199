"""Who else holds locks on a database: read from /proc/locks, taking none."""

from __future__ import annotations

import os
from pathlib import Path

from walrep.sqlite.walfile import CHECKPOINT_LOCK

__all__ = ["describe_long_reader", "lock_holders"]

_READ_LOCKS = range(CHECKPOINT_LOCK + 2, CHECKPOINT_LOCK + 7)
"""WAL_READ_LOCK(0) to (4): bytes 123 to 127 of the -shm file."""


_FIELD_COUNT = 8
"""Of a line of /proc/locks: number, class, kind, access, pid, device:inode, first byte, last byte."""


def describe_long_reader(shm_fd: int, wal_bytes: int) -> tuple[str, str]:
    """Return the message and the hint of an alarm about whoever else reads the database whose -shm this is."""
    pids = lock_holders(os.fstat(shm_fd), _READ_LOCKS.start, _READ_LOCKS.stop)
    who = f" of process {', '.join(map(str, pids))}" if pids else ""
    return (
        f"a long read transaction{who} keeps the WAL from being checkpointed; it has {wal_bytes >> 20} MiB",
        "end that transaction; nothing else helps, and walrep takes no lock meanwhile",
    )


def lock_holders(file: os.stat_result, start: int, stop: int) -> list[int]:
    """Return the other processes with a POSIX lock on bytes `start` to `stop` (exclusive); empty where not known."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    identity = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    pids: set[int] = set()
    for line in lines:
        fields = line.split()
        if len(fields) != _FIELD_COUNT or fields[1] != "POSIX" or fields[5] != identity:
            continue
        first, last = int(fields[6]), stop if fields[7] == "EOF" else int(fields[7])
        if first < stop and last >= start and int(fields[4]) != os.getpid():
            pids.add(int(fields[4]))
    return sorted(pids)
