"""The program that has the credentials (`credential_process` of ~/.aws/config), for as long as somebody waits for it.

aiobotocore leaves it running where somebody gives up: a writer that tries again would have one more of them each minute
(aiobotocore 2.25.1). Here it is killed when nobody waits for it any more. One that the `source_profile` of a role names
is started elsewhere in the client, and is not.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

__all__ = ["start_program"]

_END_S = 5.0


async def start_program(*command: str, **options: Any) -> _Program:  # noqa: ANN401 - as asyncio has it
    """Start a program, as `asyncio.create_subprocess_exec` does."""
    return _Program(await asyncio.create_subprocess_exec(*command, **options))


class _Program:
    """What the client needs of a program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return what it writes to its end."""
        try:
            return await self._process.communicate()
        finally:
            if self._process.returncode is None:
                await self._kill()

    async def _kill(self) -> None:
        self._process.kill()
        # Until it has gone and its pipes are closed; programs that it has started may keep them open.
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await self._process.communicate()
