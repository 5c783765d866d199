"""Processes that are watched from outside: CPU and memory from /proc, local disk by looking at it (proc(5))."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from benchmarks.children import ROOT

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LOOK_S = 0.5

HINDERING = {"AWS_CA_BUNDLE"}
"""Variables that a command must not see: Litestream 0.5 does not start with this one, and nothing here uses TLS."""


class Ended(msgspec.Struct, frozen=True):
    """A command that has run: how long it took, and its CPU seconds."""

    seconds: float
    cpu_s: float
    code: int
    output: str


def start(command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a command of the project with its output in a file."""
    inherited = {name: value for name, value in os.environ.items() if name not in HINDERING}
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**inherited, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def run(command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    log.unlink(missing_ok=True)
    began = time.perf_counter()
    process = start(command, log, variables)
    _pid, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(seconds, used.ru_utime + used.ru_stime, process.returncode, log.read_text(errors="replace"))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process: user and system, fields 14 and 15 of its stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def tree_bytes(path: Path) -> int:
    """Return what a file or a folder takes; files come and go while one looks."""
    with suppress(OSError):
        if not path.is_dir():
            return path.stat().st_size
        total = 0
        for folder, _folders, files in os.walk(path):
            for name in files:
                with suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total
    return 0


class Sampler:
    """Looks at local files twice a second, in a thread, and keeps the largest sums."""

    def __init__(self, groups: Mapping[str, Callable[[], Sequence[Path]]]) -> None:
        self.peaks = dict.fromkeys(groups, 0)
        self._groups = groups
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look once more, and end."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for name, paths in self._groups.items():
                self.peaks[name] = max(self.peaks[name], sum(tree_bytes(path) for path in paths()))
            if self._ended.wait(LOOK_S):
                return
