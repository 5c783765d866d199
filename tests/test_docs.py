"""Documentation that fails the build when it lies."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest

from walrep import errors
from walrep.cli.command import EXIT_STATUS
from walrep.cli.main import commands
from walrep.config import Overrides, load_settings
from walrep.config_file import ConfigFile, DatabaseTable, RetentionTable
from walrep.core.events import AlarmKey, Event
from walrep.engine.settings import DatabaseSettings, ReplicateSettings
from walrep.store.providers import PROVIDERS
from walrep.store.s3_url import S3Access, S3Url

ROOT = Path(__file__).resolve().parent.parent
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()
README = ROOT / "README.md"
PRODUCT = sorted((ROOT / "walrep").rglob("*.py"))
TESTS = [path for pattern in ("*.py", "*.patch") for path in sorted((ROOT / "tests").rglob(pattern))]
ERROR_CLASSES = [
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
]


def section(title: str, level: int) -> str:
    """Return the text from a heading to the next one of its level or above."""
    match = re.search(
        rf"^{'#' * level} {re.escape(title)}$(.*?)(?=^#{{1,{level}}} |\Z)", OPERATIONS, re.MULTILINE | re.DOTALL
    )
    assert match, f"docs/operations.md has no section {title!r}"
    return match[1]


def first_column(table: str) -> list[str]:
    return [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]


def options_of(command: click.Command) -> set[str]:
    return {name for each in command.params if isinstance(each, click.Option) for name in each.opts}


def console_commands() -> Iterator[list[str]]:
    """Yield the commands that README's ```console blocks show, without those that they are piped to."""
    for block in re.findall(r"^```console\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield shlex.split(line.removeprefix("$ ").split(" | ")[0], comments=True)


@pytest.mark.parametrize("name", commands.commands)
def test_command_and_its_options_are_documented(name: str) -> None:
    documented = set(re.findall(r"`(--?[a-z-]+)", "\n".join(first_column(section(f"walrep {name}", 3)))))
    assert documented == options_of(commands.commands[name])


def test_no_other_command_is_documented() -> None:
    assert re.findall(r"^### walrep (\w+)$", OPERATIONS, re.MULTILINE) == list(commands.commands)


def test_exit_codes_are_documented() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", section("Exit codes", 2), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_STATUS


@pytest.mark.parametrize("name", ERROR_CLASSES)
def test_class_of_error_is_documented_with_its_exit_code(name: str) -> None:
    kind = getattr(errors, name)
    code = getattr(kind, "exit_code", 1)
    rows = [line for line in section("Exit codes", 2).splitlines() if f"`{name}`" in line]
    assert rows, f"{name} is not documented"
    assert name == "WalrepError" or rows[0].startswith(f"| {code} |")


def test_settings_are_documented() -> None:
    tables = re.split(r"^(?=At the top|In `\[)", section("Settings", 2), flags=re.MULTILINE)[1:]
    tuning, top, database, retention = ({name.strip("`") for name in first_column(table)} for table in tables)
    assert tuning | top == {field.encode_name for field in msgspec.structs.fields(ConfigFile)}
    assert tuning | database == {field.encode_name for field in msgspec.structs.fields(DatabaseTable)}
    assert retention == {field.encode_name for field in msgspec.structs.fields(RetentionTable)}


def test_parameters_of_buckets_are_documented() -> None:
    """Those of an object, and, also in `[s3]`, those of the way to it; and all presets of providers."""
    text = section("Buckets", 2)
    cells = first_column(text[: text.index("Credentials are")])
    names = {name for cell in cells for name in re.findall(r"`([a-z0-9-]+)`", cell)}
    fields = [*msgspec.structs.fields(S3Access), *msgspec.structs.fields(S3Url)]
    assert names == {field.encode_name for field in fields} - {"bucket", "prefix", "access"}
    assert all(f"`{name}`" in text for name in PROVIDERS)


def test_alarms_are_documented() -> None:
    """In the table, each key that the program can tell, and no other; with what it means and what to do."""
    rows = [line.split("|") for line in alarms_table().splitlines() if line.startswith("| `")]
    assert [row[1].strip(" `") for row in rows] == sorted(get_args(AlarmKey))
    assert all(row[2].strip() and row[3].strip() for row in rows)


@pytest.mark.parametrize("key", get_args(AlarmKey))
def test_alarm_is_raised_somewhere(key: str) -> None:
    raising = [path for path in PRODUCT if path.name != "events.py" and f'"{key}"' in path.read_text()]
    assert raising, f"nothing raises {key}"


def alarms_table() -> str:
    return section("Events and alarms", 2).partition("| Alarm |")[2]


def test_events_are_documented() -> None:
    """Those of the log by their names and levels; `exit` is the last line of a walrep that fails."""
    table = section("Events and alarms", 2).partition("| Alarm |")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z]+) \|", table, re.MULTILINE)
    assert dict(rows) == {str(kind.__struct_config__.tag): kind.level for kind in Event.__subclasses__()} | {
        "exit": "error"
    }


