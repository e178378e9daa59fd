"""The report in Traditional Chinese: no English is left in it, and every text that it can show has a translation."""

import ast
import io
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from string import Formatter

import msgspec
import pytest
from rich.console import Console

from qaicl import settings
from qaicl.i18n import Translator, catalogue, translator
from qaicl.oracle.anomalies import detectors
from qaicl.oracle.forecast import features, scoring
from qaicl.oracle.forecast.records import Baseline, Range
from qaicl.oracle.forecast.service import DISCLAIMER
from qaicl.oracle.observations import State
from qaicl.oracle.recording import recorded_store
from qaicl.oracle.report import wording
from qaicl.oracle.report.builder import build_report
from qaicl.oracle.report.document import NOT_ADVICE, Absent, Note, Report
from qaicl.oracle.report.html import render_html
from qaicl.oracle.report.markdown import render_markdown
from qaicl.oracle.report.terminal import render_terminal
from qaicl.oracle.risk.factors import FACTORS
from qaicl.oracle.snapshot import Snapshot

PROPER = {
    *("ATR", "Bollinger", "Brier", "BTC", "JSON", "LSTM", "MACD", "OBV", "RSI", "SHA", "SMA", "USD", "UTC"),
    *("ethereum", "qubic", "tick", "epoch"),
    *("qaicl", "oracle", "collect", "sources", "recorded"),
    *("all", "minilm", "risk", "anomalies", "stream", "joint"),
}
"""What stays: symbols and units, names of assets and of a network's measures, commands, versions of methods."""
WORD = re.compile(r"[A-Za-z]{3,}")
REPORT = Path(str(resources.files("qaicl.oracle.report")))


