"""Events into lines of log."""

from __future__ import annotations

import io
import json
import threading

import pytest

from walrep.cli.log import Log, LogFormat
from walrep.cli.output import Failure
from walrep.core.events import Alarm, Event, Flushed, Stopping
from walrep.testing.clock import SimClock

NOW_MS = 1_795_253_585_123
FLUSHED = Flushed(
    database="/srv/app.db", bookmark="B", seq=7, transactions=3, object_bytes=1536, lag_s=1.25, reason="rpo", rpo_s=10.0
)
ALARM = Alarm(database="/srv/app.db", key="long-reader", message="a reader holds the log", hint="end process 7")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def lines_of(event: Event, form: LogFormat) -> str:
    stream = io.StringIO()
    Log(stream, SimClock(now_ms=NOW_MS), form=form).report(event)
    return stream.getvalue()


def test_json_line_has_the_fields_of_the_event() -> None:
    line = json.loads(lines_of(FLUSHED, "json"))
    assert list(line)[:4] == ["timestamp", "level", "event", "database"]
    assert line == {
        "timestamp": "2026-11-21T09:33:05.123Z",
        "level": "info",
        "event": "flushed",
        "database": "/srv/app.db",
        "bookmark": "B",
        "seq": 7,
        "transactions": 3,
        "object_bytes": 1536,
        "lag_s": 1.25,
        "reason": "rpo",
        "rpo_s": 10.0,
    }


def test_people_get_units_and_the_message_first() -> None:
    assert "object='1.50 KiB' lag=1.250s" in lines_of(FLUSHED, "human")
    text = lines_of(ALARM, "human")
    assert "[warning  ] alarm: a reader holds the log" in text
    assert "message=" not in text


def test_level_is_that_of_the_class() -> None:
    stream = io.StringIO()
    log = Log(stream, SimClock(now_ms=NOW_MS), form="json", level="warning")
    for event in (FLUSHED, ALARM, Stopping(database="d")):
        log.report(event)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["alarm"]


@pytest.mark.parametrize(
    ("stream", "form", "is_json"),
    [
        (Terminal(), "auto", False),
        (io.StringIO(), "auto", True),
        (Terminal(), "json", True),
        (io.StringIO(), "human", False),
    ],
)
def test_form_follows_the_stream(stream: io.StringIO, form: LogFormat, *, is_json: bool) -> None:
    log = Log(stream, SimClock(now_ms=NOW_MS), form=form)
    log.failure(Failure(error="NotDurable", exit_code=9, message="late"))
    assert log.is_json is is_json
    assert stream.getvalue().startswith("{") is is_json
    assert "exit" in stream.getvalue()


def test_threads_write_whole_lines() -> None:
    stream = io.StringIO()
    log = Log(stream, SimClock(now_ms=NOW_MS), form="json")

    def write() -> None:
        for _ in range(100):
            log.report(FLUSHED)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {json.loads(line)["seq"] for line in stream.getvalue().splitlines()} == {7}
    assert len(stream.getvalue().splitlines()) == 400