@pytest.mark.parametrize("name", re.findall(r"\*\*(INV-\d+)\*\*", DESIGN))
def test_invariant_is_named_where_it_is_upheld_and_tested(name: str) -> None:
    assert any(name in path.read_text() for path in PRODUCT), "no code names it"
    assert any(name in path.read_text() for path in TESTS), "no test and no mutant names it"


def test_documented_defaults_are_those_of_the_program(tmp_path: Path) -> None:
    """A file that says what the tables say is the same as one that says nothing."""
    rows = re.findall(r'^\| `([a-z-]+)` \| `(".+?"|true|false|\d+)` \|', section("Settings", 2), re.MULTILINE)
    documented = dict(rows)
    assert len(documented) == 10 + 2 + 7
    file = tmp_path / "walrep.toml"
    required = '[[database]]\npath = "app.db"\nreplica = "/backup"\n'
    lines = {name: f"{name} = {value}\n" for name, value in documented.items()}
    own = [lines.pop(name) for name in ("enable-wal", "wait")]
    kept = [lines.pop(field.encode_name) for field in msgspec.structs.fields(RetentionTable)]
    file.write_text("".join([*lines.values(), "[retention]\n", *kept, required, *own]))
    said = load_settings(file, Overrides(), {})
    file.write_text(required)
    assert load_settings(file, Overrides(), {}) == said
    assert isinstance(said, ReplicateSettings)
    assert isinstance(said.databases[0], DatabaseSettings)


def test_example_of_a_configuration_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", section("Settings", 2), re.MULTILINE | re.DOTALL)
    (tmp_path / "walrep.toml").write_text(example)
    settings = load_settings(tmp_path / "walrep.toml", Overrides(), {})
    assert [(each.flush.rpo_s, each.spool.outbox_bytes_max) for each in settings.databases] == [
        (10.0, 4 << 30),
        (60.0, 4 << 30),
    ]


@pytest.mark.parametrize("words", list(console_commands()), ids=" ".join)
def test_command_in_the_readme_exists(words: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    match words:
        case ["make", *names]:
            assert set(names) <= set(targets)
        case ["walrep", name, *arguments]:
            options = {word.split("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
            assert name in commands.commands
            assert options <= options_of(commands.commands[name])
        case _:
            assert words[0] in {"git", "cd", "pip", "python3", "sqlite3", "cmp", "ls", "cat", "mkdir"}


@pytest.mark.parametrize("command", ["replicate", "restore"])
def test_readme_shows_the_two_commands(command: str) -> None:
    assert ["walrep", command] in [words[:2] for words in console_commands()]


def test_phony_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))


def test_clean_removes_what_git_ignores() -> None:
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
    (recipe,) = re.findall(r"^clean:.*\n\trm -rf (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    # The caches of Python are found wherever they are; walrep's own build leaves no egg-info.
    assert ignored - {"__pycache__", "*.egg-info"} == set(recipe.split())
