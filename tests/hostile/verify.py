"""What must be true when everything has stopped. Each finding is a sentence; none means that all is well."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.hostile.model import DatabaseFacts, Model, Shape, read_database
from tests.hostile.processes import run_walrep
from walrep import app
from walrep.core.names import parse_snapshot_key
from walrep.core.target import AtTxid
from walrep.core.units import Txid
from walrep.engine.restorer import RestoreOutcome, RestoreRequest
from walrep.errors import WalrepError
from walrep.store.url import parse_url
from walrep.testing.replay import ReplayedState, list_timelines, replay


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario may do.

    `may_break`: timelines may end. `side_commits`: transactions that do not change n may happen (VACUUM), each
    announced in `meta.side_commits` by the transaction before. `may_lose`: SQLite itself may lose commits in a crash.
    """

    may_break: bool = False
    side_commits: bool = False
    may_lose: bool = False


class TimelineFacts(msgspec.Struct, kw_only=True):
    """One timeline as the plain replay sees it."""

    timeline: str
    txids: int = 0
    base_stamp: int = 0
    stamps: list[int] = msgspec.field(default_factory=list)
    image_equals: bool = False


class Verdict(msgspec.Struct, kw_only=True):
    """What was found."""

    timelines: int = 0
    timelines_without_base: int = 0
    txids: int = 0
    last_n: int = 0
    side_commits: int = 0
    restores_checked: int = 0
    differing_pages: int = 0
    snapshots: int = 0
    """Behind bases."""
    from_snapshots: int = 0
    """Restores that began with one of them."""
    objects: int = 0
    replica_bytes: int = 0
    database_bytes: int = 0
    problems: list[str] = msgspec.field(default_factory=list)

    def expect(self, condition: object, problem: str) -> None:
        """Note the problem unless the condition holds."""
        if not condition:
            self.problems.append(problem)


