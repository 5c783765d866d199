"""What is promised whatever the store does, held against what was seen of a story."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import traceback
from pathlib import Path

import msgspec

from tests.crash.life import Place, running
from tests.crash.verify import verify
from tests.engine.protection import OverwritingStore
from tests.faults.cases import UNDISTURBED, Case, parse_case
from tests.faults.story import At, Durable, Reading, Story
from walrep.core.target import AtBookmark, AtTxid
from walrep.core.units import Txid
from walrep.engine.restorer import RestoreRequest, restore
from walrep.errors import WalrepError
from walrep.runner import InlineRunner
from walrep.store.base import Store
from walrep.store.memory import MemoryStore
from walrep.testing.clock import SimClock

__all__ = ["Report", "run_case"]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case. `requests`: how many there were of each kind; `readings`: what people were told."""

    case: str
    requests: dict[str, int]
    restored: int
    readings: list[Reading]
    failures: list[str]
    problems: list[str]


def run_case(text: str, folder: Path | None = None, *, kind: type[MemoryStore] | None = None) -> Report:
    """Run a case; its folder is kept if something is wrong and it is said where. `kind`: of the store."""
    case = parse_case(text)
    memory = Path("/dev/shm")
    parent = folder or (memory if memory.is_dir() else None)
    place = Place(Path(tempfile.mkdtemp(prefix="walrep-faults-", dir=parent)))
    place.local.mkdir(parents=True)
    if kind is None:
        # Some moments are those of a store that overwrites what must not exist yet.
        kind = OverwritingStore if case.number % 4 == 3 else MemoryStore
    judge = _Judge(place, case)
    with running(place) as app:
        story = Story(place, app.pipe, case, kind)
        try:
            story.run()
            judge.judge(story, app.pipe.ask("check", -1))
        except Exception:  # noqa: BLE001  whatever went wrong is the result
            judge.problems.append(traceback.format_exc())
    if folder is None or not judge.problems:
        shutil.rmtree(place.folder)
    return Report(
        case=text,
        requests=dict(story.plan.requests),
        restored=judge.restored,
        readings=story.readings,
        failures=[f"{each.exit_code} {each.message}: {each.detail}" for each in story.failures],
        problems=judge.problems,
    )


class _Judge:
    def __init__(self, place: Place, case: Case) -> None:
        self.problems: list[str] = []
        self.restored = 0
        self._place, self._case = place, case
        self._digests: dict[At, str] = {}
        self._order: dict[str, int] = {}
        self._before: dict[str, str] = {}

    def judge(self, story: Story, checked: str) -> None:
        """Compare everything; `checked` is what the app says of its database."""
        integrity, newest = checked.split()
        self._expect(integrity == "ok", f"integrity_check: {integrity}")
        images = [line.split() for line in self._place.images.read_text().splitlines()]
        self._order = {digest: number for number, (_step, _before, digest) in enumerate(images)}
        self._before = {digest: before for _step, before, digest in images}
        verdict = verify(self._place, now_ms=story.clock.now_ms(), newest=newest, store=story.store())
        self.problems += verdict.problems
        self.restored = len(verdict.digests)
        self._expect(verdict.timelines == 1, f"there are {verdict.timelines} timelines")
        for text, digest in verdict.digests.items():
            timeline, _, txid = text.rpartition("/")
            self._digests[timeline, int(txid)] = digest
        for each in story.durable:
            self._look_at_durable(each)
        for reading in story.readings:
            self._look_at_reading(reading)
        self._look_at_kept(story)
        self._look_at_end(story)

    def _look_at_durable(self, durable: Durable) -> None:
        """What was reported durable can be restored from what the store held at that moment."""
        timeline, txid = durable.at
        found = self._restore(MemoryStore(durable.objects), AtTxid(Txid(txid)), timeline)
        if isinstance(found, WalrepError):
            self.problems.append(f"durable, but not in the store: transaction {txid} of {timeline}: {found}")
            return
        self._expect(found in self._order, f"durable, but never was: transaction {txid} of {timeline}")
        known = self._digests.setdefault(durable.at, found)
        self._expect(known == found, f"transaction {txid} of {timeline} is another one later")

    def _look_at_reading(self, reading: Reading) -> None:
        if str(self._case) == UNDISTURBED:
            self._expect(not reading.error, f"{reading.what}: {reading.error}")
        if not reading.digest or reading.at is None:
            return
        known = self._digest_of(reading.at)
        self._expect(known == reading.digest, f"{reading.what}: wrong content at {reading.at}")
        if reading.what.startswith("some"):
            self._expect(reading.what == f"some {reading.at[1]}", f"{reading.what}: came {reading.at}")
        if reading.what == "latest" and reading.durable is not None:
            before = self._order[self._digests[reading.durable]]
            is_older = self._order.get(reading.digest, -1) < before
            self._expect(not is_older, f"latest is older than {reading.durable}: {reading.at}")

    def _digest_of(self, at: At) -> str:
        """Return what stands at a position: known, or so many images before the next one that is."""
        timeline, txid = at
        later = min((each for each in self._digests if each[0] == timeline and each[1] >= txid), default=at)
        digest = self._digests.get(later, "")
        for _ in range(later[1] - txid):
            digest = self._before.get(digest, "")
        return digest

    def _look_at_kept(self, story: Story) -> None:
        if story.kept is None:
            return
        found = self._restore(story.store(), AtBookmark(story.kept), None)
        self._expect(isinstance(found, str), f"kept, but gone: {found}")

    def _look_at_end(self, story: Story) -> None:
        detached = story.detached
        self._expect(detached is not None and detached.durable, f"the last stop left something: {detached}")
        if str(self._case) == UNDISTURBED:
            self._expect(not story.failures, f"failed: {story.failures}")

    def _restore(self, store: Store, target: AtTxid | AtBookmark, timeline: str | None) -> str | WalrepError:
        output = self._place.folder / "restored.db"
        request = RestoreRequest(output=output, target=target, timeline=timeline, check="none")
        clock = SimClock()
        try:
            clock.run(restore(store, request, clock=clock, runner=InlineRunner()))
        except WalrepError as error:
            return error
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        output.unlink()
        return digest

    def _expect(self, condition: object, text: str) -> None:
        if not condition:
            self.problems.append(text)
