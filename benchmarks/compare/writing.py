"""An app of the comparison, in a process of its own: commits at its pace and writes down when each commit returned."""

from __future__ import annotations

import json
import sys
import time
from array import array
from pathlib import Path

import msgspec

from benchmarks.compare.shapes import Load, Session, connect


class Commits(msgspec.Struct, frozen=True, kw_only=True):
    """The app's own record: of each commit when it returned, how long it took, and how many transactions there were.

    A VACUUM is a commit without a transaction.
    """

    at_s: tuple[float, ...]
    took_us: tuple[float, ...]
    number: tuple[int, ...]
    changed_bytes: int

    def number_at(self, at_s: float) -> int:
        """Return how many transactions had been committed by a time."""
        return max((number for each, number in zip(self.at_s, self.number, strict=True) if each <= at_s), default=0)


def run(session: Session, seconds: float, rate: float, output: Path) -> None:
    """Commit `rate` transactions a second for a while, or none; write the record."""
    at_s, took_us, numbers, changed = array("d"), array("d"), array("q"), 0

    def note(began: float) -> None:
        took_us.append((time.perf_counter() - began) * 1e6)
        at_s.append(time.time())
        numbers.append(session.done)

    start = time.perf_counter()
    end = start + seconds
    while rate:
        due = start + (session.done + 0.5) / rate
        if due >= end:
            break
        _wait_until(due)
        began = time.perf_counter()
        changed += session.commit()
        note(began)
        if session.vacuum_is_due:
            began = time.perf_counter()
            session.connection.execute("vacuum")
            note(began)
        if time.perf_counter() >= end:
            break
    _wait_until(end)
    record = Commits(at_s=tuple(at_s), took_us=tuple(took_us), number=tuple(numbers), changed_bytes=changed)
    output.write_bytes(msgspec.msgpack.encode(record))


def read_commits(path: Path) -> Commits:
    """Read what `run` wrote."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Commits)


def _wait_until(moment: float) -> None:
    left = moment - time.perf_counter()
    if left > 0:
        time.sleep(left)


def main() -> None:
    """Serve commands until stdin ends; arguments: a database and its load as JSON. The first line says it is open."""
    path, load = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Load)
    connection = connect(path)
    # The log is there before anybody attaches, as it is with an app that has run for a while.
    connection.execute("select n from app_record").fetchone()
    session = Session(connection, load)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        run(session, order["seconds"], order["rate"], Path(order["output"]))
        print(json.dumps({"done": session.done}), flush=True)
    connection.close()


if __name__ == "__main__":
    main()
