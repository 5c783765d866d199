"""A sample of what `make faults` does at every request; `WALREP_FAULTS_SEED` draws another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.cases import FAULTS, SPANS, UNDISTURBED, cases_of, parse_case, sample_of
from tests.faults.judge import Report, run_case
from walrep.core.names import segment_key
from walrep.store.memory import MemoryStore

SEED = int(os.environ.get("WALREP_FAULTS_SEED", "1"))
SAMPLE, LONG_SAMPLE = len(FAULTS), 5 * len(FAULTS)


@pytest.fixture(scope="module")
def undisturbed() -> Report:
    return run_case(UNDISTURBED)


def test_a_story_that_nothing_happens_to_asks_for_everything(undisturbed: Report) -> None:
    """A moment that does not come could not be struck."""
    assert undisturbed.problems == []
    assert {
        "delete-packs",
        "delete-pins",
        "delete-probe",
        "delete-segments",
        "get-packs",
        "get-pruned",
        "get-replica",
        "get-segments",
        "get-snapshots",
        "head-packs",
        "head-pruned",
        "list-all",
        "list-pins",
        "list-segments",
        "put-packs",
        "put-pins",
        "put-probe",
        "put-pruned",
        "put-replica",
        "put-segments",
        "put-snapshots",
    } <= set(undisturbed.requests)
    cases = cases_of(undisturbed.requests)
    assert {parse_case(case).span for case in cases} == set(SPANS)
    assert all(str(parse_case(case)) == case for case in cases)


def check(cases: list[str]) -> None:
    reports = [run_case(case) for case in cases]
    assert {report.case: report.problems for report in reports if report.problems} == {}
    assert any(report.failures or any(each.error for each in report.readings) for report in reports)


def test_whatever_the_store_does_every_promise_is_kept(undisturbed: Report) -> None:
    check(sample_of(cases_of(undisturbed.requests), SEED, SAMPLE))


FOUND = {
    "any-48:stale:thrice": "the newest transaction was an older one, since a listing lagged behind",
    "get-segments-1:short:long": "of segments that a record called gone a pack was made, which rested on nothing",
    "list-segments-3:failed:long": "what was packed before a segment that was stored unknown was called lost",
    "put-snapshots-1:throttled:long": "a timeline was called durable with its opening, before its base was stored",
}


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_once_stays_away(case: str) -> None:
    assert run_case(case).problems == [], FOUND[case]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_the_store_does_at_more_moments(undisturbed: Report) -> None:
    check(sample_of(cases_of(undisturbed.requests), SEED + 1, LONG_SAMPLE))


class LosingStore(MemoryStore):
    """A store that acknowledges a segment, and loses it."""

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store it, unless it is the sixth segment."""
        if key != segment_key(6):
            await super().put(key, source, if_absent=if_absent)


def test_what_goes_wrong_is_noticed() -> None:
    report = run_case(UNDISTURBED, kind=LosingStore)
    assert any(problem.startswith("durable, but not in the store") for problem in report.problems)
