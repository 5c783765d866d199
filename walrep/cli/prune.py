"""`walrep prune`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, duration, json_option, takes
from walrep.cli.output import Output, format_size
from walrep.cli.session import Session
from walrep.config import retention_for
from walrep.config_file import RetentionTable
from walrep.core.amounts import Duration
from walrep.core.target import format_time
from walrep.engine.janitor import PruneOutcome, Pruning
from walrep.store.url import parse_url

__all__ = ["prune"]

_COUNT = click.IntRange(min=0)


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    config: Path | None
    window: float | None
    daily: int | None
    weekly: int | None
    monthly: int | None
    yearly: int | None
    snapshots_min: int | None
    dry_run: bool
    yes: bool
    as_json: bool


@click.command("prune", cls=Command, short_help="Delete what retention does not keep.", exits=(0, 1, 2, 4, 6, 10, 130))
@click.argument("url")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Take the retention of a walrep.toml.")
@click.option("--window", callback=duration, metavar="TIME", help="Any transaction of that long stays.  [default: 30d]")
@click.option("--daily", type=_COUNT, metavar="N", help="Before that, the last snapshot of each of N days.")
@click.option("--weekly", type=_COUNT, metavar="N", help="The same for weeks.")
@click.option("--monthly", type=_COUNT, metavar="N", help="The same for months.")
@click.option("--yearly", type=_COUNT, metavar="N", help="The same for years.")
@click.option("--snapshots-min", type=_COUNT, metavar="N", help="N snapshots stay however old.  [default: 2]")
@click.option("--dry-run", is_flag=True, help="Print what is kept and what is deleted, and why; change nothing.")
@click.option("--yes", is_flag=True, help="Delete it also if that is many more objects than usual.")
@json_option
@takes(_Options)
def prune(session: Session, options: _Options) -> None:
    """Delete from the replica at URL what retention does not keep.

    `walrep replicate` does this by itself once a day, unless it is told not to. Positions that are kept by name
    (`walrep keep`) stay restorable, and the newest state always does.
    """
    url = parse_url(options.url)
    said = RetentionTable(
        window=None if options.window is None else Duration(options.window),
        daily=options.daily,
        weekly=options.weekly,
        monthly=options.monthly,
        yearly=options.yearly,
        snapshots_min=options.snapshots_min,
    )
    policy = retention_for(url, said, options.config, session.environment)
    if options.dry_run:
        pruning = session.run(app.plan_prune(url, policy, clock=session.clock, environment=session.environment))
        _print_plan(session.output, pruning, as_json=options.as_json)
        return
    outcome = session.run(app.prune(url, policy, yes=options.yes, clock=session.clock, environment=session.environment))
    _print_outcome(session.output, outcome, as_json=options.as_json)


def _print_plan(output: Output, pruning: Pruning, *, as_json: bool) -> None:
    plan = pruning.plan
    for verdict in plan.verdicts:
        if as_json:
            output.record("object", msgspec.structs.asdict(verdict))
        else:
            word = "keep  " if verdict.keep else "delete"
            output.line(f"{word}  {format_size(verdict.size_bytes):>8}  {verdict.key}: {verdict.reason}")
    for notice in plan.notices:
        output.note(notice)
    if as_json:
        output.record(
            "summary",
            {
                "window_begins": format_time(plan.expired_ms),
                "keep_count": plan.keep_count,
                "keep_bytes": plan.keep_bytes,
                "delete_count": plan.delete_count,
                "delete_bytes": plan.delete_bytes,
            },
        )
        return
    output.note(f"any transaction since {format_time(plan.expired_ms)} stays")
    output.note(f"{plan.keep_count} objects stay, {format_size(plan.keep_bytes)}")
    output.note(f"{plan.delete_count} would be deleted, {format_size(plan.delete_bytes)}")


def _print_outcome(output: Output, outcome: PruneOutcome, *, as_json: bool) -> None:
    for key in outcome.deleted:
        if as_json:
            output.record("delete", {"key": key})
        else:
            output.line(f"deleted  {key}")
    if outcome.may_not_delete:
        output.note("the store does not let these credentials delete")
    elif not outcome.deleted:
        output.note("there is nothing to delete")
    else:
        output.note(f"{len(outcome.deleted)} objects deleted, {format_size(outcome.delete_bytes)}")
