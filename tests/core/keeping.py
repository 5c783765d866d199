"""A replica that is compacted, given snapshots and pruned in virtual time, by its facts alone.

It does what the planners say, when the engine asks them, and counts what that takes of the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from math import inf

import msgspec

from tests.core.compacting import DAY, POLICY, QUARTER, Place
from walrep.core.compaction import PackPlan
from walrep.core.holding import Holding
from walrep.core.inventory import Listed, take_inventory
from walrep.core.names import SnapshotName, pruned_key, snapshot_key
from walrep.core.retention import RetentionPolicy, is_anything_expired, plan_retention
from walrep.core.snapshots import FullSnapshot, SnapshotFacts, SnapshotPolicy, plan_kind, plan_snapshot
from walrep.core.stored import PackFact, SegmentFact
from walrep.core.units import Checksum, Seq, Txid
from walrep.core.workload import Workload, distinct_pages

__all__ = ["WINDOW_OVER", "Day", "KeptPlace", "Writer"]

WINDOW_OVER = POLICY.settle_ms + POLICY.grace_ms


class Day(msgspec.Struct, kw_only=True):
    """What a day made and deleted, what it asked of the store, and how many objects there were.

    The same names as in a forecast: at most, and when the night's work was done.
    """

    created_count: int = 0
    deleted_count: int = 0
    requests: Counter[str]
    live_midnight_count: int = 0
    live_peak_count: int = 0
    full_count: int = 0


class KeptPlace(Place):
    """A replica of a database of so many pages, of which each transaction writes some at random."""

    def __init__(self, workload: Workload, retention: RetentionPolicy, snapshots: SnapshotPolicy) -> None:
        super().__init__()
        self.other_count = 1
        """The replica object."""
        self.today = Day(requests=Counter())
        self._workload = workload
        self._retention = retention
        self._policy = snapshots
        self._snapshots: dict[str, SnapshotName] = {}
        self._record = ""
        self._full: FullSnapshot | None = None
        self._last = (self.now_ms, 0)
        self._log_bytes = 0
        self._seen: Holding | None = None
        self.open_timeline()
        self.make_snapshot()

    def commit(self, transactions: int = 10, *, size_bytes: int = 3000, seen_ms: int | None = None) -> None:
        """Put a segment."""
        super().commit(transactions, size_bytes=size_bytes, seen_ms=seen_ms)
        self._log_bytes += size_bytes
        self._seen = None
        self._note_put()

    def build(self, plan: PackPlan) -> None:
        """Put a pack."""
        super().build(plan)
        self._note_put()
        self.today.requests["head"] += 1

    def snapshot_due_ms(self) -> float:
        """Return when the next snapshot is due."""
        last_ms, last_txid = self._last
        facts = SnapshotFacts(
            identity="",
            now_ms=self.now_ms,
            last_ms=last_ms,
            last_txid=Txid(last_txid),
            txid=Txid(self.txid),
            log_bytes=self._log_bytes,
            database_bytes=self._workload.database_bytes,
        )
        at_ms = plan_snapshot(facts, self._policy).at_ms
        if at_ms is None:
            return inf
        # That the logs have outgrown the database is seen at the next look.
        look_ms = round(1000 * self._policy.look_s)
        return at_ms or -(-self.now_ms // look_ms) * look_ms

    def make_snapshot(self) -> None:
        """Put a snapshot of what is stored."""
        changed = 0.0
        if self._full is not None:
            writes = (self.txid - self._full.name.txid) * self._workload.pages
            changed = distinct_pages(writes, self._workload.page_count)
        pages = (round(changed), round(self._workload.page_count))
        kind, _reason = plan_kind(
            self._full, pages, replica="r", page_size=4096, now_ms=self.now_ms, policy=self._policy
        )
        name = SnapshotName(timeline=self.timeline, txid=Txid(self.txid), seen_ms=self.now_ms, seq=Seq(self.seq))
        if kind == "full":
            self._full = FullSnapshot(replica="r", name=name, page_size=4096, checksum=Checksum(1))
            self.today.full_count += 1
        elif self._full is not None:
            name = msgspec.structs.replace(name, full=self._full.name.as_full)
        self._snapshots[snapshot_key(name)] = name
        self._last, self._log_bytes = (self.now_ms, self.txid), 0
        self._note_put()
        self._count()

    def prune(self) -> None:
        """Prune as `DailyRetention` and `Janitor` do; nothing is asked when nothing was stored and nothing expires."""
        if self._seen is not None and not is_anything_expired(self._seen, self._retention, self.now_ms):
            return
        self.today.requests["list"] += 1
        self.today.requests["get"] += bool(self._record)
        self._seen = self._take_inventory()
        steps = plan_retention(self._seen, self._retention, self.now_ms).steps
        if steps:
            self._note_put()
            self.today.requests["head"] += 1
            self.today.requests["list"] += 1
            self.today.requests["delete"] += len(steps)
            self._drop({key for step in steps for key in step})
            self.today.deleted_count += bool(self._record)
            self._record, self._seen = pruned_key(self.now_ms), None

    def settle(self) -> None:
        """Do what plans say until there is nothing more to do now."""
        self.today.requests["delete"] += bool(self.plan().deletions)
        super().settle()

    def delete(self, key: str) -> None:
        """Delete what a pack replaces; that it may be, others have tested."""
        del self.objects[key]
        self.today.deleted_count += 1

    def check_all_there(self) -> None:
        """Every transaction behind the oldest log is there, and a snapshot to begin with."""
        logs = [fact for fact in self.objects.values() if fact.txid_after]
        logs.sort(key=lambda each: (each.txid_before, each.txid_after))
        oldest = reached = logs[0].txid_before
        for log in logs:
            assert log.txid_before <= reached
            reached = max(reached, log.txid_after)
        assert reached == self.txid
        assert any(oldest <= name.txid for name in self._snapshots.values())

    def count(self) -> int:
        """How many objects the replica has."""
        return super().count() + len(self._snapshots) + bool(self._record)

    def close_day(self) -> Day:
        """Return the sums, and begin anew."""
        day, self.today = self.today, Day(requests=Counter())
        day.live_peak_count, self.count_max = self.count_max, self.count()
        return day

    def _drop(self, keys: AbstractSet[str]) -> None:
        self.objects = {key: fact for key, fact in self.objects.items() if key not in keys}
        self._snapshots = {key: name for key, name in self._snapshots.items() if key not in keys}
        self.today.deleted_count += len(keys)

    def _take_inventory(self) -> Holding:
        times = {
            each.key: each.stored_ms if isinstance(each, PackFact) else each.first_seen_ms
            for each in self.objects.values()
        }
        times |= {key: name.seen_ms for key, name in self._snapshots.items()}
        listing = [Listed(key=key, size_bytes=1, stored_ms=stored_ms) for key, stored_ms in times.items()]
        segments = {each.key: each for each in self.objects.values() if isinstance(each, SegmentFact)}
        return take_inventory(listing, segments)

    def _note_put(self) -> None:
        self.today.created_count += 1
        self.today.requests["put"] += 1


class Writer:
    """Writes a segment at the same moments of a day, and does all else when it is due."""

    def __init__(self, place: KeptPlace, *, transactions: int, size_bytes: int) -> None:
        self.place = place
        self._midnight_ms = place.now_ms
        self._transactions = transactions
        self._size_bytes = size_bytes
        self._due_ms: float = inf

    def day(self, moments: range) -> Day:
        """Live through a day, and the first moment of the next one."""
        live_midnight_count = 0
        for moment in sorted({*moments, WINDOW_OVER, DAY}):
            self._wait_until(self._midnight_ms + moment)
            if moment == WINDOW_OVER:
                live_midnight_count = self.place.count()
            if moment in moments:
                self._commit()
        day = self.place.close_day()
        day.live_midnight_count = live_midnight_count
        self._midnight_ms += DAY
        self.place.prune()
        return day

    def _commit(self) -> None:
        self.place.commit(self._transactions, size_bytes=self._size_bytes)
        end_ms = (self.place.now_ms // QUARTER + 1) * QUARTER + POLICY.settle_ms
        if self._due_ms > end_ms:
            self._plan()

    def _plan(self) -> None:
        next_ms = self.place.plan().next_ms
        self._due_ms = inf if next_ms is None else next_ms

    def _wait_until(self, moment_ms: int) -> None:
        while (due_ms := min(self._due_ms, snapshot_ms := self.place.snapshot_due_ms())) <= moment_ms:
            self.place.now_ms = max(self.place.now_ms, int(due_ms))
            if due_ms == snapshot_ms:
                self.place.make_snapshot()
            else:
                self.place.settle()
                self._plan()
        self.place.now_ms = moment_ms
