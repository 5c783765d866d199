"""`walrep restore`."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from walrep import app
from walrep.cli.command import Command, json_option, takes
from walrep.cli.output import Output, format_size
from walrep.cli.session import Session
from walrep.cli.targets import TargetOptions, read_target, target_options
from walrep.core.target import format_duration, format_time
from walrep.engine.restorer import RestoreOutcome, RestoreProgress, RestoreRequest
from walrep.sqlite.target import Check
from walrep.store.url import parse_url

__all__ = ["restore"]

_CHECKS: tuple[Check, ...] = get_args(Check)


class _Options(TargetOptions, frozen=True, kw_only=True):
    url: str
    output: Path
    kept: str | None
    dry_run: bool
    force: bool
    if_db_not_exists: bool
    if_replica_exists: bool
    check: Check


@click.command(
    "restore", cls=Command, short_help="Restore a database as of any transaction.", exits=(0, 1, 2, 4, 6, 7, 8, 130)
)
@click.argument("url")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", required=True, help="The database.")
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

    The database is built beside the output and put there by a rename when it has proved to be right.
    """
    output = session.output
    url = parse_url(options.url)
    target = read_target(session, options, url=url, kept=options.kept)
    if options.if_db_not_exists and options.output.exists():
        _skip(output, "database-exists", f"{options.output} exists; nothing to do")
        return
    if options.if_replica_exists and not session.run(
        app.is_replica(url, clock=session.clock, environment=session.environment)
    ):
        _skip(output, "no-replica", f"there is no replica at {url}; nothing to do")
        return
    request = RestoreRequest(
        output=options.output,
        target=target,
        timeline=options.timeline,
        nearest_before=options.nearest_before,
        force=options.force,
        check=options.check,
        dry_run=options.dry_run,
    )
    with output.progress("" if options.dry_run else "restoring") as advance:

        def progress(state: RestoreProgress) -> None:
            advance(state.done_bytes, state.total_bytes)

        outcome = session.run(
            app.restore(url, request, clock=session.clock, environment=session.environment, progress=progress)
        )
    _print_json(output, outcome) if options.as_json else _print_text(output, outcome)


def _skip(output: Output, reason: str, text: str) -> None:
    if output.as_json:
        output.record("skipped", {"reason": reason})
    else:
        output.note(text)


def _print_json(output: Output, outcome: RestoreOutcome) -> None:
    plan = outcome.plan
    output.record(
        "restore",
        {
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


def _print_text(output: Output, outcome: RestoreOutcome) -> None:
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
        output.note(f"note: {notice}")
