"""The one place where the harness waits for time to pass.

Real processes run beside it, so there is no virtual time: a condition is polled until a deadline, and a scenario goes
on for the seconds that it was given. Nothing is expected to have happened *because* some time passed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.005


def pause(seconds: float) -> None:
    """Let the other processes work for a while."""
    threading.Event().wait(seconds)


def until(condition: Callable[[], T], what: str, deadline_s: float = 30.0) -> T:
    """Return the first true result of `condition`; TimeoutError after the deadline."""
    end = time.monotonic() + deadline_s
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s} s: {what}")
        pause(_POLL_S)
    return result
