"""One run: apps, a strategy, a store behind the proxy; then restores, each compared with the app's record."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.children import Child
from benchmarks.compare import processes
from benchmarks.compare.apps import Apps, Templates, apps_of
from benchmarks.compare.checking import compare_with_file, judge
from benchmarks.compare.counts import Request, count, requests_below, trace_objects
from benchmarks.compare.results import Restored, Result, lags, live_series, spread
from benchmarks.compare.strategies import Place, Seen, Strategy, Wanted, variables
from benchmarks.compare.workloads import Workload
from benchmarks.compare.writing import Commits
from tests.store.servers import running

QUIET_S = 1.5
SETTLED_S = 200.0


class Stage:
    """A server with an empty bucket, the proxy in front of it, and what the proxy has seen."""

    def __init__(self, proxy: Child, folder: Path) -> None:
        self.proxy = proxy
        self.endpoint = f"http://127.0.0.1:{proxy.answer()['port']}"
        self.folder = folder
        self.lock = threading.Lock()

    def requests(self, prefix: str) -> list[Request]:
        """Return what was asked for below a prefix until now."""
        path = self.folder / "requests.json"
        with self.lock:
            self.proxy.ask("save", path=str(path))
            found = msgspec.json.decode(path.read_bytes(), type=list[Request])
        return requests_below(found, prefix)


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Run a server and a proxy."""
    folder.mkdir(parents=True)
    with running("ministack", folder) as server:
        parts = urlsplit(server.endpoint)
        with Child("compare.proxy", [str(parts.hostname), str(parts.port)]) as proxy:
            yield Stage(proxy, folder)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Which run it is. `meet` lets runs that take place together wait for each other."""

    workload: Workload
    round: int
    seconds: float
    seed: int
    meet: Callable[[], object]
    alone: threading.Lock
    """Held for what runs that take place together should not do at once: restores."""


class _Times(msgspec.Struct):
    begun_s: float = 0.0
    stopped_s: float = 0.0
    ended_s: float = 0.0
    start_cpu_s: float = 0.0
    cpu_s: float = 0.0
    rss_peak_bytes: int = 0
    exit_code: int = 0


def run_once(stage: Stage, strategy: Strategy, templates: Templates, folder: Path, turn: Turn) -> Result:
    """Run a strategy beside the apps of a workload."""
    folder.mkdir(parents=True)
    apps = apps_of(turn.workload, templates, folder)
    prefix = folder.name
    times, load = _Times(), os.getloadavg()[0]
    place = Place(folder=folder, databases=apps.databases, endpoint=stage.endpoint, prefix=prefix)
    try:
        apps.start()
        strategy.start(place)
        if strategy.process is not None:
            _wait_until_settled(stage, prefix, strategy, len(apps.databases))
        turn.meet()
        time.sleep(turn.workload.lead_s)
        commits, peaks = _write(apps, strategy, turn.seconds, times)
    finally:
        apps.close()
        if strategy.process is not None and strategy.process.poll() is None:
            strategy.process.kill()
            strategy.process.wait()
    turn.meet()
    restores: list[Restored] = []
    with turn.alone:
        if strategy.process is not None and (turn.round == 0 or templates.own):
            restores = _restores(stage, strategy, templates, (apps, commits), turn)
    return _result(stage.requests(f"{prefix}/"), strategy, turn, (apps, commits), (times, peaks, restores, load))


def _write(apps: Apps, strategy: Strategy, seconds: float, times: _Times) -> tuple[list[Commits], dict[str, int]]:
    process = strategy.process
    sampler = processes.Sampler(
        {
            "local": strategy.local_paths if process is not None else tuple,
            "wal": lambda: [path.with_name(f"{path.name}-wal") for path in apps.databases],
        }
    )
    times.start_cpu_s = processes.cpu_seconds(process.pid) if process else 0.0
    times.begun_s = time.time()
    commits = apps.run(seconds)
    strategy.settle()
    if process:
        times.cpu_s = processes.cpu_seconds(process.pid) - times.start_cpu_s
        times.rss_peak_bytes = processes.peak_bytes(process.pid)
    sampler.close()
    times.stopped_s = time.time()
    times.exit_code = strategy.stop()
    times.ended_s = time.time()
    return commits, sampler.peaks


def _wait_until_settled(stage: Stage, prefix: str, strategy: Strategy, count_min: int) -> None:
    """Wait until every database is stored once and nothing was stored for a while."""
    process, deadline = strategy.process, time.monotonic() + SETTLED_S
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{strategy.name} ended: {strategy.log.read_text(errors='replace')[-2000:]}")
        requests = [each for each in stage.requests(f"{prefix}/") if each.operation != "list"]
        places = {each.place.split("/")[1] for each in requests if strategy.kind_of(each.key) in {"image", "snapshots"}}
        if len(places) >= count_min and time.time() - max(each.ended_s for each in requests) > QUIET_S:
            return
    raise RuntimeError(
        f"{strategy.name} did not store the databases: {strategy.log.read_text(errors='replace')[-2000:]}"
    )


def _restores(
    stage: Stage, strategy: Strategy, templates: Templates, run: tuple[Apps, Sequence[Commits]], turn: Turn
) -> list[Restored]:
    """Restore the busiest database: as new as it can be, and as of a random moment of the run."""
    apps, commits = run
    index = max(range(len(commits)), key=lambda each: len(commits[each].at_s))
    targets: list[float | None] = [None]
    if len(commits[index].at_s) > 1:
        first, last = commits[index].at_s[0], commits[index].at_s[-1]
        targets.append(first + (last - first) * random.Random(turn.seed).uniform(0.4, 0.9))
    found = []
    for number, at_s in enumerate(targets):
        output, began_s = apps.folder / f"restored{number}.db", time.time()
        command = strategy.restore_command(Wanted(index=index, output=output, at_s=at_s))
        ended = processes.run(command, apps.folder / f"restore{number}.log", variables())
        if templates.own is not None:
            restored = compare_with_file(ended, output, apps.databases[index], keeps_up=strategy.keeps_up)
        else:
            original = templates.path(turn.workload, index), templates.load(turn.workload, index)
            restored = judge(ended, output, original, commits[index], at_s, keeps_up=strategy.keeps_up)
        asked = count(stage.requests(f"{strategy.place.prefix}/"), strategy.kind_of, from_s=began_s)
        found.append(msgspec.structs.replace(restored, down_bytes=asked.down_bytes, requests=asked.requests))
        output.unlink(missing_ok=True)
    return found


def _result(
    requests: list[Request],
    strategy: Strategy,
    turn: Turn,
    run: tuple[Apps, Sequence[Commits]],
    seen: tuple[_Times, dict[str, int], list[Restored], float],
) -> Result:
    (apps, commits), (times, peaks, restores, load) = run, seen
    objects = trace_objects(requests)
    found: list[float] = []
    missing = 0
    for index, record in enumerate(commits):
        if strategy.process is not None:
            own = [each for each in objects if each.key.startswith(f"{strategy.place.prefix_of(index)}/")]
            marks = strategy.marks(Seen(index=index, objects=own, commits=record))
            some, left = lags(record, marks, until_s=times.stopped_s)
            found += some
            missing += left
    return Result(
        workload=turn.workload.name,
        strategy=strategy.name,
        round=turn.round,
        together=turn.workload.together,
        seconds=turn.seconds,
        day_s=strategy.day_s,
        database_count=len(apps.databases),
        pages_per_transaction=apps.templates.pages(turn.workload),
        database_bytes=sum(path.stat().st_size for path in apps.databases),
        transactions=sum(record.number[-1] for record in commits if record.number),
        changed_bytes=sum(record.changed_bytes for record in commits),
        latency_us=spread([each for record in commits for each in record.took_us]),
        lag_s=spread(found),
        unacknowledged=missing,
        start=count(requests, strategy.kind_of, until_s=times.begun_s),
        run=count(requests, strategy.kind_of, from_s=times.begun_s, until_s=times.ended_s),
        start_cpu_s=times.start_cpu_s,
        cpu_s=times.cpu_s,
        rss_peak_bytes=times.rss_peak_bytes,
        local_peak_bytes=peaks["local"],
        wal_peak_bytes=peaks["wal"],
        load_average=load,
        restores=tuple(restores),
        live_series=live_series(objects, times.begun_s, times.ended_s),
        exit_code=times.exit_code,
        incidents=_incidents(strategy, times.exit_code),
    )


def _incidents(strategy: Strategy, exit_code: int) -> tuple[str, ...]:
    """Return what the strategy complained of."""
    found = [f"exit code {exit_code}"] if exit_code else []
    if strategy.process is not None:
        lines = strategy.log.read_text(errors="replace").splitlines()
        loud = ("level=ERROR", '"level":"error"', "level=WARN", '"level":"warning"', "Traceback")
        found += [line[:300] for line in lines if any(word in line for word in loud)]
    return tuple(found[:10])
