"""`python -m benchmarks compare`: workloads x strategies, measured, modelled for 30 days, told as tables and plots."""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks.children import ROOT
from benchmarks.compare.apps import OwnApp, Templates
from benchmarks.compare.litestream import Litestream, TunedLitestream, litestream_version
from benchmarks.compare.publishing import Facts, Record, publish, read
from benchmarks.compare.results import Result
from benchmarks.compare.running import Turn, run_once, staged
from benchmarks.compare.strategies import Daily, Nothing, PerChange, ScaledWalrep, Strategy, Walrep
from benchmarks.compare.workloads import WORKLOADS, Workload
from benchmarks.report import machine

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "none": Nothing,
    "walrep-1s": lambda: Walrep(1.0, "walrep-1s"),
    "walrep-10s": lambda: Walrep(10.0, "walrep-10s"),
    "walrep-1m": lambda: Walrep(60.0, "walrep-1m"),
    "walrep-packs": ScaledWalrep,
    "per-change": PerChange,
    "daily": Daily,
    "litestream": Litestream,
    "litestream-tuned": TunedLitestream,
}
QUICK_WORKLOADS = ("idle", "steady", "busy", "queue")
OWN_S = 60.0
STAMP = "%Y-%m-%dT%H-%M-%S"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared, where."""

    directory: Path
    quick: bool
    seed: int
    strategies: tuple[str, ...]
    templates: Templates

    def strategies_for(self, workload: Workload) -> list[str]:
        """Return which strategies take part in a workload."""
        seconds = workload.seconds(quick=self.quick)
        found = []
        for name in self.strategies:
            strategy = STRATEGIES[name]()
            left_out = strategy.turns_only if workload.together else strategy.together_only
            if strategy.needs_s <= seconds and not left_out and (not workload.only or name in workload.only):
                found.append(name)
        return found

    def run(self, workload: Workload) -> list[Result]:
        """Run every strategy: all at once, or in turns."""
        names = self.strategies_for(workload)
        rounds = 1 if self.quick or workload.together else workload.rounds
        for index in range(len(workload.rates)):
            self.templates.path(workload, index)
        # Made and measured before runs that take place together would do it twice.
        self.templates.pages(workload)
        found = []
        for number in range(rounds):
            # Every round begins with another strategy: what disturbs the machine for a while disturbs each in turn.
            found += self._round(workload, number, [*names[number:], *names[:number]])
        return found

    def _round(self, workload: Workload, number: int, names: Sequence[str]) -> list[Result]:
        folder = self.directory / f"{workload.name}-{number}"
        at_once = len(names) if workload.together else 1
        barrier = threading.Barrier(at_once)
        turn = Turn(
            workload=workload,
            round=number,
            seconds=workload.seconds(quick=self.quick),
            seed=self.seed + number,
            meet=barrier.wait,
            alone=threading.Lock(),
        )
        with staged(folder / "server") as stage, ThreadPoolExecutor(at_once) as pool:

            def run(name: str) -> Result:
                try:
                    result = run_once(stage, STRATEGIES[name](), self.templates, folder / f"{folder.name}-{name}", turn)
                except BaseException:
                    barrier.abort()
                    raise
                print(_line(result), flush=True)
                return result

            return list(pool.map(run, names))


def main(arguments: Sequence[str]) -> int:
    """Compare, and publish; the exit code is 1 if a restore was wrong."""
    options = _parser().parse_args(arguments)
    own = OwnApp(options.database.resolve(), options.command) if options.database else None
    names = options.workloads or (QUICK_WORKLOADS if options.quick else tuple(WORKLOADS))
    workloads = [_own_workload(options.seconds)] if own else [WORKLOADS[name] for name in names]
    if options.again:
        publish(options.again, read(options.again))
        return 0
    began = time.strftime(STAMP)
    version = litestream_version()
    strategies = [name for name in options.strategies if version or not name.startswith("litestream")]
    if not version:
        print("no litestream on PATH: it is left out")
    facts = machine()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="walrep-compare-", dir=options.directory) as text:
        folder = Path(text)
        comparison = Comparison(
            directory=folder,
            quick=options.quick,
            seed=options.seed,
            strategies=tuple(strategies),
            templates=Templates(folder, options.seed, own),
        )
        for workload in workloads:
            print(f"{workload.name}: {workload.what}", flush=True)
            results += comparison.run(workload)
    facts_of_all = Facts(
        began=began,
        ended=time.strftime(STAMP),
        quick=options.quick,
        seed=options.seed,
        machine=facts,
        litestream=version,
        workloads=workloads,
    )
    publish(
        options.out or ROOT / "benchmarks" / "results" / f"compare-{began}", Record(facts=facts_of_all, results=results)
    )
    return 1 if any(each.is_wrong for result in results for each in result.restores) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under five minutes: a look, not a result")
    parser.add_argument("--workloads", type=_names(WORKLOADS), help=",".join(WORKLOADS))
    parser.add_argument("--strategies", type=_names(STRATEGIES), default=list(STRATEGIES), help=",".join(STRATEGIES))
    parser.add_argument(
        "--again", type=Path, metavar="DIR", help="measure nothing: tables and pictures of these results"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: benchmarks/results/compare-TIME")
    parser.add_argument("--directory", type=Path, help="where databases are made; default: a temporary one")
    parser.add_argument("--database", type=Path, metavar="FILE", help="your own database, in WAL mode; copies are used")
    parser.add_argument("--command", metavar="COMMAND", help="your own app, which writes to $WALREP_BENCH_DATABASE")
    parser.add_argument("--seconds", type=float, default=OWN_S, help="how long your own app runs (default: 60)")
    return parser


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(known)}")
        return names

    return parse


def _own_workload(seconds: float) -> Workload:
    return Workload(name="own", what="your own app", shape="", rates=(0.0,), quick_s=seconds, full_s=seconds, rounds=2)


def _line(result: Result) -> str:
    """Return one run in a line, for who waits."""
    parts = [
        f"  {result.strategy:<17}{result.transactions:>6} tx",
        f"{result.run.created:>5} objects, {result.run.live} live, {result.run.up_bytes / 1e3:,.0f} kB up",
        f"{sum(result.run.requests.values())} requests",
        f"CPU {result.cpu_s:.2f} s",
    ]
    if result.lag_s:
        parts.append(f"lag {result.lag_s.p50:.2f} to {result.lag_s.max:.2f} s")
    if result.latency_us:
        parts.append(f"latency {result.latency_us.p50 / 1e3:.2f}, {result.latency_us.p99 / 1e3:.2f} ms")
    parts += [f"restored {each.verdict}, {each.seconds:.2f} s" for each in result.restores]
    return "; ".join(parts)
