"""The forecast of walrep against what its planner does of the same workload, day after day in virtual time."""

from __future__ import annotations

import pytest

from tests.core.compacting import DAY, MIB, POLICY, QUARTER, RPO, Place, run_until, with_days
from walrep.core.flush import FlushPolicy
from walrep.core.forecast_walrep import SEGMENT_BYTES, WalrepSettings, forecast_walrep
from walrep.core.retention import RetentionPolicy
from walrep.core.workload import Forecast, Workload

HOUR = 4 * QUARTER
WINDOW_OVER = POLICY.settle_ms + POLICY.grace_ms


class Day:
    """What a day made and deleted, and how many objects there were: at most, and when the night's work was done."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.keys_before = set(place.objects)
        self.built_before = len(place.built)
        self.made = 0
        self.after_midnight = 0
        place.count_max = 0

    def close(self) -> None:
        self.packs = len(self.place.built) - self.built_before
        self.made += self.packs
        self.deleted = self.made - (len(self.place.objects) - len(self.keys_before))
        self.peak = self.place.count_max


class Writer:
    """Writes a segment at the same moments of every day, and does what plans say when it is due, as the engine does."""

    def __init__(self, moments: range, size_bytes: int) -> None:
        self.place = Place()
        self.place.open_timeline()
        self.midnight_ms = self.place.now_ms
        self._moments = moments
        self._size_bytes = size_bytes
        self._due_ms: int | None = None

    def day(self) -> Day:
        day = Day(self.place)
        looked = False
        for moment in [*self._moments, DAY - 1]:
            if not looked and moment >= WINDOW_OVER:
                self._wait_until(self.midnight_ms + WINDOW_OVER)
                day.after_midnight, looked = self.place.count(), True
            self._wait_until(self.midnight_ms + moment)
            if moment in self._moments:
                self._commit()
                day.made += 1
        day.close()
        self.midnight_ms += DAY
        return day

    def _commit(self) -> None:
        self.place.commit(size_bytes=self._size_bytes)
        end_ms = (self.place.now_ms // QUARTER + 1) * QUARTER + POLICY.settle_ms
        if self._due_ms is None or self._due_ms > end_ms:
            self._due_ms = self.place.plan().next_ms

    def _wait_until(self, moment_ms: int) -> None:
        while self._due_ms is not None and self._due_ms <= moment_ms:
            self.place.now_ms = max(self.place.now_ms, self._due_ms)
            self.place.settle()
            self._due_ms = self.place.plan().next_ms
        self.place.now_ms = moment_ms


def forecast_of(moments: range, *, size_bytes: int, days: int) -> Forecast:
    """Forecast the same: a transaction for each segment, and so many days of them."""
    hours = 24.0 if moments.stop == DAY else (moments.stop - moments.start) / HOUR
    workload = Workload(
        transactions_per_s=len(moments) / (hours * 3600),
        changed_bytes=size_bytes - SEGMENT_BYTES,
        pages=1.0,
        active_hours=hours,
        encoded_ratio=1.0,
    )
    settings = WalrepSettings(
        flush=FlushPolicy(rpo_s=moments.step / 1000), retention=RetentionPolicy(window_s=days * 86_400.0)
    )
    return forecast_walrep(workload, settings)


@pytest.mark.parametrize(
    ("moments", "size_bytes"),
    [
        pytest.param(range(0, DAY, RPO), 3000, id="around the clock"),
        pytest.param(range(9 * HOUR, 17 * HOUR, 60_000), 3000, id="office hours"),
        pytest.param(range(0, DAY, 500_000), 3000, id="some quarters have two"),
        pytest.param(range(0, DAY, 700_000), 3000, id="most quarters have one"),
        pytest.param(range(0, DAY, HOUR), 3000, id="every hour"),
        pytest.param(range(0, DAY, DAY // 2), 3000, id="twice a day"),
        pytest.param(range(0, DAY, DAY), 3000, id="once a day"),
        pytest.param(range(0, DAY, 4 * RPO), 8 * MIB, id="a quarter fills most of a pack"),
        pytest.param(range(10 * HOUR, 12 * HOUR, RPO), 40 * MIB, id="a quarter fills many packs"),
    ],
)
def test_days_are_as_forecast(moments: range, size_bytes: int) -> None:
    """The third day, with two behind it. Made, packed, deleted and live: never more than 2.5 objects apart.

    But for the peak where a quarter of an hour makes many packs: there the last quarter's count twice, 3 % too high.
    """
    writer = Writer(moments, size_bytes)
    writer.day()
    writer.day()
    day = writer.day()
    forecast = forecast_of(moments, size_bytes=size_bytes, days=2)
    assert forecast.created_count / 30 == pytest.approx(day.made, abs=1.5)
    assert forecast.deleted_count / 30 == pytest.approx(day.deleted, abs=2.5)
    assert forecast.requests.head / 30 == pytest.approx(day.packs, abs=1)
    assert -1 <= forecast.live_midnight_count - day.after_midnight <= 1.5
    assert -1 <= forecast.live_peak_count - day.peak <= max(2.5, 0.03 * day.peak)


def test_a_month_at_an_rpo_of_ten_seconds_is_as_forecast() -> None:
    """One day more on top of thirty: 282 objects at most, and 97 when the night's work is done."""
    place = Place()
    with_days(place, 30)
    midnight = place.now_ms
    list(run_until(place, midnight + DAY + WINDOW_OVER))
    moments = range(0, DAY, RPO)
    before, after = (forecast_of(moments, size_bytes=3000, days=days) for days in (30, 31))
    assert (place.count_max, round(before.live_peak_count)) == (282, 283)
    place.settle()
    assert (place.count(), round(after.live_midnight_count)) == (97, 97)
