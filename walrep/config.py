"""From `walrep.toml` and arguments to the settings of replication.

    rpo = "10s"                      # the first seven are defaults for all databases; each may override them
    first-commit = "1s"
    segment-size = "64MiB"
    outbox-limit = "1GiB"
    cache-limit = "256MiB"
    full-limit = "1GiB"
    disk-reserve = "64MiB"
    shutdown-deadline = "30s"        # this one and the next two are for all
    rival-check = "15m"
    limit-upload = "2MiB/s"          # of all databases together; default: as fast as it goes

    snapshots = true                 # one a day beside the base, when something was committed
    snapshot-at = "03:00"            # UTC; default: spread by the identity of the replica

    puts-per-day-max = 500           # PUTs of each database on a day (UTC); default: any number
    upload-bytes-per-day-warn = "1GB"

    [retention]                      # a default for all databases, too
    window = "30d"                   # any transaction of that long
    daily = 0                        # snapshots beyond: the last one of each of so many days, weeks, months, years
    weekly = 0
    monthly = 0
    yearly = 0
    snapshots-min = 2                # so many snapshots stay however old they are
    prune = true                     # false: delete nothing by age here; `walrep prune` runs elsewhere

    [s3]                             # what the URLs of buckets leave open
    endpoint = "https://s3.example.com"
    secret-access-key = "$BACKUP_SECRET"

    [[database]]
    path = "/srv/app/app.db"
    replica = "file:///backup/app"
    state-dir = ""                   # default: .<name>-walrep beside the database
    enable-wal = false
    wait = false
    retention = { window = "7d" }

Durations are `"10s"`, `"15m"`, `"1h"` or seconds; sizes are `"64MiB"`, `"1GiB"` or bytes. `~`, `$VAR` and `${VAR}` in
paths and URLs are expanded (`$$` is a dollar), and relative paths are relative to the file. Whatever is not
understood is an error: a misspelt setting that is ignored is a backup that is not made.

This module must not know what the settings do.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from walrep.config_file import DatabaseTable, RetentionTable, Tuning, read_file
from walrep.core.amounts import Duration, Rate, Size, TimeOfDay
from walrep.core.budget import PUTS_PER_DAY_MIN, SEGMENTS_PER_DAY_MIN, UPKEEP_PUTS_PER_DAY, BudgetPolicy
from walrep.core.flush import FlushPolicy
from walrep.core.retention import RetentionPolicy
from walrep.core.snapshots import SnapshotPolicy
from walrep.engine.settings import DatabaseSettings, ReplicateSettings, SpoolLimits, default_state_dir
from walrep.errors import UsageError
from walrep.store.s3_url import S3Access, check_access
from walrep.store.url import StoreUrl, parse_url

__all__ = [
    "Overrides",
    "load_settings",
    "retention_for",
    "settings_from_pairs",
]

_SEGMENTS_IN_OUTBOX_MIN = 4
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:", re.ASCII)

T = TypeVar("T")


class Overrides(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says; it wins over the file. None: not said."""

    rpo_s: float | None = None
    shutdown_deadline_s: float | None = None
    upload_bytes_per_s: int | None = None
    state_dir: Path | None = None
    snapshot_at_s: int | None = None
    puts_per_day_max: int | None = None
    upload_bytes_per_day_warn: int | None = None
    enable_wal: bool = False
    wait: bool = False
    new_timeline: bool = False
    take_over: bool = False


def load_settings(file: Path, overrides: Overrides, environment: Mapping[str, str]) -> ReplicateSettings:
    """Read the configuration file and apply what the command line says.

    Raises:
        UsageError: it cannot be read, is not TOML, or says something that is not understood or contradicts itself.

    """
    written = read_file(file)
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
    return _settings(
        databases,
        shutdown_deadline_s=deadline_s,
        rival_check_s=written.rival_check,
        s3=s3,
        upload_bytes_per_s=_first_said(overrides.upload_bytes_per_s, written.limit_upload),
    )


