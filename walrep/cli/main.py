"""The command line: the only place that turns errors into exit codes, and the only one that makes an event loop.

An operating error says what happened and what to do next; everything else is a bug and shows where it is. SIGTERM ends
a command as an interrupt does, so that what it left unfinished is cleared away; `replicate` drains instead.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import click
import uvloop

from walrep import app
from walrep.cli.command import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE, Group
from walrep.cli.compact import compact
from walrep.cli.detach import detach
from walrep.cli.dump import dump
from walrep.cli.keep import keep, unkeep
from walrep.cli.list import list_replica
from walrep.cli.output import Failure, Output, OutputClosed
from walrep.cli.plan import plan
from walrep.cli.prune import prune
from walrep.cli.replicate import replicate
from walrep.cli.restore import restore
from walrep.cli.session import Session
from walrep.cli.snapshot import snapshot
from walrep.cli.version import version
from walrep.errors import WalrepError

__all__ = ["commands", "describe", "main", "run"]

T = TypeVar("T")


@click.group("walrep", cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def commands() -> None:
    """Protect SQLite databases: ship every committed transaction, restore any of them."""


for _command in (replicate, restore, list_replica, dump, snapshot, compact, prune, keep, unkeep, detach, plan, version):
    commands.add_command(_command)


def main() -> None:
    """Run the command line with the arguments of the process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    output = Output(sys.stdout, sys.stderr, as_json=_wants_json(arguments))
    session = Session(output, os.environ, app.system_clock(), _run_coroutine, lambda: _abort(session))
    try:
        with _terminated_like_interrupted():
            commands.main(list(arguments), prog_name="walrep", standalone_mode=False, obj=session)
    except OutputClosed:
        _discard_stdout()
        return EXIT_INTERNAL
    except click.exceptions.NoArgsIsHelpError as error:
        output.note(error.format_message())
        return EXIT_USAGE
    except Exception as error:  # noqa: BLE001 - the one place where everything that failed ends
        failure = describe(error)
        if failure.exit_code == EXIT_INTERNAL:
            output.traceback(error)
        session.fail(failure)
        return failure.exit_code
    return 0


def describe(error: BaseException) -> Failure:
    """Return what is said of an error, and the exit code that it means."""
    leaves = list(_leaves(error))
    # A bug beside operating errors is the one to show: they may be its consequence.
    worst = next((leaf for leaf in leaves if not isinstance(leaf, WalrepError | click.ClickException)), leaves[0])
    match worst:
        case WalrepError():
            return Failure(
                error=type(worst).__name__,
                exit_code=worst.exit_code,
                message=worst.message,
                detail=worst.detail,
                hint=worst.hint,
            )
        case click.UsageError():
            command = worst.ctx.command_path if worst.ctx else "walrep"
            message = worst.format_message().rstrip(".")
            hint = f"see `{command} --help`"
            return Failure(error="UsageError", exit_code=EXIT_USAGE, message=message, hint=hint)
        case click.ClickException():
            return Failure(error="UsageError", exit_code=EXIT_USAGE, message=worst.format_message())
        case click.Abort():
            return Failure(error="Interrupted", exit_code=EXIT_INTERRUPTED, message="interrupted")
    return Failure(
        error=type(worst).__name__,
        exit_code=EXIT_INTERNAL,
        message="internal error",
        detail=f"{type(worst).__name__}: {worst}",
        hint="this is a bug in walrep; please report it with the traceback above",
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, or what a task group put together."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _wants_json(arguments: Sequence[str]) -> bool:
    """Return whether a failure has to be JSON, also when the arguments cannot be parsed."""
    options = list(arguments)
    return "--json" in options[: options.index("--") if "--" in options else None]


def _run_coroutine(coroutine: Coroutine[object, object, T], /) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def _abort(session: Session) -> None:
    """End the process as a kill would, which walrep has to survive anyway: a thread may wait for a disk for ever."""
    session.fail(
        Failure(
            error="Interrupted",
            exit_code=EXIT_INTERRUPTED,
            message="stopped at once, by a second signal",
            hint="what is not durable yet waits in the state directory for the next start",
        )
    )
    os._exit(EXIT_INTERRUPTED)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # As SIGINT, not as an exception: the event loop's own handler cancels the task, which an exception would not.
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _discard_stdout() -> None:
    """Keep the interpreter from flushing what nobody reads when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
