from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.compare.checking import digest, judge
from benchmarks.compare.processes import Ended
from benchmarks.compare.shapes import SHAPES, Load, Session, connect, make_template, pages_per_transaction, replay
from benchmarks.compare.writing import Commits

ENDED = Ended(1.0, 0.5, 0, "")


@pytest.fixture
def template(tmp_path: Path) -> tuple[Path, Load]:
    load = Load(shape="oltp", rows=60, seed=3)
    make_template(tmp_path / "template.db", load)
    return tmp_path / "template.db", load


def record(count: int) -> Commits:
    at_s = tuple(float(number) for number in range(1, count + 1))
    return Commits(at_s=at_s, took_us=at_s, number=tuple(range(1, count + 1)), changed_bytes=0)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_same_transactions_make_the_same_rows(tmp_path: Path, shape: str) -> None:
    load = Load(shape=shape, rows=60, seed=5)
    make_template(tmp_path / "template.db", load)
    for name in ("one", "two"):
        replay(tmp_path / "template.db", load, 12, tmp_path / name)
    replay(tmp_path / "template.db", load, 13, tmp_path / "more")
    assert digest(tmp_path / "one") == digest(tmp_path / "two") != digest(tmp_path / "more")


def test_a_transaction_counts_itself_and_says_how_much_it_changed(template: tuple[Path, Load], tmp_path: Path) -> None:
    replay(*template, 0, tmp_path / "app.db")
    with closing(connect(tmp_path / "app.db")) as connection:
        session = Session(connection, template[1])
        changed = [session.commit() for _ in range(5)]
        assert connection.execute("select n from app_record").fetchone() == (5,)
    assert min(changed) > 8


def test_pages_of_a_transaction_are_those_of_its_log(template: tuple[Path, Load], tmp_path: Path) -> None:
    assert 1 < pages_per_transaction(*template, tmp_path / "scratch.db") < 10


@pytest.mark.parametrize(
    ("restored", "at_s", "verdict", "behind_s"),
    [(10, None, "exact", 0.0), (7, 7.0, "exact", 0.0), (5, 7.0, "behind", 1.0)],
)
def test_a_restore_is_exact_or_behind(
    template: tuple[Path, Load], tmp_path: Path, restored: int, at_s: float | None, verdict: str, behind_s: float
) -> None:
    output = tmp_path / "restored.db"
    replay(*template, restored, output)
    found = judge(ENDED, output, template, record(10), at_s)
    assert (found.verdict, found.number, found.behind_s, found.is_wrong) == (verdict, restored, behind_s, False)


def test_what_is_missing_after_the_stop_is_lost_unless_the_strategy_is_always_behind(
    template: tuple[Path, Load], tmp_path: Path
) -> None:
    output = tmp_path / "restored.db"
    replay(*template, 8, output)
    found = judge(ENDED, output, template, record(10), None)
    assert (found.verdict, found.is_wrong) == ("LOST: 2 transactions", True)
    found = judge(ENDED, output, template, record(10), None, keeps_up=False)
    assert (found.verdict, found.behind_s, found.is_wrong) == ("behind", 1.0, False)


def test_a_restore_that_is_newer_than_asked_is_wrong(template: tuple[Path, Load], tmp_path: Path) -> None:
    replay(*template, 8, tmp_path / "restored.db")
    assert judge(ENDED, tmp_path / "restored.db", template, record(10), 7.0).is_wrong


def test_a_row_that_the_app_never_had_is_a_mismatch(template: tuple[Path, Load], tmp_path: Path) -> None:
    output = tmp_path / "restored.db"
    replay(*template, 10, output)
    with closing(sqlite3.connect(output)) as connection, connection:
        connection.execute("update users set karma=karma+1 where id=7")
    found = judge(ENDED, output, template, record(10), None)
    assert found.verdict.startswith("MISMATCH: not what the app had after 10")


def test_tables_of_the_tool_itself_do_not_count(template: tuple[Path, Load], tmp_path: Path) -> None:
    output = tmp_path / "restored.db"
    replay(*template, 10, output)
    with closing(sqlite3.connect(output)) as connection, connection:
        connection.execute("create table _litestream_seq(id integer primary key, seq integer)")
    assert judge(ENDED, output, template, record(10), None).verdict == "exact"


def test_a_restore_that_failed_is_wrong(template: tuple[Path, Load], tmp_path: Path) -> None:
    found = judge(Ended(1.0, 0.5, 7, "no such time"), tmp_path / "nothing.db", template, record(10), None)
    assert found.is_wrong
    assert "no such time" in found.verdict
