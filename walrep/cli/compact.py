"""`walrep compact`."""

from __future__ import annotations

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, json_option, takes
from walrep.cli.output import Output, format_size
from walrep.cli.session import Session
from walrep.core.compaction import CompactionPlan
from walrep.core.target import format_time
from walrep.engine.compactor import Compacted
from walrep.store.url import parse_url

__all__ = ["compact"]


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    dry_run: bool
    as_json: bool


@click.command("compact", cls=Command, short_help="Fold segments into packs.", exits=(0, 1, 2, 4, 6, 8, 130))
@click.argument("url")
@click.option("--dry-run", is_flag=True, help="Print what would be packed and deleted; change nothing.")
@json_option
@takes(_Options)
def compact(session: Session, options: _Options) -> None:
    """Fold the segments of the replica at URL into packs, and delete what packs have replaced for long enough.

    Every transaction stays restorable. `walrep replicate` does this by itself, from its own copies; this command reads
    what it packs from the store.
    """
    url = parse_url(options.url)
    if options.dry_run:
        plan = session.run(app.plan_compaction(url, clock=session.clock, environment=session.environment))
        _print_plan(session.output, plan, as_json=options.as_json)
        return
    done = session.run(app.compact(url, clock=session.clock, environment=session.environment))
    _print_done(session.output, done, as_json=options.as_json)
    if done.may_not_delete:
        session.output.note("the store does not let these credentials delete what packs have replaced")


def _print_plan(output: Output, plan: CompactionPlan, *, as_json: bool) -> None:
    for build in plan.builds:
        fields = {"sources": [each.key for each in build.sources], "size_bytes": build.size_bytes}
        if as_json:
            output.record("pack", {**fields, "reason": build.reason})
        else:
            output.line(f"pack    {build.reason}, about {format_size(build.size_bytes)}")
    for deletion in plan.deletions:
        if as_json:
            output.record("delete", msgspec.structs.asdict(deletion))
        else:
            output.line(f"delete  {deletion.key}: {deletion.reason}")
    _print_next(output, plan.next_ms, as_json=as_json)


def _print_done(output: Output, done: Compacted, *, as_json: bool) -> None:
    for key, size_bytes, reason in done.packs:
        if as_json:
            output.record("pack", {"key": key, "size_bytes": size_bytes, "reason": reason})
        else:
            output.line(f"packed   {key}, {format_size(size_bytes)}: {reason}")
    for key in done.damaged:
        output.note(f"a pack is damaged: {key}")
    for key in done.deleted:
        if as_json:
            output.record("delete", {"key": key})
        else:
            output.line(f"deleted  {key}")
    _print_next(output, done.next_ms, as_json=as_json)


def _print_next(output: Output, next_ms: int | None, *, as_json: bool) -> None:
    when = None if next_ms is None else format_time(next_ms)
    if as_json:
        output.record("next", {"time": when})
    elif when:
        output.note(f"more is to be done from {when} on")
    else:
        output.note("nothing else is to be done")
