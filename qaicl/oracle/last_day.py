"""The last day's change and turnover out of bars, for an asset whose sources tell neither."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from qaicl.oracle.observations import Figure, State

if TYPE_CHECKING:
    import pandas as pd

DAY = timedelta(days=1)


def known_or_from_bars(told: Figure, candles: pd.DataFrame, bar: timedelta, now: datetime, max_age: float) -> Figure:
    """What the sources told, unless they told nothing or too long ago and one exchange's bars know better.

    Args:
        told: the figure ``change_24h`` (percent) or ``volume_24h`` (in the bars' quote currency, of that exchange).
        candles: see :meth:`qaicl.oracle.store.Store.candles`.
        bar: length of a bar.
        max_age: seconds after which the figure is STALE.
    """
    if told.state not in (State.missing, State.stale) or candles.empty:
        return told
    last = candles.index[-1].to_pydatetime()
    value = _change(candles, last) if told.name == "change_24h" else _turnover(candles, last, bar)
    if value is None or (told.observed_at is not None and told.observed_at >= last):
        return told
    age = (now - last).total_seconds()
    late = age > max_age
    return Figure(
        name=told.name,
        value=value,
        low=value,
        high=value,
        unit="percent" if told.name == "change_24h" else str(candles.attrs["quote"]),
        sources=(str(candles.attrs["source"]),),
        observed_at=last,
        age=age,
        state=State.stale if late else State.fresh,
        reasons=(f"values are up to {age:.0f} s old, limit {max_age:.0f} s",) if late else (),
        hashes=tuple(candles.attrs["hashes"]),
        recorded=bool(candles.attrs["recorded"]),
    )


def _change(candles: pd.DataFrame, last: datetime) -> float | None:
    """Percent since the bar that closed a day before; None where that one is missing."""
    before = candles["close"].get(last - DAY)
    return None if before is None or before <= 0 else 100 * (float(candles["close"].iloc[-1]) / float(before) - 1)


def _turnover(candles: pd.DataFrame, last: datetime, bar: timedelta) -> float | None:
    """Each bar's volume at its close, summed over the day; None where a bar of it is missing."""
    day = candles.loc[candles.index > last - DAY]
    return float((day["close"] * day["volume"]).sum()) if len(day) == DAY // bar else None
