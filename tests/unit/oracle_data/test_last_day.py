"""Change and turnover of the last day come from bars where no source tells them, and only from whole days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pandas as pd
import pytest

from qaicl.oracle.aggregation import aggregate
from qaicl.oracle.last_day import known_or_from_bars
from qaicl.oracle.observations import Figure, State

NOW = datetime(2026, 1, 10, 12, 10, tzinfo=UTC)
LAST = NOW.replace(minute=0)
HOUR = timedelta(hours=1)
MISSING = aggregate("change_24h", [], now=NOW, max_age=3600.0)
TURNOVER = msgspec.structs.replace(MISSING, name="volume_24h")


def bars(count: int = 25, *, without: int | None = None) -> pd.DataFrame:
    """Closes 100, 101, … with a volume of 2 each, the last at 12:00."""
    times = pd.DatetimeIndex([LAST - (count - 1 - i) * HOUR for i in range(count)], name="closed_at")
    frame = pd.DataFrame({"close": [100.0 + i for i in range(count)], "volume": 2.0}, index=times)
    if without is not None:
        frame = frame.drop(times[without])
    frame.attrs = {"source": "mexc", "quote": "USDT", "hashes": ["h"], "recorded": False}
    return frame


def derived(told: Figure, candles: pd.DataFrame, now: datetime = NOW) -> Figure:
    return known_or_from_bars(told, candles, HOUR, now, 3600.0)


def test_the_change_is_since_the_bar_that_closed_a_day_before() -> None:
    figure = derived(MISSING, bars())
    assert figure.value == pytest.approx(24.0)
    assert (figure.unit, figure.sources, figure.state) == ("percent", ("mexc",), State.fresh)
    assert (figure.observed_at, figure.age, figure.hashes) == (LAST, 600.0, ("h",))


def test_the_turnover_is_the_sum_over_the_days_bars() -> None:
    figure = derived(TURNOVER, bars())
    assert figure.value == pytest.approx(sum(2.0 * close for close in range(101, 125)))
    assert figure.unit == "USDT"


@pytest.mark.parametrize("told", [MISSING, TURNOVER])
@pytest.mark.parametrize("candles", [bars(20), bars(0)])
def test_less_than_a_day_says_nothing(told: Figure, candles: pd.DataFrame) -> None:
    assert derived(told, candles) is told


def test_a_bar_that_is_missing_makes_what_needs_it_unknown() -> None:
    assert derived(MISSING, bars(without=0)) is MISSING
    assert derived(MISSING, bars(without=5)).value == pytest.approx(24.0)
    assert derived(TURNOVER, bars(without=5)) is TURNOVER


def test_what_a_source_told_in_time_stays() -> None:
    told = derived(MISSING, bars())
    assert derived(told, bars(30)) is told


def test_the_newer_of_two_old_ones_is_shown_as_stale() -> None:
    later = NOW + timedelta(days=2)
    stale = derived(MISSING, bars(), later)
    assert stale.state is State.stale
    assert derived(stale, bars(), later) is stale, "no newer bar"
