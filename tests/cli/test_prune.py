"""`prune`, `keep`, `unkeep` and `restore --kept` on a replica of weeks in a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.engine.weeks import OTHER, Weeks, make_weeks
from walrep.cli.main import run
from walrep.config import Overrides, load_settings
from walrep.core.names import pruned_key
from walrep.core.prunings import PruneRecord, encode_record

START_MS = 1_735_689_600_000
"""2025-01-01: everything is older than any window."""


@pytest.fixture(scope="module")
def made() -> Weeks:
    return make_weeks(START_MS)


@pytest.fixture
def replica(made: Weeks, tmp_path: Path) -> Path:
    """The replica in a folder, without what its builder keeps by name."""
    folder = tmp_path / "replica"
    for key, found in made.objects.items():
        if key.startswith("pins/"):
            continue
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found.data)
        os.utime(path, (found.modified_ms / 1000,) * 2)
    return folder


def files(folder: Path) -> set[str]:
    """Return the keys of the objects in a folder."""
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {path for path in paths if ".walrep" not in path}


def walrep(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> tuple[list[str], str]:
    """Run a command; return its lines and what it says on stderr."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


def walrep_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    lines, _said = walrep(capsys, *arguments, "--json")
    return [json.loads(line) for line in lines]


def test_a_dry_run_tells_what_becomes_of_every_object_and_changes_nothing(
    replica: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(replica)
    lines, said = walrep(capsys, "prune", replica, "--dry-run")
    assert files(replica) == before
    told = {line.split(": ")[0].split()[-1]: line for line in lines}
    assert set(told) == before
    deleted = {key for key, line in told.items() if line.startswith("delete  ")}
    assert {key for key, line in told.items() if line.startswith("keep    ")} == before - deleted
    assert "keep" in told["replica"]
    assert all(": " in line and line.partition(": ")[2] for line in lines)
    assert f"{len(before - deleted)} objects stay, " in said
    assert f"{len(deleted)} would be deleted, " in said
    assert "any transaction since 20" in said


def test_a_dry_run_as_json_has_a_line_for_each_object_and_a_summary(
    replica: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *objects, summary = walrep_json(capsys, "prune", replica, "--dry-run", "--weekly", "3")
    assert {line["type"] for line in objects} == {"object"}
    assert summary["type"] == "summary"
    assert all(set(line) == {"type", "key", "size_bytes", "keep", "reason"} for line in objects)
    for word, keep in (("keep", True), ("delete", False)):
        sizes = [line["size_bytes"] for line in objects if line["keep"] is keep]
        assert (summary[f"{word}_count"], summary[f"{word}_bytes"]) == (len(sizes), sum(sizes))
    weekly = [line["key"] for line in objects if line["reason"].startswith("the last snapshot of week 2025-W")]
    # The newest of the three is the base of the newest timeline, which stays anyway.
    assert len(weekly) == 2


def test_what_the_dry_run_told_is_deleted_and_nothing_looks_damaged(
    replica: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(replica)
    planned = [line["key"] for line in walrep_json(capsys, "prune", replica, "--dry-run")[:-1] if not line["keep"]]
    lines, said = walrep(capsys, "prune", replica)
    assert {line.removeprefix("deleted  ") for line in lines} == set(planned)
    assert f"{len(planned)} objects deleted, " in said
    left = files(replica)
    assert {key for key in left if not key.startswith("pruned/")} == before - set(planned)
    assert len([key for key in left if key.startswith("pruned/")]) == 1
    assert {line["type"] for line in walrep_json(capsys, "list", replica)}.isdisjoint({"problem"})
    lines, said = walrep(capsys, "prune", replica)
    assert (lines, said) == ([], "there is nothing to delete\n")
    assert files(replica) == left


def test_prune_as_json_tells_every_key(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(replica)
    lines = walrep_json(capsys, "prune", replica)
    assert {line["type"] for line in lines} == {"delete"}
    assert {line["key"] for line in lines} == before - files(replica)


def test_what_is_kept_by_name_outlives_a_prune_until_it_is_let_go(
    made: Weeks, replica: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made.history().timelines[0].id
    bookmark = str(made.builder.positions[first, 20])
    lines, said = walrep(capsys, "keep", replica, "v2.0", "--timeline", "1", "--txid", "20")
    assert lines == [f"v2.0  {bookmark}, seen 2025-01-07T16:00:02.000Z"]
    assert said == ""
    lines, said = walrep(capsys, "keep", replica, "v2.0", "--bookmark", bookmark)
    assert said == "it was kept already\n"
    walrep(capsys, "prune", replica)
    assert f"kept      v2.0  {bookmark}" in walrep(capsys, "list", replica)[0]
    output = tmp_path / "restored.db"
    walrep(capsys, "restore", replica, "-o", output, "--kept", "v2.0", "--check", "none")
    assert output.read_bytes() == made.builder.states[first, 20]
    before = files(replica)
    assert walrep(capsys, "unkeep", replica, "v2.0")[0] == [f"v2.0  {bookmark} is not kept any more"]
    walrep(capsys, "prune", replica)
    assert len(files(replica)) < len(before) - 2
    walrep(capsys, "restore", replica, "-o", output, "--bookmark", bookmark, "--force", code=7)
    assert output.read_bytes() == made.builder.states[first, 20]


def test_keeping_and_letting_go_as_json(made: Weeks, replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bookmark = str(made.builder.positions[made.builder.timeline, made.builder.txid])
    (line,) = walrep_json(capsys, "keep", replica, "now")
    assert (line["type"], line["name"], line["bookmark"], line["is_new"]) == ("kept", "now", bookmark, True)
    assert walrep_json(capsys, "keep", replica, "now")[0]["is_new"] is False
    assert {"type": "kept", "name": "now", "bookmark": bookmark} in walrep_json(capsys, "list", replica)
    assert walrep_json(capsys, "unkeep", replica, "now") == [{"type": "let-go", "name": "now", "bookmark": bookmark}]


def test_a_lost_position_that_was_kept_is_a_problem(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walrep(capsys, "keep", replica, "it", "--timeline", "1", "--txid", "20")
    for path in (replica / "snapshots").glob("00001-*/*"):
        path.unlink()
    problems = [line for line in walrep_json(capsys, "list", replica) if line["type"] == "problem"]
    assert "lost-pin" in {line["kind"] for line in problems}
    (notice,) = [line for line in walrep(capsys, "prune", replica, "--dry-run")[1].splitlines() if "pin it" in line]
    assert "is not restorable" in notice


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 101])
def test_what_cannot_be_a_name_is_refused(replica: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("keep", "unkeep"):
        assert "name" in walrep(capsys, command, replica, "--", name, code=2)[1]
    output = str(replica.parent / "o")
    assert "name" in walrep(capsys, "restore", replica, "-o", output, f"--kept={name}", code=2)[1]


def test_a_name_that_another_position_has_is_refused(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walrep(capsys, "keep", replica, "it")
    before = files(replica)
    said = walrep(capsys, "keep", replica, "it", "--timeline", "1", "--txid", "3", code=2)[1]
    assert "another position is kept under this name" in said
    assert "walrep unkeep" in said
    assert files(replica) == before


def test_a_name_that_is_not_there_tells_those_that_are(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing is kept at all" in walrep(capsys, "unkeep", replica, "it", code=7)[1]
    walrep(capsys, "keep", replica, "other")
    assert "there is other" in walrep(capsys, "unkeep", replica, "it", code=7)[1]
    assert "there is other" in walrep(capsys, "restore", replica, "-o", replica.parent / "o", "--kept", "it", code=7)[1]


def test_a_target_is_one(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = walrep(capsys, "restore", replica, "-o", replica.parent / "o", "--kept", "it", "--txid", "1", code=2)[1]
    assert "--txid and --kept are given" in said
    assert "one target" in walrep(capsys, "keep", replica, "it", "--txid", "1", "--at", "1h ago", code=2)[1]


def test_what_is_not_restorable_cannot_be_kept(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(replica)
    walrep(capsys, "keep", replica, "it", "--txid", "12345", code=7)
    assert files(replica) == before


def test_where_there_is_no_replica_there_is_nothing_to_prune_or_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    for place in ("nothing", "notes"):
        assert "no replica" in walrep(capsys, "prune", tmp_path / place, code=4)[1]
        assert "no replica" in walrep(capsys, "prune", tmp_path / place, "--dry-run", code=4)[1]
        walrep(capsys, "keep", tmp_path / place, "it", code=7)
        walrep(capsys, "unkeep", tmp_path / place, "it", code=7)
    assert files(tmp_path) == {"notes/mine.txt"}


def test_many_more_than_usual_end_with_their_own_exit_code(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = PruneRecord(format=1, pruned_ms=1, expired_ms=1, by=OTHER, counts=(1, 1), gone=())
    record = replica / pruned_key(START_MS)
    record.parent.mkdir()
    record.write_bytes(encode_record(usual))
    os.utime(record, (START_MS / 1000,) * 2)
    before = files(replica)
    said = walrep(capsys, "prune", replica, code=10)[1]
    assert "--yes" in said
    assert files(replica) == before
    walrep(capsys, "prune", replica, "--yes")
    assert len(files(replica)) < len(before) - 10


@pytest.mark.parametrize("option", ["--daily", "--weekly", "--monthly", "--yearly", "--snapshots-min"])
def test_a_negative_count_is_refused(replica: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(replica)
    assert option in walrep(capsys, "prune", replica, f"{option}=-1", code=2)[1]
    assert files(replica) == before


@pytest.mark.parametrize("window", ["-1d", "nan", "inf", "ever", ""])
def test_a_window_that_is_none_is_refused(replica: Path, window: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(replica)
    walrep(capsys, "prune", replica, f"--window={window}", code=2)
    assert files(replica) == before


def written(tmp_path: Path, retention: str, own: str = "") -> Path:
    file = tmp_path / "walrep.toml"
    table = f"retention = {own}" if own else ""
    file.write_text(
        f'[retention]\n{retention}\n[[database]]\npath = "other.db"\nreplica = "other"\n'
        f'[[database]]\npath = "app.db"\nreplica = "$PLACE"\n{table}\n'
    )
    return file


def test_the_retention_of_a_configuration_is_taken_and_options_beat_it(
    replica: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLACE", str(replica))
    file = written(tmp_path, 'window = "36500d"\nsnapshots-min = 9', "{ snapshots-min = 0, weekly = 4 }")
    nothing = walrep_json(capsys, "prune", replica, "--config", file, "--dry-run")[-1]
    assert nothing["delete_count"] == 0
    lines = walrep_json(capsys, "prune", replica, "--config", file, "--window", "1d", "--weekly", "2", "--dry-run")
    reasons = [line["reason"] for line in lines[:-1]]
    assert sum(reason.startswith("the last snapshot of week") for reason in reasons) == 1
    assert not any("stay however old" in reason for reason in reasons)
    assert lines[-1]["delete_count"] > 0
    settings = load_settings(file, Overrides(), {"PLACE": str(replica)})
    policies = [each.retention for each in settings.databases]
    assert [(each.snapshots_min, each.weekly, each.window_s) for each in policies if each] == [
        (9, 0, 36500 * 86_400.0),
        (0, 4, 36500 * 86_400.0),
    ]


def test_a_configuration_without_this_replica_is_refused(
    replica: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLACE", "elsewhere")
    before = files(replica)
    said = walrep(capsys, "prune", replica, "--config", written(tmp_path, ""), code=2)[1]
    assert "no database of the configuration has this replica" in said
    assert files(replica) == before


def test_a_negative_number_of_a_configuration_is_refused(
    replica: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLACE", str(replica))
    for own in ("{ daily = -1 }", '{ window = "-1d" }', "{ snapshots-min = -2 }", "{ dayly = 1 }"):
        walrep(capsys, "prune", replica, "--config", written(tmp_path, "", own), code=2)


@pytest.mark.parametrize(("own", "prunes"), [("", True), ("{ prune = false }", False), ("{ prune = true }", True)])
def test_replicate_prunes_unless_it_is_told_not_to(tmp_path: Path, own: str, prunes: bool) -> None:  # noqa: FBT001
    settings = load_settings(written(tmp_path, "", own), Overrides(), {"PLACE": "here"})
    assert (settings.databases[1].retention is not None) == prunes
    top = load_settings(written(tmp_path, "prune = false", own), Overrides(), {"PLACE": "here"})
    assert (top.databases[1].retention is not None) == (own == "{ prune = true }")
