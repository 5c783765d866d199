"""Differential snapshots that lean on a full one of an earlier timeline: history, restores, and retention."""

from __future__ import annotations

from pathlib import Path

import pytest

from walrep.core.holding import Holding
from walrep.core.inventory import Listed, take_inventory
from walrep.core.names import FullName, SnapshotName, parse_snapshot_key, snapshot_key
from walrep.core.objects import Writer
from walrep.core.prunings import encode_record, next_record
from walrep.core.retention import RetentionPlan, RetentionPolicy, plan_retention
from walrep.core.snapshots import newest_full
from walrep.core.stored import segment_fact
from walrep.core.target import AtBookmark, AtTime, AtTxid, Latest, Target
from walrep.core.units import Seq, TimelineId, Txid
from walrep.engine.restorer import RestoreOutcome, RestoreRequest
from walrep.errors import RestoreMismatch, TargetNotFound
from walrep.testing.history import HistoryBuilder, history_of
from walrep.testing.restores import restore_inline

PAGE = 512
DAY = 86_400_000
KEY = "snapshots/00003-5f3a9c21/0000000000000000-20261121T093000123Z-0000000000000007-diff-{}-{:016}"


class Lineage:
    """Three timelines: a full base, a restart, a restore to an older position; only the first has full snapshots."""

    def __init__(self) -> None:
        builder = self.builder = HistoryBuilder(PAGE)
        self.first = builder.begin({pgno: page(pgno) for pgno in range(1, 30)}, DAY)
        self.write(range(1, 5), DAY)
        self.second_full = builder.snapshot(5 * DAY)
        self.write(range(5, 7), 5 * DAY)
        left = builder.positions[self.first, 6]
        image = {**builder.image, 7: page(70), 30: page(71)}
        self.second = builder.begin(image, 8 * DAY, parent=left, base=False)
        self.second_base = self.snapshot(8 * DAY, self.first, 4)
        self.write(range(1, 4), 8 * DAY)
        self.second_daily = self.snapshot(12 * DAY, self.first, 4)
        self.write(range(4, 6), 12 * DAY)
        left = builder.positions[self.second, 2]
        image = dict(self.images[self.second, 2])
        self.third = builder.begin(image, 15 * DAY, parent=left, base=False)
        self.third_base = self.snapshot(15 * DAY, self.first, 4)
        self.write(range(1, 4), 15 * DAY)

    @property
    def images(self) -> dict[tuple[TimelineId, int], dict[int, bytes]]:
        """The pages of every state."""
        return {
            where: {at // PAGE + 1: image[at : at + PAGE] for at in range(0, len(image), PAGE)}
            for where, image in self.builder.states.items()
        }

    def write(self, txids: range, begin_ms: int) -> None:
        """Commit a transaction in each half of a day, each a segment."""
        for count, txid in enumerate(txids, 1):
            size = max(self.builder.image)
            seed = 100 * int(self.builder.timeline[:5]) + txid
            changed = [(1 + txid * 5 % 20, page(1000 + seed)), (size, page(2000 + seed))]
            self.builder.commit(changed, size, begin_ms + count * DAY // 2)
            self.builder.seal()

    def snapshot(self, seen_ms: int, timeline: TimelineId, txid: int) -> str:
        """Make one that leans on a full one."""
        return self.builder.snapshot(seen_ms, full_txid=txid, full_timeline=timeline)

    def holding(self) -> Holding:
        """Return what retention sees; the store's clock is the writer's."""
        history = history_of(self.builder.objects)
        facts = {
            each.key: segment_fact(each.key, each.header, each.footer, each.size_bytes)
            for timeline in history.timelines
            for each in timeline.segments
        }
        listed = [Listed(key=key, size_bytes=len(data), stored_ms=0) for key, data in self.builder.objects.items()]
        return take_inventory(listed, facts)

    def prune(self, now_day: float, window_days: float) -> RetentionPlan:
        """Delete what a window does not need, and record it."""
        policy = RetentionPolicy(window_s=window_days * DAY / 1000, grace_s=0.0, snapshots_min=0)
        holding, now_ms = self.holding(), round(now_day * DAY)
        plan = plan_retention(holding, policy, now_ms)
        record = next_record(None, holding, plan, now_ms=now_ms, by=Writer(nonce="0" * 16))
        self.builder.objects["pruned/19700201T000000000Z"] = encode_record(record)
        for key in plan.deletions:
            del self.builder.objects[key]
        return plan


def page(value: int) -> bytes:
    return value.to_bytes(4, "little") * (PAGE // 4)


@pytest.fixture
def lineage() -> Lineage:
    return Lineage()


def restored(lineage: Lineage, folder: Path, target: Target, timeline: str | None = None) -> RestoreOutcome:
    output = folder / "o.db"
    request = RestoreRequest(output=output, target=target, timeline=timeline, check="none")
    outcome = restore_inline(lineage.builder.objects, request)
    position = outcome.plan.position
    assert output.read_bytes() == lineage.builder.states[position.timeline, position.txid]
    output.unlink()
    return outcome


def test_every_transaction_of_all_timelines_is_restored(lineage: Lineage, tmp_path: Path) -> None:
    assert history_of(lineage.builder.objects).problems == ()
    under = {}
    for timeline, txid in lineage.builder.states:
        outcome = restored(lineage, tmp_path, AtTxid(Txid(txid)), timeline)
        under[timeline, txid] = outcome.plan.under.key if outcome.plan.under else None
    children = {key: value for key, value in under.items() if key[0] != lineage.first}
    assert set(children.values()) == {lineage.second_full}
    assert {value for key, value in under.items() if key[0] == lineage.first} == {None}
    outcome = restored(lineage, tmp_path, Latest())
    assert (outcome.plan.position.timeline, outcome.txid) == (lineage.third, 3)
    assert f"leans on that of transaction 4 of timeline {lineage.first}" in outcome.plan.reasons[-1]


def test_across_a_branch_a_bookmark_and_a_time_lead_back(lineage: Lineage, tmp_path: Path) -> None:
    """A time means the timeline that was the current one then, also of what a restore to an older position left."""
    abandoned = lineage.builder.positions[lineage.second, 4]
    assert restored(lineage, tmp_path, AtBookmark(abandoned)).plan.position == abandoned
    found = restored(lineage, tmp_path, AtTime(12 * DAY + DAY // 2 + 500)).plan.position
    assert (found.timeline, found.txid) == (lineage.second, 4)
    found = restored(lineage, tmp_path, AtTime(15 * DAY + DAY // 2 + 500)).plan.position
    assert (found.timeline, found.txid) == (lineage.third, 1)


def test_without_the_full_one_of_the_parent_nothing_of_the_child_is_restorable(
    lineage: Lineage, tmp_path: Path
) -> None:
    del lineage.builder.objects[lineage.second_full]
    history = history_of(lineage.builder.objects)
    assert {each.kind for each in history.problems} == {"orphan-snapshot"}
    assert {each.timeline for each in history.problems} == {lineage.second, lineage.third}
    with pytest.raises(TargetNotFound):
        restored(lineage, tmp_path, Latest())


def test_a_full_one_with_other_contents_is_not_believed(lineage: Lineage, tmp_path: Path) -> None:
    """INV-31: two histories may have used the same number of a timeline, on a store that overwrites."""
    twin = Lineage()
    builder = twin.builder
    other = HistoryBuilder(PAGE)
    other.begin({pgno: page(900 + pgno) for pgno in range(1, 30)}, DAY)
    for txid in range(1, 5):
        other.commit([(txid, page(800 + txid))], 29, DAY + txid * DAY // 2)
        other.seal()
    posing = other.snapshot(5 * DAY)
    assert posing == lineage.second_full
    builder.objects[posing] = other.objects[posing]
    with pytest.raises(RestoreMismatch, match="not the one that it was made on"):
        restored(twin, tmp_path, AtTxid(Txid(0)), twin.third)


@pytest.mark.parametrize("now_day", [9, 12, 16, 19, 30, 400])
def test_what_a_child_leans_on_stays_and_nothing_looks_damaged(
    lineage: Lineage, tmp_path: Path, now_day: float
) -> None:
    plan = lineage.prune(now_day, 3)
    kept = {each.key for each in plan.verdicts if each.keep}
    assert lineage.second_full in kept
    assert history_of(lineage.builder.objects).problems == ()
    for points in plan.points:
        for txid in range(points.first_txid, points.last_txid + 1):
            restored(lineage, tmp_path, AtTxid(Txid(txid)), points.timeline)
    if now_day == 400:
        assert {key for key in kept if key.startswith("snapshots/")} == {lineage.second_full, lineage.third_base}


def test_the_parents_full_one_goes_when_the_child_has_its_own(lineage: Lineage) -> None:
    own = lineage.builder.snapshot(20 * DAY)
    kept = {each.key for each in lineage.prune(400, 3).verdicts if each.keep}
    assert {key for key in kept if key.startswith("snapshots/")} == {own}
    assert history_of(lineage.builder.objects).problems == ()


def test_the_newest_full_one_is_told_by_its_place_and_not_by_a_clock() -> None:
    def name(timeline: str, txid: int, seq: int, seen_ms: int) -> SnapshotName:
        return SnapshotName(timeline=TimelineId(timeline), txid=Txid(txid), seen_ms=seen_ms, seq=Seq(seq))

    old, later, twin = name("00001-a", 9, 9, 9000), name("00002-b", 0, 10, 100), name("00002-c", 3, 12, 50)
    newest = name("00002-b", 2, 14, 10)
    assert newest_full([]) == ()
    assert newest_full([newest, old, later]) == (newest,)
    assert newest_full([later, old]) == (later,)
    assert newest_full([old, later, twin, newest]) == (newest, twin)
    again = name("00002-b", 2, 15, 5)
    assert newest_full([again, newest]) == (again,)


@pytest.mark.parametrize(
    ("timeline", "txid", "is_key"),
    [
        ("00001-5f3a9c21", 10**16 - 1, True),
        ("00002-00000000", 0, True),
        ("00003-5f3a9c21", 0, False),
        ("00003-00000000", 0, False),
        ("00004-5f3a9c21", 0, False),
    ],
)
def test_a_key_names_a_full_one_that_was_there_before(timeline: str, txid: int, *, is_key: bool) -> None:
    name = parse_snapshot_key(KEY.format(timeline, txid))
    assert (name is not None) == is_key
    if name is not None:
        assert name.full == FullName(TimelineId(timeline), Txid(txid))
        assert snapshot_key(name) == KEY.format(timeline, txid)
