"""`walrep replicate`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, duration, rate, size, takes, time_of_day
from walrep.cli.log import LOG_FORMATS, LOG_LEVELS, Log, LogFormat, LogLevel
from walrep.cli.session import Session
from walrep.config import Overrides, load_settings, settings_from_pairs
from walrep.core.events import Report
from walrep.engine.settings import ReplicateSettings
from walrep.errors import UsageError

__all__ = ["replicate", "stop_on_signals"]

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    pairs: tuple[str, ...]
    config: Path | None
    rpo: float | None
    enable_wal: bool
    wait: bool
    new_timeline: bool
    take_over: bool
    state_dir: Path | None
    snapshot_at: int | None
    puts_per_day_max: int | None
    upload_bytes_per_day_warn: int | None
    limit_upload: int | None
    shutdown_deadline: float | None
    log_format: LogFormat
    log_level: LogLevel


@click.command("replicate", cls=Command, exits=(0, 1, 2, 3, 4, 5, 6, 8, 9, 130))
@click.argument("pairs", nargs=-1, metavar="[DB URL]...")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Read databases from a walrep.toml.")
@click.option("--rpo", callback=duration, metavar="DURATION", help="Lag that you accept at most.  [default: 10s]")
@click.option("--enable-wal", is_flag=True, help="Switch a database that is not in WAL mode to it.")
@click.option("--wait", is_flag=True, help="Wait for a database that does not exist yet.")
@click.option("--new-timeline", is_flag=True, help="Begin a new timeline in a replica that has another lineage.")
@click.option("--take-over", is_flag=True, help="The same, though its writer may still be at work: shut that one out.")
@click.option("--snapshot-at", callback=time_of_day, metavar="HH:MM", help="When daily snapshots are made, UTC.")
@click.option("--puts-per-day-max", type=int, metavar="N", help="PUTs of each database on a day (UTC) at most.")
@click.option(
    "--upload-bytes-per-day-warn", callback=size, metavar="SIZE", help="Warn when more is uploaded on a day (UTC)."
)
@click.option(
    "--limit-upload", callback=rate, metavar="RATE", help="Upload no faster, all databases together, such as 2MiB/s."
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where walrep keeps its state.  [default: .NAME-walrep beside the database]",
)
@click.option(
    "--shutdown-deadline",
    callback=duration,
    metavar="DURATION",
    help="How long a stop may take to make durable what is captured.  [default: 30s]",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default="auto",
    show_default=True,
    help="auto: human on a terminal, json otherwise.",
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@takes(_Options)
def replicate(session: Session, options: _Options) -> None:
    """Ship every committed transaction of DB to URL, until stopped.

    URL is a folder, such as file:///backup/app. The first SIGTERM or SIGINT makes durable what is captured and
    lets the database go; a second one stops at once. The exit code is 0 only if everything captured is durable.
    """
    settings = _settings(session, options)
    log = Log(session.output.stderr, session.clock, form=options.log_format, level=options.log_level)
    if log.is_json:
        session.fail = log.failure
    session.run(_replicate(session, settings, log.report))


def _settings(session: Session, options: _Options) -> ReplicateSettings:
    overrides = Overrides(
        rpo_s=options.rpo,
        shutdown_deadline_s=options.shutdown_deadline,
        state_dir=options.state_dir,
        snapshot_at_s=options.snapshot_at,
        puts_per_day_max=options.puts_per_day_max,
        upload_bytes_per_s=options.limit_upload,
        upload_bytes_per_day_warn=options.upload_bytes_per_day_warn,
        enable_wal=options.enable_wal,
        wait=options.wait,
        new_timeline=options.new_timeline,
        take_over=options.take_over,
    )
    if options.config is None:
        return settings_from_pairs(options.pairs, overrides, session.environment)
    if options.pairs:
        raise UsageError("databases are named by arguments and by --config", hint="use one of the two")
    return load_settings(options.config, overrides, session.environment)


async def _replicate(session: Session, settings: ReplicateSettings, report: Report) -> None:
    with stop_on_signals(session.abort) as stop:
        await app.replicate(settings, stop, report=report, clock=session.clock, environment=session.environment)


@contextmanager
def stop_on_signals(abort: Callable[[], None]) -> Iterator[asyncio.Event]:
    """Give an event that the first SIGTERM or SIGINT sets; the second one calls `abort`. On a running loop."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            abort()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
