"""From arguments to exit codes: every class of failure, as text and as JSON."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from walrep import errors
from walrep.cli.command import EXIT_STATUS
from walrep.cli.dump import split_object_url
from walrep.cli.main import commands, describe, run
from walrep.cli.replicate import stop_on_signals
from walrep.errors import CorruptObject, InvariantViolated, NotDurable, StoreUnavailable, UsageError, WalrepError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = list(commands.commands)
ERROR_CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, WalrepError)]


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_ends_with_the_exit_status(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"] if name else ["-h"]) == 0
    before, _, section = capsys.readouterr().out.partition("EXIT STATUS:\n")
    assert "Options:" in before
    codes = {int(line.split()[0]): line.split(maxsplit=1)[1] for line in section.splitlines() if line.strip()}
    assert {0, 1, 2} <= codes.keys()
    assert codes.items() <= EXIT_STATUS.items()


def test_commands_are_those_of_the_manual() -> None:
    assert COMMANDS == [
        "replicate",
        "restore",
        "list",
        "dump",
        "snapshot",
        "compact",
        "prune",
        "keep",
        "unkeep",
        "detach",
        "plan",
        "version",
    ]


def test_every_class_of_error_has_an_exit_code_of_the_table() -> None:
    codes = {kind.exit_code for kind in ERROR_CLASSES if kind is not WalrepError}
    assert codes | {0, 1, 130} == EXIT_STATUS.keys()


@pytest.mark.parametrize("kind", [kind for kind in ERROR_CLASSES if kind not in {WalrepError, CorruptObject}])
def test_operating_error_becomes_its_failure(kind: type[WalrepError]) -> None:
    failure = describe(kind("it broke", detail="this", hint="do that"))
    assert (failure.error, failure.exit_code) == (kind.__name__, kind.exit_code)
    assert (failure.message, failure.detail, failure.hint) == ("it broke", "this", "do that")


def test_group_of_errors_is_told_by_its_first() -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [NotDurable("late")]), UsageError("no")])
    assert describe(group).exit_code == NotDurable.exit_code


def test_bug_is_not_hidden_by_operating_errors() -> None:
    failure = describe(ExceptionGroup("", [StoreUnavailable("no answer"), InvariantViolated("frame 0")]))
    assert (failure.error, failure.exit_code) == ("InvariantViolated", 1)
    assert failure.detail == "InvariantViolated: frame 0"


def test_interrupt_has_its_exit_code() -> None:
    assert describe(click.Abort()).exit_code == 130


def test_failure_is_text_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", str(tmp_path / "nothing")]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "walrep: there is no replica here",
        f"  detail: file://{tmp_path}/nothing",
        "  hint: check the URL; it is the one given to `walrep replicate`",
    ]


def test_failure_is_a_json_line_with_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--json", str(tmp_path / "nothing")]) == 4
    captured = capsys.readouterr()
    assert captured.err == ""
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {
            "type": "error",
            "error": "ObjectNotFound",
            "exit_code": 4,
            "message": "there is no replica here",
            "detail": f"file://{tmp_path}/nothing",
            "hint": "check the URL; it is the one given to `walrep replicate`",
        }
    ]


def test_arguments_that_cannot_be_parsed_fail_as_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["restore", "--json", "--frce"]) == 2
    failure = json.loads(capsys.readouterr().out)
    assert (failure["type"], failure["exit_code"]) == ("error", 2)
    assert failure["hint"] == "see `walrep restore --help`"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "EXIT STATUS"),
        (["restor"], 2, "walrep: No such command 'restor'"),
        (["replicate"], 2, "walrep: no database is named"),
        (["replicate", "a.db"], 2, "'a.db' has no partner"),
        (["replicate", "a.db", "/b", "--config", "walrep.toml"], 2, "by arguments and by --config"),
        (["replicate", "a.db", "/b", "--rpo", "soon"], 2, "expected a duration such as"),
        (["replicate", "a.db", "/b", "--rpo", "0"], 2, "the RPO must be more than zero"),
        (["replicate", "--config", "nowhere.toml"], 2, "nowhere.toml: No such file"),
        (["restore", "/b"], 2, "no database to write is named"),
        (["restore", "/b", "-o", "x", "--txid", "1", "--at", "now"], 2, "--at and --txid are given"),
        (["restore", "/b", "-o", "x", "--at", "yesterdayish"], 2, "not a time"),
        (["restore", "/b", "-o", "x", "--bookmark", "7"], 2, "not a bookmark"),
        (["restore", "/b", "-o", "x", "--check", "some"], 2, "'some' is not one of"),
        (["restore", "s3://b", "-o", "x"], 2, "a bucket has 3 to 63"),
        (["dump", "nothing"], 2, "neither a file nor an object"),
        (["detach", "nowhere.db"], 3, "no database here"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str],
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    assert text in capsys.readouterr().err


def test_nothing_is_restored_over_a_database_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "app.db").write_bytes(b"precious")
    arguments = ["restore", str(tmp_path / "none"), "-o", str(tmp_path / "app.db"), "--if-db-not-exists"]
    assert run(arguments) == 0
    assert "exists; nothing to do" in capsys.readouterr().err
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"type": "skipped", "reason": "database-exists"}
    assert (tmp_path / "app.db").read_bytes() == b"precious"


def test_nothing_is_restored_from_nothing_where_that_is_fine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["restore", str(tmp_path / "none"), "-o", str(tmp_path / "app.db")]
    assert run([*arguments, "--if-replica-exists", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"type": "skipped", "reason": "no-replica"}
    assert run(arguments) == 7
    assert not (tmp_path / "app.db").exists()


def test_version_names_what_walrep_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions.pop("type") == "version"
    assert list(versions) == ["walrep", "apsw", "sqlite", "zstd", "python"]
    assert run(["version"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [list(pair) for pair in versions.items()]


def test_first_signal_stops_and_second_aborts() -> None:
    async def receive() -> None:
        aborted = asyncio.Event()
        async with asyncio.timeout(10):
            with stop_on_signals(aborted.set) as stop:
                signal.raise_signal(signal.SIGTERM)
                await stop.wait()
                assert not aborted.is_set()
                signal.raise_signal(signal.SIGINT)
                await aborted.wait()

    asyncio.run(receive())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_clears_away_what_a_command_left_unfinished(number: signal.Signals) -> None:
    program = """
import asyncio, click, sys
from walrep.cli import main
from walrep.cli.command import takes
import msgspec

class Nothing(msgspec.Struct):
    pass

async def work():
    print("working", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("cleared away", flush=True)

@main.commands.command("work")
@takes(Nothing)
def command(session, options):
    session.run(work())

sys.exit(main.run(["work"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "working\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (130, "cleared away\n"), err
    assert err.splitlines()[-1] == "walrep: interrupted"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:///b/replica", ("file:///b", "replica")),
        ("/b/replica", ("/b", "replica")),
        ("/replica", ("/", "replica")),
        ("file:///b/segments/0000000000000001", ("file:///b", "segments/0000000000000001")),
        (
            "b/snapshots/00001-5f3a9c21/0000000000000000-20261121T093000123Z-0000000000000001-full",
            ("b", "snapshots/00001-5f3a9c21/0000000000000000-20261121T093000123Z-0000000000000001-full"),
        ),
    ],
)
def test_object_is_named_by_url_and_key(text: str, expected: tuple[str, str]) -> None:
    assert split_object_url(text) == expected


@pytest.mark.parametrize("text", ["", "replica", "file:///b/segments", "/b/segments/1", "/b/snapshots/x"])
def test_what_names_no_object_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a file nor an object"):
        split_object_url(text)
