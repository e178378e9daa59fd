"""Which charts a report has: its columns put on :mod:`~qaicl.oracle.report.charts`."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from qaicl.oracle.anomalies.scan import Severity
from qaicl.oracle.report.charts import Plot, calibration, gauge, labels, ticks
from qaicl.oracle.report.document import Bars, Report
from qaicl.oracle.report.wording import LEVEL_TONE, Translate, moment, number
from qaicl.oracle.risk.assessment import HIGH_FROM, MEDIUM_FROM
from qaicl.oracle.sentiment.report import SentimentReport

SHOWN_BARS = 336
"""Bars in the price charts: two weeks of hours; more would be a smear."""
TREND_WIDTH = 640.0
"""The risk trend stands beside the gauge."""
FORECAST_SHARE = 0.08
"""Room right of the last bar for the forecast's interval."""


def charts(report: Report, t: Translate) -> dict[str, str]:
    """Every chart that the report has data for, by name, as SVG."""
    drawn = {"gauge": _gauge(report, t)}
    if report.bars is not None and len(report.bars.times) > 1:
        bars = report.bars
        drawn |= {"price": _price(report, bars, t), "rsi": _rsi(report, bars, t), "macd": _macd(report, bars, t)}
    if report.sentiment is not None and len(report.sentiment.series) > 1:
        drawn["sentiment"] = _sentiment(report.sentiment, t)
    if len(report.risk_trend) > 1:
        drawn["trend"] = _trend(report, t)
    if report.forecast is not None:
        bins = [(b.predicted, b.happened, b.count) for b in report.forecast.record.reliability if b.count]
        drawn["calibration"] = calibration(bins, t("Calibration"), t("forecast probability"), t("share that rose"))
    return drawn


def _price(report: Report, bars: Bars, t: Translate) -> str:
    close = bars.close[-SHOWN_BARS:]
    columns = {name: values[-SHOWN_BARS:] for name, values in bars.indicators.items()}
    times = bars.times[-SHOWN_BARS:]
    shown = [*close, *_known(columns["bollinger_low"]), *_known(columns["bollinger_high"])]
    forecast = report.forecast
    if forecast:
        shown += [forecast.low, forecast.high]
    low, high = _margin(shown)
    room = _room(report, len(close))
    plot = Plot(t("Price with moving averages and Bollinger bands"), low, high, len(close) + room, 300)
    plot.value_axis(labels(ticks(low, high, 5)))
    plot.time_axis(times)
    plot.band(columns["bollinger_low"], columns["bollinger_high"], "band")
    plot.line(columns["sma_50"], "line slow")
    plot.line(columns["sma_20"], "line fast")
    plot.line(close, "line close")
    if forecast:
        start, end = len(close) - 0.5, len(close) + room - 1
        corners = ((start, close[-1]), (end, forecast.high), (end, forecast.low))
        points = " ".join(f"{plot.x(slot):.1f},{plot.y(value):.1f}" for slot, value in corners)
        plot.add(f'<polygon class="fan" points="{points}"/>')
        plot.dot(end, forecast.target, "target", f"{t('Target')}: {number(forecast.target)}")
    # The worst last, so that it lies on top.
    for anomaly in sorted(report.anomalies, key=lambda one: list(Severity).index(one.severity)):
        if anomaly.series in ("price", "joint") and anomaly.at >= times[0]:
            slot = min(bisect_left(times, anomaly.at), len(times) - 1)
            why = t(", ").join(map(t.filled, anomaly.reasons))
            tip = f"{t(anomaly.severity)} · {moment(anomaly.at)} · {why}"
            plot.dot(slot + 0.5, close[slot], f"odd {LEVEL_TONE[anomaly.severity]}", tip, 4.5)
    return plot.svg()


def _room(report: Report, bars: int) -> float:
    """Slots right of the last bar; the same in all charts over time, so that they line up."""
    return max(4.0, bars * FORECAST_SHARE) if report.forecast else 0.0


def _rsi(report: Report, bars: Bars, t: Translate) -> str:
    values = bars.indicators["rsi_14"][-SHOWN_BARS:]
    plot = Plot(t("Relative strength index"), 0, 100, len(values) + _room(report, len(values)), 130)
    plot.time_axis(bars.times[-SHOWN_BARS:])
    both = [70.0] * len(values), [30.0] * len(values)
    plot.band(both[1], both[0], "band")
    for level in (30, 50, 70):
        plot.level(level, "grid", str(level))
    plot.line(values, "line fast")
    return plot.svg()


def _macd(report: Report, bars: Bars, t: Translate) -> str:
    macd, signal, histogram = (
        bars.indicators[name][-SHOWN_BARS:] for name in ("macd", "macd_signal", "macd_histogram")
    )
    shown = [abs(value) for value in (*_known(macd), *_known(signal), *_known(histogram))]
    top = 1.08 * max(shown, default=1.0) or 1.0
    plot = Plot(t("MACD"), -top, top, len(macd) + _room(report, len(macd)), 130)
    plot.time_axis(bars.times[-SHOWN_BARS:])
    plot.value_axis(labels(ticks(-top, top, 3)))
    plot.bars(histogram, "bar up", "bar down")
    plot.line(signal, "line slow")
    plot.line(macd, "line fast")
    return plot.svg()


def _sentiment(sentiment: SentimentReport, t: Translate) -> str:
    points = sentiment.series[-30:]
    plot = Plot(t("Sentiment a day"), -1, 1, len(points), 150)
    plot.value_axis([(value, f"{value:+.1f}" if value else "0") for value in (-1, -0.5, 0, 0.5, 1)])
    plot.bars([point.score for point in points], "bar up", "bar down")
    step = max(1, math.ceil(len(points) / 8))
    for slot in range(0, len(points), step):
        label = f"{points[slot].day:%m-%d}"
        plot.add(f'<text class="tick mid" x="{plot.x(slot + 0.5):.1f}" y="{plot.height - 6}">{label}</text>')
    return plot.svg()


def _gauge(report: Report, t: Translate) -> str:
    risk = report.risk
    return gauge(risk.score, MEDIUM_FROM, HIGH_FROM, t("Risk"), t(risk.level), LEVEL_TONE[risk.level])


def _trend(report: Report, t: Translate) -> str:
    points = report.risk_trend
    plot = Plot(t("Market risk over time"), 0, 100, len(points), 142, width=TREND_WIDTH)
    plot.time_axis([point.at for point in points], 5)
    for level in (0, MEDIUM_FROM, HIGH_FROM, 100):
        plot.level(level, "grid", f"{level:.0f}")
    plot.line([point.points for point in points], "line close")
    last = points[-1]
    plot.dot(len(points) - 0.5, last.points, "target", f"{moment(last.at)}: {last.points:.0f}")
    return plot.svg()


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _margin(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.04 * (high - low)
    return low - room, high + room
