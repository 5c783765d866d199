"""The options that say which state of a database is meant, the same for every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from walrep import app
from walrep.cli.session import Session
from walrep.cli.zone import local_zone
from walrep.core.target import AtBookmark, AtTime, AtTxid, Latest, Target, parse_time
from walrep.core.units import Txid, parse_bookmark
from walrep.errors import UsageError
from walrep.store.url import StoreUrl

__all__ = ["TargetOptions", "read_target", "target_options"]

F = TypeVar("F", bound=Callable[..., Any])


class TargetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Their values, for a command's own options to go on from."""

    at: str | None
    txid: int | None
    bookmark: str | None
    timeline: str | None
    nearest_before: bool
    as_json: bool


def target_options(command: F) -> F:
    """Give a command the options."""
    for option in (
        click.option(
            "--nearest-before", is_flag=True, help="Where the time means one of two transactions, take the earlier."
        ),
        click.option("--timeline", metavar="T", help="Of this timeline, by id or number.  [default: the newest]"),
        click.option(
            "--bookmark", metavar="B", help="As of a position, as `walrep list` and `walrep restore` print it."
        ),
        click.option("--txid", type=click.IntRange(min=0), metavar="N", help="As of a transaction."),
        click.option("--at", metavar="TIME", help='As of a time: RFC 3339, local ("2026-11-21 14:03"), or "2h ago".'),
    ):
        command = option(command)
    return command


def read_target(session: Session, options: TargetOptions, *, url: StoreUrl, kept: str | None = None) -> Target:
    """Return what the options mean; `kept` is a name under which a position is kept.

    Raises:
        UsageError: there is more than one target, or one that is not understood.
        TargetNotFound: nothing is kept under this name.

    """
    named = (("--at", options.at), ("--txid", options.txid), ("--bookmark", options.bookmark), ("--kept", kept))
    said = [name for name, value in named if value is not None]
    if len(said) > 1:
        raise UsageError("a restore has one target", detail=f"{' and '.join(said)} are given", hint="choose one")
    if options.at is not None:
        zone = local_zone(session.environment)
        parsed = parse_time(options.at, now_ms=session.clock.now_ms(), local_zone=zone)
        if not options.as_json:
            session.output.note(f"as of {parsed.shown}")
        return AtTime(parsed.ms)
    if options.txid is not None:
        return AtTxid(Txid(options.txid))
    if options.bookmark is not None:
        return AtBookmark(parse_bookmark(options.bookmark))
    if kept is not None:
        return AtBookmark(session.run(app.find_pin(url, kept, clock=session.clock, environment=session.environment)))
    return Latest()
