"""A forecast for a snapshot: whole, honest, repeatable, cached by its data."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import numpy as np
import pandas as pd
import pytest

from qaicl.errors import TooLittleHistoryError, UsageError
from qaicl.oracle.forecast.records import Forecast
from qaicl.oracle.forecast.service import forecast
from qaicl.oracle.observations import INTERVALS
from qaicl.oracle.recording import DEFAULT_ASSET, recorded_store
from qaicl.oracle.snapshot import Snapshot


@pytest.fixture(scope="module")
def snapshot():
    with recorded_store() as store:
        return Snapshot.load(store, DEFAULT_ASSET)


@pytest.fixture(scope="module")
def made(snapshot):
    return forecast(snapshot, 6 * INTERVALS[snapshot.interval])


def test_the_forecast_is_about_the_time_after_the_last_bar(snapshot, made):
    assert made.as_of == snapshot.candles.index[-1].to_pydatetime()
    assert made.until - made.as_of == timedelta(seconds=made.horizon_seconds)
    assert made.price == snapshot.candles["close"].iloc[-1]
    assert made.recorded


def test_the_figures_fit_each_other(made):
    assert made.low < made.price < made.high
    assert made.low <= made.target <= made.high
    assert 0.0 < made.probability_up < 1.0
    assert made.probability >= 0.48
    up = {"up": made.probability_up > 0.5, "down": made.probability_up < 0.5, "flat": True}
    assert up[made.direction]
    assert [one.part for one in made.parts] == ["technical", "fundamental", "lstm"]
    assert all(one.probability is not None or one.reason for one in made.parts)
    assert made.factors
    assert "not advice" in made.disclaimer


def test_without_an_edge_the_target_is_the_present_price(made):
    assert made.verdict == made.record.verdict == "NO EDGE"
    assert made.target == made.price


def test_the_same_snapshot_gives_the_same_forecast(snapshot, made):
    assert forecast(snapshot, 6 * INTERVALS[snapshot.interval]) == made


def test_a_kept_forecast_is_read_until_the_data_changes(snapshot, made, tmp_path):
    horizon = 6 * INTERVALS[snapshot.interval]
    first = forecast(snapshot, horizon, cache=tmp_path)
    [path] = tmp_path.iterdir()
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(first, disclaimer="from the cache")))
    assert forecast(snapshot, horizon, cache=tmp_path).disclaimer == "from the cache"
    candles = snapshot.candles.copy()
    candles.iloc[-1, candles.columns.get_loc("close")] *= 1.01
    candles.attrs = snapshot.candles.attrs
    assert forecast(replace(snapshot, candles=candles), horizon, cache=tmp_path).disclaimer == made.disclaimer


def test_a_damaged_kept_forecast_is_made_again(snapshot, made, tmp_path):
    horizon = 6 * INTERVALS[snapshot.interval]
    forecast(snapshot, horizon, cache=tmp_path)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert forecast(snapshot, horizon, cache=tmp_path) == made
    assert msgspec.json.decode(path.read_bytes(), type=Forecast) == made


def test_an_edge_moves_the_target_towards_the_direction(snapshot):
    steps = np.arange(700)
    level = 0.05 * np.sin(2 * np.pi * steps / 12) + np.random.default_rng(5).normal(0, 0.004, 700)
    close = np.exp(level)
    index = pd.date_range("2024-01-01", periods=700, freq="1h", tz="UTC")
    candles = pd.DataFrame({"open": close, "high": close * 1.001, "low": close * 0.999, "close": close}, index=index)
    candles["volume"] = np.random.default_rng(6).uniform(1, 9, 700)
    made = forecast(replace(snapshot, candles=candles, interval="1h"), timedelta(hours=6))
    assert made.verdict == "EDGE"
    assert made.direction in ("up", "down")
    assert (made.target > made.price) == (made.direction == "up")


def test_a_horizon_that_is_no_whole_number_of_bars_is_refused(snapshot):
    with pytest.raises(UsageError, match="whole number"):
        forecast(snapshot, 0.5 * INTERVALS[snapshot.interval])
    with pytest.raises(UsageError, match="whole number"):
        forecast(snapshot, 1.5 * INTERVALS[snapshot.interval])


def test_too_few_candles_are_refused(snapshot):
    with pytest.raises(TooLittleHistoryError, match="40 bars"):
        forecast(replace(snapshot, candles=snapshot.candles.iloc[:40]), INTERVALS[snapshot.interval])
    with pytest.raises(TooLittleHistoryError, match="no candles"):
        forecast(replace(snapshot, candles=snapshot.candles.iloc[:0]), INTERVALS[snapshot.interval])
