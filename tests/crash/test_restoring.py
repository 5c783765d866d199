"""A disk that fails under a restore leaves the target as it was, or whole, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tests.crash.restoring import TARGETS
from tests.crash.running import ROOT


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case; see `tests.crash.restoring`."""

    case: str = ""
    target: str = ""
    calls: list[str]
    error: str = ""
    hint: str = ""
    exit_code: int = 0
    names: list[str] = []
    holds: str = ""

    @property
    def left(self) -> list[str]:
        """What should not be there."""
        return [name for name in self.names if name.endswith(".tmp")]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    command = [sys.executable, "-m", "tests.crash.restoring", str(tmp_path_factory.mktemp("restoring"))]
    lines = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.splitlines()
    return [msgspec.json.decode(line, type=Report) for line in lines]


def test_a_restore_that_nothing_happens_to_has_every_kind_of_call(reports: list[Report]) -> None:
    calls = {report.target: report.calls for report in reports if report.target}
    assert list(calls) == list(TARGETS)
    for each in calls.values():
        assert {"create", "write", "truncate", "fsync", "rename"} <= set(each)
        assert each.count("write") >= 4
    # Its log cannot be copied into the file: it is out of the way until the new database has the name.
    assert calls["full"].count("rename") > calls["killed"].count("rename")


def test_the_target_is_as_it_was_or_whole(reports: list[Report]) -> None:
    cases = [report for report in reports if report.case]
    failed = [report for report in cases if report.error]
    assert len(failed) > len(cases) // 3
    for report in cases:
        assert (report.exit_code, bool(report.hint)) == ((8, True) if report.error else (0, False)), report
        if not report.error:
            assert (report.holds, report.left) == ("what was restored", []), report
        elif report.left:
            # No rename works any more, also not the one that would put a log back.
            assert report.case.startswith("full EIO"), report
            assert report.left[0] in report.error, report
            assert report.case.endswith(":1000"), report
        else:
            before = "nothing" if report.case.startswith("absent") else "what was there"
            assert report.holds in {before, "what was restored"}, report
    assert len([report for report in cases if report.left]) < len(cases) // 20
