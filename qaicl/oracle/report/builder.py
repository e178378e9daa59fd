"""Makes the report out of a snapshot: calls each part of the oracle once and keeps what it says.

A part that cannot answer (no model pulled, too little history) leaves an :class:`Absent` with its reason; the report
comes all the same.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import msgspec

from qaicl.errors import QaiclError
from qaicl.oracle import indicators
from qaicl.oracle.anomalies import scan as anomalies
from qaicl.oracle.forecast.records import Forecast
from qaicl.oracle.observations import INTERVALS, Figure, Headline
from qaicl.oracle.report.document import Absent, Bars, Note, Reading, Report, RiskPoint
from qaicl.oracle.risk.assessment import METHOD as RISK_METHOD
from qaicl.oracle.risk.assessment import assess
from qaicl.oracle.risk.factors import Group
from qaicl.oracle.risk.inputs import assess_snapshot, market
from qaicl.oracle.sentiment.report import SentimentReport
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.track_record import LiveRecord
from qaicl.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
TREND_POINTS = 28
"""Past moments at which the market's risk is assessed again, for the trend."""
TREND_STEP = timedelta(hours=12)

Sentiment = Callable[[tuple[Headline, ...], datetime], SentimentReport]
Forecaster = Callable[[Snapshot, timedelta], Forecast]


class Timings:
    """Seconds that each part of a report took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def build(
    snapshot: Snapshot,
    horizon: timedelta,
    *,
    generated_at: datetime,
    sentiment: Sentiment,
    forecast: Forecaster,
    has_network: bool,
    alert_from: float,
    live: LiveRecord | None = None,
    cluster: Mapping[str, float] | None = None,
    timings: Timings | None = None,
) -> Report:
    """The report on a snapshot.

    Args:
        horizon: how far the forecast looks.
        generated_at: the report's own time.
        sentiment: assesses headlines at a moment.
        forecast: forecasts a snapshot over a horizon.
        has_network: the asset has a network whose figures belong in the report.
        alert_from: the risk score that raises an alert.
        live: the forecasts' true record at the snapshot's moment; None: none was kept.
        cluster: risk factors measured on a cluster, see :func:`~qaicl.oracle.risk.inputs.assess_snapshot`.
        timings: filled with the seconds of each part.

    Raises:
        QaiclError: only where the snapshot's own data are broken; an absent part is no error.
    """
    timings = timings or Timings()
    live = live or LiveRecord(recorded=snapshot.recorded)
    absent: dict[str, Absent] = {}
    with timings.part("indicators"):
        table = indicators.frame(snapshot.candles)
        bars = _bars(snapshot, table)
        readings = tuple(_readings(snapshot.candles, table))
    with timings.part("anomalies"):
        found = anomalies.scan(snapshot)
    with timings.part("risk"):
        rsi = next((reading.value for reading in readings if reading.name == "RSI (14)"), None)
        risk = assess_snapshot(snapshot, found, rsi, has_network=has_network, alert_from=alert_from, cluster=cluster)
        trend = tuple(_trend(snapshot.candles, INTERVALS[snapshot.interval]))
    with timings.part("sentiment"):
        mood = _part("sentiment", absent, lambda: sentiment(snapshot.headlines, snapshot.now))
    with timings.part("forecast"):
        outlook = _part("forecast", absent, lambda: forecast(snapshot, horizon))
    methods = {"risk": RISK_METHOD, "anomalies": anomalies.METHOD}
    if mood is not None:
        methods["sentiment"] = f"{mood.model} {mood.model_version}"
    if outlook is not None:
        methods["forecast"] = f"ensemble {outlook.method_version}"
    figures = (
        snapshot.price,
        snapshot.change_24h,
        snapshot.volume_24h,
        snapshot.market_cap,
        snapshot.circulating_supply,
        snapshot.fear_greed,
        snapshot.news_tone,
    )
    weighed = (has_network, alert_from, dict(cluster or {}))
    return Report(
        asset=snapshot.asset,
        as_of=snapshot.now,
        generated_at=generated_at,
        recorded=snapshot.recorded,
        state=snapshot.state,
        horizon_seconds=horizon.total_seconds(),
        figures=figures,
        notes=tuple(Note(subject=flag.subject, state=flag.state, reason=flag.reason) for flag in snapshot.flags),
        bars=bars,
        readings=readings,
        sentiment=mood,
        forecast=outlook,
        risk=risk,
        risk_trend=trend,
        anomalies=tuple(reversed(found)),
        sources=snapshot.sources,
        methods=methods,
        inputs=_digest(snapshot, figures, horizon, methods, live, weighed),
        live=live,
        absent=absent,
    )


def _part(name: str, absent: dict[str, Absent], make: Callable[[], T]) -> T | None:
    try:
        return make()
    except QaiclError as error:
        absent[name] = Absent(why=error.what + (f": {error.why}" if error.why else ""), fix=error.fix)
        return None


def _bars(snapshot: Snapshot, table: pd.DataFrame) -> Bars | None:
    candles = snapshot.candles
    if candles.empty:
        return None
    attributes = candles.attrs
    return Bars(
        source=str(attributes["source"]),
        quote=str(attributes["quote"]),
        interval=snapshot.interval,
        missing=int(attributes["missing"]),
        hashes=tuple(attributes["hashes"]),
        times=tuple(moment.to_pydatetime() for moment in candles.index),
        close=tuple(float(value) for value in candles["close"]),
        volume=tuple(float(value) for value in candles["volume"]),
        indicators={str(name): tuple(_finite(value) for value in table[name]) for name in table.columns},
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _readings(candles: pd.DataFrame, table: pd.DataFrame) -> Iterator[Reading]:
    """The newest value of each indicator with what the textbook says about it."""
    if candles.empty:
        return
    quote = str(candles.attrs["quote"])
    price = float(candles["close"].iloc[-1])
    last = {str(name): _finite(table[name].iloc[-1]) for name in table.columns}

    def says(value: float | None, text: Callable[[float], str]) -> str:
        return "not enough bars" if value is None else text(value)

    for name, label in (("sma_20", "SMA (20)"), ("sma_50", "SMA (50)")):
        value = last[name]
        yield Reading(
            name=label,
            value=value,
            unit=quote,
            says=says(value, lambda mean: "price above" if price > mean else "price below"),
        )
    yield Reading(
        name="RSI (14)",
        value=last["rsi_14"],
        unit="",
        says=says(last["rsi_14"], lambda v: "overbought" if v >= 70 else "oversold" if v <= 30 else "neither extreme"),
    )
    yield Reading(
        name="MACD histogram",
        value=last["macd_histogram"],
        unit=quote,
        says=says(last["macd_histogram"], lambda v: "momentum rising" if v > 0 else "momentum falling"),
    )
    yield Reading(
        name="Bollinger position",
        value=last["bollinger_position"],
        unit="",
        says=says(
            last["bollinger_position"],
            lambda v: "above the upper band" if v > 1 else "below the lower band" if v < 0 else "inside the bands",
        ),
    )
    atr = last["atr_14"]
    yield Reading(
        name="ATR (14)",
        value=None if atr is None else 100 * atr / price,
        unit="%",
        says=says(atr, lambda _: "typical move of one bar"),
    )


def _trend(candles: pd.DataFrame, bar: timedelta) -> Iterator[RiskPoint]:
    """The market group's points at past moments, each from data up to then only."""
    if candles.empty:
        return
    last = candles.index[-1]
    for back in range(TREND_POINTS - 1, -1, -1):
        past = candles.loc[candles.index <= last - back * TREND_STEP]
        inputs = market(past, bar)
        if inputs["volatility"] is None:
            continue
        groups = assess(inputs).groups
        points = next(group.points for group in groups if group.group is Group.market)
        yield RiskPoint(past.index[-1].to_pydatetime(), points)


