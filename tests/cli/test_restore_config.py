"""`walrep restore --config`: which databases, to where, and how it is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from walrep.cli.main import run
from walrep.runner import InlineRunner
from walrep.store.local import LocalStore
from walrep.testing.history import HistoryBuilder, image_bytes

BEGAN_MS = 1_763_717_585_000
PAGE_SIZE = 512
AT = ["--at", "2025-11-21T09:33:06.500Z", "--check", "none"]


def page(value: int) -> bytes:
    return bytes([value]) * PAGE_SIZE


def image(number: int, value: int) -> bytes:
    return image_bytes({1: page(number), 2: page(value)}, 2, PAGE_SIZE)


class Site:
    """A configuration of three databases, two of which have one file name, and their replicas."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "walrep.toml"
        self.databases = [folder / "a/app.db", folder / "a/jobs.db", folder / "b/app.db"]
        text = ""
        for number, database in enumerate(self.databases, start=1):
            database.parent.mkdir(exist_ok=True)
            builder = HistoryBuilder(PAGE_SIZE)
            builder.begin({1: page(number), 2: page(2)}, BEGAN_MS)
            builder.commit([(2, page(3))], 2, BEGAN_MS + 1000)
            builder.commit([(2, page(4))], 2, BEGAN_MS + 2000)
            builder.seal()
            asyncio.run(builder.store_in(LocalStore(folder / f"replica-{number}", InlineRunner())))
            text += f'[[database]]\npath = "{database}"\nreplica = "{folder}/replica-{number}"\n'
        self.config.write_text(text)

    def restore(self, *arguments: str) -> int:
        return run(["restore", "--config", str(self.config), *arguments])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_all_are_restored_in_their_places(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.restore(*AT, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["database"] for line in lines] == [str(path) for path in site.databases]
    assert {(line["type"], line["written"], line["txid"]) for line in lines} == {("restore", True, 1)}
    assert [path.read_bytes() for path in site.databases] == [image(number, 3) for number in (1, 2, 3)]


def test_what_exists_is_replaced_only_by_force(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.databases[1].write_bytes(b"precious")
    assert site.restore(*AT) == 7
    assert f"{site.databases[1]}: " in capsys.readouterr().err
    assert [path.exists() for path in site.databases] == [False, True, False]
    assert site.databases[1].read_bytes() == b"precious"
    assert site.restore(*AT, "--force") == 0
    assert [path.read_bytes() for path in site.databases] == [image(number, 3) for number in (1, 2, 3)]


def test_named_databases_go_into_a_folder(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    into = site.folder / "into"
    into.mkdir()
    named = ["--database", "jobs.db", "--database", str(site.databases[2])]
    assert site.restore(*named, "--into", str(into), *AT) == 0
    assert (into / "jobs.db").read_bytes() == image(2, 3)
    assert (into / "app.db").read_bytes() == image(3, 3)
    assert not any(path.exists() for path in site.databases)
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{site.databases[1]}\nrestored     {into / 'jobs.db'}, ")
    assert shown.err == "as of 2025-11-21T09:33:06.500Z\n"


def test_a_dry_run_plans_all_and_writes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(site.folder.rglob("*"))
    assert site.restore(*AT, "--dry-run") == 0
    assert capsys.readouterr().out.count("would restore  ") == 3
    assert sorted(site.folder.rglob("*")) == before


def test_without_a_target_each_is_restored_to_its_newest(site: Site) -> None:
    assert site.restore("--check", "none") == 0
    assert [path.read_bytes() for path in site.databases] == [image(number, 4) for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--into", "."], "two databases have the same file name"),
        (["--database", "app.db"], "detail: app.db: "),
        (["--database", "job.db"], "did you mean 'jobs.db'?"),
        (["--database", "zzz"], "there is app.db, jobs.db, app.db"),
        (["file:///x"], "URL means one"),
        (["-o", "x", "--txid", "1"], "--output and --txid mean one"),
        (["--if-db-not-exists"], "--if-db-not-exists means one"),
        (["--kept", "x"], "--kept means one"),
        (["--at", "soon"], "soon"),
    ],
)
def test_what_is_not_understood_is_refused(
    site: Site, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.restore(*arguments) == 2
    assert told in capsys.readouterr().err
    assert not any(path.exists() for path in site.databases)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no replica is named"),
        (["-o", "y"], "no replica is named"),
        (["file:///x"], "no database to write is named"),
        (["file:///x", "-o", "y", "--into", "z"], "--database and --into go with --config"),
        (["file:///x", "-o", "y", "--database", "z"], "--database and --into go with --config"),
    ],
)
def test_one_database_needs_a_place_and_an_output(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["restore", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.restore("--database", "jobs.db", "--into", str(site.folder / "nowhere")) == 2
    assert "the target's directory does not exist" in capsys.readouterr().err
