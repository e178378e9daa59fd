"""Market risk measures from closing prices, all causal and without a distribution assumed.

Prices are a one-dimensional array, oldest first, positive. A measure that too few prices support is None: an
estimate from a handful of returns looks like knowledge and is none.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MIN_RETURNS = 24
"""Fewer returns than this make no estimate."""
YEAR = 365.0
"""Days a year: crypto markets do not close."""


def log_returns(closes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural-log returns between neighbours; not-finite and non-positive prices are left out first."""
    clean = closes[np.isfinite(closes) & (closes > 0)]
    return np.diff(np.log(clean))


def realised_volatility(closes: NDArray[np.float64], bars_a_day: float) -> float | None:
    """Annualised realised volatility in percent: the root of the mean squared log return, times √(bars a year).

    The mean return is taken as zero, as usual for short bars (Andersen and Bollerslev, 1998).
    """
    returns = log_returns(closes)
    if len(returns) < MIN_RETURNS:
        return None
    return float(math.sqrt(float(np.mean(returns**2)) * bars_a_day * YEAR) * 100)


def drawdown(closes: NDArray[np.float64]) -> float | None:
    """How far the last price lies below the highest, in percent (0 at the top)."""
    clean = closes[np.isfinite(closes) & (closes > 0)]
    if not len(clean):
        return None
    return float((1 - clean[-1] / clean.max()) * 100)


def value_at_risk(
    closes: NDArray[np.float64], bars_a_day: float, level: float = 0.95
) -> tuple[float, float] | tuple[None, None]:
    """One-day historical value at risk and expected shortfall, both as a loss in percent (0 where there is none).

    Overlapping one-day log returns are used, so that a few weeks of hourly bars give more than a few points;
    the quantile and the mean beyond it follow Acerbi and Tasche (2002).

    Args:
        closes: prices, oldest first.
        bars_a_day: bars that make one day.
        level: confidence, such as 0.95.
    """
    day = max(1, round(bars_a_day))
    clean = closes[np.isfinite(closes) & (closes > 0)]
    if len(clean) < day + MIN_RETURNS:
        return None, None
    losses = -(np.log(clean[day:]) - np.log(clean[:-day]))
    quantile = float(np.quantile(losses, level))
    tail = losses[losses >= quantile]
    return _percent(quantile), _percent(float(tail.mean()))


def _percent(log_loss: float) -> float:
    # A gain is not raised to a power: one beyond all bounds would overflow.
    return (1 - math.exp(-log_loss)) * 100 if log_loss > 0 else 0.0
