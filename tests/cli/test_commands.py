"""What `list`, `dump` and `restore` print of a replica: the contract of --json, and text for people."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from walrep.cli.main import run
from walrep.cli.restore import restore
from walrep.disk.state import StateDirectory
from walrep.runner import InlineRunner
from walrep.store.local import LocalStore
from walrep.testing.history import HistoryBuilder, image_bytes

BEGAN_MS = 1_763_717_585_000
PAGE_SIZE = 512


def page(value: int) -> bytes:
    return bytes([value]) * PAGE_SIZE


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    """A folder with one timeline: a base and two transactions, a second apart."""
    builder = HistoryBuilder(PAGE_SIZE)
    builder.begin({1: page(1), 2: page(2)}, BEGAN_MS)
    builder.commit([(2, page(3))], 2, BEGAN_MS + 1000)
    builder.commit([(1, page(4))], 2, BEGAN_MS + 2000)
    builder.seal()
    folder = tmp_path / "replica"
    asyncio.run(builder.store_in(LocalStore(folder, InlineRunner())))
    return folder


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.err == ""
    return [json.loads(line) for line in captured.out.splitlines()]


def test_list_as_json_has_a_line_for_each_thing(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--json", str(replica)]) == 0
    lines = json_lines(capsys)
    assert [line["type"] for line in lines] == ["replica", "timeline", "snapshot", "segment", "segment"]
    assert lines[1]["restorable"] == [
        {
            "first_txid": 0,
            "last_txid": 2,
            "first_time": "2025-11-21T09:33:05.000Z",
            "last_time": "2025-11-21T09:33:07.000Z",
        }
    ]
    assert (lines[4]["key"], lines[4]["txid_before"], lines[4]["txid_after"]) == ("segments/0000000000000002", 0, 2)


def test_list_for_people_says_what_is_restorable(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", str(replica)]) == 0
    text = capsys.readouterr().out
    assert "  restorable  transactions 0 to 2, 2025-11-21T09:33:05.000Z to 2025-11-21T09:33:07.000Z\n" in text
    assert "  segments    2 with 2 transactions, " in text


def test_list_goes_on_past_a_problem_and_names_it(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (replica / "stray").write_bytes(b"?")
    assert run(["list", str(replica)]) == 0
    assert capsys.readouterr().out.endswith("\nproblem: stray is not an object of a replica\n")


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_dump_shows_headers_transactions_and_footers(
    replica: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["dump", "--json", f"{prefix}{replica}/segments/0000000000000002"]) == 0
    lines = json_lines(capsys)
    assert [line["type"] for line in lines] == ["header", *["chunk"] * (len(lines) - 2), "footer"]
    header, footer = lines[0]["fields"], lines[-1]["fields"]
    assert isinstance(header, dict)
    assert isinstance(footer, dict)
    assert len(header["checksum_before"]) == 16
    assert footer["last_seen_time"] == "2025-11-21T09:33:07.000Z"


def test_dump_shows_what_is_readable_before_the_damage(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = replica / "segments" / "0000000000000002"
    segment.write_bytes(segment.read_bytes()[:-40])
    assert run(["dump", str(segment)]) == 6
    captured = capsys.readouterr()
    assert captured.out.startswith("header\n")
    assert "chunk at byte" in captured.out
    assert captured.err.startswith("walrep: ")
    assert "(at byte " in captured.err


def test_restore_as_json_is_one_line(replica: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.db"
    assert run(["restore", str(replica), "-o", str(output), "--txid", "1", "--check", "none", "--json"]) == 0
    (line,) = json_lines(capsys)
    assert (line["type"], line["written"], line["txid"]) == ("restore", True, 1)
    assert (line["time"], line["database_bytes"]) == ("2025-11-21T09:33:06.000Z", 2 * PAGE_SIZE)
    assert output.read_bytes() == image_bytes({1: page(1), 2: page(3)}, 2, PAGE_SIZE)


@pytest.mark.parametrize(
    ("target", "transaction"),
    [
        ([], 2),
        (["--txid", "0"], 0),
        (["--at", "2025-11-21T09:33:06.500Z"], 1),
        (["--timeline", "1", "--at", "2025-11-21T09:33:05Z"], 0),
    ],
)
def test_dry_run_prints_the_plan_and_writes_nothing(
    replica: Path, tmp_path: Path, target: list[str], transaction: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["restore", str(replica), "-o", str(tmp_path / "out.db"), "--dry-run", *target]) == 0
    text = capsys.readouterr().out
    assert text.startswith("would restore  ")
    assert f"\ntransaction    {transaction} of timeline 00001-" in text
    assert "\nbecause        " in text
    assert not (tmp_path / "out.db").exists()


def test_bookmark_that_restore_prints_restores_the_same(
    replica: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [tmp_path / "a.db", tmp_path / "b.db"]
    common = ["--check", "none", "--json"]
    assert run(["restore", str(replica), "-o", str(outputs[0]), "--txid", "1", *common]) == 0
    bookmark = str(json_lines(capsys)[0]["bookmark"])
    assert run(["restore", str(replica), "-o", str(outputs[1]), "--bookmark", bookmark, *common]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_existing_database_is_replaced_only_by_force(
    replica: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.db"
    output.write_bytes(b"precious")
    arguments = ["restore", str(replica), "-o", str(output), "--check", "none"]
    assert run(arguments) == 7
    assert output.read_bytes() == b"precious"
    assert "add --force" in capsys.readouterr().err
    assert run([*arguments, "--force"]) == 0
    assert output.read_bytes() == image_bytes({1: page(4), 2: page(3)}, 2, PAGE_SIZE)


def test_transaction_that_is_not_there_is_refused_with_what_is(
    replica: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["restore", str(replica), "-o", str(tmp_path / "out.db"), "--txid", "9"]) == 7
    assert "transactions 0 to 2" in capsys.readouterr().err


def test_a_database_that_a_walrep_uses_is_not_restored_over(
    replica: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = StateDirectory(tmp_path / ".out.db-walrep")
    (directory.path / "state.json").write_text("{}")
    try:
        code = run(["restore", str(replica), "-o", str(tmp_path / "out.db"), "--force"])
    finally:
        directory.close()
    assert code == 3
    assert code in restore.exits
    assert "another walrep uses this state directory" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["snapshot", "detach"])
def test_a_state_directory_that_cannot_be_one_is_an_error_with_a_hint(
    command: str, replica: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no traceback: whoever asks may be another user than the one that walrep runs as."""
    file = str(replica / "replica")
    assert run([command, file, "--state-dir", file]) == 8
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "cannot ask who uses" in told
    assert "hint: a part of the path is a file" in told
