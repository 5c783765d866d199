"""What `walrep.toml` may say, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from walrep.config import (
    Overrides,
    load_settings,
    settings_from_pairs,
)
from walrep.core.amounts import parse_rate_bytes_per_s
from walrep.core.budget import BudgetPolicy
from walrep.core.flush import FlushPolicy
from walrep.engine.settings import DatabaseSettings, ReplicateSettings, SpoolLimits, default_state_dir
from walrep.errors import UsageError
from walrep.store.url import FileUrl

Load = Callable[..., ReplicateSettings]
NOTHING_SAID = Overrides()
ENVIRONMENT = {"HOME": "/home/ada", "BACKUPS": "/backups", "EMPTY": ""}
ONE = '[[database]]\npath = "app.db"\nreplica = "file:///backup/app"\n'


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str, overrides: Overrides = NOTHING_SAID) -> ReplicateSettings:
        file = tmp_path / "walrep.toml"
        file.write_text(text)
        return load_settings(file, overrides, ENVIRONMENT)

    return load_text


def test_least_configuration_has_the_defaults_of_the_owners(load: Load, tmp_path: Path) -> None:
    expected = DatabaseSettings(
        path=tmp_path / "app.db", url=FileUrl(path=Path("/backup/app")), state_dir=tmp_path / ".app.db-walrep"
    )
    assert load(ONE) == ReplicateSettings(databases=(expected,))


def test_every_setting_is_taken_over(load: Load) -> None:
    settings = load("""
        rpo = "1m"
        first-commit = 2
        segment-size = "8MiB"
        outbox-limit = "2GiB"
        cache-limit = 1_000_000
        full-limit = "3GiB"
        puts-per-day-max = 500
        shutdown-deadline = "1.5s"
        [[database]]
        path = "/srv/a.db"
        replica = "file:///backup/a"
        state-dir = "/var/lib/walrep/a"
        enable-wal = true
        wait = true
        [[database]]
        path = "/srv/b.db"
        replica = "file:///backup/b"
        rpo = "5s"
        first-commit = "250ms"
        segment-size = 4096
        outbox-limit = "64KiB"
        cache-limit = 0
        full-limit = 0
        puts-per-day-max = 48
        upload-bytes-per-day-warn = "1GB"
    """)
    first, second = settings.databases
    assert settings.shutdown_deadline_s == 1.5
    assert first == DatabaseSettings(
        path=Path("/srv/a.db"),
        url=FileUrl(path=Path("/backup/a")),
        state_dir=Path("/var/lib/walrep/a"),
        flush=FlushPolicy(rpo_s=60.0, first_commit_s=2.0, segment_bytes_max=8 << 20),
        spool=SpoolLimits(outbox_bytes_max=2 << 30, cache_bytes_max=1_000_000, full_bytes_max=3 << 30),
        budget=BudgetPolicy(puts_per_day_max=500),
        enable_wal=True,
        wait=True,
    )
    assert second.budget == BudgetPolicy(puts_per_day_max=48, upload_bytes_per_day_warn=10**9)
    assert second.flush == FlushPolicy(rpo_s=5.0, first_commit_s=0.25, segment_bytes_max=4096)
    assert second.spool == SpoolLimits(outbox_bytes_max=64 << 10, cache_bytes_max=0, full_bytes_max=0)
    assert (second.enable_wal, second.wait, second.new_timeline) == (False, False, False)


def test_settings_are_plain_numbers(load: Load) -> None:
    """Events tell some of them, and are encoded as what they are."""
    text = f"""
        rpo = "1m"
        upload-bytes-per-day-warn = "1GB"
        limit-upload = "2MiB/s"
        snapshot-at = "03:00"
        shutdown-deadline = "5s"
        {ONE}
    """
    settings = load(text)
    (database,) = settings.databases
    found = [
        database.flush.rpo_s,
        database.budget.upload_bytes_per_day_warn,
        settings.upload_bytes_per_s,
        settings.shutdown_deadline_s,
    ]
    assert [type(each) for each in found] == [float, int, int, float]
    assert msgspec.json.encode([database.flush, database.spool, database.budget, database.retention])


def test_command_line_wins_over_the_file(load: Load) -> None:
    overrides = Overrides(rpo_s=3.0, shutdown_deadline_s=4.0, enable_wal=True, wait=True, new_timeline=True)
    settings = load(f'rpo = "1h"\nshutdown-deadline = 9\n{ONE}rpo = "2h"\n', overrides)
    (database,) = settings.databases
    assert (settings.shutdown_deadline_s, database.flush.rpo_s) == (4.0, 3.0)
    assert (database.enable_wal, database.wait, database.new_timeline) == (True, True, True)


@pytest.mark.parametrize(
    ("written", "path", "url"),
    [
        (("~/a.db", "file://$BACKUPS/a"), "/home/ada/a.db", "file:///backups/a"),
        (("/srv/$EMPTY/a.db", "${BACKUPS}2/a"), "/srv/a.db", "file:///backups2/a"),
        (("/srv/$$a.db", "~/b"), "/srv/$a.db", "file:///home/ada/b"),
        (("/srv/~a.db", "file:///b/%24a"), "/srv/~a.db", "file:///b/%24a"),
    ],
)
def test_home_and_variables_are_expanded(load: Load, written: tuple[str, str], path: str, url: str) -> None:
    (database,) = load(f'[[database]]\npath = "{written[0]}"\nreplica = "{written[1]}"\n').databases
    assert (str(database.path), str(database.url)) == (path, url)


def test_relative_paths_are_relative_to_the_file(load: Load, tmp_path: Path) -> None:
    (database,) = load('[[database]]\npath = "data/a.db"\nreplica = "backup"\nstate-dir = "state"').databases
    assert database.path == tmp_path / "data/a.db"
    assert str(database.url) == (tmp_path / "backup").as_uri()
    assert database.state_dir == tmp_path / "state"


def test_state_lies_beside_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "app.db")
    assert default_state_dir(tmp_path / "link.db") == tmp_path.resolve() / "real" / ".app.db-walrep"


REFUSED = {
    "not TOML": ("rpo = ", "not TOML", "walrep.toml: Invalid value", ""),
    "no database": ("", "names no database", "walrep.toml", "add a [[database]]"),
    "misspelt": (f'first_comit = "1s"\n{ONE}', "does not exist", "walrep.toml: first_comit", "'first-commit'"),
    "misspelt in a table": (f"{ONE}enabel_wal = true", "does not exist", "database[0].enabel_wal", "'enable-wal'"),
    "second table": (f"{ONE}{ONE}pth = 1", "does not exist", "database[1].pth", "'path'"),
    "nothing near": (f"zzz = 1\n{ONE}", "does not exist", "walrep.toml: zzz", "there is cache-limit, database,"),
    "of all, in a table": (
        f"{ONE}shutdown-deadline = 1",
        "does not exist",
        "database[0].shutdown-deadline",
        "there is",
    ),
    "one bracket": ('[database]\npath = "a"', "is wrong", "database: expected an array, got a table", "two brackets"),
    "no replica": ('[[database]]\npath = "a"', "is wrong", "database[0]: object missing required field `replica`", ""),
    "number for path": (
        "[[database]]\npath = 1",
        "is wrong",
        "database[0].path: expected a string, got an integer",
        "",
    ),
    "text for switch": (f'{ONE}wait = "yes"', "is wrong", "[0].wait: expected true or false, got a string", ""),
    "unit unknown": (f'rpo = "10 parsec"\n{ONE}', "is wrong", 'rpo: expected a duration such as "10s"', ""),
    "no unit": (f'rpo = "10"\n{ONE}', "is wrong", "got '10'", ""),
    "negative": (f"first-commit = -1\n{ONE}", "is wrong", "first-commit: expected a duration", ""),
    "infinite": (f"rpo = inf\n{ONE}", "is wrong", "rpo: expected a duration", ""),
    "switch for duration": (f"rpo = true\n{ONE}", "is wrong", "rpo: expected a duration", ""),
    "size": (f'segment-size = "64 M"\n{ONE}', "is wrong", 'segment-size: expected a size such as "64MiB"', ""),
    "fraction of a byte": (f"segment-size = 1.5\n{ONE}", "is wrong", "segment-size: expected a size", ""),
    "no RPO": (f"rpo = 0\n{ONE}", "RPO must be more than zero", "database[0]", 'rpo = "1s"'),
    "empty segments": (f"segment-size = 0\n{ONE}", "segment-size must be more", "database[0]", ""),
    "outbox too small": (f'outbox-limit = "1MiB"\n{ONE}', "outbox-limit is smaller", "1048576 < 67108864", "outage"),
    "budget too small": (
        f"puts-per-day-max = 47\n{ONE}",
        "puts-per-day-max is too small",
        "database[0]: 47 < 48",
        "a segment an hour is 24 a day, their packs 12, and the day's pack, a snapshot, retention and starts 12",
    ),
    "budget misspelt": (f"put-per-day-max = 500\n{ONE}", "does not exist", "put-per-day-max", "'puts-per-day-max'"),
    "budget no number": (f'{ONE}puts-per-day-max = "500"', "is wrong", "database[0].puts-per-day-max", ""),
    "budget, small outbox": (
        f'puts-per-day-max = 500\noutbox-limit = "200MiB"\n{ONE}',
        "outbox-limit is too small beside puts-per-day-max",
        "209715200 < 4 * 67108864 bytes",
        "four of segment-size",
    ),
    "no rate": (f'limit-upload = "2 Mbit"\n{ONE}', "is wrong", "limit-upload: expected bytes per second such as", ""),
    "rate of nothing": (f"limit-upload = 0\n{ONE}", "is wrong", "limit-upload: expected bytes per second", ""),
    "rate of one": (f'{ONE}limit-upload = "2MiB/s"', "does not exist", "database[0].limit-upload", "there is"),
    "variable": ('[[database]]\npath = "$NO"\nreplica = "b"', "variable is not set", "database[0].path: $NO", ""),
    "dollar": ('[[database]]\npath = "a$"\nreplica = "b"', "dollar sign", "database[0].path: a$", "$$"),
    "empty path": ('[[database]]\npath = ""\nreplica = "b"', "path is empty", "database[0].path", ""),
    "empty replica": ('[[database]]\npath = "a"\nreplica = ""', "empty", "database[0].replica", "file:///"),
    "scheme": ('[[database]]\npath = "a"\nreplica = "ftp://h/b"', "'ftp'", "database[0].replica", "a bucket is"),
    "database twice": (f"{ONE}{ONE.replace('backup', 'b')}", "database is named twice", "app.db", ""),
    "replica twice": (f"{ONE}{ONE.replace('app.db', 'b.db')}", "same replica", "file:///backup/app, for", ""),
    "state twice": (
        f'{ONE}state-dir = "s"\n{ONE.replace("app", "b")}state-dir = "./s"',
        "same state directory",
        "b.db",
        "",
    ),
}


@pytest.mark.parametrize(("text", "message", "detail", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_understood_is_refused(load: Load, text: str, message: str, detail: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        load(text)
    error = refused.value
    assert (message in error.message, detail in error.detail, hint in error.hint) == (True, True, True), repr(
        (error.message, error.detail, error.hint)
    )


def test_a_budget_of_the_command_line_is_checked_too(load: Load) -> None:
    (database,) = load(f"puts-per-day-max = 500\n{ONE}", Overrides(puts_per_day_max=100)).databases
    assert database.budget == BudgetPolicy(puts_per_day_max=100)
    with pytest.raises(UsageError, match="too small"):
        settings_from_pairs(["/a.db", "/b"], Overrides(puts_per_day_max=0), ENVIRONMENT)


def test_home_must_be_known(tmp_path: Path) -> None:
    (tmp_path / "walrep.toml").write_text('[[database]]\npath = "~/a.db"\nreplica = "b"')
    with pytest.raises(UsageError, match=r"\$HOME, for ~"):
        load_settings(tmp_path / "walrep.toml", NOTHING_SAID, {})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: .*nowhere.toml: No such file"):
        load_settings(tmp_path / "nowhere.toml", NOTHING_SAID, ENVIRONMENT)


def test_state_dir_option_does_not_go_with_a_file(load: Load) -> None:
    with pytest.raises(UsageError, match="--state-dir does not go with --config"):
        load(ONE, Overrides(state_dir=Path("/s")))


def test_pairs_are_taken_as_the_shell_gave_them() -> None:
    settings = settings_from_pairs(
        ["a.db", "file:///b/a", "/srv/$b.db", "backup"], Overrides(rpo_s=1.0, wait=True), ENVIRONMENT
    )
    first, second = settings.databases
    assert (first.path, str(first.url)) == (Path.cwd() / "a.db", "file:///b/a")
    assert (second.path, str(second.url)) == (Path("/srv/$b.db"), (Path.cwd() / "backup").as_uri())
    assert {(each.flush.rpo_s, each.wait) for each in settings.databases} == {(1.0, True)}
    assert settings.shutdown_deadline_s == ReplicateSettings(databases=()).shutdown_deadline_s


def test_state_dir_option_is_for_one_database() -> None:
    (one,) = settings_from_pairs(["/a.db", "/b"], Overrides(state_dir=Path("/s")), ENVIRONMENT).databases
    assert one.state_dir == Path("/s")
    with pytest.raises(UsageError, match="goes with one database"):
        settings_from_pairs(["/a.db", "/b", "/c.db", "/d"], Overrides(state_dir=Path("/s")), ENVIRONMENT)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([], "no database is named"),
        (["a.db"], "'a.db' has no partner"),
        (["a.db", "s3:b/a"], "two slashes"),
        (["/a.db", "/b", "/x/../a.db", "/c"], "database is named twice"),
        (["/a.db", "/b", "/c.db", "file:///b"], "same replica"),
    ],
)
def test_pairs_that_are_not_understood_are_refused(pairs: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        settings_from_pairs(pairs, NOTHING_SAID, ENVIRONMENT)


@pytest.mark.parametrize(("text", "rate"), [("2MiB/s", 2 << 20), ("500kB/s", 500_000), ("1GB", 10**9), (7, 7)])
def test_rates(load: Load, text: object, rate: int) -> None:
    assert parse_rate_bytes_per_s(text) == rate
    written = f'"{text}"' if isinstance(text, str) else text
    assert load(f"limit-upload = {written}\n{ONE}").upload_bytes_per_s == rate
    assert load(f"limit-upload = {written}\n{ONE}", Overrides(upload_bytes_per_s=5)).upload_bytes_per_s == 5
