"""What every benchmark is given."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Settings(msgspec.Struct, frozen=True):
    """A directory to work in, and how much to do."""

    directory: Path
    quick: bool
    seed: int
