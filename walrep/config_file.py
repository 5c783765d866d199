"""`walrep.toml` as it is written: strict structs, and errors that say where and what was meant.

This module opens one file, the configuration. It must not know what the settings do (`walrep.config` composes them).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from walrep.core.amounts import (
    Duration,
    Rate,
    Size,
    TimeOfDay,
    parse_duration_s,
    parse_rate_bytes_per_s,
    parse_size_bytes,
    parse_time_of_day_s,
)
from walrep.errors import UsageError
from walrep.store.s3_url import S3Access

__all__ = ["ConfigFile", "DatabaseTable", "RetentionTable", "Tuning", "read_file"]

_TOML_WORDS = {
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "int": "an integer",
    "float": "a number",
}
_CONVERT_ERROR = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)


class RetentionTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """`[retention]`, or that of one database, as written. None: not said."""

    window: Duration | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    snapshots_min: int | None = None
    prune: bool | None = None


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What stands at the top for all databases, and again where one differs. None: not said."""

    rpo: Duration | None = None
    first_commit: Duration | None = None
    segment_size: Size | None = None
    outbox_limit: Size | None = None
    cache_limit: Size | None = None
    full_limit: Size | None = None
    disk_reserve: Size | None = None
    snapshots: bool | None = None
    snapshot_at: TimeOfDay | None = None
    puts_per_day_max: int | None = None
    upload_bytes_per_day_warn: Size | None = None
    retention: RetentionTable = RetentionTable()


class DatabaseTable(Tuning, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One `[[database]]`, as written."""

    path: str
    replica: str
    state_dir: str = ""
    enable_wal: bool = False
    wait: bool = False


class ConfigFile(Tuning, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """`walrep.toml`, as written."""

    shutdown_deadline: Duration | None = None
    rival_check: Duration | None = None
    limit_upload: Rate | None = None
    s3: S3Access = S3Access()
    database: tuple[DatabaseTable, ...] = ()


def read_file(file: Path) -> ConfigFile:
    """Return what the file says.

    Raises:
        UsageError: it cannot be read, is not TOML, or says something that is not understood.

    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("the configuration cannot be read", detail=f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError("the configuration is not TOML", detail=f"{file}: {error}") from error
    _check_keys(document, ConfigFile, file, "")
    _check_keys(document.get("retention"), RetentionTable, file, "retention.")
    tables = document.get("database")
    for index, table in enumerate(tables if isinstance(tables, list) else []):
        _check_keys(table, DatabaseTable, file, f"database[{index}].")
        retention = table.get("retention") if isinstance(table, dict) else None
        _check_keys(retention, RetentionTable, file, f"database[{index}].retention.")
    try:
        return msgspec.convert(document, ConfigFile, dec_hook=_decode)
    except msgspec.ValidationError as error:
        match = _CONVERT_ERROR.fullmatch(str(error))
        path, what = (match["path"] or "", match["what"]) if match else ("", str(error))
        is_single_table = path == "database" and isinstance(document.get("database"), dict)
        raise UsageError(
            "the configuration is wrong",
            detail=f"{file}: {path}: {_in_toml_words(what)}" if path else f"{file}: {_in_toml_words(what)}",
            hint="write [[database]] with two brackets" if is_single_table else "",
        ) from error


def _decode(kind: type, value: object) -> object:
    """Convert what msgspec does not know; it adds the key path to a ValueError."""
    if kind is TimeOfDay:
        return TimeOfDay(parse_time_of_day_s(value))
    if kind is Rate:
        return Rate(parse_rate_bytes_per_s(value))
    return Duration(parse_duration_s(value)) if kind is Duration else Size(parse_size_bytes(value))


def _in_toml_words(message: str) -> str:
    """Return msgspec's "Expected `bool`, got `str`" with the words of TOML."""
    words = re.sub(r"`(\w+)`(?= \| |,|$)", lambda match: _TOML_WORDS.get(match[1], match[0]), message)
    return words[:1].lower() + words[1:]


def _check_keys(table: object, kind: type[msgspec.Struct], file: Path, prefix: str) -> None:
    """Refuse keys that do not exist; what is no table is for msgspec to refuse."""
    if not isinstance(table, Mapping):
        return
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    unknown = [key for key in table if key not in known]
    if not unknown:
        return
    near = difflib.get_close_matches(unknown[0].replace("_", "-").lower(), known, n=1)
    raise UsageError(
        "the configuration has a setting that does not exist",
        detail=f"{file}: {prefix}{unknown[0]}",
        hint=f"did you mean {near[0]!r}?" if near else f"there is {', '.join(sorted(known))}",
    )
