"""Where a restore waits for others that are to be put in place together with it; see `walrep.engine.together`."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Alone", "RestoreSteps"]


class RestoreSteps(Protocol):
    """The two places."""

    async def planned(self) -> None:
        """Return when it may be built; called again when it is planned again."""
        ...

    async def proved(self) -> None:
        """Return when it may be put in place."""
        ...


class Alone:
    """Nobody to wait for."""

    async def planned(self) -> None:
        """Return at once."""

    async def proved(self) -> None:
        """Return at once."""
