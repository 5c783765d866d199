"""`walrep dump`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, json_option, takes
from walrep.cli.output import Output
from walrep.cli.session import Session
from walrep.core.names import REPLICA_KEY, parse_pack_key, parse_segment_key, parse_snapshot_key
from walrep.core.target import format_time
from walrep.core.units import format_checksum
from walrep.engine.inspect import DumpRecord
from walrep.errors import UsageError
from walrep.store.url import parse_url

__all__ = ["dump", "split_object_url"]

_PARSERS = (parse_segment_key, parse_pack_key, parse_snapshot_key)
_BLOCK_KINDS = frozenset(("chunk", "pages", "delta", "index"))


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    as_json: bool


@click.command("dump", cls=Command, short_help="Show what an object of a replica says.", exits=(0, 1, 2, 4, 6, 8, 130))
@click.argument("source", metavar="URL/KEY|FILE")
@json_option
@takes(_Options)
def dump(session: Session, options: _Options) -> None:
    """Show what an object says: one of a replica, by its URL and key, or one in a local file.

    What is readable is shown before damage is reported.
    """
    show = _print_json if options.as_json else _print_text
    if Path(options.source).is_file():
        for record in app.dump_file(Path(options.source)):
            show(session.output, record)
        return
    url, key = split_object_url(options.source)
    session.run(
        app.dump_object(
            parse_url(url),
            key,
            clock=session.clock,
            environment=session.environment,
            show=lambda record: show(session.output, record),
        )
    )


def split_object_url(text: str) -> tuple[str, str]:
    """Return the URL of the replica and the key of the object in it.

    Raises:
        UsageError: the text does not end in the key of an object.

    """
    # The parameters of a bucket's URL stand behind the key; a folder's URL has none.
    place, question, parameters = text.partition("?") if text[:3].lower() == "s3:" else (text, "", "")
    parts = place.split("/")
    for count in range(1, len(parts)):
        key = "/".join(parts[-count:])
        if key == REPLICA_KEY or any(parse(key) is not None for parse in _PARSERS):
            return ("/".join(parts[:-count]) or "/") + question + parameters, key
    raise UsageError(
        "this names neither a file nor an object",
        # Without parameters, in which there may be a secret.
        detail=place,
        hint=f"write the path of a file, or URL/{REPLICA_KEY}, URL/segments/..., URL/packs/... or URL/snapshots/...; "
        "`walrep list --json URL` shows the keys",
    )


def _print_json(output: Output, record: DumpRecord) -> None:
    output.record(record.kind, {"offset": record.offset, "fields": _shown(record.fields)})


def _print_text(output: Output, record: DumpRecord) -> None:
    fields = _flat(_shown(record.fields))
    place = "" if record.offset is None else f" at byte {record.offset}"
    if record.kind in _BLOCK_KINDS:
        output.line(f"{record.kind}{place}: " + ", ".join(f"{name} {text}" for name, text in fields.items()))
        return
    output.line(f"{record.kind}{place}")
    width = max(map(len, fields), default=0)
    for name, text in fields.items():
        output.line(f"  {name.ljust(width)}  {text}")


def _shown(fields: dict[str, object]) -> dict[str, object]:
    """Return the fields with times as text; and checksums too, which are more than a JSON number holds."""
    shown: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            shown[name] = _shown(value)
        elif name.endswith("_ms") and isinstance(value, int):
            shown[f"{name.removesuffix('_ms')}_time"] = format_time(value)
        elif name.startswith("checksum") and isinstance(value, int):
            shown[name] = format_checksum(value)
        else:
            shown[name] = value
    return shown


def _flat(fields: dict[str, object], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = str(value)
    return flat
