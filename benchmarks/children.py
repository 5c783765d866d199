"""Child processes that take commands as JSON lines and answer each with one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent


class Child:
    """A Python module of this package, run in a process of its own."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, do: str, **arguments: object) -> None:
        """Give a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended without an answer (exit code {self.process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        """Give a command and wait for its answer."""
        self.send(do, **arguments)
        return self.answer()

    def close(self) -> None:
        """End the process by ending its input; kill it if that does not help."""
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def writer(path: Path, workload: str = "mixed", *, seed: int, autocheckpoint: int = 1000) -> Child:
    """Start an app that writes a database; 1000 frames is SQLite's own default for its checkpoints."""
    return Child("writer", [str(path), workload, str(seed), str(autocheckpoint)])


def replicator(databases: Sequence[Path], folder: Path) -> Child:
    """Start walrep on databases, with replicas below a folder; returns when every base is durable."""
    child = Child("replicating", [str(folder), *map(str, databases)])
    try:
        child.answer()
    except BaseException:
        child.close()
        raise
    return child
