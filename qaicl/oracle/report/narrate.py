"""A paragraph written by a language model, believed only as far as it repeats the report's own figures.

A model invents numbers. So every number in its text must be one that the report shows, to the digits the text gives;
otherwise the text is dropped and the reason said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from qaicl.errors import QaiclError
from qaicl.i18n import Language
from qaicl.oracle.report.document import Absent, Narrative, Report

Ask = Callable[[str], str]
"""A prompt in, the model's text out."""

NUMBER = re.compile(r"(?<![\w.])[-+−–]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
LONGEST = 1500
FORBIDDEN = re.compile(
    r"\b(you should|we recommend|buy|sell|guarantee\w*)\b|建議買|建議賣|應該買|應該賣|買進|賣出", re.IGNORECASE
)


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """(name, value) of what the model may write about, formatted as it may write it."""
    yield "asset", report.asset
    yield "as of", f"{report.as_of:%Y-%m-%d %H:%M} UTC"
    for figure in report.figures:
        if figure.value is not None:
            yield figure.name, f"{figure.value:.6g} {figure.unit} ({figure.state})".strip()
    for reading in report.readings:
        if reading.value is not None:
            yield reading.name, f"{reading.value:.4g} {reading.unit} ({reading.says})"
    yield "risk score, 0 to 100", f"{report.risk.score:.0f} ({report.risk.level})"
    for factor in report.risk.factors:
        if factor.name in report.risk.key_risks:
            yield f"risk: {factor.label}", f"{factor.value:.3g} {factor.unit}"
    if report.forecast is not None:
        forecast = report.forecast
        hours = report.horizon_seconds / 3600
        yield f"forecast, {hours:g} hours", f"{forecast.direction}, probability {100 * forecast.probability:.0f} %"
        yield "forecast verdict", forecast.verdict
        yield "80 % interval", f"{forecast.low:.5g} to {forecast.high:.5g} {forecast.quote}"
    if report.sentiment is not None and report.sentiment.score is not None:
        yield "sentiment, -1 to 1", f"{report.sentiment.score:.2f} ({report.sentiment.label})"
        yield "stories", str(report.sentiment.counts.stories)
    yield "anomalies", str(len(report.anomalies))


def prompt(report: Report, language: Language) -> str:
    """What the model is asked. Headlines are not in it: they are outside text and could carry instructions."""
    listed = "\n".join(f"- {name}: {value}" for name, value in facts(report))
    tongue = "Traditional Chinese (Taiwan)" if language == "zh-TW" else "English"
    recorded = "Say that the data are recorded and not current. " if report.recorded else ""
    return (
        f"Write one paragraph of three to five sentences in {tongue} that sums up this market report. {recorded}"
        "Use only the facts below. Copy each number exactly, and write no other number. Do not give advice. "
        "If the forecast verdict is NO EDGE, say that the forecast has no edge.\n\n" + listed
    )


def unsupported(text: str, report: Report) -> list[str]:
    """The numbers of a text that are not among the report's facts, in order of appearance.

    A number is supported where a fact has the same value, or the same after rounding to the text's decimals; a sign
    may be left out (a fall of 3 % is -3 %).
    """
    known = [abs(_value(found)) for name, fact in facts(report) for found in NUMBER.findall(f"{name} {fact}")]
    return [found for found in NUMBER.findall(text) if not any(_matches(found, value) for value in known)]


def narrate(report: Report, ask: Ask, model: str, language: Language = "en") -> Report:
    """The report with the model's paragraph, or with the reason why it was dropped."""
    written = _narrative(report, ask, model, language)
    if isinstance(written, Absent):
        return msgspec.structs.replace(report, narrative=None, absent={**report.absent, "narrative": written})
    return msgspec.structs.replace(report, narrative=written)


def _narrative(report: Report, ask: Ask, model: str, language: Language) -> Narrative | Absent:
    try:
        answer = ask(prompt(report, language))
    except QaiclError as error:
        return Absent(why=f"the narrative was not written: {error.what}", fix=error.fix)
    # A reasoning model thinks aloud first.
    text = " ".join(answer.rsplit("</think>", 1)[-1].split())
    if not text or len(text) > LONGEST:
        return Absent(why=f"the narrative was dropped: {len(text)} characters")
    if wrong := unsupported(text, report):
        return Absent(why=f"the narrative was dropped: not in the report: {', '.join(dict.fromkeys(wrong))}")
    if advice := FORBIDDEN.search(text):
        return Absent(why=f"the narrative was dropped: it gives advice ('{advice.group()}')")
    return Narrative(text=text, model=model)


def _value(found: str) -> float:
    return float(found.replace(",", "").replace("−", "-").replace("–", "-"))


def _matches(found: str, value: float) -> bool:
    written = abs(_value(found))
    if "e" in found.lower():
        return abs(written - value) <= 1e-9 * max(written, value)
    decimals = len(found.partition(".")[2])
    # Rounding to whole units says too little about a number below ten: 0.4 is not "0".
    if decimals == 0 and value < 10:
        return written == value
    return abs(written - value) <= 0.5 * float(10**-decimals) + 1e-12
