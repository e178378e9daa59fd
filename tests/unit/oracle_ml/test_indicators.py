"""Indicators against published worked examples, and without looking ahead."""

import numpy as np
import pandas as pd
import pytest

from qaicl.errors import BadDatasetError
from qaicl.oracle import indicators


def candles(close, high=None, low=None, volume=None):
    index = pd.date_range("2024-01-01", periods=len(close), freq="1h", tz="UTC")
    return pd.DataFrame(
        {
            "open": close,
            "high": high or close,
            "low": low or close,
            "close": close,
            "volume": volume or [1.0] * len(close),
        },
        index=index,
        dtype="float64",
    )


def walk(bars=120, seed=3):
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, bars)))
    frame = candles(list(close), list(close * 1.004), list(close * 0.997), list(random.uniform(1, 9, bars)))
    frame["open"] = frame["close"].shift(1).fillna(100.0)
    return frame


def test_rsi_is_that_of_the_published_worksheet():
    # StockCharts' ChartSchool, "Relative Strength Index", the QQQQ worksheet (Wilder's smoothing, 14 bars).
    close = [
        44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245, 45.8433, 46.0826, 45.8931,
        46.0328, 45.6140, 46.2820, 46.2820, 46.0028, 46.0328, 46.4116, 46.2222, 45.6439, 46.2122, 46.2521,
        45.7137, 46.4515, 45.7835, 45.3548, 44.0288, 44.1783, 44.2181, 44.5672, 43.4205, 42.6628, 43.1314,
    ]  # fmt: skip
    published = [
        70.53, 66.32, 66.55, 69.41, 66.36, 57.97, 62.93, 63.26, 56.06, 62.38, 54.71, 50.42, 39.99, 41.46,
        41.87, 45.46, 37.30, 33.08, 37.77,
    ]  # fmt: skip
    assert indicators.frame(candles(close))["rsi_14"].dropna().tolist() == pytest.approx(published, abs=0.006)


def test_bollinger_bands_are_those_of_the_published_worksheet():
    # StockCharts' ChartSchool, "Bollinger Bands": 20 bars, two population standard deviations.
    close = [
        86.16, 89.09, 88.78, 90.32, 89.07, 91.15, 89.44, 89.18, 86.93, 87.68, 86.96, 89.43, 89.32, 88.72,
        87.45, 87.26, 89.50, 87.90, 89.13, 90.70, 92.90,
    ]  # fmt: skip
    frame = indicators.frame(candles(close)).dropna(subset=["bollinger_mid"])
    assert frame["bollinger_mid"].tolist() == pytest.approx([88.71, 89.05], abs=0.006)
    assert frame["bollinger_high"].tolist() == pytest.approx([91.29, 91.95], abs=0.006)
    assert frame["bollinger_low"].tolist() == pytest.approx([86.12, 86.14], abs=0.006)
    assert frame["sma_20"].tolist() == pytest.approx(frame["bollinger_mid"].tolist())


def test_on_balance_volume_is_that_of_the_published_example():
    # Investopedia, "On-Balance Volume": ten days, counted from zero.
    close = [10.00, 10.15, 10.17, 10.13, 10.11, 10.15, 10.20, 10.20, 10.22, 10.21]
    volume = [25_200, 30_000, 25_600, 32_000, 23_000, 40_000, 36_000, 20_500, 23_000, 27_500]
    published = [0, 30_000, 55_600, 23_600, 600, 40_600, 76_600, 76_600, 99_600, 72_100]
    assert indicators.frame(candles(close, volume=volume))["obv"].tolist() == published


def test_atr_of_bars_with_a_constant_range_is_that_range():
    close = [100.0] * 40
    frame = indicators.frame(candles(close, high=[101.0] * 40, low=[99.5] * 40))
    assert frame["atr_14"].dropna().tolist() == pytest.approx([1.5] * frame["atr_14"].count())


def test_atr_follows_wilders_recurrence():
    frame = walk()
    previous = frame["close"].shift(1)
    true_range = pd.concat(
        [frame["high"] - frame["low"], (frame["high"] - previous).abs(), (frame["low"] - previous).abs()], axis=1
    ).max(axis=1)
    atr = indicators.frame(frame)["atr_14"]
    assert atr.iloc[60] == pytest.approx((13 * atr.iloc[59] + true_range.iloc[60]) / 14)


def test_averages_and_macd_follow_their_definitions():
    close = walk()["close"]
    frame = indicators.frame(walk())

    def ema(values, length):
        # An average that starts as the simple mean of the first bars, then moves by 2 / (length + 1).
        values = list(values)
        current = sum(values[:length]) / length
        result = [current]
        for value in values[length:]:
            current += 2 / (length + 1) * (value - current)
            result.append(current)
        return np.array(result)

    fast, slow = ema(close, 12), ema(close, 26)
    macd = fast[14:] - slow
    signal = ema(macd, 9)
    assert frame["ema_12"].dropna().to_numpy() == pytest.approx(fast)
    assert frame["ema_26"].dropna().to_numpy() == pytest.approx(slow)
    assert frame["macd"].dropna().to_numpy() == pytest.approx(macd)
    assert frame["macd_signal"].dropna().to_numpy() == pytest.approx(signal)
    assert frame["macd_histogram"].dropna().to_numpy() == pytest.approx(macd[8:] - signal)
    assert frame["sma_50"].iloc[-1] == pytest.approx(close.iloc[-50:].mean())


@pytest.mark.parametrize("bars", [1, 13, 14, 27, 50, 119])
def test_later_bars_change_no_earlier_row(bars):
    whole, part = walk(), walk().iloc[:bars]
    pd.testing.assert_frame_equal(indicators.frame(part), indicators.frame(whole).iloc[:bars], rtol=1e-9)


def test_no_candles_give_no_rows():
    assert indicators.frame(walk().iloc[:0]).empty


def test_what_is_not_candles_is_refused():
    with pytest.raises(BadDatasetError, match="volume"):
        indicators.frame(walk().drop(columns="volume"))
    with pytest.raises(BadDatasetError, match="order"):
        indicators.frame(walk().iloc[::-1])
