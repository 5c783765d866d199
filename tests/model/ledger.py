"""What walrep has said: timelines, and positions that it called durable. Each must be an image, in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from tests.model.images import Entry
from tests.model.stage import Stage
from walrep.core.units import TimelineId, parse_bookmark, timeline_number

__all__ = ["Ledger", "Timeline"]


class Timeline(msgspec.Struct, eq=False):
    """One timeline. `anchors`: transactions of which the image is known; those between follow.

    `shared`: two copies of one state began it, so that its numbers may mean either's, and only bookmarks tell.
    """

    id: str
    host: int
    began_ms: int
    entry_at_begin: Entry | None
    shared: bool = False
    durable_txid: int = -1
    anchors: dict[int, Entry] = msgspec.field(default_factory=dict)

    def entry(self, txid: int) -> Entry | None:
        """Return the image of a transaction, as far as that is known."""
        later = min((each for each in self.anchors if each >= txid), default=None)
        return None if later is None else self.anchors[later].before(later - txid)

    def anchor(self, txid: int, entries: list[Entry]) -> Entry | None:
        """Note which of these images stands there; None if none of them can.

        Where a commit changed nothing two images are the same, and the wrong one of them may have been noted before.
        """
        for entry in entries:
            if self.fits(txid, entry):
                self.anchors[txid] = entry
                return entry
        for entry in entries:
            moved = {each: entry.before(txid - each) for each in self.anchors if each < txid}
            same = all(there is not None and there.digest == self.anchors[at].digest for at, there in moved.items())
            if same and max(self.anchors) < txid:
                self.anchors = {at: there for at, there in moved.items() if there is not None} | {txid: entry}
                return entry
        return None

    def fits(self, txid: int, entry: Entry) -> bool:
        """Say whether an image in this place would be so many commits from the others."""
        earlier = max((each for each in self.anchors if each <= txid), default=None)
        later = min((each for each in self.anchors if each >= txid), default=None)
        return (earlier is None or entry.before(txid - earlier) is self.anchors[earlier]) and (
            later is None or self.anchors[later].before(later - txid) is entry
        )


class Ledger:
    """All timelines of the replica."""

    def __init__(self, stage: Stage) -> None:
        self.timelines: dict[str, Timeline] = {}
        self.look: Callable[[Timeline, int], None] = lambda _timeline, _txid: None
        """Called with a position when it is reported durable, before anything else happens."""
        self._stage = stage

    def begin(self, timeline: str, host: int, entry: Entry | None) -> None:
        """Note that a timeline began; `entry` is the image that the app had then."""
        self._stage.found.timelines += 1
        known = self.timelines.get(timeline)
        if known is None:
            self.timelines[timeline] = Timeline(timeline, host, self._stage.clock.now_ms(), entry)
            return
        # Two copies of one state may both try.
        self._stage.expect(known.host != host, f"timeline {timeline} began twice")
        known.entry_at_begin, known.shared = None, True

    def note_durable(self, bookmark: str) -> None:
        """Note a position that is durable."""
        position = parse_bookmark(bookmark)
        timeline = self.timelines.get(position.timeline)
        if timeline is None:
            self._stage.problem(f"{bookmark} is durable, of a timeline that never began")
            return
        candidates = self._stage.images.with_checksum(position.checksum)
        if timeline.anchor(position.txid, candidates) is None:
            known = ", ".join(str(each.number) for each in candidates)
            told = f"images {known} do not fit there" if known else "no image has this checksum"
            self._stage.problem(f"{bookmark} is durable, but {told}: {self._describe(timeline)}")
            return
        self._check_base(timeline)
        self.note_txid(position.timeline, position.txid)

    def note_txid(self, timeline: str, txid: int) -> None:
        """Note that everything up to a transaction is durable."""
        if timeline in self.timelines:
            self.timelines[timeline].durable_txid = max(self.timelines[timeline].durable_txid, txid)
            self.look(self.timelines[timeline], txid)

    def note_restored(self, timeline: Timeline, txid: int, entries: list[Entry]) -> Entry | None:
        """Note which of these images was restored; None if none of them can be in that place."""
        entry = timeline.anchor(txid, entries)
        if entry is not None:
            self._check_base(timeline)
        return entry

    def durable(self) -> Iterator[Timeline]:
        """Yield the timelines of which anything is durable, the oldest first."""
        for each in sorted(self.timelines.values(), key=lambda each: timeline_number(TimelineId(each.id))):
            if each.durable_txid >= 0:
                yield each

    def must_restore(self, timeline: Timeline, txid: int) -> bool:
        """Say whether a transaction is promised: it stood at some moment of the window."""
        if txid > timeline.durable_txid:
            return False
        window_ms = int(self._stage.setup.retention.window_s * 1000)
        after = timeline.entry(txid + 1) if txid < timeline.durable_txid else None
        if txid == timeline.durable_txid:
            later = [each.began_ms for each in self.durable() if each.began_ms > timeline.began_ms]
            ended_ms = min(later, default=self._stage.clock.now_ms())
        else:
            ended_ms = after.true_ms if after is not None else 0
        return self._stage.clock.now_ms() - ended_ms < window_ms

    def _check_base(self, timeline: Timeline) -> None:
        """A timeline begins with what the app had when it began, or later."""
        base, begin = timeline.entry(0), timeline.entry_at_begin
        if base is not None and begin is not None and base.number < begin.number:
            self._stage.problem(f"timeline {timeline.id} begins with image {base.number}, older than {begin.number}")

    def _describe(self, timeline: Timeline) -> str:
        return ", ".join(
            f"transaction {txid} is image {each.number}" for txid, each in sorted(timeline.anchors.items())
        )
