"""Ask the walrep that protects a database for a snapshot now, by a file in its state directory.

snapshot-request    put there by whoever asks: JSON, `{"full": false}`
snapshot-answer     put there by walrep when the snapshot is stored, or why there is none; the request is gone then
"""

from __future__ import annotations

from contextlib import suppress
from errno import ENOENT
from pathlib import Path

import msgspec

from walrep.clock import Clock
from walrep.disk.atomic import map_os_errors, write_atomic
from walrep.disk.state import is_in_use
from walrep.errors import DatabaseInUse, SpoolError

__all__ = [
    "SNAPSHOT_REQUEST",
    "SnapshotAnswer",
    "SnapshotRequest",
    "answer_request",
    "ask_for_snapshot",
    "put_request",
    "read_request",
]

SNAPSHOT_REQUEST = "snapshot-request"
_ANSWER = "snapshot-answer"
_POLL_S = 0.1
_ATTEMPTS_MAX = 3


class SnapshotRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; `full`: not a differential one."""

    full: bool = False


class SnapshotAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Where the newest snapshot stands, whether it was made for this, and what failed otherwise."""

    made: bool
    bookmark: str = ""
    error: str = ""
    hint: str = ""


def read_request(directory: Path) -> SnapshotRequest | None:
    """Return what is asked for, if anything is."""
    path = directory / SNAPSHOT_REQUEST
    with map_os_errors(f"read {path}"):
        data = path.read_bytes() if path.exists() else None
    try:
        return None if data is None else msgspec.json.decode(data, type=SnapshotRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return SnapshotRequest()


def put_request(state_dir: Path, request: SnapshotRequest) -> None:
    """Put a request where the walrep that holds the directory finds it.

    Raises:
        SpoolError: it cannot be written.

    """
    with map_os_errors(f"ask in {state_dir}"):
        for _attempt in range(_ATTEMPTS_MAX):
            # A walrep that is just starting removes what looks half-written.
            with suppress(FileNotFoundError):
                write_atomic(state_dir / SNAPSHOT_REQUEST, msgspec.json.encode(request))
                return
        raise FileNotFoundError(ENOENT, "what is written there vanishes", str(state_dir))


def answer_request(directory: Path, answer: SnapshotAnswer) -> None:
    """Answer what was asked for."""
    with map_os_errors(f"write {directory / _ANSWER}"):
        write_atomic(directory / _ANSWER, msgspec.json.encode(answer))
        (directory / SNAPSHOT_REQUEST).unlink(missing_ok=True)


async def ask_for_snapshot(state_dir: Path, request: SnapshotRequest, clock: Clock) -> SnapshotAnswer:
    """Ask, and wait for the answer for as long as the walrep that is asked runs.

    Raises:
        DatabaseInUse: no walrep runs, or it ended before it answered.
        SpoolError: the snapshot could not be made.

    """
    if not is_in_use(state_dir):
        raise DatabaseInUse(
            "no walrep protects this database now",
            detail=str(state_dir),
            hint="a snapshot is made by a running `walrep replicate`; with --state-dir say where it keeps its state",
        )
    with map_os_errors(f"ask in {state_dir}"):
        (state_dir / _ANSWER).unlink(missing_ok=True)
    put_request(state_dir, request)
    while (answer := _take_answer(state_dir)) is None:
        if not is_in_use(state_dir):
            (state_dir / SNAPSHOT_REQUEST).unlink(missing_ok=True)
            raise DatabaseInUse("the walrep that was asked has ended", detail=str(state_dir))
        await clock.sleep(_POLL_S)
    if answer.error:
        raise SpoolError(answer.error, hint=answer.hint)
    return answer


def _take_answer(directory: Path) -> SnapshotAnswer | None:
    path = directory / _ANSWER
    with map_os_errors(f"read {path}"):
        if not path.exists():
            return None
        answer = msgspec.json.decode(path.read_bytes(), type=SnapshotAnswer)
        path.unlink()
    return answer
