"""What `walrep restore --config` restores, and where to: databases of a configuration, and a file for each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from walrep.engine.restorer import RestoreRequest
from walrep.engine.settings import DatabaseSettings, default_state_dir
from walrep.engine.together import DatabaseRestore
from walrep.errors import UsageError

__all__ = ["choose_databases", "plan_outputs"]


def choose_databases(known: Sequence[DatabaseSettings], named: Iterable[str]) -> list[DatabaseSettings]:
    """Return the databases that are named, by path or by file name, in the order of the configuration; all for none.

    Raises:
        UsageError: a name means none of them, or more than one.

    """
    chosen: list[DatabaseSettings] = []
    for name in named:
        path = Path(name).absolute()
        found = [each for each in known if each.path == path] or [each for each in known if each.path.name == name]
        if not found:
            names = [each.path.name for each in known]
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(names)}"
            raise UsageError("the configuration has no such database", detail=name, hint=hint)
        if len(found) > 1:
            paths = ", ".join(str(each.path) for each in found)
            raise UsageError("two databases have this name", detail=f"{name}: {paths}", hint="name them by path")
        chosen += found
    return [each for each in known if each in chosen] if chosen else list(known)


def plan_outputs(
    chosen: Sequence[DatabaseSettings], request: RestoreRequest, into: Path | None
) -> list[DatabaseRestore]:
    """Return what to restore where: each to its own path, or by its file name `into` a folder.

    Raises:
        UsageError: two of them would have the same path.

    """
    wanted = []
    seen: dict[Path, Path] = {}
    for each in chosen:
        output = each.path if into is None else into / each.path.name
        if output in seen:
            raise UsageError(
                "two databases have the same file name",
                detail=f"{output}, for {seen[output]} and {each.path}",
                hint="restore them one after the other, with --database, into different folders",
            )
        seen[output] = each.path
        wanted.append(
            DatabaseRestore(
                database=each.path,
                url=each.url,
                state_dir=each.state_dir if into is None else default_state_dir(output),
                request=msgspec.structs.replace(request, output=output),
            )
        )
    return wanted
