"""`walrep plan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, duration, json_option, size, takes
from walrep.cli.output import Output, format_size
from walrep.cli.session import Session
from walrep.core.budget import PUTS_PER_DAY_MIN, rpo_under
from walrep.core.flush import FlushPolicy
from walrep.core.forecast import Strategy, compare_strategies
from walrep.core.forecast_walrep import WalrepSettings
from walrep.core.observed import Observation, observe_workload
from walrep.core.retention import RetentionPolicy
from walrep.core.target import format_duration, format_time
from walrep.core.traffic import PROFILES, StoreProfile
from walrep.core.workload import DAYS, Forecast, Workload, format_days
from walrep.errors import ObjectNotFound, UsageError
from walrep.store.url import parse_url

__all__ = ["plan"]

_WEEKS = DAYS / 7
_TEXT_WIDTH = 110
_LABEL_WIDTH = 24
_CELL_WIDTH = 12
_FEW = 10
"""Below this a count that is not whole has a decimal."""

_MODEL_NOTE = (
    "a forecast, not a measurement: every day is like the others, commits are spread evenly over the active hours, and "
    "pages are drawn at random, which makes most objects"
)
_RIVALS_NOTE = (
    "Litestream is modelled from the code of 0.5.16 and from what was measured of it; a snapshot a day and an object "
    "for each change are arithmetic"
)
_TYPICAL = Workload(transactions_per_s=0.0)


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    url: str | None
    transactions_per_second: float | None
    changed_bytes: int | None
    pages: float | None
    page_size: int | None
    hours: float | None
    database_size: int | None
    rpo: float | None
    puts_per_day_max: int | None
    retention: float | None
    store_profile: tuple[str, ...]
    as_json: bool


@click.command("plan", cls=Command, short_help="Forecast objects, requests and bytes.", exits=(0, 1, 2, 4, 6, 130))
@click.argument("url", required=False)
@click.option(
    "--transactions-per-second", type=float, metavar="N", help="How often the app commits while it is active."
)
@click.option(
    "--changed-bytes", callback=size, metavar="SIZE", help="What a transaction changes, in bytes.  [default: 140]"
)
@click.option("--pages", type=float, metavar="N", help="How many pages a transaction writes.  [default: 2.2]")
@click.option("--page-size", callback=size, metavar="SIZE", help="Of the database.  [default: 4096]")
@click.option("--hours", type=float, metavar="N", help="How many hours of a day the app is active.  [default: 24]")
@click.option("--database-size", callback=size, metavar="SIZE", help="How large the database is.  [default: 100MB]")
@click.option("--rpo", callback=duration, metavar="DURATION", help="Lag that you accept at most.  [default: 10s]")
@click.option(
    "--puts-per-day-max",
    type=click.IntRange(min=PUTS_PER_DAY_MIN),
    metavar="N",
    help="The RPO is what this budget means, if that is wider.",
)
@click.option("--retention", callback=duration, metavar="DURATION", help="How long things are kept.  [default: 30d]")
@click.option(
    "--store-profile",
    type=click.Choice(tuple(PROFILES)),
    multiple=True,
    help="Traffic between three regions of this store; may be repeated.  [default: all]",
)
@json_option
@takes(_Options)
def plan(session: Session, options: _Options) -> None:
    """Forecast what protecting a database costs in 30 days: objects, requests, bytes, and traffic between regions.

    walrep stands beside other ways to do it: a snapshot a day, an object for each change, Litestream. The workload is
    described by options, or measured from the replica at URL, and options change what was measured. Nothing is written.
    """
    observation = _observe(session, options.url) if options.url is not None else None
    workload = _workload(options, observation)
    asked = _settings(options)
    settings = _under_budget(asked, options.puts_per_day_max, workload)
    profiles = [PROFILES[name] for name in dict.fromkeys(options.store_profile or PROFILES)]
    strategies = compare_strategies(workload, settings, profiles)
    if options.as_json:
        _print_json(session.output, workload, observation, strategies)
    else:
        _print_workload(session.output, workload, observation)
        budget = f", {options.puts_per_day_max} PUTs a day" if options.puts_per_day_max else ""
        if settings != asked:
            budget += f" (an RPO of {asked.flush.rpo_s:g} s would take more)"
        session.output.line(
            f"settings  RPO {settings.flush.rpo_s:.4g} s{budget}, retention {format_days(settings.retention_days)}"
        )
        _print_table(session.output, strategies, profiles)
        _print_notes(session.output, strategies, profiles, measured=observation is not None)


def _under_budget(settings: WalrepSettings, puts_max: int | None, workload: Workload) -> WalrepSettings:
    if puts_max is None:
        return settings
    rpo_s = rpo_under(puts_max, settings.flush.rpo_s, workload.transactions_per_day, workload.active_s)
    return msgspec.structs.replace(settings, flush=msgspec.structs.replace(settings.flush, rpo_s=rpo_s))


def _observe(session: Session, text: str) -> Observation:
    url = parse_url(text)
    history = session.run(app.read_replica(url, clock=session.clock, environment=session.environment))
    if not history.object_count:
        raise ObjectNotFound(
            "there is no replica here",
            detail=str(url),
            hint="check the URL; it is the one given to `walrep replicate`",
        )
    if history.problems:
        count = len(history.problems)
        session.output.note(
            f"the replica has problems ({count}), and what they hide is not measured; see `walrep list`"
        )
    return observe_workload(history)


def _workload(options: _Options, observation: Observation | None) -> Workload:
    """Return what was measured, or else what is typical, with what was said instead."""
    if observation is None and options.transactions_per_second is None:
        raise UsageError(
            "there is no workload to plan for",
            hint="say how often the app commits, with --transactions-per-second, or give the URL of a replica",
        )
    said = {
        "transactions_per_s": options.transactions_per_second,
        "changed_bytes": options.changed_bytes,
        "pages": options.pages,
        "page_size": options.page_size,
        "active_hours": options.hours,
        "database_bytes": options.database_size,
        # What was measured is what was shipped; what is said is what the app changes.
        "encoded_ratio": None if options.changed_bytes is None else _TYPICAL.encoded_ratio,
    }
    before = _TYPICAL if observation is None else observation.workload
    return msgspec.structs.replace(before, **{field: value for field, value in said.items() if value is not None})


def _settings(options: _Options) -> WalrepSettings:
    return WalrepSettings(
        flush=FlushPolicy() if options.rpo is None else FlushPolicy(rpo_s=options.rpo),
        retention=RetentionPolicy() if options.retention is None else RetentionPolicy(window_s=options.retention),
    )


def _print_json(
    output: Output, workload: Workload, observation: Observation | None, strategies: Sequence[Strategy]
) -> None:
    output.record("workload", {**msgspec.structs.asdict(workload), "measured": _measured_fields(observation)})
    for strategy in strategies:
        fields = {"days": DAYS, **msgspec.structs.asdict(strategy.forecast)}
        fields["objects"] = fields.pop("flows")
        output.record("strategy", fields)
        for traffic in strategy.traffic:
            output.record("traffic", {"days": DAYS, **msgspec.structs.asdict(traffic)})


def _measured_fields(observation: Observation | None) -> dict[str, object] | None:
    if observation is None:
        return None
    return {
        "transaction_count": observation.transaction_count,
        "first_time": format_time(observation.first_ms),
        "last_time": format_time(observation.last_ms),
        "span_s": observation.span_ms / 1000,
        "active_s": observation.active_ms / 1000,
    }


def _print_workload(output: Output, workload: Workload, observation: Observation | None) -> None:
    output.line(
        f"workload  {workload.transactions_per_s:.4g} transactions/s, {workload.active_hours:.3g} hours a day: "
        f"{_count(workload.transactions_per_day)} a day"
    )
    what = "shipped" if observation is not None and workload.encoded_ratio == 1 else "changed"
    output.line(
        f"          {format_size(round(workload.changed_bytes))} {what} and {workload.pages:.3g} pages of "
        f"{workload.page_size} bytes written by each; database of {format_size(workload.database_bytes)}"
    )
    if observation is not None:
        output.line(
            f"measured  {observation.transaction_count:,} transactions, {format_time(observation.first_ms)} to "
            f"{format_time(observation.last_ms)},"
        )
        output.line(
            f"          {format_duration(observation.span_ms)}, of which {format_duration(observation.active_ms)} "
            "with commits"
        )


def _print_table(output: Output, strategies: Sequence[Strategy], profiles: Sequence[StoreProfile]) -> None:
    forecasts = [strategy.forecast for strategy in strategies]
    output.line()
    names = [wrap(forecast.strategy, _CELL_WIDTH) for forecast in forecasts]
    height = max(len(lines) for lines in names)
    for index in range(height):
        cells = [lines[index] if index < len(lines) else "" for lines in names]
        output.line(_row(f"in {format_days(DAYS)}" if index == 0 else "", cells))
    for label, cell in _ROWS:
        if cell is None:
            output.line(label)
        else:
            output.line(_row(label, [cell(forecast) for forecast in forecasts]))
    output.line("bytes between regions, each week")
    for index, profile in enumerate(profiles):
        caused = [strategy.traffic[index].caused_bytes for strategy in strategies]
        output.line(_row(f"  {profile.name}", [_bytes(each / _WEEKS) for each in caused]))


def _row(label: str, cells: Sequence[str]) -> str:
    return (label.ljust(_LABEL_WIDTH) + "".join(f" {cell:>{_CELL_WIDTH}}" for cell in cells)).rstrip()


def _count(count: float) -> str:
    return f"{count:.1f}" if 0 < count < _FEW and not count.is_integer() else f"{count:,.0f}"


def _bytes(size_bytes: float) -> str:
    return format_size(round(size_bytes))


_ROWS: tuple[tuple[str, Callable[[Forecast], str] | None], ...] = (
    ("objects", None),
    ("  created", lambda each: _count(each.created_count)),
    ("  deleted", lambda each: _count(each.deleted_count)),
    ("  live after midnight", lambda each: _count(each.live_midnight_count)),
    ("  live at most", lambda each: _count(each.live_peak_count)),
    ("requests", None),
    ("  PUT", lambda each: _count(each.requests.put)),
    ("  GET", lambda each: _count(each.requests.get)),
    ("  HEAD", lambda each: _count(each.requests.head)),
    ("  LIST", lambda each: _count(each.requests.list)),
    ("  DELETE", lambda each: _count(each.requests.delete)),
    ("bytes", None),
    ("  uploaded", lambda each: _bytes(each.upload_bytes)),
    ("  downloaded", lambda each: _bytes(each.download_bytes)),
    ("  stored", lambda each: _bytes(each.live_bytes)),
    ("  growing by", lambda each: _bytes(each.growth_bytes)),
)


def _print_notes(
    output: Output, strategies: Sequence[Strategy], profiles: Sequence[StoreProfile], *, measured: bool
) -> None:
    output.line()
    output.line("restorable")
    for forecast in (strategy.forecast for strategy in strategies):
        output.line(f"  {forecast.strategy}: {forecast.restorable}")
    output.line()
    output.line("notes")
    for text in _general_notes(measured=measured):
        _print_note(output, text)
    told: dict[str, str] = {}
    for forecast in (strategy.forecast for strategy in strategies):
        for note in forecast.notes:
            told.setdefault(note, forecast.strategy)
    for note, name in told.items():
        _print_note(output, f"{name}: {note}")
    for profile in profiles:
        idle = profile.idle_bytes_per_s
        floor = (
            "" if idle is None else f"; the cluster itself adds {_bytes(idle * 7 * 86_400)} a week, whatever is stored"
        )
        _print_note(output, f"{profile.name}: {profile.basis}{floor}")


def _general_notes(*, measured: bool) -> tuple[str, ...]:
    """Return what is measured and what is modelled."""
    source = "the workload was measured, with how well the database compresses; LZ4 is estimated from that"
    if not measured:
        source = "what is not given of the workload, and how well pages compress, is what was measured of a mixed load"
    return (_MODEL_NOTE, source, _RIVALS_NOTE)


def _print_note(output: Output, text: str) -> None:
    for index, line in enumerate(wrap(text, _TEXT_WIDTH - 4)):
        output.line(f"{'    ' if index else '  - '}{line}")