class Verifier:
    """Verifies one run; `folder` is for restored files."""

    def __init__(self, database: Path, store: Path, folder: Path, shape: Shape, rules: Rules) -> None:
        self.database, self.store, self.folder = database, store, folder
        self.shape, self.rules = shape, rules
        self.verdict = Verdict()
        self._final: DatabaseFacts | None = None

    def run(self, restores: int) -> Verdict:
        """Check everything; `restores` random transactions."""
        verdict = self.verdict
        for suffix in ("-wal", "-shm"):
            left = self.database.with_name(self.database.name + suffix)
            verdict.expect(not left.exists(), f"{left.name} is left after app and walrep have stopped")
        final = self.folder / "final.db"
        shutil.copyfile(self.database, final)
        self._final = read_database(final, integrity=True)
        verdict.expect(self._final.integrity == "ok", f"the app's database: {self._final.integrity}")
        verdict.last_n, verdict.side_commits = self._final.n, self._final.side_commits
        verdict.database_bytes = final.stat().st_size
        objects = [path for path in self.store.rglob("*") if path.is_file()]
        verdict.objects, verdict.replica_bytes = len(objects), sum(path.stat().st_size for path in objects)
        timelines = self._replay_all(final.read_bytes())
        self._check_snapshots()
        self._check_latest(final)
        if timelines:
            self._check_chain(timelines)
            self._check_restores(timelines, restores)
        return verdict

    # -- replay -----------------------------------------------------------------------------------------------------

    def _replay_all(self, final: bytes) -> list[TimelineFacts]:
        verdict, found = self.verdict, []
        for timeline in list_timelines(self.store):
            verdict.timelines += 1
            if not (self.store / "snapshots" / timeline).is_dir():
                verdict.timelines_without_base += 1
                verdict.expect(self.rules.may_break, f"timeline {timeline} has no base")
                continue
            facts = TimelineFacts(timeline=timeline)
            try:
                state = replay(self.store, timeline, after=_recorder(facts))
            except WalrepError as error:
                verdict.problems.append(f"replay of {timeline} after transaction {facts.txids}: {error}")
                continue
            facts.image_equals = state.image() == final
            found.append(facts)
            verdict.txids += facts.txids
        verdict.expect(found, "no timeline can be replayed")
        verdict.expect(verdict.timelines == 1 or self.rules.may_break, f"{verdict.timelines} timelines, expected one")
        if found:
            verdict.expect(found[-1].image_equals, "the replayed last timeline is not the database")
        return found

    def _check_latest(self, final: Path) -> None:
        latest = self.folder / "latest.db"
        run = run_walrep("restore", f"file://{self.store}", "-o", str(latest), "--check", "full")
        self.verdict.expect(run.returncode == 0, f"walrep restore: exit code {run.returncode}: {run.stderr}")
        if run.returncode == 0:
            self.verdict.differing_pages = differing_pages(latest.read_bytes(), final.read_bytes())
            self.verdict.expect(
                not self.verdict.differing_pages, f"latest: {self.verdict.differing_pages} pages differ"
            )
            latest.unlink()

    def _check_snapshots(self) -> None:
        """Each is where a restore can begin: what it leans on is there, and the next segment begins behind it."""
        names = [
            parse_snapshot_key(f"snapshots/{path.parent.name}/{path.name}") for path in self.store.glob("snapshots/*/*")
        ]
        self.verdict.snapshots = sum(name is not None and name.txid > 0 for name in names)
        url = parse_url(f"file://{self.store}")
        history = asyncio.run(app.read_replica(url, clock=app.system_clock(), environment={}))
        told = [each.message for each in history.problems if each.kind in {"orphan-snapshot", "misplaced-snapshot"}]
        self.verdict.problems += told

    # -- transactions -----------------------------------------------------------------------------------------------

    def _check_chain(self, timelines: list[TimelineFacts]) -> None:
        """Compare the stamp of every transaction with what a timeline without gaps has."""
        verdict = self.verdict
        for facts in timelines:
            base = self._restore(facts.timeline, 0)
            if base is None:
                continue
            sides = base.side_commits if self.rules.side_commits else 0
            wrong = _first_wrong_stamp(facts, base.n, self.shape.stamp_every, sides=self.rules.side_commits)
            verdict.expect(wrong is None, f"timeline {facts.timeline}, base n={base.n}: {wrong}")
            if facts is timelines[-1] and self._final is not None:
                expected = self._final.n - base.n + self._final.side_commits - sides
                # A VACUUM is counted by the transaction before it: a base may lie between the two.
                between = self.rules.side_commits and facts.txids == expected + 1
                told = f"{facts.txids} txids, but SQLite committed {expected} since its base"
                verdict.expect(facts.txids == expected or between, f"timeline {facts.timeline}: {told}")
        if not self.rules.may_lose:
            lasts = [facts.stamps[-1] if facts.stamps else facts.base_stamp for facts in timelines]
            verdict.expect(lasts == sorted(lasts), f"n goes back from timeline to timeline: {lasts}")

    def _check_restores(self, timelines: list[TimelineFacts], count: int) -> None:
        """Restore random transactions and compare their rows with the model, in order of n."""
        rng, verdict = Random(self.shape.seed), self.verdict
        positions = [(facts, txid) for facts in timelines for txid in {0, facts.txids}]
        total = sum(facts.txids for facts in timelines)
        for at in sorted(rng.sample(range(total), min(count, total))):
            rest = at
            for facts in timelines:
                if rest < facts.txids:
                    positions.append((facts, rest + 1))
                    break
                rest -= facts.txids
        found: list[tuple[DatabaseFacts, str]] = []
        for facts, txid in positions:
            restored = self._restore(facts.timeline, txid)
            if restored is not None:
                found.append((restored, f"timeline {facts.timeline}, transaction {txid}"))
                stamp = facts.stamps[txid - 1] if txid else facts.base_stamp
                stamped = restored.n - restored.n % self.shape.stamp_every
                verdict.expect(stamp == stamped, f"{found[-1][1]}: n={restored.n}, stamped {stamp}")
        model = Model(self.shape)
        for restored, where in sorted(found, key=lambda each: each[0].n):
            model.advance(restored.n)
            verdict.expect(restored.digest == model.digest(), f"{where}: the rows are not those of n={restored.n}")
            verdict.expect(restored.integrity == "ok", f"{where}: {restored.integrity}")
            verdict.restores_checked += 1

    def _restore(self, timeline: str, txid: int) -> DatabaseFacts | None:
        output = self.folder / "restored.db"
        request = RestoreRequest(output=output, target=AtTxid(Txid(txid)), timeline=timeline, force=True, check="none")
        try:
            outcome = asyncio.run(_restore(f"file://{self.store}", request))
        except WalrepError as error:
            self.verdict.problems.append(f"restore of {timeline}, transaction {txid}: {error}")
            return None
        self.verdict.from_snapshots += outcome.plan.snapshot.name.txid > 0
        return read_database(output, integrity=True)


async def _restore(url: str, request: RestoreRequest) -> RestoreOutcome:
    return await app.restore(
        parse_url(url), request, clock=app.system_clock(), environment={}, progress=lambda _progress: None
    )


def differing_pages(left: bytes, right: bytes) -> int:
    """Return how many pages differ; pages that only one has count."""
    size = int.from_bytes(right[16:18], "big")
    size = 65536 if size == 1 else max(size, 512)
    longest = max(len(left), len(right))
    return sum(left[at : at + size] != right[at : at + size] for at in range(0, longest, size))


def _recorder(facts: TimelineFacts) -> Callable[[ReplayedState], None]:
    def after(state: ReplayedState) -> None:
        stamp = int.from_bytes(state.pages[1][60:64], "big")
        if state.txid == 0:
            facts.base_stamp = stamp
        else:
            facts.txids = state.txid
            facts.stamps.append(stamp)

    return after


def _first_wrong_stamp(facts: TimelineFacts, base_n: int, every: int, *, sides: bool) -> str | None:
    """Return what is wrong with the order of transactions; None if nothing is."""
    n = base_n
    for txid, stamp in enumerate(facts.stamps, start=1):
        if sides and stamp == n:
            continue
        n += 1
        if stamp != n - n % every:
            return f"transaction {txid} is stamped {stamp}, expected n={n}"
    return None


def describe(value: Any) -> Any:  # noqa: ANN401 - any struct
    """Return a struct as plain values."""
    return msgspec.to_builtins(value)
