"""The report for a terminal: tables, sparklines, coloured grades."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qaicl.i18n import Language, translator
from qaicl.oracle.report import wording
from qaicl.oracle.report.document import Absent, Report
from qaicl.oracle.report.live import live_text
from qaicl.oracle.report.wording import (
    LEVEL_TONE,
    STATE_TONE,
    Translate,
    moment,
    number,
    percent,
    signed,
    with_unit,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = {"good": "green", "warn": "yellow", "bad": "red", "plain": "default"}
SPARK_WIDTH = 48
METER_WIDTH = 20


def sparkline(values: Sequence[float | None], width: int = SPARK_WIDTH) -> str:
    """The newest values as block characters, one a mean of neighbours where there are more than fit."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    size = max(1, -(-len(known) // width))
    means = [sum(part) / len(part) for part in (known[i : i + size] for i in range(0, len(known), size))]
    low, high = min(means), max(means)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * scale)] for mean in means)


def render_terminal(report: Report, language: Language = "en") -> RenderableType:
    """The whole report, for ``rich.console.Console.print``."""
    from rich.console import Group

    return Group(*_parts(report, translator(language)))


def _parts(report: Report, t: Translate) -> Iterator[RenderableType]:
    from rich.panel import Panel
    from rich.text import Text

    if report.recorded:
        warning = t(
            "Made from recorded data of {moment}. It does not show the present market.", moment=moment(report.as_of)
        )
        yield Panel(Text.assemble((t("RECORDED"), "bold yellow"), " ", warning), border_style="yellow")
    price = report.figures[0]
    yield Text.assemble(
        (report.asset, "bold"),
        f"  {with_unit(price.value, price.unit, 6)}  ",
        _grade(t(report.state), STATE_TONE[report.state]),
        (f"  {t('As of')} {moment(report.as_of)}", "dim"),
    )
    if report.bars is not None:
        yield Text(sparkline(report.bars.close), style="cyan")
    if report.narrative is not None:
        yield Text("\n" + _plain(report.narrative.text))
    if "narrative" in report.absent:
        yield _absent(report.absent["narrative"], t)
    yield _figures(report, t)
    if report.readings:
        table = _table(t("Indicator"), t("Value"), t("Reading"))
        for reading in report.readings:
            table.add_row(t(reading.name), with_unit(reading.value, reading.unit), t(reading.says))
        yield table
    else:
        yield Text(f"{t('Indicators')}{t(': ')}{wording.no_bars(report, t)}", style="dim")
    yield from _risk(report, t)
    yield from _forecast(report, t)
    yield _live(report, t)
    yield from _sentiment(report, t)
    yield from _anomalies(report, t)
    yield from _notes(report, t)


def _figures(report: Report, t: Translate) -> Table:
    table = _table(*(t(name) for name in ("Figure", "Value", "Sources", "Observed", "Age", "State")))
    for figure in report.figures:
        table.add_row(
            t(wording.FIGURE_NAMES[figure.name]),
            with_unit(figure.value, figure.unit),
            wording.listed(figure.sources, t),
            moment(figure.observed_at),
            wording.age(figure.age, t),
            _grade(t(figure.state), STATE_TONE[figure.state]),
        )
    return table


def _risk(report: Report, t: Translate) -> Iterator[RenderableType]:
    from rich.text import Text

    risk = report.risk
    filled = round(risk.score / 100 * METER_WIDTH)
    colour = COLOURS[LEVEL_TONE[risk.level]]
    yield Text.assemble(
        (f"\n{t('Risk')}  ", "bold"),
        ("█" * filled, colour),
        ("░" * (METER_WIDTH - filled), "dim"),
        (f"  {risk.score:.0f} / 100 {t(risk.level)}", f"bold {colour}"),
        (f"   {t('over the alert threshold')}" if risk.alerting else "", "bold red"),
    )
    if report.risk_trend:
        trend = sparkline([point.points for point in report.risk_trend])
        yield Text.assemble((f"{t('Market risk over time')}  ", "dim"), trend)
    table = _table(*(t(name) for name in ("Factor", "Group", "Value", "Points", "Level")))
    for factor in risk.factors:
        table.add_row(
            t(factor.label),
            t(factor.group),
            with_unit(factor.value, t(factor.unit), 3) if factor.measured else t("not measured"),
            f"{factor.points:.0f}",
            _grade(t(factor.level), LEVEL_TONE[factor.level]),
            style=None if factor.measured else "dim",
        )
    yield table
    for advice in risk.recommendations:
        yield Text(f"  • {t(advice)}")


