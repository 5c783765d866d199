"""The only place that prints: data on stdout, everything said about it on stderr.

With `--json` stdout has one object per line. Each has a `type`; `error` is the last line of a command that failed:

    {"type":"error","error":"TargetNotFound","exit_code":7,"message":"...","detail":"...","hint":"..."}

Sizes are for people in text (`1.5 MiB`) and in bytes in JSON; times are RFC 3339 UTC with milliseconds in both.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

import click
import msgspec

__all__ = ["Failure", "Output", "OutputClosed", "format_size"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_UNIT = 1024
_WHOLE_MIN = 100


class OutputClosed(Exception):
    """Whoever read stdout has gone."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """What a command that failed says; `error` is the name of a class of `walrep.errors`."""

    error: str
    exit_code: int
    message: str
    detail: str = ""
    hint: str = ""


class Output:
    """The two streams of one command."""

    def __init__(self, stdout: TextIO, stderr: TextIO, *, as_json: bool) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.as_json = as_json

    def line(self, text: str = "") -> None:
        """Print a line of data."""
        try:
            self.stdout.write(f"{text}\n")
            self.stdout.flush()
        except BrokenPipeError as error:
            raise OutputClosed from error

    def record(self, kind: str, fields: Mapping[str, object]) -> None:
        """Print one object of `--json`."""
        self.line(msgspec.json.encode({"type": kind, **fields}).decode())

    def note(self, text: str) -> None:
        """Tell a person something that is not data."""
        click.echo(text, file=self.stderr)

    def failure(self, failure: Failure) -> None:
        """Say what happened, to what, and what to do next."""
        if self.as_json:
            self.line(msgspec.json.encode(failure).decode())
            return
        self.note(f"walrep: {failure.message}")
        for label, text in (("detail", failure.detail), ("hint", failure.hint)):
            for part in text.splitlines():
                self.note(f"  {label}: {part}")

    def traceback(self, error: BaseException) -> None:
        """Show where an error that is a bug came from."""
        self.note("".join(traceback.format_exception(error)).rstrip())

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar on a terminal while the block runs; what is yielded is told bytes done and in all.

        Without a label nothing is shown.
        """
        if self.as_json or not label or not self.stderr.isatty():
            yield lambda _done_bytes, _total_bytes: None
            return
        with click.progressbar(length=1, label=label, file=self.stderr, show_pos=False) as bar:

            def update(done_bytes: int, total_bytes: int) -> None:
                bar.length = max(total_bytes, 1)
                bar.update(min(done_bytes, bar.length) - bar.pos)

            yield update


def format_size(size_bytes: int) -> str:
    """Return a size for people, three digits and a binary unit: `512 B`, `1.50 KiB`, `23.4 MiB`."""
    if size_bytes < _UNIT:
        return f"{size_bytes} B"
    value = float(size_bytes)
    unit = 0
    # 1023.95 would be shown as 1024; the next unit takes over where rounding does.
    while value >= _UNIT - 0.5 and unit < len(_UNITS) - 1:
        value /= _UNIT
        unit += 1
    decimals = 0 if value >= _WHOLE_MIN - 0.05 else 1 if value >= _WHOLE_MIN / 10 - 0.005 else 2
    return f"{value:.{decimals}f} {_UNITS[unit]}"
