"""What is printed, where."""

from __future__ import annotations

import io
import json

import pytest

from walrep.cli.output import Failure, Output, OutputClosed, format_size


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class ClosedPipe(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (10_235, "10.0 KiB"),
        (102_400, "100 KiB"),
        (1_048_000, "1023 KiB"),
        (1_048_575, "1.00 MiB"),
        (5 << 30, "5.00 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


def test_data_goes_to_stdout_and_notes_to_stderr() -> None:
    output = Output(io.StringIO(), io.StringIO(), as_json=False)
    output.line("data")
    output.record("kind", {"size_bytes": 1})
    output.note("note")
    assert output.stdout.getvalue() == 'data\n{"type":"kind","size_bytes":1}\n'  # type: ignore[attr-defined]  # a StringIO
    assert output.stderr.getvalue() == "note\n"  # type: ignore[attr-defined]  # a StringIO


def test_failure_shows_every_line_of_detail_and_hint() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    failure = Failure(error="X", exit_code=7, message="no", detail="a\nb", hint="c")
    Output(stdout, stderr, as_json=False).failure(failure)
    assert (stdout.getvalue(), stderr.getvalue()) == ("", "walrep: no\n  detail: a\n  detail: b\n  hint: c\n")
    Output(stdout, stderr, as_json=True).failure(failure)
    assert json.loads(stdout.getvalue()) == {
        "type": "error",
        "error": "X",
        "exit_code": 7,
        "message": "no",
        "detail": "a\nb",
        "hint": "c",
    }


def test_reader_that_has_gone_is_told_apart_from_other_broken_pipes() -> None:
    with pytest.raises(OutputClosed):
        Output(ClosedPipe(), io.StringIO(), as_json=False).line("data")


@pytest.mark.parametrize(
    ("stderr", "as_json", "label", "shown"),
    [
        (Terminal(), False, "restoring", True),
        (Terminal(), True, "restoring", False),
        (Terminal(), False, "", False),
        (io.StringIO(), False, "restoring", False),
    ],
)
def test_progress_is_for_terminals(stderr: io.StringIO, *, as_json: bool, label: str, shown: bool) -> None:
    stdout = io.StringIO()
    with Output(stdout, stderr, as_json=as_json).progress(label) as advance:
        advance(1, 4)
        advance(4, 4)
    assert stdout.getvalue() == ""
    assert ("100%" in stderr.getvalue()) is shown
