from __future__ import annotations

from benchmarks.compare.counts import Kind
from benchmarks.compare.results import Restored, spread
from benchmarks.compare.tables import incidents, measured, number, table
from tests.benchmarks.making import counted, result


def cells(text: str, strategy: str) -> list[str]:
    (line, *_) = [line for line in text.splitlines() if line.startswith(f"| {strategy} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def restored(verdict: str) -> Restored:
    return Restored(
        target="latest", seconds=1.0, cpu_s=0.5, down_bytes=2_000_000, requests={"GET": 3}, number=9, expected=10,
        behind_s=0.0, verdict=verdict,
    )  # fmt: skip


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_numbers_have_about_three_digits() -> None:
    assert [number(each) for each in (0, 1234567.8, 12.34, 1.234, 0.0567, 0.00123)] == [
        "0", "1,234,568", "12.3", "1.23", "0.06", "0.001",
    ]  # fmt: skip


def test_a_strategy_is_told_by_the_median_of_its_rounds_with_the_range() -> None:
    rounds = [
        result("daily", round=turn, run=counted({"snapshots": Kind(created=made, bytes=made * 1_000_000)}, PUT=made))
        for turn, made in enumerate((1, 3, 2))
    ]
    found = cells(measured(rounds), "daily")
    assert found[1] == "2 (1 to 3)"
    assert found[5] == "2 (1 to 3)"


def test_lags_of_a_scaled_day_are_told_in_real_days() -> None:
    rounds = [result("daily", day_s=20.0, lag_s=spread([10.0]), run=counted({"snapshots": Kind(created=1)}, PUT=1))]
    assert cells(measured(rounds), "daily")[-1] == "43,200, 43,200, 43,200"


def test_latency_is_a_ratio_to_the_round_without_protection() -> None:
    rounds = [
        result("none", latency_us=spread([100.0] * 10)),
        result("daily", latency_us=spread([150.0] * 10)),
        result("none", round=1, latency_us=spread([200.0] * 10)),
        result("daily", round=1, latency_us=spread([200.0] * 10)),
    ]
    costs = measured(rounds).split("CPU s an hour")[1]
    assert cells(costs, "daily")[7] == "1.25 (1 to 1.50)"


def test_latencies_of_runs_that_shared_the_machine_are_not_told() -> None:
    rounds = [result("none", together=True), result("daily", together=True)]
    costs = measured(rounds).split("CPU s an hour")[1]
    assert cells(costs, "daily")[7:] == ["", "", ""]


def test_a_wrong_restore_is_an_incident_and_being_behind_is_not() -> None:
    told = incidents(
        [result("a", restores=(restored("MISMATCH: other rows"),)), result("b", restores=(restored("behind"),))]
    )
    assert "MISMATCH: other rows" in told
    assert "steady, b" not in told
    assert incidents([result("b")]) == "None.\n"
