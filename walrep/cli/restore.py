"""`walrep restore`."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from walrep import app
from walrep.cli.command import Command, json_option, takes
from walrep.cli.output import Output, format_size
from walrep.cli.restore_config import choose_databases, plan_outputs
from walrep.cli.session import Session
from walrep.cli.targets import TargetOptions, read_target, target_options
from walrep.config import Overrides, load_settings
from walrep.core.target import Target, format_duration, format_time
from walrep.engine.restorer import RestoreOutcome, RestoreProgress, RestoreRequest
from walrep.errors import UsageError
from walrep.sqlite.target import Check
from walrep.store.url import parse_url

__all__ = ["restore"]

_CHECKS: tuple[Check, ...] = get_args(Check)


class _Options(TargetOptions, frozen=True, kw_only=True):
    url: str | None
    output: Path | None
    config: Path | None
    database: tuple[str, ...]
    into: Path | None
    kept: str | None
    dry_run: bool
    force: bool
    if_db_not_exists: bool
    if_replica_exists: bool
    check: Check


@click.command(
    "restore", cls=Command, short_help="Restore a database as of any transaction.", exits=(0, 1, 2, 3, 4, 6, 7, 8, 130)
)
@click.argument("url", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The database.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The databases of a walrep.toml.")
@click.option("--database", multiple=True, metavar="NAME", help="Of these, one by path or file name; repeatable.")
@click.option("--into", type=click.Path(path_type=Path), metavar="DIR", help="By file name, not each in its place.")
@target_options
@click.option("--kept", metavar="NAME", help="As of what `walrep keep` keeps under this name.")
@click.option("--dry-run", is_flag=True, help="Show the plan; write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing database; never one that is in use.")
@click.option("--if-db-not-exists", is_flag=True, help="Do nothing, successfully, if the database exists.")
@click.option("--if-replica-exists", is_flag=True, help="Do nothing, successfully, if there is no replica.")
@click.option(
    "--check",
    type=click.Choice(_CHECKS),
    default="quick",
    show_default=True,
    help="SQLite's own check of the result; its checksum is always verified.",
)
@json_option
@takes(_Options)
def restore(session: Session, options: _Options) -> None:
    """Restore a database from the replica at URL: as of its newest transaction, or of any other.

    The database is built beside the output and put there by a rename when it has proved to be right. With --config the
    databases of a configuration are restored, to one instant with --at: all of them, or none.
    """
    if options.config is not None:
        _restore_config(session, options, options.config)
        return
    if options.url is None:
        raise UsageError("no replica is named", hint="write `walrep restore URL -o FILE`, or --config walrep.toml")
    if options.output is None:
        raise UsageError("no database to write is named", hint="write -o FILE")
    if options.database or options.into is not None:
        raise UsageError("--database and --into go with --config", hint="write URL -o FILE for one database")
    _restore_one(session, options, options.url, options.output)


def _restore_one(session: Session, options: _Options, text: str, file: Path) -> None:
    output = session.output
    url = parse_url(text)
    target = read_target(session, options, url=url, kept=options.kept)
    if options.if_db_not_exists and file.exists():
        _skip(output, "database-exists", f"{file} exists; nothing to do")
        return
    if options.if_replica_exists and not session.run(
        app.is_replica(url, clock=session.clock, environment=session.environment)
    ):
        _skip(output, "no-replica", f"there is no replica at {url}; nothing to do")
        return
    request = _request(options, target, file)
    with output.progress("" if options.dry_run else "restoring") as advance:

        def progress(state: RestoreProgress) -> None:
            advance(state.done_bytes, state.total_bytes)

        outcome = session.run(
            app.restore(url, request, clock=session.clock, environment=session.environment, progress=progress)
        )
    _print_json(output, outcome) if options.as_json else _print_text(output, outcome)


def _restore_config(session: Session, options: _Options, config: Path) -> None:
    """Restore databases of a configuration together."""
    _refuse_for_one(options)
    output = session.output
    settings = load_settings(config, Overrides(), session.environment)
    chosen = choose_databases(settings.databases, options.database)
    # Read once: the instant is the same for all of them.
    target = read_target(session, options, url=chosen[0].url)
    wanted = plan_outputs(chosen, _request(options, target, chosen[0].path), options.into)
    with output.progress("" if options.dry_run else "restoring") as advance:

        def progress(state: RestoreProgress) -> None:
            advance(state.done_bytes, state.total_bytes)

        outcomes = session.run(
            app.restore_all(
                wanted, settings.s3, clock=session.clock, environment=session.environment, progress=progress
            )
        )
    for each, outcome in zip(wanted, outcomes, strict=True):
        if options.as_json:
            _print_json(output, outcome, database=str(each.database))
        else:
            output.line(str(each.database))
            _print_text(output, outcome, about=f"{each.database}: ")


def _refuse_for_one(options: _Options) -> None:
    """Refuse what means one database."""
    said = {
        "URL": options.url,
        "--output": options.output,
        "--txid": options.txid,
        "--bookmark": options.bookmark,
        "--timeline": options.timeline,
        "--kept": options.kept,
        "--if-db-not-exists": options.if_db_not_exists or None,
        "--if-replica-exists": options.if_replica_exists or None,
    }
    wrong = [name for name, value in said.items() if value is not None]
    if wrong:
        raise UsageError(
            "with --config a restore is of several databases",
            detail=f"{' and '.join(wrong)} {'means' if len(wrong) == 1 else 'mean'} one",
            hint="write --at TIME, and --into DIR or --force; or URL -o FILE without --config",
        )


def _request(options: _Options, target: Target, file: Path) -> RestoreRequest:
    return RestoreRequest(
        output=file,
        target=target,
        timeline=options.timeline,
        nearest_before=options.nearest_before,
        force=options.force,
        check=options.check,
        dry_run=options.dry_run,
    )


def _skip(output: Output, reason: str, text: str) -> None:
    if output.as_json:
        output.record("skipped", {"reason": reason})
    else:
        output.note(text)


def _print_json(output: Output, outcome: RestoreOutcome, **about: str) -> None:
    plan = outcome.plan
    output.record(
        "restore",
        {
            **about,
            "written": outcome.written,
            "output": str(outcome.output),
            "bookmark": outcome.bookmark,
            "timeline": plan.position.timeline,
            "txid": outcome.txid,
            "time": format_time(outcome.seen_ms),
            "database_bytes": outcome.database_bytes,
            "page_size": plan.page_size,
            "peak_bytes": plan.peak_bytes,
            "planned_requests": plan.requests,
            "planned_bytes": plan.download_bytes,
            "downloaded_bytes": outcome.downloaded_bytes,
            "requests": outcome.requests,
            "seconds": outcome.seconds,
            "snapshot": {"key": plan.snapshot.key, "size_bytes": plan.snapshot.size_bytes},
            "under": None if plan.under is None else {"key": plan.under.key, "size_bytes": plan.under.size_bytes},
            "segments": [{"key": each.key, "size_bytes": each.size_bytes} for each in plan.slices],
            "reasons": plan.reasons,
            "notices": outcome.notices,
            "undo": outcome.undo,
        },
    )


def _print_text(output: Output, outcome: RestoreOutcome, *, about: str = "") -> None:
    plan = outcome.plan
    rows = [
        (
            "restored" if outcome.written else "would restore",
            f"{outcome.output}, {format_size(outcome.database_bytes)}",
        ),
        ("transaction", f"{outcome.txid} of timeline {plan.position.timeline}"),
        ("seen", format_time(outcome.seen_ms)),
        ("bookmark", outcome.bookmark),
        *(("from", f"{each.key}, {format_size(each.size_bytes)}") for each in plan.snapshots),
    ]
    if outcome.written:
        seconds = sum(outcome.seconds.values())
        requests = ", ".join(f"{count} {verb.upper()}" for verb, count in outcome.requests.items())
        rows.append(("downloaded", f"{format_size(outcome.downloaded_bytes)} ({requests})"))
        rows.append(("took", format_duration(round(seconds * 1000))))
    else:
        rows += [("and", f"{each.key}, {format_size(each.size_bytes)}") for each in plan.slices]
        rows.append(("still to get", f"{format_size(plan.download_bytes)} in {plan.requests} requests"))
        rows.append(("disk needed", format_size(plan.peak_bytes)))
        rows += [("because", reason) for reason in plan.reasons]
    if outcome.undo:
        rows.append(("undo", f"--bookmark {outcome.undo}"))
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        output.line(f"{label.ljust(width)}  {text}")
    for notice in outcome.notices:
        output.note(f"note: {about}{notice}")