@pytest.fixture(scope="module")
def loaded(minilm_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> settings.Settings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QAICL_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("QAICL_MODELS_DIRECTORY", str(minilm_directory.parent))
        return settings.load()


@pytest.fixture(scope="module", params=["ethereum", "qubic"])
def report(request: pytest.FixtureRequest, loaded: settings.Settings) -> Report:
    with recorded_store() as store:
        return build_report(
            Snapshot.load(store, request.param),
            timedelta(days=1),
            generated_at=datetime(2026, 1, 1, tzinfo=UTC),
            settings=loaded,
            has_network=request.param == "qubic",
        )


def terminal(report: Report) -> str:
    console = Console(file=io.StringIO(), width=200, no_color=True)
    console.print(render_terminal(report, "zh-TW"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def page(report: Report) -> str:
    """What a reader of the page sees or hears: text, tooltips and labels."""
    shown: list[str] = []

    class Reader(HTMLParser):
        style = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.style = tag == "style"
            shown.extend(value for name, value in attrs if value and name in ("aria-label", "title", "alt"))

        def handle_data(self, data: str) -> None:
            if not self.style:
                shown.append(data)

    Reader(convert_charrefs=True).feed(render_html(report, "zh-TW"))
    return "\n".join(shown)


def left_in_english(text: str, report: Report) -> list[str]:
    """Words that are neither proper names nor part of a headline or a digest."""
    titles = [factor.title for factor in report.sentiment.factors] if report.sentiment else []
    for title in sorted(titles, key=len, reverse=True):
        text = text.replace(title, "").replace("".join(title.split()), "")
    text = re.sub(r"\b[0-9a-f]{12,}\b", "", text)
    return [word for word in WORD.findall(text) if word not in PROPER]


@pytest.mark.parametrize("render", [terminal, lambda r: render_markdown(r, "zh-TW"), page], ids=["tty", "md", "html"])
def test_no_english_is_left_in_the_recorded_report(report: Report, render: Callable[[Report], str]) -> None:
    text = render(report)
    assert left_in_english(text, report) == []
    assert "錄製資料" in text and "來源僅 1 個，至少需 2 個" in text
    if report.forecast is None:
        assert "沒有 qubic 的 K 線" in text and "沒有此資產的 K 線" in text
    else:
        assert "慣性" in text and "未能排除零" in text


def literals() -> Iterator[str]:
    """Every text that the renderers hand to the translator."""
    for file in REPORT.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t":
                yield from (one.value for one in node.args if isinstance(one, ast.Constant))
    for file in REPORT.glob("templates/*.j2"):
        yield from re.findall(r'\bt\("(.*?)"', file.read_text(encoding="utf-8"))
    for name in ("FIGURE_NAMES", "SERIES_NAMES", "SUBJECT_NAMES"):
        yield from getattr(wording, name).values()
    for factor in FACTORS:
        yield from (factor.label, factor.advice, factor.group, *([factor.unit] if factor.unit != "%" else []))
    yield from (*features.TECHNICAL.values(), *features.FUNDAMENTAL.values())
    yield from (*State, "EDGE", "NO EDGE", "LOW", "MEDIUM", "HIGH", "CRITICAL")
    yield from ("up", "down", "flat", "positive", "negative", "neutral", "unknown")
    yield from ("persistence", "majority", "drift", "technical", "fundamental", "lstm")
    yield from ("risk", "anomalies", "sentiment", "forecast", NOT_ADVICE, DISCLAIMER, wording.NO_POSTS)
    for name in vars(detectors).values():
        if isinstance(reason := getattr(name, "reason", None), str):
            yield reason


def test_every_text_of_the_report_has_a_translation() -> None:
    same_in_both = {"USD", "BTC", "LSTM", "MACD"}
    missing = {text for text in literals() if text not in catalogue("zh-TW")} - same_in_both
    # Indicators are called by their symbols everywhere.
    assert {text for text in missing if not re.fullmatch(r"(SMA|RSI|ATR) \(\d+\)", text)} == set()


def test_a_translation_has_the_fields_of_its_key() -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    assert [key for key, text in catalogue("zh-TW").items() if fields(key) != fields(text)] == []


def verdicts() -> Iterator[str]:
    for ahead, skill in ((Range(-0.1, -0.2, 0.1), 0.1), (Range(0.1, 0.05, 0.2), -0.1), (Range(0.1, 0.05, 0.2), 0.1)):
        baseline = Baseline(name="majority", accuracy=0.5, advantage=ahead)
        yield scoring.verdict((baseline,), Range(skill, skill - 0.01, skill + 0.01))[1]


@pytest.mark.parametrize(
    "reason",
    [
        *verdicts(),
        "1 of at least 2 sources; sources disagree by 3.2%",
        "mexc left out: 9000 s old, limit 7200 s; USDC and USDT counted as USD",
        "gate left out: 1.2e-06 is too far from the median 1.9e-06",
        "mexc left out: in EUR, not USD; mexc left out: older than the others",
        "values are up to 90000 s old, limit 7200 s; nothing is stored",
        "the last bar closed 9000 s ago",
        "12 bars are missing in between",
        "no 1h bars are stored",
        "no headlines are stored",
        "failed 1 times in a row: mexc sent something that cannot be stored",
        "failed 1 times in a row: mexc sent a reply that is packed strangely",
        "they are of mexc, whose price is too far from the others",
        "the newest is 200000 s old",
        "the newest figures are 99999 s old",
        "failed 3 times in a row: coingecko does not answer: no whole reply within 10 s",
        "failed 1 times in a row: newsapi refused us with 401",
        "today's 95 calls to newsapi are used up: the quota counts from midnight UTC, across restarts",
        "model 'all-minilm-l6-v2' is not here: nothing lies at /models/x",
        "run: qaicl model pull all-minilm-l6-v2",
        "120 bars are too few to forecast 24 ahead: training and testing take 298",
        "fewer than 88 bars to learn from",
        "return -4.4 σ",
        "the narrative was dropped: not in the report: 17, 3.2 %",
        "the narrative was not written: the context 'default' names no orchestrator",
        "the cluster of the context 'lab' does not answer",
    ],
)
def test_a_reason_that_was_filled_where_it_arose_is_translated(reason: str) -> None:
    names = {"mexc", "gate", "coingecko", "newsapi", "minilm", "all", "qaicl", "model", "pull", "models", "default"}
    names |= {"lab", "EUR", "USD", "USDC", "USDT", "UTC", "Brier"}
    left = [word for word in WORD.findall(translator("zh-TW").filled(reason)) if word not in names]
    assert left == []
    assert Translator("en").filled(reason) == reason


def test_a_text_that_nobody_translated_stays_as_it_is() -> None:
    t = translator("zh-TW")
    for text in ("Connection reset by peer", "", "17", "a; b: c", "x" * 5000 + ": "):
        assert t.filled(text) == text


def test_outside_text_in_a_reason_is_never_a_template(report: Report) -> None:
    evil = "failed 3 times in a row: {0.__class__} {n} %s does not answer"
    assert translator("zh-TW").filled(evil) == "連續失敗 3 次：{0.__class__} {n} %s 沒有回應"
    note = Note(subject="source:evil", state=State.degraded, reason=evil)
    made = msgspec.structs.replace(report, notes=(note,), absent={"forecast": Absent(why=evil)}, forecast=None)
    for text in (terminal(made), render_markdown(made, "zh-TW"), render_html(made, "zh-TW")):
        assert "沒有回應" in text
