"""Technical indicators of a candle series, by pandas-ta-classic.

Every row uses its own bar and earlier ones only, so a row never changes when later bars arrive.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from qaicl.errors import BadDatasetError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "sma_20",
    "sma_50",
    "ema_12",
    "ema_26",
    "rsi_14",
    "macd",
    "macd_signal",
    "macd_histogram",
    "bollinger_low",
    "bollinger_mid",
    "bollinger_high",
    "bollinger_width",
    "bollinger_position",
    "atr_14",
    "obv",
)


def frame(candles: pd.DataFrame) -> pd.DataFrame:
    """The `COLUMNS` for each bar; not-a-number until an indicator has enough bars.

    Simple and exponential moving averages; Wilder's RSI (0-100) and ATR over 14 bars; MACD 12/26/9; Bollinger bands of
    20 bars and two population standard deviations, with their width (percent of the middle) and the close's position
    in them (0 low, 1 high); on-balance volume counted from 0 at the first bar.

    Args:
        candles: columns open, high, low, close, volume, ascending in time, as `Store.candles` gives them.

    Raises:
        BadDatasetError: a column is missing, or times are not ascending.
    """
    import pandas as pd

    with warnings.catch_warnings():
        # Importing the library reads an attribute that pandas 3 deprecates.
        warnings.simplefilter("ignore")
        import pandas_ta_classic as ta

    missing = {"open", "high", "low", "close", "volume"} - set(candles.columns)
    if missing:
        raise BadDatasetError("these are not candles", why=f"no column {', '.join(sorted(missing))}")
    if not candles.index.is_monotonic_increasing:
        raise BadDatasetError("the candles are not in order", why="their times do not ascend", fix="sort them by time")
    result = pd.DataFrame(index=candles.index, columns=list(COLUMNS), dtype="float64")
    if candles.empty:
        return result
    high, low, close, volume = (candles[name].astype("float64") for name in ("high", "low", "close", "volume"))

    def fill(series: pd.Series | pd.DataFrame | None, *names: str) -> None:
        """None is the library's answer to too few bars."""
        if series is not None:
            table = series.to_frame() if isinstance(series, pd.Series) else series
            for name, column in zip(names, table.columns, strict=False):
                result[name] = table[column].to_numpy()

    fill(ta.sma(close, 20, talib=False), "sma_20")
    fill(ta.sma(close, 50, talib=False), "sma_50")
    fill(ta.ema(close, 12, talib=False), "ema_12")
    fill(ta.ema(close, 26, talib=False), "ema_26")
    fill(ta.rsi(close, 14, talib=False), "rsi_14")
    fill(ta.macd(close, 12, 26, 9, talib=False), "macd", "macd_histogram", "macd_signal")
    bands = ta.bbands(close, 20, 2.0, ddof=0, talib=False)
    fill(bands, "bollinger_low", "bollinger_mid", "bollinger_high", "bollinger_width", "bollinger_position")
    fill(ta.atr(high, low, close, 14, talib=False), "atr_14")
    obv = ta.obv(close, volume, talib=False)
    fill(None if obv is None else obv - obv.iloc[0], "obv")
    return result
