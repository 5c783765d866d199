"""What `walrep plan` prints: the contract of --json, a table that fits a terminal, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from walrep.cli.main import run
from walrep.core.forecast import compare_strategies
from walrep.core.forecast_walrep import WalrepSettings
from walrep.core.traffic import PROFILES
from walrep.core.workload import Workload
from walrep.runner import InlineRunner
from walrep.store.local import LocalStore
from walrep.testing.history import HistoryBuilder

BEGAN_MS = 1_763_717_580_000
MINUTE = 60_000
PAGE_SIZE = 512
ONE = ["--transactions-per-second", "1"]
STRATEGIES = [
    "walrep",
    "daily snapshot",
    "object per change",
    "litestream 0.5",
    "litestream 0.5, 30 days",
    "litestream 0.5, tuned",
]


def store_replica(folder: Path, minutes: int) -> Path:
    """Put a replica with two transactions a minute, for so many minutes."""
    pages = random.Random(1)
    builder = HistoryBuilder(PAGE_SIZE)
    builder.begin({1: pages.randbytes(PAGE_SIZE), 2: pages.randbytes(PAGE_SIZE)}, BEGAN_MS)
    for minute in range(minutes + 1):
        for second in (0, 1):
            builder.commit([(2, pages.randbytes(PAGE_SIZE))], 2, BEGAN_MS + minute * MINUTE + second * 1000)
        builder.seal()
    asyncio.run(builder.store_in(LocalStore(folder, InlineRunner())))
    return folder


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    return store_replica(tmp_path / "replica", 120)


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.err == ""
    return [json.loads(line) for line in captured.out.splitlines()]


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the workload that is planned for, and each strategy by its name."""
    assert run(["plan", "--json", *arguments]) == 0
    lines = records(capsys)
    return lines[0], {line["strategy"]: line for line in lines if line["type"] == "strategy"}


def test_json_has_the_workload_each_strategy_and_its_traffic_in_each_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--json", *ONE]) == 0
    workload, *lines = records(capsys)
    assert (workload.pop("type"), workload.pop("measured")) == ("workload", None)
    assert workload == {
        "transactions_per_s": 1.0,
        "changed_bytes": 140.0,
        "pages": 2.2,
        "page_size": 4096,
        "active_hours": 24.0,
        "database_bytes": 100_000_000,
        "encoded_ratio": 1.1,
        "zstd_ratio": 0.401,
        "lz4_ratio": 0.737,
    }
    assert [(line["type"], line["strategy"]) for line in lines] == [
        (kind, name) for name in STRATEGIES for kind in ("strategy", *["traffic"] * len(PROFILES))
    ]
    walrep, garage = lines[:2]
    assert list(walrep) == [
        "type",
        "days",
        "strategy",
        "restorable",
        "created_count",
        "deleted_count",
        "live_midnight_count",
        "live_peak_count",
        "live_bytes",
        "growth_bytes",
        "requests",
        "upload_bytes",
        "download_bytes",
        "accesses",
        "notes",
        "objects",
    ]
    assert list(walrep["requests"]) == ["put", "get", "head", "list", "delete"]
    assert (walrep["days"], walrep["live_midnight_count"], walrep["live_peak_count"]) == (30, 130, 317)
    assert (garage["profile"], garage["days"], garage["idle_bytes"]) == ("garage", 30, 2700 * 30 * 86_400)
    assert garage["list_bytes"] > 0


def test_walrep_is_shown_as_it_is_today(capsys: pytest.CaptureFixture[str]) -> None:
    """Packs are proved without being downloaded, and what is older than the retention is gone."""
    _workload, strategies = planned(capsys, *ONE)
    walrep = strategies["walrep"]
    assert (walrep["requests"]["get"], walrep["download_bytes"]) == (30, 30 * 300)
    assert walrep["growth_bytes"] == 0
    assert walrep["restorable"] == "every transaction of 30 days, at most 10 s behind"
    assert list(strategies) == STRATEGIES


