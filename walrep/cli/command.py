"""What all commands share: the exit status in their help, options as one struct, and types of values.

Exit codes are one per class of failure; `EXIT_STATUS` is the table that help and docs/operations.md show.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

from walrep.cli.session import Session
from walrep.core.amounts import parse_duration_s, parse_rate_bytes_per_s, parse_size_bytes, parse_time_of_day_s

__all__ = [
    "EXIT_INTERNAL",
    "EXIT_INTERRUPTED",
    "EXIT_STATUS",
    "EXIT_USAGE",
    "Command",
    "Group",
    "duration",
    "json_option",
    "rate",
    "size",
    "takes",
    "time_of_day",
]

EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_STATUS = {
    0: "success",
    EXIT_INTERNAL: "internal error: a bug in walrep",
    EXIT_USAGE: "the arguments or the configuration are wrong",
    3: "the database cannot be protected, or no longer",
    4: "the store refused, failed or did not answer",
    5: "another writer owns the replica, or this one has no lineage in it",
    6: "an object of the replica is malformed",
    7: "the restore cannot be done as asked",
    8: "local state, spool or disk failed",
    9: "stopped before everything captured was durable",
    10: "nothing was deleted: the prune did not look right",
    EXIT_INTERRUPTED: "interrupted; replicate: a second signal stopped it at once",
}

S = TypeVar("S", bound=msgspec.Struct)
R = TypeVar("R")


class Command(click.Command):
    """A command whose help ends with the exit codes that it can have."""

    def __init__(self, *args: Any, exits: Sequence[int], **kwargs: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **kwargs)
        self.exits = tuple(exits)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write EXIT STATUS after everything else."""
        super().format_epilog(ctx, formatter)
        _write_exit_status(formatter, self.exits)


class Group(click.Group):
    """The commands, in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands."""
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write EXIT STATUS after everything else."""
        super().format_epilog(ctx, formatter)
        _write_exit_status(formatter, tuple(EXIT_STATUS))


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line: a stable contract for programs."
)


def duration(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """Return the seconds that the value of an option means; a callback for click."""
    if text is None:
        return None
    is_number = text.replace(".", "", 1).isdecimal()
    try:
        return parse_duration_s(float(text) if is_number else text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def rate(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Return the bytes per second that the value of an option means; a callback for click."""
    if text is None:
        return None
    try:
        return parse_rate_bytes_per_s(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def size(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Return the bytes that the value of an option means; a callback for click."""
    if text is None:
        return None
    try:
        return parse_size_bytes(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def time_of_day(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Return the seconds after midnight that the value of an option means; a callback for click."""
    try:
        return None if text is None else parse_time_of_day_s(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def takes(kind: type[S]) -> Callable[[Callable[[Session, S], R]], Callable[..., R]]:
    """Hand all options and arguments of a command on as one struct, whose fields have their names."""

    def decorate(function: Callable[[Session, S], R]) -> Callable[..., R]:
        @functools.wraps(function)
        def call(session: Session, /, **options: object) -> R:
            return function(session, kind(**options))

        return click.pass_obj(call)

    return decorate


def _write_exit_status(formatter: click.HelpFormatter, exits: Sequence[int]) -> None:
    with formatter.section("EXIT STATUS"):
        formatter.write_dl([(str(code), EXIT_STATUS[code]) for code in exits])
