"""The workload that a history shows: counted by hand, from segments and from packs alike."""

from __future__ import annotations

import random

import pytest

from walrep.core.forecast_walrep import SEGMENT_BYTES, WalrepSettings, forecast_walrep
from walrep.core.links import Segment
from walrep.core.observed import Observation, observe_workload
from walrep.core.workload import Workload
from walrep.errors import UsageError
from walrep.testing.history import HistoryBuilder, history_of

PAGE_SIZE = 512
PAGES = 40
SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
T0 = 20_000 * 24 * HOUR
"""Midnight of some day, and so the beginning of a quarter of an hour."""


class App:
    """Commits transactions of two pages, of random content, in a replica of its own."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.builder = HistoryBuilder(PAGE_SIZE)
        self.begin(T0)

    def begin(self, seen_ms: int) -> None:
        self.builder.begin({pgno: self.random.randbytes(PAGE_SIZE) for pgno in range(1, PAGES + 1)}, seen_ms)

    def segment(self, *moments: int) -> str:
        for moment in moments:
            pages = [(pgno, self.random.randbytes(PAGE_SIZE)) for pgno in self.random.sample(range(1, PAGES + 1), 2)]
            self.builder.commit(pages, PAGES, moment)
        return self.builder.seal()

    def observe(self) -> Observation:
        return observe_workload(history_of(self.builder.objects))


def every(step_ms: int, first_ms: int, last_ms: int) -> list[int]:
    return list(range(T0 + first_ms, T0 + last_ms + 1, step_ms))


def test_two_hours_of_a_transaction_a_minute() -> None:
    app = App()
    for moment in every(2 * MINUTE, 0, 2 * HOUR - 2 * MINUTE):
        app.segment(moment, moment + MINUTE)
    seen = app.observe()
    assert (seen.transaction_count, seen.first_ms, seen.last_ms) == (120, T0, T0 + 2 * HOUR - MINUTE)
    assert seen.span_ms == seen.active_ms == 2 * HOUR - MINUTE
    assert seen.workload.transactions_per_s == pytest.approx(120 / (119 * 60))
    assert (seen.workload.pages, seen.workload.page_size, seen.workload.active_hours) == (2, PAGE_SIZE, 24)
    assert seen.workload.database_bytes == PAGES * PAGE_SIZE
    # Random pages, which nothing compresses.
    assert seen.workload.encoded_ratio == seen.workload.zstd_ratio == seen.workload.lz4_ratio == 1.0
    assert seen.workload.changed_bytes == pytest.approx(2 * PAGE_SIZE, rel=0.1)


def test_what_is_forecast_of_it_has_the_size_of_what_is_there() -> None:
    app = App()
    keys = [app.segment(moment, moment + SECOND) for moment in every(10 * SECOND, 0, HOUR)]
    sizes = [len(app.builder.objects[key]) for key in keys]
    segments = forecast_walrep(app.observe().workload, WalrepSettings()).flows[0]
    assert segments.what == "segments"
    assert segments.created_count / 30 / 24 == pytest.approx(360)
    assert segments.object_bytes == pytest.approx(sum(sizes) / len(sizes), rel=0.02)


@pytest.mark.parametrize("keep", [False, True])
def test_packs_show_the_same_as_their_segments(keep: bool) -> None:  # noqa: FBT001 - a parameter of a test
    """Also beside what they replaced, which is not counted again."""
    app = App()
    keys = [app.segment(moment, moment + SECOND) for moment in every(MINUTE, 0, 3 * HOUR)]
    before = app.observe()
    app.builder.pack(keys[:60], keep=keep)
    app.builder.pack(keys[60:120], keep=keep)
    after = app.observe()
    assert (after.transaction_count, after.span_ms, after.active_ms) == (362, before.span_ms, before.active_ms)
    assert after.workload.transactions_per_s == before.workload.transactions_per_s
    assert after.workload.pages == before.workload.pages
    assert after.workload.changed_bytes == pytest.approx(before.workload.changed_bytes, rel=0.02)


def test_hours_in_which_nothing_is_committed_are_not_active() -> None:
    """Two hours, six hours of nothing, and two hours again: nine quarters each, of ten hours."""
    app = App()
    for moment in [*every(5 * MINUTE, 0, 2 * HOUR), *every(5 * MINUTE, 8 * HOUR, 10 * HOUR)]:
        app.segment(moment)
    seen = app.observe()
    assert (seen.span_ms, seen.active_ms) == (10 * HOUR, 18 * 15 * MINUTE)
    assert seen.workload.active_hours == pytest.approx(24 * 4.5 / 10)
    assert seen.workload.transactions_per_day == pytest.approx(50 * 2.4)


def test_a_rare_commit_is_active_for_a_quarter_of_an_hour() -> None:
    app = App()
    for moment in every(6 * HOUR, 0, 24 * HOUR):
        app.segment(moment)
    assert app.observe().active_ms == 5 * 15 * MINUTE


def test_a_pack_counts_as_active_between_its_first_and_its_last_transaction() -> None:
    app = App()
    app.builder.pack([app.segment(moment) for moment in every(6 * HOUR, 0, 24 * HOUR)])
    assert app.observe().workload.active_hours == 24


def test_the_time_between_timelines_is_not_counted() -> None:
    """An hour each, a month apart; what is newer tells how large the database is."""
    app = App()
    for moment in every(MINUTE, 0, HOUR):
        app.segment(moment)
    app.begin(T0 + 720 * HOUR)
    for moment in every(MINUTE, 721 * HOUR, 722 * HOUR):
        app.segment(moment)
    app.builder.commit([(PAGES + 1, bytes(PAGE_SIZE))], PAGES + 1, T0 + 722 * HOUR)
    app.builder.seal()
    seen = app.observe()
    assert (seen.span_ms, seen.transaction_count) == (2 * HOUR, 61 + 61 + 1)
    assert (seen.first_ms, seen.last_ms) == (T0, T0 + 722 * HOUR)
    assert seen.workload.database_bytes == (PAGES + 1) * PAGE_SIZE


def test_how_well_the_base_compresses() -> None:
    """LZ4 is taken to do worse by as much as it was measured to."""
    builder = HistoryBuilder(4096)
    half = random.Random(1).randbytes(2048) + bytes(2048)
    image = {pgno: half[pgno:] + half[:pgno] for pgno in range(1, 200)}
    builder.begin(image, T0)
    key = next(key for key in builder.objects if key.startswith("snapshots/"))
    for moment in every(MINUTE, 0, HOUR):
        builder.commit([(1, half)], len(image), moment)
        builder.seal()
    workload = observe_workload(history_of(builder.objects)).workload
    assert workload.zstd_ratio == len(builder.objects[key]) / (199 * 4096)
    typical = Workload(transactions_per_s=0)
    assert workload.lz4_ratio == pytest.approx(workload.zstd_ratio * typical.lz4_ratio / typical.zstd_ratio)


def test_a_differential_base_says_nothing_about_that() -> None:
    app = App()
    app.segment(T0 + MINUTE)
    first, left = app.builder.timeline, app.builder.positions[app.builder.timeline, 1]
    app.builder.begin(dict(app.builder.image), T0 + HOUR, parent=left, base=False)
    app.builder.snapshot(T0 + HOUR, full_txid=0, full_timeline=first)
    for moment in every(MINUTE, HOUR, 3 * HOUR):
        app.segment(moment)
    # Random pages, which nothing compresses.
    assert app.observe().workload.zstd_ratio > 0.9


def test_a_snapshot_within_a_pack_tells_nothing_of_compression() -> None:
    """What begins the pack is the size before, not the one at the snapshot."""
    app = App()
    keys = [app.segment(moment) for moment in every(MINUTE, 0, HOUR)]
    before = app.observe().workload.zstd_ratio
    app.builder.snapshot(T0 + 2 * HOUR)
    keys += [app.segment(moment) for moment in every(MINUTE, 3 * HOUR, 4 * HOUR)]
    app.builder.pack(keys)
    assert app.observe().workload.zstd_ratio == before


def test_without_a_snapshot_compression_is_taken_as_typical() -> None:
    app = App()
    for moment in every(MINUTE, 0, HOUR):
        app.segment(moment)
    for key in [key for key in app.builder.objects if key.startswith("snapshots/")]:
        del app.builder.objects[key]
    assert app.observe().workload.zstd_ratio == Workload(transactions_per_s=0).zstd_ratio


def test_an_object_smaller_than_what_is_fixed_is_no_bytes() -> None:
    """Pages that did not change at all compress to nothing, and the fixed part is an average."""
    builder = HistoryBuilder(PAGE_SIZE)
    builder.begin({1: bytes(PAGE_SIZE)}, T0)
    for moment in every(30 * MINUTE, 0, HOUR):
        builder.commit([(1, bytes(PAGE_SIZE))], 1, moment)
        builder.seal()
    history = history_of(builder.objects)
    sizes = [each.size_bytes for each in history.timelines[0].chain if isinstance(each, Segment)]
    assert (
        observe_workload(history).workload.changed_bytes == sum(max(0, each - SEGMENT_BYTES) for each in sizes[1:]) / 3
    )


def test_no_transaction_cannot_be_measured() -> None:
    with pytest.raises(UsageError, match="no transactions") as caught:
        App().observe()
    assert "--transactions-per-second" in caught.value.hint


@pytest.mark.parametrize("moments", [[0], [0, HOUR - 1]])
def test_less_than_an_hour_is_too_little(moments: list[int]) -> None:
    app = App()
    app.segment(*(T0 + moment for moment in moments))
    with pytest.raises(UsageError, match="too little history") as caught:
        app.observe()
    assert "an hour is the least" in caught.value.detail
    assert "--transactions-per-second" in caught.value.hint