def test_a_budget_of_puts_is_kept_and_the_rpo_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    _workload, strategies = planned(capsys, *ONE, "--puts-per-day-max", "500")
    walrep = strategies["walrep"]
    assert 400 < walrep["requests"]["put"] / 30 <= 500
    assert walrep["restorable"] == "every transaction of 30 days, at most 221 s behind"
    assert run(["plan", *ONE, "--puts-per-day-max", "500"]) == 0
    shown = capsys.readouterr().out
    assert "RPO 221 s, 500 PUTs a day (an RPO of 10 s would take more), retention 30 days\n" in shown
    assert run(["plan", *ONE, "--puts-per-day-max", "47"]) == 2
    assert "47 is not in the range x>=48" in capsys.readouterr().err
    _workload, enough = planned(capsys, *ONE, "--puts-per-day-max", "100000")
    assert enough["walrep"]["restorable"] == "every transaction of 30 days, at most 10 s behind"


def test_every_option_is_heeded_and_takes_units(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--transactions-per-second", "0.5", "--changed-bytes", "2kB", "--pages", "3", "--page-size", "16KiB"]
    arguments += ["--hours", "8", "--database-size", "1GiB", "--rpo", "1m", "--retention", "7d"]
    workload, strategies = planned(capsys, *arguments)
    expected = {
        "transactions_per_s": 0.5,
        "changed_bytes": 2000,
        "pages": 3,
        "page_size": 16_384,
        "active_hours": 8,
        "database_bytes": 1 << 30,
    }
    assert {field: workload[field] for field in expected} == expected
    segments = strategies["walrep"]["objects"][0]
    assert (segments["what"], segments["created_count"]) == ("segments", 30 * 8 * 60)
    assert strategies["walrep"]["restorable"].endswith("at most 60 s behind")
    assert strategies["daily snapshot"]["live_midnight_count"] == 7


def test_one_store_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """Garage has no create-only PUT: there walrep lists."""
    assert run(["plan", "--json", *ONE, "--store-profile", "ceph"]) == 0
    lines = records(capsys)
    assert {line["profile"] for line in lines if line["type"] == "traffic"} == {"ceph"}
    assert lines[1]["requests"]["list"] == 30 * 2
    _workload, strategies = planned(capsys, *ONE, "--store-profile", "garage", "--store-profile", "garage")
    assert strategies["walrep"]["requests"]["list"] == 30 * (96 + 2)


def test_the_table_fits_a_terminal_and_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *ONE]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert max(map(len, lines)) <= 110
    assert lines[:3] == [
        "workload  1 transactions/s, 24 hours a day: 86,400 a day",
        "          140 B changed and 2.2 pages of 4096 bytes written by each; database of 95.4 MiB",
        "settings  RPO 10 s, retention 30 days",
    ]
    cells = {line[:24].strip(): line[24:].split() for line in lines if line.startswith("  ")}
    assert cells["live after midnight"][:3] == ["130", "30", "2,592,000"]
    assert cells["live at most"][:3] == ["317", "31", "2,678,400"]
    assert cells["LIST"][0] == "60"
    text = " ".join(captured.out.split())
    assert "a forecast, not a measurement" in text
    assert "walrep: every transaction of 30 days, at most 10 s behind" in text
    assert "what is not given of the workload" in text
    assert all(f"- {name}: " in text for name in PROFILES)
    assert "the cluster itself adds 1.52 GiB a week" in text


def test_what_is_shown_is_what_was_compared(capsys: pytest.CaptureFixture[str]) -> None:
    own, *_others = compare_strategies(Workload(transactions_per_s=1.0), WalrepSettings(), list(PROFILES.values()))
    assert run(["plan", "--json", *ONE]) == 0
    shown = records(capsys)[2 : 2 + len(PROFILES)]
    assert [line["caused_bytes"] for line in shown] == [each.caused_bytes for each in own.traffic]


