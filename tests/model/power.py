"""A power cut: what the disk may have lost of the files of a database and of walrep's state."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from walrep.core.wal import WAL_INDEX_BYTES, frame_offset, parse_wal_index
from walrep.disk.log import HEADER_BYTES

__all__ = ["cut_power"]

_ATTEMPTED_OFFSET = 128
"""nBackfillAttempted: before a checkpoint copies frames it syncs the log, so those are there."""


def cut_power(database: Path, state_dir: Path, seed: int, *, may_lose: bool) -> str:
    """Take away what was not synced; nobody has any of the files open. Say what was lost."""
    dice = Random(seed)
    told = [_cut_log(database, dice)] if may_lose else []
    # The journal of the open segment is synced when it is made, and then when it is sealed.
    told += [_cut(path, _kept(path, dice), dice) for path in sorted(state_dir.glob("journal-*"))]
    Path(f"{database}-shm").unlink(missing_ok=True)
    return ", ".join(each for each in told if each)


def _kept(journal: Path, dice: Random) -> int:
    return dice.randint(HEADER_BYTES, max(HEADER_BYTES, journal.stat().st_size))


def _cut_log(database: Path, dice: Random) -> str:
    log, index_path = Path(f"{database}-wal"), Path(f"{database}-shm")
    if not log.exists() or not index_path.exists():
        return ""
    data = index_path.read_bytes()[:WAL_INDEX_BYTES]
    index = parse_wal_index(data)
    if index is None or not index.max_frame or not log.stat().st_size:
        return ""
    attempted = int.from_bytes(data[_ATTEMPTED_OFFSET : _ATTEMPTED_OFFSET + 4], "little")
    first = max(attempted, index.backfilled)
    kept = frame_offset(dice.randint(first, index.max_frame) + 1, index.page_size)
    end = frame_offset(index.max_frame + 1, index.page_size)
    return _cut(log, min(dice.choice((kept, kept, dice.randint(kept, max(kept, end)))), log.stat().st_size), dice)


def _cut(path: Path, size: int, dice: Random) -> str:
    """Keep so many bytes; behind them there is nothing, or zeros, or something else."""
    left = path.stat().st_size - size
    if left <= 0 or dice.random() < 0.3:
        return ""
    kind = dice.choice(("nothing", "zeros", "garbage"))
    os.truncate(path, size)
    if kind != "nothing":
        with path.open("ab") as file:
            file.write(bytes(left) if kind == "zeros" else dice.randbytes(left))
    return f"{path.name}: {kind} behind {size} bytes"
