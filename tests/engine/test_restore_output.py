"""The file that a restore puts in place: checked, alone, and nobody's live database."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import msgspec
import pytest

from walrep.core.target import AtBookmark, AtTime, AtTxid
from walrep.core.units import Txid
from walrep.engine.pagefile import require_room
from walrep.engine.restorer import RestoreProgress, RestoreRequest, restore
from walrep.errors import (
    CorruptObject,
    RestoreMismatch,
    SpoolFull,
    TargetExists,
    UsageError,
)
from walrep.runner import InlineRunner
from walrep.testing.clock import SimClock
from walrep.testing.history import HistoryBuilder, image_pages
from walrep.testing.restores import memory_store, restore_inline, restore_to

PAGE = 512


def page(value: int) -> bytes:
    return value.to_bytes(4, "big") * (PAGE // 4)


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def small() -> HistoryBuilder:
    builder = HistoryBuilder(PAGE)
    builder.begin({1: page(1), 2: page(2), 3: page(3)}, 10_000)
    builder.commit([(2, page(20))], 3, 11_000)
    builder.commit([(3, page(30)), (1, page(10))], 3, 12_000)
    builder.seal()
    builder.commit([(4, page(40))], 4, 13_000)
    builder.seal()
    return builder


def database(path: Path, *, rows: int = 2000) -> bytes:
    """Write a real database in WAL mode, closed; return its bytes."""
    connection = apsw.Connection(str(path))
    connection.execute("pragma page_size=1024; pragma journal_mode=wal").fetchall()
    connection.execute("create table t(a, b); create index i on t(b)")
    with connection:
        connection.executemany("insert into t values(?, ?)", [(n, f"text {n * 7919 % 1000}") for n in range(rows)])
    connection.close()
    return path.read_bytes()


def real(tmp_path: Path) -> tuple[HistoryBuilder, bytes]:
    """A replica of a real database: a base, and one transaction that changes a text in it."""
    data = database(tmp_path / "source.db")
    pages = image_pages(data, 1024)
    builder = HistoryBuilder(1024)
    builder.begin(pages, 10_000)
    changed = next(pgno for pgno, content in pages.items() if b"text 919" in content)
    builder.commit([(changed, pages[changed].replace(b"text 919", b"TEXT 919"))], len(pages), 11_000)
    builder.seal()
    return builder, data


def test_a_real_database_is_checked_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    builder, data = real(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    for check in ("quick", "full"):
        output = out / f"{check}.db"
        restore_to(output, builder.objects, AtTxid(Txid(0)), check=check)
        assert output.read_bytes() == data
    assert names(out) == ["full.db", "quick.db"]


def test_a_database_that_was_defective_is_refused_unless_unchecked(tmp_path: Path) -> None:
    data = bytearray(database(tmp_path / "source.db"))
    data[2048:2300] = os.urandom(252)
    builder = HistoryBuilder(1024)
    builder.begin(image_pages(bytes(data), 1024), 10_000)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(RestoreMismatch) as caught:
        restore_to(out / "o.db", builder.objects, check="quick")
    assert "--check none" in caught.value.hint
    assert names(out) == []
    restore_to(out / "o.db", builder.objects, check="none")
    assert (out / "o.db").read_bytes() == data


def test_an_existing_target_is_replaced_only_when_forced_with_its_mode_and_without_its_log(tmp_path: Path) -> None:
    builder, data = real(tmp_path)
    output = tmp_path / "o.db"
    output.write_bytes(b"old")
    output.chmod(0o640)
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{output}{suffix}").write_bytes(b"stale")
    request = RestoreRequest(output=output, target=AtTxid(Txid(0)))
    with pytest.raises(TargetExists) as caught:
        restore_inline(builder.objects, request)
    assert "--force" in caught.value.hint
    assert output.read_bytes() == b"old"
    outcome = restore_inline(builder.objects, msgspec.structs.replace(request, force=True, undo="bookmark"))
    assert output.read_bytes() == data
    assert output.stat().st_mode & 0o777 == 0o640
    assert outcome.undo == "bookmark"
    assert names(tmp_path) == ["o.db", "source.db"]


def test_a_failed_restore_leaves_the_existing_target_and_its_log_alone(tmp_path: Path) -> None:
    builder = small()
    key = next(key for key in builder.objects if key.startswith("snapshots/"))
    output, log = tmp_path / "o.db", tmp_path / "o.db-wal"
    output.write_bytes(b"old")
    log.write_bytes(b"log")
    with pytest.raises(CorruptObject):
        restore_inline(
            {**builder.objects, key: builder.objects[key][:-1]},
            RestoreRequest(output=output, force=True, check="none"),
        )
    assert (output.read_bytes(), log.read_bytes()) == (b"old", b"log")
    assert names(tmp_path) == ["o.db", "o.db-wal"]


def test_a_live_target_is_refused_also_when_forced(tmp_path: Path) -> None:
    builder, _data = real(tmp_path)
    live = tmp_path / "source.db"
    connection = apsw.Connection(str(live))
    connection.execute("select count(*) from t").fetchall()
    before = live.read_bytes()
    with pytest.raises(TargetExists, match="in use"):
        restore_inline(builder.objects, RestoreRequest(output=live, force=True))
    assert live.read_bytes() == before
    connection.execute("insert into t values(1, 2)")
    connection.close()


def test_a_target_that_is_opened_during_the_restore_is_not_replaced(tmp_path: Path) -> None:
    builder, _data = real(tmp_path)
    live = tmp_path / "source.db"
    connections: list[apsw.Connection] = []

    def open_it(_progress: RestoreProgress) -> None:
        if not connections:
            connections.append(apsw.Connection(str(live)))
            connections[0].execute("insert into t values(1, 'kept')")

    request = RestoreRequest(output=live, force=True)
    clock = SimClock()
    with pytest.raises(TargetExists, match="in use"):
        clock.run(restore(memory_store(builder.objects), request, clock=clock, runner=InlineRunner(), progress=open_it))
    assert connections[0].execute("select count(*) from t where b = 'kept'").fetchall() == [(1,)]
    connections[0].close()
    assert [name for name in names(tmp_path) if name.endswith(".tmp")] == []


def test_a_link_is_followed(tmp_path: Path) -> None:
    builder = small()
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "o.db")
    outcome = restore_to(tmp_path / "link.db", builder.objects)
    assert outcome.output == (tmp_path / "real" / "o.db").resolve()
    assert (tmp_path / "link.db").is_symlink()
    assert (tmp_path / "real" / "o.db").read_bytes() == builder.states[builder.timeline, 3]


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    builder = small()
    request = RestoreRequest(output=tmp_path / "o.db", target=AtTime(12_500), dry_run=True)
    outcome = restore_inline(builder.objects, request)
    assert not outcome.written
    assert outcome.bookmark == str(builder.positions[builder.timeline, 2])
    assert (outcome.txid, outcome.seen_ms, outcome.database_bytes) == (2, 12_000, 3 * PAGE)
    assert names(tmp_path) == []


def test_a_bookmark_restores_its_position(tmp_path: Path) -> None:
    builder = small()
    restore_to(tmp_path / "o.db", builder.objects, AtBookmark(builder.positions[builder.timeline, 2]))
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 2]


def test_progress_counts_the_bytes_of_the_plan(tmp_path: Path) -> None:
    seen: list[RestoreProgress] = []
    restore_inline(small().objects, RestoreRequest(output=tmp_path / "o.db", check="none"), progress=seen.append)
    assert [each.phase for each in seen] == ["snapshot", "segments", "segments"]
    assert seen[-1].done_bytes == seen[-1].total_bytes


def test_a_directory_that_does_not_exist_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="directory does not exist"):
        restore_to(tmp_path / "missing" / "o.db", small().objects)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SpoolFull) as caught:
        require_room(tmp_path, 1 << 60)
    assert str(1 << 60) in caught.value.detail
    require_room(tmp_path, 1)
