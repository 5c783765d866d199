"""Files by which another process asks something of this one: `walrep detach`, `walrep snapshot`.

They are looked for every two seconds, or less often where that would take more than a thousandth of a core, all in one
call, however many databases there are. A watch on each state directory would tell sooner, but takes a thread for each.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from walrep.clock import Clock
from walrep.runner import Runner

__all__ = ["Requests"]

_LOOK_AGAIN_S = 2.0
_LOOK_AGAIN_S_MAX = 10.0
_SHARE = 0.001


class Requests:
    """Who waits for which files; `run` looks for them."""

    def __init__(self, clock: Clock, runner: Runner) -> None:
        self._clock = clock
        self._runner = runner
        self._waiting: dict[asyncio.Event, Path] = {}

    @contextmanager
    def watch(self, path: Path, event: asyncio.Event) -> Iterator[None]:
        """Set `event` again and again while the file is there and the context lasts."""
        self._waiting[event] = path
        try:
            yield
        finally:
            del self._waiting[event]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            began_s = self._clock.monotonic_s()
            found = await self._runner.run(partial(_existing, set(self._waiting.values())))
            for event, path in self._waiting.items():
                if path in found:
                    event.set()
            took_s = self._clock.monotonic_s() - began_s
            await self._clock.sleep(max(_LOOK_AGAIN_S, min(took_s / _SHARE, _LOOK_AGAIN_S_MAX)))


def _existing(paths: set[Path]) -> set[Path]:
    return {path for path in paths if os.path.exists(path)}
