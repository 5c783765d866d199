"""`walrep keep` and `walrep unkeep`."""

from __future__ import annotations

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, json_option, takes
from walrep.cli.session import Session
from walrep.cli.targets import TargetOptions, read_target, target_options
from walrep.core.target import format_time
from walrep.engine.planning import Wanted
from walrep.store.url import parse_url

__all__ = ["keep", "unkeep"]


class _Options(TargetOptions, frozen=True, kw_only=True):
    url: str
    name: str


class _UnkeepOptions(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    name: str
    as_json: bool


@click.command("keep", cls=Command, short_help="Keep a state for as long as you want.", exits=(0, 1, 2, 4, 6, 7, 130))
@click.argument("url")
@click.argument("name")
@target_options
@json_option
@takes(_Options)
def keep(session: Session, options: _Options) -> None:
    """Keep the newest state in the replica at URL, or any other, restorable under NAME until `walrep unkeep`.

    Retention deletes nothing that it needs. `walrep restore --kept NAME` restores it.
    """
    url = parse_url(options.url)
    wanted = Wanted(
        target=read_target(session, options, url=url),
        timeline=options.timeline,
        nearest_before=options.nearest_before,
    )
    kept = session.run(app.keep(url, options.name, wanted, clock=session.clock, environment=session.environment))
    if options.as_json:
        session.output.record(
            "kept",
            {
                "name": kept.name,
                "bookmark": str(kept.position),
                "time": format_time(kept.seen_ms),
                "is_new": kept.is_new,
            },
        )
        return
    session.output.line(f"{kept.name}  {kept.position}, seen {format_time(kept.seen_ms)}")
    if not kept.is_new:
        session.output.note("it was kept already")


@click.command("unkeep", cls=Command, short_help="Let go what was kept.", exits=(0, 1, 2, 4, 7, 130))
@click.argument("url")
@click.argument("name")
@json_option
@takes(_UnkeepOptions)
def unkeep(session: Session, options: _UnkeepOptions) -> None:
    """Let go the state that is kept under NAME: retention may delete what only that needs."""
    url = parse_url(options.url)
    for position in session.run(app.unkeep(url, options.name, clock=session.clock, environment=session.environment)):
        if options.as_json:
            session.output.record("let-go", {"name": options.name, "bookmark": str(position)})
        else:
            session.output.line(f"{options.name}  {position} is not kept any more")
