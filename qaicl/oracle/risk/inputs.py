"""The risk factors' values, measured on what is known about an asset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING

from qaicl.oracle.anomalies.scan import Anomaly, severity_points
from qaicl.oracle.observations import INTERVALS, Figure, NetworkStats, State
from qaicl.oracle.risk.assessment import RiskAssessment, assess
from qaicl.oracle.risk.measures import MIN_RETURNS, drawdown, realised_volatility, value_at_risk
from qaicl.oracle.snapshot import Snapshot, failures

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

DAY = timedelta(days=1)
VOLATILITY_WINDOW = timedelta(days=7)
DRAWDOWN_WINDOW = timedelta(days=30)
DOLLARS = frozenset({"USD", "USDT", "USDC"})
NETWORK_FACTORS = ("tick_age", "empty_ticks", "tick_duration", "address_loss")


def assess_snapshot(
    snapshot: Snapshot,
    anomalies: Sequence[Anomaly],
    rsi: float | None,
    *,
    has_network: bool,
    alert_from: float,
    cluster: Mapping[str, float] | None = None,
) -> RiskAssessment:
    """The risk of an asset at the snapshot's moment.

    Args:
        anomalies: what :func:`~qaicl.oracle.anomalies.scan.scan` found in it.
        rsi: the newest RSI(14); None: not known.
        has_network: the asset has a network of its own, whose figures are expected.
        alert_from: the score that raises an alert.
        cluster: ``nodes_down`` and ``cluster_errors`` in percent, where a cluster is watched.
    """
    inputs = market(snapshot.candles, INTERVALS[snapshot.interval])
    inputs |= network(snapshot)
    inputs |= technical(snapshot, anomalies, has_network)
    inputs |= dict(cluster or {})
    inputs["price_spread"] = _spread(snapshot.price)
    inputs["overextension"] = None if rsi is None or math.isnan(rsi) else abs(rsi - 50)
    if snapshot.volume_24h.value is not None and snapshot.volume_24h.unit in DOLLARS:
        inputs["daily_volume"] = snapshot.volume_24h.value
    return assess(inputs, alert_from, NETWORK_FACTORS if has_network else ())


def market(candles: pd.DataFrame, bar: timedelta) -> dict[str, float | None]:
    """Volatility, drawdown, VaR, expected shortfall and traded dollars at the last bar."""
    if candles.empty:
        return dict.fromkeys(("volatility", "drawdown", "value_at_risk", "expected_shortfall", "daily_volume"))
    last = candles.index[-1]
    closes = _unbroken(candles["close"], bar)
    week = closes[closes.index > last - VOLATILITY_WINDOW]
    month = candles.loc[candles.index > last - DRAWDOWN_WINDOW, "close"].to_numpy(dtype="float64")
    bars_a_day = DAY / bar
    known, known_week = len(candles), int((candles.index > last - VOLATILITY_WINDOW).sum())
    var, shortfall = value_at_risk(_array(closes), bars_a_day) if known > MIN_RETURNS else (None, None)
    traded = None
    if candles.attrs.get("quote") in DOLLARS:
        day = candles.loc[candles.index > last - DAY]
        traded = float((day["close"] * day["volume"]).sum())
    return {
        "volatility": realised_volatility(_array(week), bars_a_day) if known_week > MIN_RETURNS else None,
        "drawdown": drawdown(month),
        "value_at_risk": var,
        "expected_shortfall": shortfall,
        "daily_volume": traded,
    }


def _unbroken(closes: pd.Series, bar: timedelta) -> pd.Series:
    """One close a bar, the last one repeated where bars are lacking: a return over three bars is not one bar's."""
    import pandas as pd

    grid = pd.date_range(closes.index[0], closes.index[-1], freq=pd.Timedelta(bar))
    return closes if len(grid) == len(closes) else closes.reindex(grid, method="ffill")


def _array(series: pd.Series) -> NDArray[np.float64]:
    values: NDArray[np.float64] = series.to_numpy(dtype="float64")
    return values


def network(snapshot: Snapshot) -> dict[str, float | None]:
    """The network's age, empty ticks, tick duration and loss of active addresses."""
    if not snapshot.network:
        return {}
    newest = snapshot.network[-1]
    return {
        "tick_age": max(0.0, (snapshot.now - newest.observed_at).total_seconds()),
        "empty_ticks": _empty_share(newest),
        "tick_duration": newest.tick_duration,
        "address_loss": _address_loss(snapshot.network),
    }


def technical(snapshot: Snapshot, anomalies: Sequence[Anomaly], has_network: bool) -> dict[str, float | None]:
    """How far the data themselves can be trusted."""
    subjects = ["price", "candles", "headlines", "fear_greed", *(["network"] if has_network else [])]
    bad = {flag.subject for flag in snapshot.flags if flag.state in (State.stale, State.missing)}
    if has_network and not snapshot.network:
        bad.add("network")
    failing = sum(failures(source, snapshot.now) > 0 for source in snapshot.sources)
    return {
        "stale_figures": 100 * sum(subject in bad for subject in subjects) / len(subjects),
        "failing_sources": 100 * failing / len(snapshot.sources) if snapshot.sources else None,
        "anomalies": severity_points(anomalies, snapshot.now),
    }


def _spread(price: Figure) -> float | None:
    if price.value is None or price.low is None or price.high is None or len(price.sources) < 2 or price.value <= 0:
        return None
    return 100 * (price.high - price.low) / price.value


def _empty_share(stats: NetworkStats) -> float | None:
    if stats.empty_ticks is not None and stats.ticks_in_epoch:
        return 100 * stats.empty_ticks / stats.ticks_in_epoch
    return None if stats.tick_quality is None else 100 - stats.tick_quality


def _address_loss(history: Sequence[NetworkStats]) -> float | None:
    counts = [stats.active_addresses for stats in history if stats.active_addresses is not None]
    if len(counts) < 3 or not (usual := median(counts)):
        return None
    return max(0.0, 100 * (1 - counts[-1] / usual))
