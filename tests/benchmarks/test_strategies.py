from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.compare.counts import Stored
from benchmarks.compare.litestream import Litestream
from benchmarks.compare.strategies import Daily, Mark, PerChange, Place, Seen, Walrep, format_time
from benchmarks.compare.writing import Commits

COMMITS = Commits(at_s=(1.0, 2.0, 3.0), took_us=(1.0,) * 3, number=(1, 2, 3), changed_bytes=0)


def seen(*objects: Stored) -> Seen:
    return Seen(index=0, objects=objects, commits=COMMITS)


def stored(key: str, stored_s: float, ltx_ms: int = 0) -> Stored:
    return Stored(key=key, size_bytes=1, stored_s=stored_s, ltx_ms=ltx_ms)


def test_of_walrep_its_log_tells_what_is_durable(tmp_path: Path) -> None:
    strategy = Walrep(10.0, "walrep-10s")
    strategy.place = Place(folder=tmp_path, databases=(tmp_path / "app0.db",), endpoint="http://h", prefix="run")
    line = {"event": "flushed", "database": "app0.db", "timestamp": "1970-01-01T00:00:05.500Z"}
    lines = [
        {**line, "bookmark": "00001-dac2bf33-0000000000000002-32298e20d287c24e"},
        {**line, "database": "other.db", "bookmark": "00001-dac2bf33-0000000000000009-32298e20d287c24e"},
        {"event": "attached", "database": "app0.db"},
    ]
    strategy.log.write_text("not JSON\n" + "".join(f"{msgspec.json.encode(each).decode()}\n" for each in lines))
    assert strategy.marks(seen()) == [Mark(5.5, 2)]


def test_a_timeline_that_ended_in_a_run_is_no_measurement(tmp_path: Path) -> None:
    strategy = Walrep(10.0, "walrep-10s")
    strategy.place = Place(folder=tmp_path, databases=(tmp_path / "app0.db",), endpoint="http://h", prefix="run")
    line = '{"event":"flushed","database":"app0.db","timestamp":"1970-01-01T00:00:05Z","bookmark":"00002-a-1-b"}\n'
    strategy.log.write_text(line)
    with pytest.raises(RuntimeError, match="a new timeline"):
        strategy.marks(seen())


def test_changes_that_overtake_others_wait_for_them() -> None:
    objects = [stored("run/0/changes/5-000000001.zst", 9.0), stored("run/0/changes/6-000000002.zst", 7.0)]
    assert PerChange().marks(seen(*objects)) == [Mark(9.0, 1), Mark(9.0, 2)]


def test_a_snapshot_holds_what_was_committed_when_it_began() -> None:
    assert Daily().marks(seen(stored("run/0/daily/000000000002500-snapshot.zst", 4.0))) == [Mark(4.0, 2)]


def test_an_ltx_file_holds_what_was_committed_at_its_time() -> None:
    first = stored("run/0/0000/0000000000000002-0000000000000002.ltx", 3.5, ltx_ms=2100)
    compacted = stored("run/0/0001/0000000000000002-0000000000000009.ltx", 3.6, ltx_ms=3100)
    assert Litestream().marks(seen(first, compacted)) == [Mark(3.5, 2)]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("run/0/0000/0000000000000002-0000000000000002.ltx", "L0"),
        ("run/0/0001/0000000000000002-0000000000000009.ltx", "L1"),
        ("run/0/0001/0000000000000001-0000000000000009.ltx", "image"),
        ("run/0/0009/0000000000000001-0000000000000009.ltx", "image"),
        ("run/0/lock.json", "other"),
    ],
)
def test_what_litestream_stores(key: str, kind: str) -> None:
    assert Litestream().kind_of(key) == kind


def test_what_the_others_store() -> None:
    assert Walrep(10.0, "w").kind_of("run/0/snapshots/t/0-full") == "image"
    assert Walrep(10.0, "w").kind_of("run/0/segments/1") == "segments"
    assert PerChange().kind_of("run/0/base/0-base.zst") == "image"
    assert Daily().kind_of("run/0/daily/0-snapshot.zst") == "snapshots"


def test_times_are_in_utc_with_milliseconds() -> None:
    assert format_time(1.25) == "1970-01-01T00:00:01.250Z"