def retention_for(
    url: StoreUrl, said: RetentionTable, file: Path | None, environment: Mapping[str, str]
) -> RetentionPolicy:
    """Return the retention of a replica: what the command line says, then what the file does, if there is one.

    Raises:
        UsageError: the file is wrong, or no database of it has this replica; or a number makes no sense.

    """
    if file is None:
        return _retention(said, where="arguments")
    written = read_file(file)
    for index, table in enumerate(written.database):
        places = _Places(file.absolute().parent, environment, f"{file}, database[{index}]")
        if places.url(table.replica, "replica").place == url.place:
            return _retention(said, table.retention, written.retention, where=places.where)
    raise UsageError(
        "no database of the configuration has this replica",
        detail=f"{file}: {url}",
        hint="give the URL as it stands there",
    )


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
    return _settings(
        databases,
        shutdown_deadline_s=overrides.shutdown_deadline_s,
        upload_bytes_per_s=overrides.upload_bytes_per_s,
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
            full_bytes_max=_first_said(table.full_limit, defaults.full_limit),
            disk_reserve_bytes=_first_said(table.disk_reserve, defaults.disk_reserve),
        )
    )
    budget = BudgetPolicy(
        **_said(
            puts_per_day_max=_first_said(overrides.puts_per_day_max, table.puts_per_day_max, defaults.puts_per_day_max),
            upload_bytes_per_day_warn=_first_said(
                overrides.upload_bytes_per_day_warn,
                table.upload_bytes_per_day_warn,
                defaults.upload_bytes_per_day_warn,
            ),
        )
    )
    _check_amounts(flush, spool, places.where)
    _check_budget(budget, flush, spool, places.where)
    prunes = _first_said(table.retention.prune, defaults.retention.prune) is not False
    policy = _retention(table.retention, defaults.retention, where=places.where)
    snapshots = _first_said(table.snapshots, defaults.snapshots) is not False
    at_s = _first_said(overrides.snapshot_at_s, table.snapshot_at, defaults.snapshot_at)
    return DatabaseSettings(
        path=path,
        url=places.url(table.replica, "replica"),
        state_dir=places.path(table.state_dir, "state-dir") if table.state_dir else default_state_dir(path),
        flush=flush,
        spool=spool,
        retention=policy if prunes else None,
        snapshots=SnapshotPolicy(automatic=snapshots, at_s=at_s),
        budget=budget,
        enable_wal=table.enable_wal or overrides.enable_wal,
        wait=table.wait or overrides.wait,
        new_timeline=overrides.new_timeline,
        take_over=overrides.take_over,
    )


def _retention(*tables: RetentionTable, where: str) -> RetentionPolicy:
    """Return the policy of the first of these tables that says something about each number."""
    fields = ("window", "daily", "weekly", "monthly", "yearly", "snapshots_min")
    said = _said(**{name: _first_said(*(getattr(table, name) for table in tables)) for name in fields})
    negative = [name.replace("_", "-") for name, value in said.items() if value < 0]
    if negative:
        raise UsageError("a number of a retention is below zero", detail=f"{where}: {', '.join(negative)}")
    if "window" in said:
        said["window_s"] = said.pop("window")
    return RetentionPolicy(**said)


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


def _check_budget(budget: BudgetPolicy, flush: FlushPolicy, spool: SpoolLimits, where: str) -> None:
    puts_max = budget.puts_per_day_max
    if puts_max is None:
        return
    if puts_max < PUTS_PER_DAY_MIN:
        raise UsageError(
            "puts-per-day-max is too small",
            detail=f"{where}: {puts_max} < {PUTS_PER_DAY_MIN}",
            hint=f"a segment an hour is {SEGMENTS_PER_DAY_MIN} a day, their packs {SEGMENTS_PER_DAY_MIN // 2}, and the "
            f"day's pack, a snapshot, retention and starts {UPKEEP_PUTS_PER_DAY}: at least {PUTS_PER_DAY_MIN} together",
        )
    if spool.outbox_bytes_max < _SEGMENTS_IN_OUTBOX_MIN * flush.segment_bytes_max:
        raise UsageError(
            "outbox-limit is too small beside puts-per-day-max",
            detail=f"{where}: {spool.outbox_bytes_max} < {_SEGMENTS_IN_OUTBOX_MIN} * {flush.segment_bytes_max} bytes",
            hint="full segments wait there for their turn: allow for four of segment-size, or make that smaller",
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
    """Return what was said, so that the struct that owns a setting also owns its default; as plain numbers."""
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: object) -> object:
    """Return a number of a unit without it: events tell settings, and they are encoded as what they are."""
    if isinstance(value, Duration):
        return float(value)
    return int(value) if isinstance(value, Rate | Size | TimeOfDay) else value


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
