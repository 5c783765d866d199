"""Files by which another process asks something of this one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from walrep.engine.requests import Requests
from walrep.runner import InlineRunner
from walrep.testing.clock import SimClock


def test_who_waits_for_a_file_is_told_while_it_is_there(tmp_path: Path) -> None:
    clock = SimClock()
    requests = Requests(clock, InlineRunner())
    mine, other = asyncio.Event(), asyncio.Event()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            looks = group.create_task(requests.run())
            with requests.watch(tmp_path / "detach", mine), requests.watch(tmp_path / "other", other):
                await clock.sleep(10.0)
                assert not mine.is_set()
                (tmp_path / "detach").touch()
                for _ in range(2):
                    await clock.sleep(2.0)
                    assert mine.is_set()
                    mine.clear()
                (tmp_path / "detach").unlink()
                await clock.sleep(4.0)
                assert not mine.is_set()
            (tmp_path / "other").touch()
            await clock.sleep(4.0)
            assert not other.is_set()
            looks.cancel()

    clock.run(main())
