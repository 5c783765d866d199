"""A sample of what `make crash` does at every call; `WALREP_CRASH_SEED` draws another one."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from tests.crash.running import KINDS, UNDISTURBED, Report, cases_of, run_cases

SEED = int(os.environ.get("WALREP_CRASH_SEED", "1"))
SAMPLE = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Report:
    (report,) = run_cases([UNDISTURBED], tmp_path_factory.mktemp("undisturbed"))
    return report


def test_a_life_that_nothing_happens_to_has_every_kind_of_call(undisturbed: Report) -> None:
    """A base, segments, packs, a snapshot, deletions: were one of them missing, nothing could happen to it."""
    assert undisturbed.problems == []
    assert undisturbed.timelines == 1
    assert undisturbed.restored > 3
    expected = {"create", "write", "fsync", "rename", "link", "unlink", "mkdir", "begin", "rollback", "checkpoint"}
    assert expected <= set(undisturbed.calls)
    assert len(undisturbed.calls) > 500


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_was_durable_stays_so(kind: str, undisturbed: Report, tmp_path: Path) -> None:
    """Killed, without power or on a failing disk: the next start goes on, and every promise is kept."""
    cases = Random(SEED).sample(cases_of(kind, undisturbed.calls), SAMPLE)
    reports = run_cases(cases, tmp_path)
    assert [report.case for report in reports] == cases
    assert [report for report in reports if report.problems] == []
    assert all(report.restored for report in reports)


def test_a_case_that_goes_wrong_is_noticed(tmp_path: Path) -> None:
    """What the disk kept is thrown away whole: the writer comes back without its lineage, and is refused."""
    (report,) = run_cases(["power:400:nothing:0"], tmp_path)
    assert "life 2 ended with 3" in report.problems
