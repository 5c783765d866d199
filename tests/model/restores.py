"""Restores from the model's store, compared byte for byte with the images."""

from __future__ import annotations

from pathlib import Path

from xxhash import xxh3_128_hexdigest

from tests.model.app import hash_pages
from tests.model.images import Entry
from tests.model.ledger import Ledger, Timeline
from tests.model.stage import Stage
from walrep.core.target import AtBookmark, AtTime, AtTxid, Latest, Target
from walrep.core.units import Checksum, Position, TimelineId, Txid
from walrep.engine.restorer import RestoreOutcome, RestoreRequest, restore
from walrep.errors import RestoreError, TargetAmbiguous, WalrepError
from walrep.runner import InlineRunner
from walrep.testing.clock import SimClock

__all__ = ["Restores"]

_TIME_GAP_MS = 2000
"""In a gap longer than this a time is ambiguous, and refused."""


class Restores:
    """Restores, and compares."""

    def __init__(self, stage: Stage, ledger: Ledger, folder: Path) -> None:
        self._stage = stage
        self._ledger = ledger
        self._output = folder / "restored.db"
        self.pins: dict[str, Position] = {}

    def transaction(self, timeline: Timeline, txid: int) -> None:
        """Restore a transaction; it may be gone only if nothing promises it."""
        must = self._ledger.must_restore(timeline, txid)
        if not self._restore(AtTxid(Txid(txid)), timeline, (txid, must)):
            self.bookmark(timeline, txid)

    def bookmark(self, timeline: Timeline, txid: int) -> None:
        """The same by its bookmark, if the image is known."""
        entry = timeline.entry(txid)
        if entry is not None:
            position = Position(TimelineId(timeline.id), Txid(txid), Checksum(entry.checksum))
            self._restore(AtBookmark(position), None, (txid, self._ledger.must_restore(timeline, txid)))

    def every(self, timeline: Timeline, count_max: int) -> None:
        """Restore the transactions of a timeline: all, or so many of them, with both ends."""
        txids = range(timeline.durable_txid + 1)
        chosen = set(txids)
        if len(txids) > count_max:
            chosen = {0, timeline.durable_txid, *self._stage.dice.sample(txids, count_max)}
        for txid in sorted(chosen):
            self.transaction(timeline, txid)

    def at_once(self, timeline: Timeline, txid: int) -> None:
        """Restore what is reported durable at this very moment, from what the store holds now. INV-16."""
        outcome = self._attempt(AtTxid(Txid(txid)), timeline.id)
        if timeline.shared and isinstance(outcome, TargetAmbiguous):
            self.bookmark(timeline, txid)
        elif not isinstance(outcome, WalrepError):
            self._output.unlink()
        elif self._ledger.must_restore(timeline, txid):
            self._stage.problem(f"transaction {txid} of {timeline.id} is reported durable, but now: {outcome}")

    def kept(self) -> None:
        """Restore everything that is kept by name."""
        for name, position in sorted(self.pins.items()):
            timeline = self._ledger.timelines.get(position.timeline)
            if timeline is not None:
                self._stage.note("pin", name)
                self._restore(AtBookmark(position), None, (position.txid, True))

    def moment(self, timeline: Timeline, wall_ms: int) -> None:
        """Restore what stood at a time; the clock has never stepped."""
        outcome = self._attempt(AtTime(wall_ms), timeline.id)
        if isinstance(outcome, WalrepError):
            self._stage.expect(isinstance(outcome, RestoreError), f"at {wall_ms}: {type(outcome).__name__} {outcome}")
            return
        entry = timeline.entry(outcome.txid)
        after = timeline.entry(outcome.txid + 1)
        if entry is not None and entry is not timeline.entry(0):
            self._stage.expect(entry.true_ms <= wall_ms, f"at {wall_ms} came image {entry.number}, of {entry.true_ms}")
        if after is not None:
            late = after.true_ms <= wall_ms - _TIME_GAP_MS
            self._stage.expect(not late, f"at {wall_ms} came not image {after.number}, of {after.true_ms}")
        self._compare(timeline, outcome.txid, "time")

    def in_place(self, timeline: Timeline, txid: int, output: Path) -> tuple[Position, Entry] | None:
        """Put a state in the place of a database that nobody has open; None where that is not restorable any more."""
        target, must = AtTxid(Txid(txid)), self._ledger.must_restore(timeline, txid)
        outcome = self._attempt(target, timeline.id, output)
        if isinstance(outcome, WalrepError):
            ambiguous = timeline.shared and isinstance(outcome, TargetAmbiguous)
            self._stage.expect(ambiguous or not must, f"{target} of {timeline.id} is promised, but: {outcome}")
            return None
        position = outcome.plan.position
        entry = timeline.entry(txid)
        if entry is None:
            found = self._stage.images.with_checksum(position.checksum)
            entry = self._ledger.note_restored(timeline, txid, found)
        if entry is None or xxh3_128_hexdigest(output.read_bytes()) != entry.digest:
            self._stage.problem(f"transaction {txid} of {timeline.id} was restored wrong in place")
            return None
        return position, entry

    def latest(self, entry: Entry | None) -> None:
        """Restore the newest transaction, which is this image."""
        outcome = self._attempt(Latest(), None)
        if isinstance(outcome, WalrepError):
            self._stage.problem(f"the newest transaction cannot be restored: {outcome}")
        elif entry is not None:
            self._compare_image(entry, f"the newest, transaction {outcome.txid}")

    def _restore(self, target: Target, timeline: Timeline | None, expected: tuple[int, bool]) -> bool:
        """Restore, and compare; False where only a bookmark can tell what is meant."""
        txid, must = expected
        outcome = self._attempt(target, None if timeline is None else timeline.id)
        if timeline is not None and timeline.shared and isinstance(outcome, TargetAmbiguous):
            return False
        if isinstance(outcome, WalrepError):
            where = f"{target} of {timeline.id if timeline else ''}"
            self._stage.expect(not must, f"{where} is promised, but: {type(outcome).__name__} {outcome}")
            self._stage.expect(isinstance(outcome, RestoreError), f"{where}: {type(outcome).__name__} {outcome}")
            return True
        found = self._ledger.timelines[outcome.plan.position.timeline]
        self._stage.expect(outcome.txid == txid, f"{target}: transaction {outcome.txid} was restored")
        self._compare(found, txid, type(target).__name__)
        return True

    def _compare(self, timeline: Timeline, txid: int, how: str) -> None:
        entry = timeline.entry(txid)
        if entry is None:
            _size, _hashes, checksum = hash_pages(self._output.read_bytes())
            entry = self._ledger.note_restored(timeline, txid, self._stage.images.with_checksum(checksum))
        if entry is None:
            self._stage.problem(f"transaction {txid} of {timeline.id} is no image that can stand there")
            self._output.unlink()
            return
        self._compare_image(entry, f"transaction {txid} of {timeline.id} by {how}")

    def _compare_image(self, entry: Entry, what: str) -> None:
        data = self._output.read_bytes()
        self._output.unlink()
        self._stage.found.restores["compared"] += 1
        if xxh3_128_hexdigest(data) != entry.digest:
            differing = entry.differing_pages(hash_pages(data)[1])
            self._stage.found.differing_pages += differing
            self._stage.problem(f"{what}: {differing} pages differ from image {entry.number}")

    def _attempt(
        self, target: Target, timeline: str | None, in_place: Path | None = None
    ) -> RestoreOutcome | WalrepError:
        request = RestoreRequest(
            output=in_place or self._output, target=target, timeline=timeline, check="none", force=in_place is not None
        )
        clock = SimClock(self._stage.clock.now_ms())
        try:
            outcome = clock.run(restore(self._stage.place.store(), request, clock=clock, runner=InlineRunner()))
        except WalrepError as error:
            self._stage.found.restores[type(error).__name__] += 1
            self._stage.note("restore", target, timeline, type(error).__name__)
            return error
        self._stage.note("restore", target, timeline, outcome.txid)
        return outcome