def test_counts_are_whole_where_they_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    """A transaction in twenty days, each of which makes a segment, a snapshot and a record."""
    assert run(["plan", "--transactions-per-second", str(0.05 / 86_400), "--store-profile", "minio"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line[:24].strip(): line[24:].split() for line in lines}
    assert (cells["created"][0], cells["live after midnight"][0], cells["PUT"][1]) == ("4.5", "7.2", "150")
    assert sum("minio" in line for line in lines) == 2


def test_the_workload_of_a_replica_is_measured(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workload, strategies = planned(capsys, str(replica))
    assert workload["measured"] == {
        "transaction_count": 242,
        "first_time": "2025-11-21T09:33:00.000Z",
        "last_time": "2025-11-21T11:33:01.000Z",
        "span_s": 7201.0,
        "active_s": 7201.0,
    }
    assert workload["transactions_per_s"] == pytest.approx(242 / 7201)
    assert (workload["pages"], workload["page_size"], workload["database_bytes"]) == (1, 512, 1024)
    assert list(strategies) == STRATEGIES
    assert run(["plan", str(replica)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("          ")
    assert " shipped and 1 pages of 512 bytes written by each" in lines[1]
    assert lines[2:4] == [
        "measured  242 transactions, 2025-11-21T09:33:00.000Z to 2025-11-21T11:33:01.000Z,",
        "          2h 1s, of which 2h 1s with commits",
    ]
    assert any("the workload was measured" in line for line in lines)


def test_options_change_what_was_measured(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are said are the app's, bytes that were measured those that were shipped."""
    measured, _strategies = planned(capsys, str(replica))
    workload, _strategies = planned(capsys, str(replica), "--hours", "12", "--changed-bytes", "100")
    assert (workload["active_hours"], workload["changed_bytes"], workload["encoded_ratio"]) == (12, 100, 1.1)
    assert measured["encoded_ratio"] == 1
    unchanged = {"transactions_per_s", "pages", "page_size", "database_bytes", "zstd_ratio", "measured"}
    assert {field: workload[field] for field in unchanged} == {field: measured[field] for field in unchanged}


def test_a_replica_with_problems_is_measured_and_said_so(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (replica / "stray").write_bytes(b"?")
    assert run(["plan", str(replica)]) == 0
    assert capsys.readouterr().err == (
        "the replica has problems (1), and what they hide is not measured; see `walrep list`\n"
    )


def test_a_replica_that_is_too_young_is_refused_with_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(store_replica(tmp_path / "young", 59)), "--json"]) == 2
    (line,) = records(capsys)
    assert line["message"] == "the replica has too little history to measure"
    assert line["detail"] == "its transactions were seen within 59m 1s; an hour is the least"
    assert "--transactions-per-second" in line["hint"]


def test_a_place_without_a_replica_is_refused(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(replica)
    replica.mkdir()
    assert run(["plan", str(replica)]) == 4
    assert "there is no replica here" in capsys.readouterr().err


def test_without_a_workload_there_is_nothing_to_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == 2
    assert "--transactions-per-second, or give the URL of a replica" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--transactions-per-second", "nan"], "no database has such a workload"),
        (["--transactions-per-second", "1e300"], "no database has such a workload"),
        ([*ONE, "--hours", "25"], "active_hours = 25"),
        ([*ONE, "--pages", "-1"], "pages = -1"),
        ([*ONE, "--page-size", "1000"], "page_size = 1000"),
        ([*ONE, "--database-size", "large"], "expected a size"),
        ([*ONE, "--rpo", "0"], "must be longer than nothing"),
        ([*ONE, "--retention", "9" * 400 + "d"], "must be shorter than"),
        ([*ONE, "--retention", "soon"], "expected a duration"),
        ([*ONE, "--store-profile", "tape"], "'tape' is not one of"),
    ],
)
def test_what_cannot_be_is_a_usage_error(arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *arguments]) == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--transactions-per-second", "0"],
        ["--transactions-per-second", "1e-300"],
        [*ONE, "--hours", "0"],
        [*ONE, "--database-size", "0", "--pages", "0", "--changed-bytes", "0"],
        [*ONE, "--retention", "0"],
        [
            "--transactions-per-second",
            "1e15",
            "--changed-bytes",
            "1000TB",
            "--pages",
            "1e15",
            "--retention",
            "1000000d",
        ],
    ],
)
def test_extremes_are_arithmetic_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *arguments]) == 0
    assert "  live at most" in capsys.readouterr().out
