from __future__ import annotations

from benchmarks.compare.counts import Kind, Stored
from benchmarks.compare.results import lags, live_series, medians, spread
from benchmarks.compare.strategies import Mark
from benchmarks.compare.writing import Commits
from tests.benchmarks.making import counted, result


def commits(*at_s: float) -> Commits:
    numbers = tuple(range(1, len(at_s) + 1))
    return Commits(at_s=at_s, took_us=(1.0,) * len(at_s), number=numbers, changed_bytes=0)


def test_a_commit_waits_for_the_first_mark_that_holds_it() -> None:
    marks = [Mark(5.0, 2), Mark(9.0, 3)]
    assert lags(commits(1.0, 2.0, 6.0), marks, until_s=100) == ([4.0, 3.0, 3.0], 0)


def test_what_only_the_stop_made_durable_is_told_apart() -> None:
    assert lags(commits(1.0, 2.0, 6.0), [Mark(5.0, 1), Mark(9.0, 3)], until_s=8.0) == ([4.0], 2)


def test_a_mark_that_holds_less_than_one_before_changes_nothing() -> None:
    marks = [Mark(5.0, 3), Mark(6.0, 1)]
    assert lags(commits(1.0, 2.0, 3.0), marks, until_s=100)[0] == [4.0, 3.0, 2.0]


def test_a_spread_has_the_middle_and_the_ends() -> None:
    found = spread([3.0, 1.0, 2.0])
    assert found is not None
    assert (found.count, found.p50, found.max, found.steps[0], found.steps[100]) == (3, 2.0, 3.0, 1.0, 3.0)
    assert spread([]) is None


def test_objects_are_live_between_their_put_and_their_deletion() -> None:
    objects = [
        Stored(key="a", size_bytes=1, stored_s=0.0, deleted_s=15.0),
        Stored(key="b", size_bytes=1, stored_s=12.0),
    ]
    series = dict(live_series(objects, 10.0, 20.0))
    assert (series[0.0], series[3.0], series[10.0]) == (1, 2, 1)


def test_the_app_knows_how_far_it_was() -> None:
    record = commits(1.0, 2.0, 3.0)
    assert [record.number_at(moment) for moment in (0.5, 2.0, 9.0)] == [0, 2, 3]


def test_an_image_of_the_database_is_no_change() -> None:
    run = counted({"image": Kind(created=1, bytes=5000), "L0": Kind(created=3, bytes=30)})
    assert result("litestream", run=run).change_bytes == 30


def test_the_median_of_rounds_comes_with_its_range() -> None:
    rounds = [result("x", cpu_s=cpu_s) for cpu_s in (3.0, 1.0, 2.0)]
    assert medians(rounds, lambda each: each.cpu_s) == (2.0, 1.0, 3.0)
    assert medians(rounds, lambda _each: None) is None
