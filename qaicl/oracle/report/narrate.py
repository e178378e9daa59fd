"""A paragraph written by a language model, believed only as far as it repeats the report's own figures.

A model invents numbers. So it is given finished sentences to join, and every number in its text is looked up among the
report's figures (:mod:`~qaicl.oracle.report.numbers`). A text with one that is not there is dropped, and the report
says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from qaicl.errors import QaiclError
from qaicl.i18n import Language, translator
from qaicl.oracle.report import wording
from qaicl.oracle.report.document import Absent, Narrative, Report
from qaicl.oracle.report.numbers import foreign
from qaicl.oracle.report.wording import moment, number, percent, signed, with_unit

Ask = Callable[[str], str]
"""A prompt in, the model's text out."""

LONGEST = 1500
FORBIDDEN = re.compile(
    r"\b(you should|we recommend|buy|sell|guarantee\w*)\b|建議買|建議賣|應該買|應該賣|買進|賣出", re.IGNORECASE
)
SENTENCE_END = re.compile(r"(?:[.!?](?=\s|$)|[。！？])[\"'”」)]*")
RECORDED = re.compile(r"recorded|錄製", re.IGNORECASE)
NO_EDGE = re.compile(r"no (?:\w+ )?edge|(?:無|沒有|並無).{0,6}優勢", re.IGNORECASE)
CHINESE = re.compile(r"[\u4e00-\u9fff]")
LETTER = re.compile(r"[^\W\d_]")
RISKS, READINGS = 2, 3
"""How many key risks and indicators the model is told of: a small model loses a long list."""


def sentences(report: Report, language: Language) -> Iterator[str]:
    """What the paragraph is to say, one sentence each, with every number as it may be written."""
    t = translator(language)
    if report.recorded:
        yield t("These are recorded data of {moment} and not current.", moment=moment(report.as_of))
    price = report.figures[0]
    if price.value is not None:
        shown = with_unit(price.value, price.unit, 6)
        yield t("The price of {asset} is {price}.", asset=report.asset, price=shown)
    for reading in [reading for reading in report.readings if reading.value is not None][:READINGS]:
        shown = with_unit(reading.value, reading.unit)
        yield t("{name} is {value}: {says}.", name=t(reading.name), value=shown, says=t(reading.says))
    yield t("The risk score is {n}: {level}.", n=f"{report.risk.score:.0f}", level=t(report.risk.level))
    for factor in [one for one in report.risk.factors if one.name in report.risk.key_risks][:RISKS]:
        shown = with_unit(factor.value, t(factor.unit), 3)
        yield t("A key risk is {name}: {value}.", name=t(factor.label), value=shown)
    if report.forecast is not None:
        span = wording.span(report.horizon_seconds, t)
        if report.forecast.verdict == "EDGE":
            sure = percent(report.forecast.probability)
            yield t("The forecast for {span} is {way} with a probability of {p}.", span=span,
                    way=t(report.forecast.direction), p=sure)  # fmt: skip
        else:
            yield t("The forecast for {span} has no edge.", span=span)
    if report.sentiment is not None and report.sentiment.score is not None:
        yield t(
            "The sentiment of {n} stories is {s}: {label}.",
            n=report.sentiment.counts.stories,
            s=signed(report.sentiment.score),
            label=t(report.sentiment.label),
        )
    yield t("Anomalies found: {n}.", n=len(report.anomalies))


def facts(report: Report) -> Iterator[str]:
    """All of the report's figures that a paragraph may repeat, as the report shows them."""
    t = translator("en")
    yield report.asset
    yield moment(report.as_of)
    for figure in report.figures:
        if figure.value is not None:
            yield f"{wording.FIGURE_NAMES[figure.name]}: {with_unit(figure.value, figure.unit, 6)}"
    for reading in report.readings:
        if reading.value is not None:
            yield f"{reading.name}: {with_unit(reading.value, reading.unit)}"
    yield f"risk: {report.risk.score:.0f} of 100"
    for factor in report.risk.factors:
        if factor.measured:
            yield f"{factor.label}: {with_unit(factor.value, factor.unit, 3)}, {factor.points:.0f} points"
    yield wording.span(report.horizon_seconds, t)
    if report.forecast is not None:
        forecast = report.forecast
        yield f"probability {percent(forecast.probability)}, target {number(forecast.target, 5)}"
        yield f"80 % interval: {number(forecast.low, 5)} to {number(forecast.high, 5)}"
    if report.sentiment is not None:
        counts = report.sentiment.counts
        yield f"sentiment {signed(report.sentiment.score)}, confidence {percent(report.sentiment.confidence)}"
        yield f"{counts.stories} stories: {counts.positive} {counts.negative} {counts.neutral}"
    yield f"{len(report.anomalies)} anomalies"


def prompt(report: Report, language: Language) -> str:
    """What the model is asked. Headlines are not in it: they are outside text and could carry instructions."""
    tongue = "Traditional Chinese as it is written in Taiwan" if language == "zh-TW" else "English"
    return (
        f"Rewrite this market report as one paragraph in {tongue}. Copy every number exactly, leave none out, and keep "
        "the order. Add no other number, no judgement and no advice.\n\n" + " ".join(sentences(report, language))
    )


def unsupported(text: str, report: Report) -> list[str]:
    """The numbers of a text that are not among the report's facts, in order of appearance."""
    return foreign(text, facts(report))


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
        why = error.what + (f": {error.why}" if error.why else "")
        return Absent(why=f"the narrative was not written: {why}", fix=error.fix)
    # A reasoning model thinks aloud first.
    text = " ".join(answer.rsplit("</think>", 1)[-1].split())
    if len(text) > LONGEST:
        return Absent(why=f"the narrative was dropped: {len(text)} characters")
    # An answer that reached its length limit ends in the middle of a sentence.
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    text = text[: ends[-1]] if ends else ""
    if not text:
        return Absent(why="the narrative was dropped: it has no whole sentence")
    fault = _fault(text, report, language)
    return Absent(why=f"the narrative was dropped: {fault}") if fault else Narrative(text=text, model=model)


def _fault(text: str, report: Report, language: Language) -> str:
    """Why a paragraph is not believed; empty where it is."""
    if wrong := unsupported(text, report):
        return f"not in the report: {', '.join(dict.fromkeys(wrong))}"
    if advice := FORBIDDEN.search(text):
        return f"it gives advice ('{advice.group()}')"
    if (language == "zh-TW") != (len(CHINESE.findall(text)) > len(LETTER.findall(text)) / 2):
        return "it is not in the language asked for"
    if missing := foreign(" ".join(sentences(report, language)), [text]):
        return f"it leaves out {', '.join(dict.fromkeys(missing))}"
    if report.recorded and not RECORDED.search(text):
        return "it does not say that the data are recorded"
    if report.forecast is not None and report.forecast.verdict == "NO EDGE" and not NO_EDGE.search(text):
        return "it does not say that the forecast has no edge"
    said = [one.strip().casefold() for one in SENTENCE_END.split(text) if one.strip()]
    return "it repeats itself" if len(set(said)) < len(said) else ""