def _forecast(report: Report, t: Translate) -> Iterator[RenderableType]:
    from rich.text import Text

    forecast = report.forecast
    yield Text(f"\n{t('Forecast')} · {wording.span(report.horizon_seconds, t)}", style="bold")
    if forecast is None:
        yield _absent(report.absent["forecast"], t)
        return
    record = forecast.record
    yield Text.assemble(
        _grade(t(forecast.verdict), "good" if forecast.verdict == "EDGE" else "warn"), f"  {t.filled(record.reason)}"
    )
    yield Text(
        f"{t(forecast.direction)} · {t('probability')} {percent(forecast.probability)} · "
        f"{t('80 % interval')} {number(forecast.low, 5)} – {number(forecast.high, 5)} {forecast.quote} · "
        f"{moment(forecast.until)}"
    )
    table = _table(t("Method"), t("Accuracy"), t("Ensemble's advantage, 95 % interval"))
    table.add_row(t("ensemble"), percent(record.accuracy.value, 1), "")
    for baseline in record.baselines:
        gain = baseline.advantage
        interval = f"{signed(100 * gain.value, 1)} ({signed(100 * gain.low, 1)} … {signed(100 * gain.high, 1)})"
        table.add_row(t(baseline.name), percent(baseline.accuracy, 1), interval)
    yield table
    brier = t("Brier score {a}, base rate {b}", a=f"{record.brier:.3f}", b=f"{record.brier_base:.3f}")
    yield Text(brier, style="dim")


def _live(report: Report, t: Translate) -> Text:
    from rich.text import Text

    return Text(f"{t('Live record')}{t(': ')}{live_text(report.live, t)}", style="dim")


def _sentiment(report: Report, t: Translate) -> Iterator[RenderableType]:
    from rich.text import Text

    sentiment = report.sentiment
    if sentiment is None:
        yield Text(f"\n{t('Sentiment')}", style="bold")
        yield _absent(report.absent["sentiment"], t)
        return
    tone = {"positive": "good", "negative": "bad"}.get(sentiment.label, "plain")
    yield Text.assemble(
        (f"\n{t('Sentiment')}  ", "bold"),
        _grade(t(sentiment.label), tone),
        f"  {signed(sentiment.score)}  {t('confidence')} {percent(sentiment.confidence)}  ",
        (sparkline([point.score for point in sentiment.series]), "cyan"),
    )
    if not sentiment.counts.social:
        yield Text(t(wording.NO_POSTS), style="dim")
    if sentiment.factors:
        table = _table(t("What moved it"), t("Outlet"), t("Published"), t("Effect"))
        for factor in sentiment.factors:
            row = (factor.title, t(factor.outlet), moment(factor.published_at), signed(factor.contribution, 3))
            table.add_row(*(Text(_plain(cell)) for cell in row))
        yield table


def _anomalies(report: Report, t: Translate) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(f"\n{t('Anomalies')}", style="bold")
    if not report.anomalies:
        yield Text(t("none found"), style="dim")
        return
    table = _table(*(t(name) for name in ("Began", "Series", "Value", "Severity", "Why")))
    for anomaly in report.anomalies[:8]:
        table.add_row(
            moment(anomaly.at),
            t(wording.SERIES_NAMES[anomaly.series]),
            number(anomaly.value),
            _grade(t(anomaly.severity), LEVEL_TONE[anomaly.severity]),
            t(", ").join(t.filled(reason) for reason in anomaly.reasons),
        )
    yield table


def _notes(report: Report, t: Translate) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(f"\n{t('Data notes')}", style="bold")
    for note in report.notes:
        yield Text.assemble(
            _grade(t(note.state), STATE_TONE[note.state]),
            f"  {wording.subject(note.subject, t)}{t(': ')}",
            _plain(t.filled(note.reason)),
        )
    methods = " · ".join(f"{t(part)}{t(': ')}{t.filled(method)}" for part, method in report.methods.items())
    yield Text(f"{methods}\n{t('Inputs (SHA-256)')} {report.inputs}", style="dim")
    yield Text(t(report.disclaimer), style="italic")


def _table(*head: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in head:
        table.add_column(name)
    return table


def _grade(text: str, tone: str) -> Text:
    from rich.text import Text

    return Text(text, style=f"bold {COLOURS[tone]}")


def _absent(part: Absent, t: Translate) -> Text:
    from rich.text import Text

    return Text(_plain(wording.absence(part, t)), style="dim")


def _plain(text: str) -> str:
    """Outside text without control characters: a headline must not steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
