"""What `main` hands to a command: its output, its environment, the clock, and how to run what waits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Protocol, TypeVar

from walrep.cli.output import Failure, Output
from walrep.clock import Clock

__all__ = ["RunCoroutine", "Session"]

T = TypeVar("T")


class RunCoroutine(Protocol):
    """Runs a coroutine on an event loop made for it."""

    def __call__(self, coroutine: Coroutine[object, object, T], /) -> T:
        """Return what the coroutine returns, or raise what it raises."""
        ...


class Session:
    """One run of the command line.

    `abort` ends the process at once, with the exit code of an interrupt. `fail` says why the command failed;
    `replicate` puts its log there, so that every line on stderr has one form.
    """

    def __init__(
        self, output: Output, environment: Mapping[str, str], clock: Clock, run: RunCoroutine, abort: Callable[[], None]
    ) -> None:
        self.output = output
        self.environment = environment
        self.clock = clock
        self.run = run
        self.abort = abort
        self.fail: Callable[[Failure], None] = output.failure
