"""The limit of open files, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

_REPLICATE = """
import asyncio, resource, sys
from walrep import app
from walrep.engine.settings import ReplicateSettings

async def main():
    stop = asyncio.Event()
    stop.set()
    settings = ReplicateSettings(databases=(), shutdown_deadline_s=1.0)
    await app.replicate(settings, stop, report=print, clock=app.system_clock(), environment={})

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))
asyncio.run(main())
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
_CHECK = """
import os, resource
from walrep.engine.descriptors import check_descriptors

check_descriptors()
before = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (before + 5, 512))
try:
    check_descriptors()
except OSError as error:
    print(error.errno)
assert len(os.listdir("/proc/self/fd")) == before
"""


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_replicate_raises_the_limit_of_open_files_to_the_hard_one() -> None:
    assert run(_REPLICATE) == "512 512"


def test_a_lack_of_descriptors_is_told_before_a_database_is_opened_and_none_is_kept() -> None:
    assert run(_CHECK) == "24"
