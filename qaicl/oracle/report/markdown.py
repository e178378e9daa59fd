"""The report as Markdown, for a terminal pager, a chat or a repository."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qaicl.i18n import Language, translator
from qaicl.oracle.report import wording
from qaicl.oracle.report.document import Absent, Report
from qaicl.oracle.report.live import live_text
from qaicl.oracle.report.wording import Translate, moment, number, percent, signed, with_unit


def render_markdown(report: Report, language: Language = "en") -> str:
    """The whole report."""
    t = translator(language)
    lines = [
        *_head(report, t),
        *_figures(report, t),
        *_indicators(report, t),
        *_risk(report, t),
        *_forecast(report, t),
        "",
        f"{t('Live record')}{t(': ')}{live_text(report.live, t)}",
        *_sentiment(report, t),
        *_anomalies(report, t),
        *_notes(report, t),
    ]
    return "\n".join(lines) + "\n"


def _head(report: Report, t: Translate) -> Iterator[str]:
    yield f"# {t('Market report')}{t(': ')}{_text(report.asset)}"
    yield ""
    if report.recorded:
        warning = t(
            "Made from recorded data of {moment}. It does not show the present market.", moment=moment(report.as_of)
        )
        yield f"> **{t('RECORDED')}** {warning}"
        yield ""
    horizon = f"{t('horizon')} {wording.span(report.horizon_seconds, t)}"
    yield f"{t('As of')} {moment(report.as_of)} · {horizon} · **{t(report.state)}**"
    if "narrative" in report.absent:
        yield f"\n{_absent(report.absent['narrative'], t)}"
    if report.narrative is not None:
        yield f"\n{_text(report.narrative.text)}"


def _figures(report: Report, t: Translate) -> Iterator[str]:
    yield from _title(t("Figures"))
    rows = [
        (
            t(wording.FIGURE_NAMES[figure.name]),
            with_unit(figure.value, figure.unit),
            wording.listed(figure.sources, t),
            moment(figure.observed_at),
            wording.age(figure.age, t),
            t(figure.state)
            + (f" ({t('; ').join(map(t.filled, figure.reasons))})" if figure.reasons and figure.sources else ""),
        )
        for figure in report.figures
    ]
    yield from _table([t(name) for name in ("Figure", "Value", "Sources", "Observed", "Age", "State")], rows)


def _indicators(report: Report, t: Translate) -> Iterator[str]:
    yield from _title(t("Indicators"))
    if not report.readings:
        yield wording.no_bars(report, t)
    else:
        rows = [(t(r.name), with_unit(r.value, r.unit), t(r.says)) for r in report.readings]
        yield from _table([t("Indicator"), t("Value"), t("Reading")], rows)


def _risk(report: Report, t: Translate) -> Iterator[str]:
    risk = report.risk
    yield from _title(f"{t('Risk')}{t(': ')}{risk.score:.0f} / 100 · {t(risk.level)}")
    rows = [
        (
            t(factor.label),
            t(factor.group),
            with_unit(factor.value, t(factor.unit), 3) if factor.measured else t("not measured"),
            f"{factor.points:.0f}",
            t(factor.level),
        )
        for factor in risk.factors
    ]
    yield from _table([t(name) for name in ("Factor", "Group", "Value", "Points", "Level")], rows)
    if risk.recommendations:
        yield ""
        yield from (f"- {t(advice)}" for advice in risk.recommendations)


def _forecast(report: Report, t: Translate) -> Iterator[str]:
    forecast = report.forecast
    yield from _title(f"{t('Forecast')} · {wording.span(report.horizon_seconds, t)}")
    if forecast is None:
        yield _absent(report.absent["forecast"], t)
        return
    record = forecast.record
    yield f"**{t(forecast.verdict)}**{t(': ')}{_text(t.filled(record.reason))}"
    yield ""
    likely = f"{t('probability')} {percent(forecast.probability)}"
    yield f"- {t('Direction')}{t(': ')}{t(forecast.direction)} · {likely}"
    yield f"- {t('Target')}{t(': ')}{number(forecast.target, 5)} {forecast.quote} ({moment(forecast.until)})"
    yield f"- {t('80 % interval')}{t(': ')}{number(forecast.low, 5)} – {number(forecast.high, 5)} {forecast.quote}"
    brier = t("Brier score {a}, base rate {b}", a=f"{record.brier:.3f}", b=f"{record.brier_base:.3f}")
    yield f"- {brier}"
    yield ""
    rows = [(t("ensemble"), percent(record.accuracy.value, 1), "")]
    for baseline in record.baselines:
        gain = baseline.advantage
        interval = f"{signed(100 * gain.value, 1)} ({signed(100 * gain.low, 1)} … {signed(100 * gain.high, 1)})"
        rows.append((t(baseline.name), percent(baseline.accuracy, 1), interval))
    yield from _table([t("Method"), t("Accuracy"), t("Ensemble's advantage, 95 % interval")], rows)


def _sentiment(report: Report, t: Translate) -> Iterator[str]:
    sentiment = report.sentiment
    yield from _title(t("Sentiment"))
    if sentiment is None:
        yield _absent(report.absent["sentiment"], t)
        return
    sure = f"{t('confidence')} {percent(sentiment.confidence)}"
    yield f"**{t(sentiment.label)}** {signed(sentiment.score)} · {sure}"
    yield ""
    rows = [(f.title, t(f.outlet), moment(f.published_at), signed(f.contribution, 3)) for f in sentiment.factors]
    if rows:
        yield from _table([t("What moved it"), t("Outlet"), t("Published"), t("Effect")], rows)
    yield ""
    if not sentiment.counts.social:
        yield t(wording.NO_POSTS)
    yield t("Sentiment describes coverage. It has shown no power to predict prices and is not used as a forecast.")


def _anomalies(report: Report, t: Translate) -> Iterator[str]:
    yield from _title(t("Anomalies"))
    rows = [
        (
            moment(anomaly.at),
            t(wording.SERIES_NAMES[anomaly.series]),
            number(anomaly.value),
            t(anomaly.severity),
            t(", ").join(t.filled(reason) for reason in anomaly.reasons),
        )
        for anomaly in report.anomalies
    ]
    if not rows:
        yield t("none found")
        return
    yield from _table([t(name) for name in ("Began", "Series", "Value", "Severity", "Why")], rows)


def _notes(report: Report, t: Translate) -> Iterator[str]:
    yield from _title(t("Data notes"))
    for note in report.notes:
        yield f"- **{t(note.state)}** {_text(wording.subject(note.subject, t))}{t(': ')}{_text(t.filled(note.reason))}"
    yield from (f"- {t(part)}{t(': ')}{t.filled(method)}" for part, method in report.methods.items())
    yield f"- {t('Inputs (SHA-256)')}{t(': ')}`{report.inputs}`"
    yield f"- {t('generated')} {moment(report.generated_at)}"
    yield ""
    yield f"*{t(report.disclaimer)}*"


def _title(text: str) -> tuple[str, str, str]:
    return "", f"## {text}", ""


def _absent(part: Absent, t: Translate) -> str:
    return _text(wording.absence(part, t))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    yield from ("| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows)


def _text(text: str) -> str:
    """Outside text made harmless: no markup, no line break, no table border."""
    flat = " ".join(text.split())
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in flat)