def _digest(
    snapshot: Snapshot,
    figures: tuple[Figure, ...],
    horizon: timedelta,
    methods: Mapping[str, str],
    live: LiveRecord,
    weighed: tuple[bool, float, dict[str, float]],
) -> str:
    """SHA-256 over all that the report is made from: figures and headlines with their replies' hashes, bars, network,
    sources, the moment, the horizon, the methods, the forecasts' record and what the risk is weighed by.
    """
    candles = snapshot.candles
    material = {
        "asset": snapshot.asset,
        "now": snapshot.now,
        "horizon": horizon.total_seconds(),
        "figures": figures,
        "mood": snapshot.fear_greed_history,
        "notes": snapshot.flags,
        "sources": snapshot.sources,
        "weighed": weighed,
        "candles": [candles.attrs.get("hashes", []), len(candles)],
        "headlines": snapshot.headlines,
        "network": [stats.sha256 for stats in snapshot.network],
        "methods": dict(methods),
        "live": live,
    }
    return hashlib.sha256(msgspec.json.encode(material, order="deterministic")).hexdigest()


def build_report(
    snapshot: Snapshot,
    horizon: timedelta,
    *,
    generated_at: datetime,
    settings: Settings,
    has_network: bool,
    live: LiveRecord | None = None,
    cluster: Mapping[str, float] | None = None,
    timings: Timings | None = None,
) -> Report:
    """:func:`build` with the oracle's own sentiment and forecast, as the settings want them."""

    def mood(headlines: tuple[Headline, ...], now: datetime) -> SentimentReport:
        from qaicl.oracle.sentiment.service import assess as assess_sentiment

        return assess_sentiment(headlines, now, settings)

    def outlook(what: Snapshot, how_far: timedelta) -> Forecast:
        from qaicl.oracle.forecast.service import forecast

        return forecast(what, how_far, cache=settings.paths.data / "oracle" / "forecasts")

    return build(
        snapshot,
        horizon,
        generated_at=generated_at,
        sentiment=mood,
        forecast=outlook,
        has_network=has_network,
        alert_from=settings.values.alerts.risk_from,
        live=live,
        cluster=cluster,
        timings=timings,
    )
