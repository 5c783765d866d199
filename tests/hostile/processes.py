"""Handles of the child processes: the app, and walrep by its command line."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.hostile.waiting import pause, until
from tests.hostile.writers import AppPlan

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
_ANSWER_S = 120.0


class AppProcess:
    """One process of the app; it works from the moment it is made."""

    def __init__(self, plan: AppPlan) -> None:
        self.plan = plan
        self._buffer = b""
        command = [sys.executable, "-m", "tests.hostile.writers", msgspec.json.encode(plan).decode()]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT
        )
        self.sqlite = str(self._answer()["sqlite"])

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and return the answer."""
        stream = self.process.stdin
        if stream is None:
            raise RuntimeError("the app has no stdin")
        stream.write(command.encode() + b"\n")
        stream.flush()
        return self._answer()

    def stop(self) -> dict[str, Any]:
        """Let it finish its transaction and close the database; return what it counted."""
        answer = self.ask("stop")
        while "stopped" not in answer:
            answer = self._answer()
        self.process.wait(_ANSWER_S)
        self._close()
        return answer

    def finished(self) -> dict[str, Any]:
        """Wait until it has done the transactions of its plan."""
        answer = self._answer()
        while not answer.get("finished"):
            answer = self._answer()
        return answer

    def kill(self) -> None:
        """Kill it with SIGKILL, wherever it is."""
        self.process.kill()
        self.process.wait()
        self._close()

    def running(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def _answer(self) -> dict[str, Any]:
        stream = self.process.stdout
        if stream is None:
            raise RuntimeError("the app has no stdout")
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([stream], [], [], _ANSWER_S)
            data = os.read(stream.fileno(), 65536) if ready else b""
            if not data:
                raise RuntimeError(f"the app ended or does not answer: exit code {self.process.poll()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Sidecar:
    """One `walrep replicate` process and its log."""

    def __init__(
        self, database: Path, url: str, log: Path, options: Sequence[str] = (), *, config: Path | None = None
    ) -> None:
        self.log = log
        self.peak_rss_bytes = 0
        self.began_s = time.monotonic()
        what = ["--config", str(config)] if config else [str(database), url]
        command = [sys.executable, "-m", "walrep", "replicate", *what, "--log-format", "json", *options]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=ENVIRONMENT)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what it has logged; a line that is no event (a traceback) as {"event": "text"}."""
        for line in self.log.read_text(errors="replace").splitlines(keepends=True):
            if not line.endswith("\n"):
                return
            try:
                parsed: dict[str, Any] = json.loads(line)
                yield parsed
            except json.JSONDecodeError:
                yield {"event": "text", "text": line.rstrip()}

    def has(self, *names: str) -> bool:
        """Whether one of these events was logged."""
        return any(event["event"] in names for event in self.events())

    def wait_until_protecting(self, deadline_s: float = 20.0) -> None:
        """Wait until it protects the database: it has resumed, or the base of its newest timeline is durable."""
        self._wait(self._protects, "walrep protects the database", deadline_s)

    def wait_for(self, *names: str, deadline_s: float = 20.0) -> None:
        """Wait until one of these events is logged; it must go on running."""
        self._wait(lambda: self.has(*names), f"walrep logs one of {names}", deadline_s)

    def _protects(self) -> bool:
        protects = False
        for event in self.events():
            if event["event"] in {"resumed", "snapshot-written"}:
                protects = True
            elif event["event"] in {"attached", "timeline-began"} or event.get("key") == "timeline-ended":
                protects = False
        return protects

    def _wait(self, condition: Callable[[], bool], what: str, deadline_s: float) -> None:
        def holds() -> bool:
            if condition():
                return True
            if self.process.poll() is not None:
                raise RuntimeError(f"walrep ended with exit code {self.process.returncode}\n{self.log.read_text()}")
            return False

        until(holds, what, deadline_s)

    def sample(self) -> None:
        """Note its peak memory so far."""
        try:
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.peak_rss_bytes = max(self.peak_rss_bytes, int(line.split()[1]) * 1024)
        except OSError:
            return

    def stop(self, deadline_s: float = 90.0) -> int:
        """Ask it to stop by SIGTERM; return its exit code."""
        if self.process.poll() is None:
            self.sample()
            self.process.send_signal(signal.SIGTERM)
        return self.wait(deadline_s)

    def wait(self, deadline_s: float = 90.0) -> int:
        """Wait until it has ended; return its exit code."""
        end = time.monotonic() + deadline_s
        while self.process.poll() is None:
            self.sample()
            if time.monotonic() > end:
                self.process.send_signal(signal.SIGABRT)
                raise TimeoutError(f"walrep did not stop within {deadline_s} s\n{self.log.read_text()[-4000:]}")
            pause(0.01)
        return self.process.returncode

    def kill(self) -> None:
        """Kill it with SIGKILL, wherever it is."""
        self.sample()
        self.process.kill()
        self.process.wait()

    def running(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None


def run_walrep(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command of walrep to its end."""
    command = [sys.executable, "-m", "walrep", *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
