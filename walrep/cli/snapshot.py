"""`walrep snapshot`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, json_option, takes
from walrep.cli.session import Session

__all__ = ["snapshot"]


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    database: Path
    state_dir: Path | None
    full: bool
    as_json: bool


@click.command("snapshot", cls=Command, short_help="Make a snapshot now.", exits=(0, 1, 2, 3, 8, 130))
@click.argument("database", type=click.Path(path_type=Path), metavar="DB")
@click.option("--full", is_flag=True, help="A full one, whatever there is to lean on.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where walrep keeps its state.  [default: .NAME-walrep beside the database]",
)
@json_option
@takes(_Options)
def snapshot(session: Session, options: _Options) -> None:
    """Have the walrep that protects DB make a snapshot now, and wait until it is stored.

    Restores need fewer logs from then on. Without a commit since the last one there is nothing to make.
    """
    answer = session.run(app.snapshot(options.database, options.state_dir, full=options.full, clock=session.clock))
    if options.as_json:
        session.output.record("snapshot", {"made": answer.made, "bookmark": answer.bookmark})
        return
    session.output.line(answer.bookmark)
    if not answer.made:
        session.output.note("nothing was committed since the last snapshot")
