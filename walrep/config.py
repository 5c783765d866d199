"""From `walrep.toml` and arguments to the settings of replication.

    rpo = "10s"                      # the first five are defaults for all databases; each may override them
    first-commit = "1s"
    segment-size = "64MiB"
    outbox-limit = "1GiB"
    cache-limit = "256MiB"
    disk-reserve = "64MiB"
    shutdown-deadline = "30s"        # this one and the next are for all
    rival-check = "15m"

    [s3]                             # what the URLs of buckets leave open
    endpoint = "https://s3.example.com"
    secret-access-key = "$BACKUP_SECRET"

    [[database]]
    path = "/srv/app/app.db"
    replica = "file:///backup/app"
    state-dir = ""                   # default: .<name>-walrep beside the database
    enable-wal = false
    wait = false

Durations are `"10s"`, `"15m"`, `"1h"` or seconds; sizes are `"64MiB"`, `"1GiB"` or bytes. `~`, `$VAR` and `${VAR}` in
paths and URLs are expanded (`$$` is a dollar), and relative paths are relative to the file. Whatever is not
understood is an error: a misspelt setting that is ignored is a backup that is not made.

This module opens one file, the configuration. It must not know what the settings do.
"""

from __future__ import annotations

import difflib
import re
import string
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from walrep.core.amounts import Duration, Size, parse_duration_s, parse_size_bytes
from walrep.core.flush import FlushPolicy
from walrep.engine.settings import DatabaseSettings, ReplicateSettings, SpoolLimits, default_state_dir
from walrep.errors import UsageError
from walrep.store.s3_url import S3Access, check_access
from walrep.store.url import StoreUrl, parse_url

__all__ = [
    "ConfigFile",
    "DatabaseTable",
    "Overrides",
    "Tuning",
    "load_settings",
    "settings_from_pairs",
]

_TOML_WORDS = {
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "int": "an integer",
    "float": "a number",
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:", re.ASCII)
_CONVERT_ERROR = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)

T = TypeVar("T")


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What stands at the top for all databases, and again where one differs. None: not said."""

    rpo: Duration | None = None
    first_commit: Duration | None = None
    segment_size: Size | None = None
    outbox_limit: Size | None = None
    cache_limit: Size | None = None
    disk_reserve: Size | None = None


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
    s3: S3Access = S3Access()
    database: tuple[DatabaseTable, ...] = ()


class Overrides(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says; it wins over the file. None: not said."""

    rpo_s: float | None = None
    shutdown_deadline_s: float | None = None
    state_dir: Path | None = None
    enable_wal: bool = False
    wait: bool = False
    new_timeline: bool = False
    take_over: bool = False


def load_settings(file: Path, overrides: Overrides, environment: Mapping[str, str]) -> ReplicateSettings:
    """Read the configuration file and apply what the command line says.

    Raises:
        UsageError: it cannot be read, is not TOML, or says something that is not understood or contradicts itself.

    """
    written = _read_file(file)
    if not written.database:
        raise UsageError(
            "the configuration names no database", detail=str(file), hint="add a [[database]] with path and replica"
        )
    if overrides.state_dir is not None:
        raise UsageError("--state-dir does not go with --config", hint="write state-dir into the [[database]] table")
    base = file.absolute().parent
    databases = []
    for index, table in enumerate(written.database):
        where = f"{file}, database[{index}]"
        databases.append(_database(table, written, overrides, _Places(base, environment, where)))
    _check_distinct(databases)
    deadline_s = _first_said(overrides.shutdown_deadline_s, written.shutdown_deadline)
    s3 = _s3_defaults(written.s3, _Places(base, environment, f"{file}, s3"))
    return _settings(databases, shutdown_deadline_s=deadline_s, rival_check_s=written.rival_check, s3=s3)


def settings_from_pairs(
    pairs: Sequence[str], overrides: Overrides, environment: Mapping[str, str]
) -> ReplicateSettings:
    """Return the settings for `DB URL [DB URL]...`, with paths relative to the working directory.

    Raises:
        UsageError: a URL is missing or not understood, or a database or replica is named twice.

    """
    if not pairs:
        raise UsageError(
            "no database is named",
            hint="write `walrep replicate app.db file:///backup/app`, or `walrep replicate --config walrep.toml`",
        )
    if len(pairs) % 2:
        raise UsageError(
            "databases and URLs come in pairs", detail=f"{pairs[-1]!r} has no partner", hint="write DB URL [DB URL]..."
        )
    paths, urls = pairs[::2], pairs[1::2]
    if overrides.state_dir is not None and len(paths) > 1:
        raise UsageError("--state-dir goes with one database", hint="use a walrep.toml with one state-dir for each")
    state_dir = str(overrides.state_dir) if overrides.state_dir else ""
    # A shell has expanded what its user meant to be expanded; what is left is part of a name.
    places = _Places(Path.cwd(), environment, "arguments", literal=True)
    databases = [
        _database(DatabaseTable(path=path, replica=url, state_dir=state_dir), Tuning(), overrides, places)
        for path, url in zip(paths, urls, strict=True)
    ]
    _check_distinct(databases)
    return _settings(databases, shutdown_deadline_s=overrides.shutdown_deadline_s)


