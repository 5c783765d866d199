"""Results as pictures, PNG and SVG. matplotlib is imported only here: it is in the extra `bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.compare.model import Modelled, restore_points
from benchmarks.compare.results import Result, medians

STORE = "garage"
"""The store of the incident, between three regions."""

SIZE = (8.0, 4.8)
COLORS = {
    "walrep": "#0b6e4f",
    "litestream": "#c8553d",
    "daily": "#5b5f97",
    "per-change": "#8d6a9f",
    "object": "#8d6a9f",
}
MARKERS = "osD^Xvp*h"
YOUNGEST_S, OLDEST_S = 1.0, 40 * 86_400.0


def can_plot() -> bool:
    """Return whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def plot_all(folder: Path, results: Sequence[Result], found: Sequence[Modelled]) -> list[Path]:
    """Draw everything that there are numbers for."""
    # It looks for a display otherwise, and writes identifiers into an SVG that differ from run to run.
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "walrep"
    mpl.rcParams["axes.spines.top"] = mpl.rcParams["axes.spines.right"] = False
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for workload in dict.fromkeys(each.workload for each in found):
        own = [each for each in found if each.workload == workload]
        made += _draw(folder / f"pareto-{workload}", partial(_pareto, found=own))
        made += _draw(folder / f"objects-{workload}", partial(_objects, found=own))
    for workload in dict.fromkeys(each.workload for each in results):
        own_results = [each for each in results if each.workload == workload]
        rate = own_results[0].transactions / own_results[0].seconds
        if any(each.run.created for each in own_results):
            made += _draw(folder / f"live-{workload}", partial(_live, results=own_results))
        if any(each.lag_s for each in own_results):
            made += _draw(folder / f"lag-{workload}", partial(_lag, results=own_results))
        if any(each.latency_us and not each.together for each in own_results):
            made += _draw(folder / f"latency-{workload}", partial(_latency, results=own_results))
        names = [each.strategy for each in found if each.workload == workload]
        if names:
            made += _draw(
                folder / f"restore-points-{workload}",
                partial(_restore_points, names=names, rate=rate),
            )
    return made


def _draw(path: Path, draw: Callable[[Any], None]) -> list[Path]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.add_subplot())
    made = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for each in made:
        figure.savefig(each, dpi=110, metadata={"Date": None} if each.suffix == ".svg" else None)
    return made


def _color(strategy: str) -> str:
    return next((color for name, color in COLORS.items() if strategy.startswith(name)), "#666666")


def _pareto(axes: Any, found: Sequence[Modelled]) -> None:  # noqa: ANN401 - matplotlib's, which may not be installed
    for marker, each in zip(MARKERS, found, strict=False):
        place = max(each.live, 1), each.traffic_bytes[STORE] / 1e9
        axes.scatter(*place, s=90, marker=marker, color=_color(each.strategy), label=each.strategy, zorder=3)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="live objects after 30 days",
        ylabel="GB between three regions, in 30 days (Garage)",
        title=f"{found[0].workload}: modelled from measured sizes; left and down is better",
    )
    axes.margins(0.15)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(visible=True, which="major", alpha=0.3)


def _objects(axes: Any, found: Sequence[Modelled]) -> None:  # noqa: ANN401 - the same
    for index, each in enumerate(found):
        days = range(1, len(each.live_by_day) + 1)
        axes.plot(days, each.live_by_day, label=each.strategy, color=_color(each.strategy), linestyle=_style(index))
    axes.set(
        yscale="log", xlabel="days", ylabel="live objects at midnight", title=f"{found[0].workload}: objects, modelled"
    )
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(visible=True, alpha=0.3)


def _restore_points(axes: Any, names: Sequence[str], rate: float) -> None:  # noqa: ANN401 - the same
    drawn = set()
    for index, name in enumerate(names):
        every = name.startswith(("walrep", "object"))
        label = "walrep, object per change" if every else name
        if label in drawn:
            continue
        drawn.add(label)
        ages, spacings = [YOUNGEST_S], []
        for age_s, spacing_s in restore_points(name, rate):
            ages.append(age_s)
            spacings.append(spacing_s)
        axes.stairs(
            spacings, ages, baseline=None, label=label, color=_color(name), linestyle=_style(index), linewidth=2
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(YOUNGEST_S, OLDEST_S),
        xlabel="age of the state (s); a day is 86,400",
        ylabel="seconds from one restore point to the next",
        ylim=(min(0.05, 0.5 / rate), 1e7),
        title=f"how finely one can go back, at {rate:.3g} transactions a second; a line ends where nothing is kept",
    )
    axes.legend(fontsize=8, ncols=2, loc="upper left")
    axes.grid(visible=True, alpha=0.3)


def _live(axes: Any, results: Sequence[Result]) -> None:  # noqa: ANN401 - the same
    for index, each in enumerate(each for each in results if not each.round and each.strategy != "none"):
        seconds, counts = zip(*each.live_series, strict=True)
        axes.plot(seconds, counts, label=each.strategy, color=_color(each.strategy), linestyle=_style(index))
    axes.set(
        yscale="log",
        xlabel="seconds; walrep-packs has days of 40 s and a grace of 4 s, daily has days of 20 s",
        ylabel="live objects",
        title=f"{results[0].workload}: objects, measured",
    )
    axes.legend(fontsize=8)
    axes.grid(visible=True, alpha=0.3)


def _lag(axes: Any, results: Sequence[Result]) -> None:  # noqa: ANN401 - the same
    for index, each in enumerate(results):
        # A scaled day says nothing about seconds; and one round is enough to see the shape.
        if each.lag_s is None or each.round or each.strategy == "daily":
            continue
        steps = [max(step, 1e-3) for step in each.lag_s.steps]
        axes.plot(steps, range(101), label=each.strategy, color=_color(each.strategy), linestyle=_style(index))
    axes.set(
        xscale="log",
        xlabel="seconds from commit until it is durable in the store",
        ylabel="% of commits",
        title=f"{results[0].workload}: lag, measured",
    )
    axes.legend(fontsize=8)
    axes.grid(visible=True, alpha=0.3)


def _latency(axes: Any, results: Sequence[Result]) -> None:  # noqa: ANN401 - the same
    names = list(dict.fromkeys(each.strategy for each in results))
    for offset, field, alpha in ((-0.27, "p50", 1.0), (0.0, "p99", 0.65), (0.27, "max", 0.35)):
        for place, name in enumerate(names):
            group = [each for each in results if each.strategy == name]
            found = medians(group, partial(_latency_of, field=field))
            if found is None:
                continue
            middle, least, most = (each / 1000 for each in found)
            axes.bar(place + offset, middle, 0.25, color=_color(name), alpha=alpha)
            axes.errorbar(place + offset, middle, [[middle - least], [most - middle]], color="#333333", linewidth=1)
    axes.set(
        yscale="log",
        ylabel="ms for a transaction",
        title=f"{results[0].workload}: latency of the writer: p50, p99, longest; median and range of runs",
    )
    axes.set_xticks(range(len(names)), names, rotation=15)
    axes.grid(visible=True, axis="y", alpha=0.3)


def _latency_of(result: Result, field: str) -> float | None:
    return float(getattr(result.latency_us, field)) if result.latency_us else None


def _style(index: int) -> str:
    return ("-", "--", ":", "-.")[index % 4]
