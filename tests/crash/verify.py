"""What is promised after a life was cut short: checked by restoring, and by looking at what is left on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from random import Random

import msgspec

from tests.crash.life import RETENTION, Place, Told
from walrep.core.history import History
from walrep.core.target import AtTxid
from walrep.core.units import Txid, parse_bookmark
from walrep.engine.fetch import read_history
from walrep.engine.restorer import RestoreRequest, restore
from walrep.errors import WalrepError
from walrep.runner import InlineRunner
from walrep.store.base import Store
from walrep.store.local import LocalStore
from walrep.testing.clock import SimClock

__all__ = ["Verdict", "durable_positions", "read_told", "verify"]

At = tuple[str, int]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `digests`: of what was restored, by position."""

    problems: list[str]
    timelines: int
    digests: dict[str, str]


def read_told(place: Place) -> list[Told]:
    """Return what walrep reported, in all lives."""
    lines = place.told.read_bytes().splitlines() if place.told.exists() else []
    return [msgspec.json.decode(line, type=Told) for line in lines]


def durable_positions(told: Sequence[Told]) -> dict[At, int]:
    """Return every position that was reported durable, and when."""
    durable: dict[At, int] = {}
    for each in told:
        if each.event == "SnapshotWritten":
            durable[str(each.facts["timeline"]), int(str(each.facts["txid"]))] = each.at_ms
        elif each.event == "Flushed":
            position = parse_bookmark(str(each.facts["bookmark"]))
            for txid in range(position.txid - int(str(each.facts["transactions"])) + 1, position.txid + 1):
                durable[str(position.timeline), txid] = each.at_ms
    return durable


def verify(
    place: Place, *, now_ms: int, sample: int | None = None, newest: str | None = None, store: Store | None = None
) -> Verdict:
    """Restore what there is, or a sample and the newest of it, and compare it with what the app had.

    `newest`: the digest that the newest position has to have, and nothing may lie about that is not needed. `store`: of
    the replica, where that is not the folder.
    """
    return SimClock(now_ms).run(_Verifier(place, now_ms, store).run(sample, newest))


class _Verifier:
    def __init__(self, place: Place, now_ms: int, store: Store | None) -> None:
        self._place, self._now_ms = place, now_ms
        self._clock = SimClock(now_ms)
        self._store = store or LocalStore(place.store, InlineRunner(), self._clock)
        lines = place.images.read_text().splitlines()
        self._parents = {digest: parent for _step, parent, digest in (line.split() for line in lines)}
        self._problems: list[str] = []
        self._digests: dict[At, str] = {}

    async def run(self, sample: int | None, newest: str | None) -> Verdict:
        history = await read_history(self._store, InlineRunner())
        # In between the base of a timeline may be on its way.
        expected = {"missing-base"} if newest is None else set()
        self._problems += [f"{each.kind}: {each.message}" for each in history.problems if each.kind not in expected]
        positions = list(_positions(history))
        self._look_for_lost(set(positions))
        for at in _chosen(positions, sample):
            await self._restore(at)
        self._look_at_images(newest, positions[-1] if positions else None)
        if newest is not None:
            self._look_for_litter()
        digests = {f"{timeline}/{txid}": digest for (timeline, txid), digest in self._digests.items()}
        return Verdict(problems=self._problems, timelines=len(history.timelines), digests=digests)

    def _look_for_lost(self, there: set[At]) -> None:
        window_ms = self._now_ms - RETENTION.window_s * 1000
        durable = durable_positions(read_told(self._place))
        lost = [at for at, told_ms in durable.items() if told_ms >= window_ms and at not in there]
        self._problems += [f"lost: transaction {txid} of {timeline}" for timeline, txid in lost]

    async def _restore(self, at: At) -> None:
        timeline, txid = at
        output = self._place.folder / "restored.db"
        request = RestoreRequest(output=output, target=AtTxid(Txid(txid)), timeline=timeline, check="none")
        try:
            await restore(self._store, request, clock=self._clock, runner=InlineRunner())
        except WalrepError as error:
            self._problems.append(f"not restored: transaction {txid} of {timeline}: {error}")
            return
        self._digests[at] = hashlib.sha256(output.read_bytes()).hexdigest()
        output.unlink()

    def _look_at_images(self, newest: str | None, last: At | None) -> None:
        for (timeline, txid), digest in self._digests.items():
            before = self._digests.get((timeline, txid - 1))
            if digest not in self._parents:
                self._problems.append(f"never was: transaction {txid} of {timeline}")
            elif before is not None and self._parents[digest] != before:
                self._problems.append(f"does not follow the one before: transaction {txid} of {timeline}")
        if newest is not None and (last is None or self._digests.get(last) != newest):
            self._problems.append(f"the newest position is not what the app has: {last}")

    def _look_for_litter(self) -> None:
        place = self._place
        # An object that was being written is removed by a put that comes a day later.
        litter = [path for path in place.state.rglob("*") if path.suffix in {".tmp", ".part"} and path.is_file()]
        litter += [*(place.state / "outbox").iterdir(), *sorted(place.state.glob("journal-*"))[:-1]]
        self._problems += [f"left behind: {path.relative_to(place.disk)}" for path in litter]


def _positions(history: History) -> Iterator[At]:
    for timeline in history.timelines:
        for each in timeline.ranges:
            for txid in range(each.first_txid, each.last_txid + 1):
                yield str(timeline.id), txid


def _chosen(positions: Sequence[At], sample: int | None) -> list[At]:
    if sample is None or len(positions) <= sample:
        return list(positions)
    return sorted({positions[-1], *Random(len(positions)).sample(positions, sample)})
