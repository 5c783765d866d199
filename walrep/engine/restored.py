"""What a restore over a protected database leaves behind: where to go back to, and where its history goes on.

The state directory beside the database belongs to the history that was there. The next `replicate` ships what that had
captured, and then begins a timeline whose parent is the position that was restored.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from walrep.core.units import Position
from walrep.disk.atomic import map_os_errors
from walrep.disk.state import StateDirectory

__all__ = ["note_restored", "position_before"]


def position_before(state_dir: Path, replica: str | None) -> Position | None:
    """Return the bookmark of what a restore is about to replace; None if nothing is known of it in this replica."""
    with map_os_errors(f"read {state_dir}"):
        if not (state_dir / "state.json").exists():
            return None
    directory = StateDirectory(state_dir)
    try:
        state = directory.load()
    finally:
        directory.close()
    return None if state is None or state.replica != replica else state.position()


def note_restored(state_dir: Path, position: Position) -> None:
    """Let the history of the database that was replaced go on from the position that was restored."""
    directory = StateDirectory(state_dir)
    try:
        state = directory.load()
        if state is not None:
            # The restore has removed the -wal; the inode of the next one may well be the same.
            directory.save(msgspec.structs.replace(state, restored=position, clean_end=None, wal_inode=0))
    finally:
        directory.close()
