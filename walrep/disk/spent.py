"""What was sent to a store on the last days, so that a restart does not begin the budget of a day anew.

    budget.json   the days, the current one last; replaced atomically

The numbers are ahead of what was sent: they are written before, some requests at a time. A kill loses what was set
aside and not used, and no request goes uncounted (INV-32).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from walrep.core.budget import DaySpent
from walrep.disk.atomic import map_os_errors, write_atomic
from walrep.errors import SpoolError

__all__ = ["load_days", "save_days"]


def load_days(directory: Path) -> tuple[DaySpent, ...]:
    """Return what is known of the last days; raises `SpoolError` if it cannot be read."""
    path = directory / "budget.json"
    try:
        with map_os_errors(f"read {path}"):
            return msgspec.json.decode(path.read_bytes(), type=tuple[DaySpent, ...]) if path.exists() else ()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SpoolError(
            "what was sent today cannot be read",
            detail=f"{path}: {error}",
            hint="remove the file; the budget of today then begins anew",
        ) from error


def save_days(directory: Path, days: Sequence[DaySpent]) -> None:
    """Replace what is known of the last days, durably."""
    path = directory / "budget.json"
    with map_os_errors(f"write {path}"):
        write_atomic(path, msgspec.json.encode(days) + b"\n")
