"""Results as Markdown: what was measured, and, told apart, what was modelled. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from benchmarks.compare.model import PRICES_BASIS, Modelled
from benchmarks.compare.results import Result, medians

MEGA = 1e6
HOUR_S = 3600
DAY_S = 86_400
VERBS = ("PUT", "GET", "HEAD", "LIST", "DELETE")


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def number(value: float) -> str:
    """Return about three digits, for people."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.01 else f"{value:.1g}"


def measured(results: Sequence[Result]) -> str:
    """Return a section for each workload."""
    parts = []
    for workload in dict.fromkeys(each.workload for each in results):
        own = [each for each in results if each.workload == workload]
        parts += [f"### {workload}\n", _totals(own), _costs(own)]
        restores = _restores(own)
        if restores:
            parts.append(restores)
    return "\n".join(parts)


def modelled(found: Sequence[Modelled]) -> str:
    """Return a section for each workload."""
    parts = [f"Price: {PRICES_BASIS}.\n"]
    for workload in dict.fromkeys(each.workload for each in found):
        own = [each for each in found if each.workload == workload]
        stores = list(own[0].traffic_bytes)
        titles = ["strategy", "live objects", "made", "PUT", "LIST", "GB up", "GB down", "GB stored", "$ a month"]
        rows = [
            [
                each.strategy,
                number(each.live),
                number(each.created),
                number(each.requests["put"]),
                number(each.requests["list"]),
                number(each.upload_bytes / 1e9),
                number(each.download_bytes / 1e9),
                number(each.live_bytes / 1e9),
                number(each.price),
                *(number(each.traffic_bytes[store] / 1e9) for store in stores),
            ]
            for each in own
        ]
        parts += [f"### {workload}: 30 days, modelled\n", table([*titles, *(f"GB, {store}" for store in stores)], rows)]
    return "\n".join(parts)


def incidents(results: Sequence[Result]) -> str:
    """Return what strategies complained of, and every restore that was wrong."""
    lines = []
    for each in results:
        where = f"{each.workload}, {each.strategy}, round {each.round}"
        lines += [f"- {where}: {incident}" for incident in each.incidents if "app-sqlite" not in incident]
        lines += [f"- **{where}: {one.target}: {one.verdict}**" for one in each.restores if one.is_wrong]
    return "\n".join(lines) + "\n" if lines else "None.\n"


def _groups(results: Sequence[Result]) -> list[list[Result]]:
    names = dict.fromkeys(each.strategy for each in results)
    return [[each for each in results if each.strategy == name] for name in names]


def _median(group: Sequence[Result], value: Callable[[Result], float | None], unit: float = 1.0) -> str:
    """Return the median of the rounds, with the least and the most where they differ."""
    found = medians(group, value)
    if found is None:
        return ""
    middle, least, most = (number(each / unit) for each in found)
    return middle if least == most else f"{middle} ({least} to {most})"


def _per_changed(result: Result) -> float | None:
    return result.change_bytes / result.changed_bytes if result.changed_bytes and result.run.created else None


def _totals(results: Sequence[Result]) -> str:
    rows = []
    for group in _groups(results):
        if group[0].strategy == "none":
            continue
        rows.append(
            [
                group[0].strategy,
                _median(group, lambda each: each.run.created),
                _median(group, lambda each: each.run.deleted),
                _median(group, lambda each: each.run.live),
                " / ".join(_median(group, partial(_asked, verb=verb)) for verb in VERBS),
                _median(group, lambda each: each.run.up_bytes, MEGA),
                _median(group, lambda each: each.run.down_bytes, MEGA),
                _median(group, _per_changed),
                _lag(group),
            ]
        )
    titles = ["strategy", "objects made", "deleted", "live", " / ".join(VERBS), "MB up", "MB down"]
    return table([*titles, "bytes per byte changed", "lag p50, p99, max (s)"], rows)


def _asked(result: Result, verb: str) -> float:
    return result.run.requests.get(verb, 0)


def _waited(result: Result, field: str) -> float | None:
    """Return a lag in the seconds of a real day."""
    scale = DAY_S / result.day_s if result.strategy == "daily" else 1.0
    return scale * float(getattr(result.lag_s, field)) if result.lag_s else None


def _lag(group: Sequence[Result]) -> str:
    cells = [_median(group, partial(_waited, field=field)) for field in ("p50", "p99", "max")]
    return ", ".join(cell or "-" for cell in cells)


def _costs(results: Sequence[Result]) -> str:
    without = {each.round: each for each in results if each.strategy == "none"}

    def ratio(result: Result, name: str) -> float | None:
        plain = without.get(result.round)
        if result.together or plain is None or plain.latency_us is None or result.latency_us is None:
            return None
        return float(getattr(result.latency_us, name)) / float(getattr(plain.latency_us, name))

    rows = [
        [
            group[0].strategy,
            _median(group, lambda each: each.start.up_bytes, MEGA),
            _median(group, lambda each: each.start_cpu_s),
            _median(group, lambda each: each.cpu_s * HOUR_S / each.seconds),
            _median(group, lambda each: each.rss_peak_bytes, MEGA),
            _median(group, lambda each: each.local_peak_bytes, MEGA),
            _median(group, lambda each: each.wal_peak_bytes, MEGA),
            _median(group, lambda each: ratio(each, "p50")),
            _median(group, lambda each: ratio(each, "p99")),
            _median(group, lambda each: each.latency_us.max / 1000 if each.latency_us and not each.together else None),
        ]
        for group in _groups(results)
    ]
    titles = [
        "strategy",
        "MB up at the start",
        "CPU s at the start",
        "CPU s an hour",
        "RSS MB",
        "local disk MB",
        "log MB",
    ]
    return table([*titles, "latency p50 ratio", "p99 ratio", "longest stall (ms)"], rows)


def _restores(results: Sequence[Result]) -> str:
    rows = [
        [
            each.strategy,
            one.target,
            number(one.seconds),
            number(one.cpu_s),
            number(one.down_bytes / MEGA),
            " ".join(f"{count} {verb}" for verb, count in one.requests.items()),
            number(one.behind_s),
            one.verdict.split(":")[0],
        ]
        for each in results
        for one in each.restores
    ]
    titles = ["strategy", "restore to", "s", "CPU s", "MB", "requests", "behind (s)", "compared"]
    return table(titles, rows) if rows else ""