def _read_file(file: Path) -> ConfigFile:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("the configuration cannot be read", detail=f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("the configuration is not TOML", detail=f"{file}: {error}") from error
    _check_keys(document, ConfigFile, file, "")
    tables = document.get("database")
    for index, table in enumerate(tables if isinstance(tables, list) else []):
        if isinstance(table, dict):
            _check_keys(table, DatabaseTable, file, f"database[{index}].")
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
    return Duration(parse_duration_s(value)) if kind is Duration else Size(parse_size_bytes(value))


def _in_toml_words(message: str) -> str:
    """Return msgspec's "Expected `bool`, got `str`" with the words of TOML."""
    words = re.sub(r"`(\w+)`(?= \| |,|$)", lambda match: _TOML_WORDS.get(match[1], match[0]), message)
    return words[:1].lower() + words[1:]


def _check_keys(table: Mapping[str, object], kind: type[msgspec.Struct], file: Path, prefix: str) -> None:
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


class _Places(msgspec.Struct, frozen=True):
    """Against what paths and variables are read, and where they are written."""

    base: Path
    environment: Mapping[str, str]
    where: str
    literal: bool = False

    def expand(self, text: str, key: str) -> str:
        if self.literal:
            return text
        try:
            expanded = string.Template(text).substitute(self.environment)
        except KeyError as error:
            raise UsageError(
                "an environment variable is not set", detail=f"{self.where}.{key}: ${error.args[0]}"
            ) from error
        except ValueError as error:
            raise UsageError(
                "a dollar sign is not followed by a name", detail=f"{self.where}.{key}: {text}", hint="write $$ for one"
            ) from error
        if expanded == "~" or expanded.startswith("~/"):
            home = self.environment.get("HOME")
            if not home:
                raise UsageError("an environment variable is not set", detail=f"{self.where}.{key}: $HOME, for ~")
            return home + expanded[1:]
        return expanded

    def path(self, text: str, key: str) -> Path:
        expanded = self.expand(text, key)
        if not expanded:
            raise UsageError("a path is empty", detail=f"{self.where}.{key}")
        return self.base / expanded

    def url(self, text: str, key: str) -> StoreUrl:
        expanded = self.expand(text, key)
        is_path = not self.literal and expanded and _SCHEME.match(expanded) is None
        try:
            return parse_url(str(self.base / expanded) if is_path else expanded)
        except UsageError as error:
            # The detail of the error, and not what was written: that may hold a secret.
            detail = f"{self.where}.{key}: {error.detail}" if error.detail else f"{self.where}.{key}"
            raise UsageError(error.message, detail=detail, hint=error.hint) from error


def _database(table: DatabaseTable, defaults: Tuning, overrides: Overrides, places: _Places) -> DatabaseSettings:
    path = places.path(table.path, "path")
    flush = FlushPolicy(
        **_said(
            rpo_s=_first_said(overrides.rpo_s, table.rpo, defaults.rpo),
            first_commit_s=_first_said(table.first_commit, defaults.first_commit),
            segment_bytes_max=_first_said(table.segment_size, defaults.segment_size),
        )
    )
    spool = SpoolLimits(
        **_said(
            outbox_bytes_max=_first_said(table.outbox_limit, defaults.outbox_limit),
            cache_bytes_max=_first_said(table.cache_limit, defaults.cache_limit),
            disk_reserve_bytes=_first_said(table.disk_reserve, defaults.disk_reserve),
        )
    )
    _check_amounts(flush, spool, places.where)
    return DatabaseSettings(
        path=path,
        url=places.url(table.replica, "replica"),
        state_dir=places.path(table.state_dir, "state-dir") if table.state_dir else default_state_dir(path),
        flush=flush,
        spool=spool,
        enable_wal=table.enable_wal or overrides.enable_wal,
        wait=table.wait or overrides.wait,
        new_timeline=overrides.new_timeline,
        take_over=overrides.take_over,
    )


def _check_amounts(flush: FlushPolicy, spool: SpoolLimits, where: str) -> None:
    if flush.rpo_s <= 0:
        raise UsageError("the RPO must be more than zero", detail=where, hint='write rpo = "1s" for the least lag')
    if flush.segment_bytes_max <= 0:
        raise UsageError("segment-size must be more than zero", detail=where)
    if spool.outbox_bytes_max < flush.segment_bytes_max:
        raise UsageError(
            "outbox-limit is smaller than segment-size",
            detail=f"{where}: {spool.outbox_bytes_max} < {flush.segment_bytes_max} bytes",
            hint="a segment waits in the outbox until the store has it; allow for many of them, for an outage",
        )


def _s3_defaults(written: S3Access, places: _Places) -> S3Access:
    """Expand variables in `[s3]`, so that secrets need not stand in the file."""
    texts = {
        field.name: places.expand(value, field.encode_name)
        for field in msgspec.structs.fields(S3Access)
        if isinstance(value := getattr(written, field.name), str)
    }
    try:
        return check_access(msgspec.structs.replace(written, **texts))
    except UsageError as error:
        raise UsageError(error.message, detail=f"{places.where}: {error.detail}", hint=error.hint) from error


def _settings(databases: Sequence[DatabaseSettings], **said: object) -> ReplicateSettings:
    return ReplicateSettings(databases=tuple(databases), **_said(**said))


def _said(**values: object) -> dict[str, Any]:
    """Return what was said, so that the struct that owns a setting also owns its default."""
    return {name: value for name, value in values.items() if value is not None}


def _first_said(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _check_distinct(databases: Sequence[DatabaseSettings]) -> None:
    _refuse_twice("the same database is named twice", databases, lambda one: str(one.path.resolve()))
    _refuse_twice("two databases have the same replica", databases, lambda one: one.url.place)
    _refuse_twice("two databases have the same state directory", databases, lambda one: str(one.state_dir.resolve()))


def _refuse_twice(
    message: str, databases: Iterable[DatabaseSettings], identity: Callable[[DatabaseSettings], str]
) -> None:
    seen: dict[str, Path] = {}
    for one in databases:
        key = identity(one)
        if key in seen:
            raise UsageError(message, detail=f"{key}, for {seen[key]} and {one.path}")
        seen[key] = one.path
