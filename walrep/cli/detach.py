"""`walrep detach`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, takes
from walrep.cli.session import Session
from walrep.errors import DatabaseInUse

__all__ = ["detach"]


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    database: Path
    state_dir: Path | None


@click.command("detach", cls=Command, exits=(0, 1, 2, 3, 8, 130))
@click.argument("database", type=click.Path(path_type=Path), metavar="DB")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where walrep keeps its state.  [default: .NAME-walrep beside the database]",
)
@takes(_Options)
def detach(session: Session, options: _Options) -> None:
    """Let DB go, so that its file can be replaced by hand.

    A walrep that protects it makes durable what is captured and ends its protection. The exit code is 0 only if no
    process has the database open any more and no -wal is left beside it, which would corrupt what takes its place.
    """
    outcome = session.run(app.detach(options.database, options.state_dir, clock=session.clock))
    if outcome.was_running:
        session.output.note("the walrep that protected it has let it go")
    if outcome.holders:
        raise DatabaseInUse(
            "another process has the database open",
            detail=f"{options.database}: {', '.join(f'process {pid}' for pid in outcome.holders)}",
            hint="stop it, then detach again; replacing the file under it would corrupt one of the two",
        )
    if outcome.wal_left:
        raise DatabaseInUse(
            "a -wal is left beside the database",
            detail=f"{options.database}-wal",
            hint="another process may have the database open; stop it, then detach again",
        )
    session.output.line(f"{options.database} can be replaced")
