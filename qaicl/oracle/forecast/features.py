"""Candles and fundamentals to a table of features, and the outcome to be forecast.

Every feature of a row is known at the row's close time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from qaicl.oracle import indicators
from qaicl.oracle.observations import INTERVALS, Interval, NetworkStats

WARM_UP = 50
"""Bars before the longest indicator, the 50-bar average, is defined."""

TECHNICAL = {
    "return_1": "return of the last bar",
    "return_6": "return of the last 6 bars",
    "return_24": "return of the last 24 bars",
    "rsi_14": "RSI 14",
    "macd_histogram": "MACD histogram in ATRs",
    "average_gap": "distance from the 20-bar average in ATRs",
    "trend_gap": "20-bar over 50-bar average in ATRs",
    "bollinger_position": "place within the Bollinger bands",
    "bollinger_width": "Bollinger band width",
    "volatility": "ATR in percent of the price",
    "volume": "volume against its 24-bar mean, logarithm",
    "obv_slope": "on-balance volume gained in 12 bars, share of volume",
}
FUNDAMENTAL = {
    "fear_greed": "fear and greed index",
    "fear_greed_change": "change of fear and greed in 7 days",
    "active_addresses": "change of active addresses in 7 days, logarithm",
    "tick_quality": "ticks that were not empty, percent",
    "supply": "change of the circulating supply in 7 days, logarithm",
}


def regular(candles: pd.DataFrame, interval: Interval) -> pd.DataFrame:
    """Candles on an unbroken grid of close times: a missing bar repeats the last close with no volume."""
    if candles.empty:
        return candles
    grid = pd.date_range(candles.index[0], candles.index[-1], freq=pd.Timedelta(INTERVALS[interval]))
    columns = ["open", "high", "low", "close", "volume"]
    full = candles.loc[~candles.index.duplicated(keep="last"), columns].reindex(grid)
    full["close"] = full["close"].ffill()
    full["volume"] = full["volume"].fillna(0.0)
    for name in ("open", "high", "low"):
        full[name] = full[name].fillna(full["close"])
    return full


def technical(candles: pd.DataFrame) -> pd.DataFrame:
    """The `TECHNICAL` features of regular candles, after `WARM_UP` bars without gaps."""
    table = indicators.frame(candles)
    close, volume = candles["close"], candles["volume"]
    logarithm = np.log(close)
    # A market without a single move in 14 bars has no ATR; a millionth of the price stands in for it.
    unit = table["atr_14"].clip(lower=close * 1e-6)
    traded = volume.rolling(12).sum().clip(lower=1e-12)
    features = pd.DataFrame(
        {
            "return_1": logarithm.diff(1),
            "return_6": logarithm.diff(6),
            "return_24": logarithm.diff(24),
            "rsi_14": table["rsi_14"].where(table["atr_14"] > 0, 50.0),
            "macd_histogram": table["macd_histogram"] / unit,
            "average_gap": (close - table["sma_20"]) / unit,
            "trend_gap": (table["sma_20"] - table["sma_50"]) / unit,
            "bollinger_position": table["bollinger_position"].clip(-1.0, 2.0),
            "bollinger_width": table["bollinger_width"],
            "volatility": 100.0 * unit / close,
            "volume": np.log((volume + 1e-12) / (volume.rolling(24).mean() + 1e-12)).clip(-5.0, 5.0),
            "obv_slope": table["obv"].diff(12) / traded,
        }
    )
    features.iloc[:WARM_UP] = np.nan
    features.iloc[WARM_UP:] = features.iloc[WARM_UP:].replace([np.inf, -np.inf], np.nan).fillna(0.0)
    return features


def fundamental(
    index: pd.DatetimeIndex,
    fear_greed: Sequence[tuple[datetime, float]] = (),
    network: Sequence[NetworkStats] = (),
) -> pd.DataFrame:
    """The `FUNDAMENTAL` features as they were known at each close time; a column without data is not-a-number."""
    week = pd.Timedelta(days=7)
    mood = _known(index, [(at, value) for at, value in fear_greed])
    mood_before = _known(index - week, [(at, value) for at, value in fear_greed])
    columns: dict[str, np.ndarray] = {"fear_greed": mood, "fear_greed_change": mood - mood_before}
    for name, attribute in (("active_addresses", "active_addresses"), ("supply", "circulating_supply")):
        points = [(one.observed_at, getattr(one, attribute)) for one in network if getattr(one, attribute)]
        logarithms = [(at, float(np.log(value))) for at, value in points]
        columns[name] = _known(index, logarithms) - _known(index - week, logarithms)
    columns["tick_quality"] = _known(
        index, [(one.observed_at, one.tick_quality) for one in network if one.tick_quality is not None]
    )
    return pd.DataFrame(columns, index=index)[list(FUNDAMENTAL)]


def _known(times: pd.DatetimeIndex, points: Sequence[tuple[datetime, float]]) -> np.ndarray:
    """The last value observed at or before each time; not-a-number before the first."""
    if not points:
        return np.full(len(times), np.nan)
    series = pd.Series([value for _, value in points], index=pd.DatetimeIndex([at for at, _ in points])).sort_index()
    place = series.index.searchsorted(times, side="right") - 1
    values: np.ndarray = np.where(place >= 0, series.to_numpy(dtype=float)[np.maximum(place, 0)], np.nan)
    return values


def outcome(candles: pd.DataFrame, horizon: int) -> pd.Series:
    """Log return of the close ``horizon`` bars ahead; not-a-number for the last bars, whose outcome is not known."""
    logarithm = np.log(candles["close"])
    ahead: pd.Series = logarithm.shift(-horizon) - logarithm
    return ahead
