"""Candles from a file, for a backtest of history that the store does not hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from qaicl.errors import BadDatasetError
from qaicl.oracle.observations import INTERVALS, Interval

COLUMNS = ("open", "high", "low", "close", "volume")


def read(path: Path) -> tuple[pd.DataFrame, Interval]:
    """Candles from a CSV with the columns date, open, high, low, close, volume; ``date`` is the bar's opening time.

    Returns:
        The candles indexed by UTC close time, ascending, and their interval (the most frequent distance).

    Raises:
        BadDatasetError: the file does not fit, or its interval is not one of qaicl's.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise BadDatasetError(f"cannot read candles from {path}", why=str(error), fix="give a CSV file") from error
    if missing := {"date", *COLUMNS} - set(table.columns):
        raise BadDatasetError(
            f"{path} has no candles",
            why=f"no column {', '.join(sorted(missing))}",
            fix="its first line must be date,open,high,low,close,volume",
        )
    try:
        opened = pd.DatetimeIndex(pd.to_datetime(table["date"], utc=True))
        values = table[list(COLUMNS)].astype("float64")
    except (ValueError, TypeError) as error:
        raise BadDatasetError(f"{path} has a bad value", why=str(error), fix="mend the file") from error
    if not (values["close"] > 0).all():
        raise BadDatasetError(
            f"{path} has a bad value", why="a close is missing or not above zero", fix="mend the file"
        )
    distance = pd.Series(opened).sort_values().diff().mode()
    interval = next((name for name, length in INTERVALS.items() if len(distance) and distance[0] == length), None)
    if interval is None:
        raise BadDatasetError(
            f"{path} has bars of an unknown length", why=f"known are {', '.join(INTERVALS)}", fix="resample the candles"
        )
    values.index = opened + pd.Timedelta(INTERVALS[interval])
    values.index.name = "closed_at"
    return values[~values.index.duplicated(keep="last")].sort_index(), interval
