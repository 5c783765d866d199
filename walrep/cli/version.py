"""`walrep version`."""

from __future__ import annotations

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, json_option, takes
from walrep.cli.session import Session

__all__ = ["version"]


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    as_json: bool


@click.command("version", cls=Command, short_help="Show versions.", exits=(0, 1, 2))
@json_option
@takes(_Options)
def version(session: Session, options: _Options) -> None:
    """Show the versions of walrep and of what it is made of."""
    versions = app.versions()
    if options.as_json:
        session.output.record("version", versions)
        return
    width = max(map(len, versions))
    for name, text in versions.items():
        session.output.line(f"{name.ljust(width)}  {text}")
