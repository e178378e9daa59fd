"""The report on recorded data, in every rendering. Sentiment and forecast are the real types with fixed contents."""

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser

import msgspec
import pytest
from rich.console import Console

from qaicl.errors import ModelMissingError
from qaicl.i18n import Language
from qaicl.oracle.forecast.records import BacktestRecord, Baseline, Bin, Factor, Forecast, Opinion, Range
from qaicl.oracle.observations import Headline, SourceHealth, State
from qaicl.oracle.recording import recorded_store
from qaicl.oracle.report.builder import build
from qaicl.oracle.report.charts import labels, ticks
from qaicl.oracle.report.document import Report
from qaicl.oracle.report.html import render_html
from qaicl.oracle.report.markdown import render_markdown
from qaicl.oracle.report.terminal import render_terminal, sparkline
from qaicl.oracle.sentiment.report import Counts, Point, SentimentReport
from qaicl.oracle.sentiment.report import Factor as Story
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store

CLOCK = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
EVIL = "<script>alert(1)</script> \x1b[31m | **pwned**"


def mood(headlines: tuple[Headline, ...], now: datetime) -> SentimentReport:
    story = Story(
        title=EVIL,
        outlet="desk",
        url="javascript:alert(1)",
        published_at=now - DAY,
        label="negative",
        score=-0.8,
        confidence=0.9,
        weight=0.4,
        contribution=-0.32,
        carriers=2,
        words=(),
        sha256="ab" * 32,
        recorded=True,
    )
    counts = Counts(
        headlines=len(headlines),
        stories=2,
        duplicates=1,
        positive=1,
        negative=1,
        neutral=0,
        too_old=0,
        in_future=0,
        blank=0,
        news=2,
        social=0,
    )
    return SentimentReport(
        as_of=now,
        score=-0.31,
        label="negative",
        confidence=0.62,
        news=-0.31,
        social=None,
        factors=(story,),
        counts=counts,
        series=tuple(Point(date(2018, 1, 20 + i), 0.2 * i - 0.4, 3) for i in range(5)),
        method="fixed",
        model="fixed",
        model_version="1",
    )


def outlook(snapshot: Snapshot, horizon: timedelta) -> Forecast:
    last = float(snapshot.candles["close"].iloc[-1])
    record = BacktestRecord(
        start=snapshot.now - 9 * DAY,
        end=snapshot.now - DAY,
        bars=481,
        tested=204,
        horizon_bars=24,
        folds=5,
        purge_bars=24,
        effective=8.5,
        accuracy=Range(0.5, 0.4, 0.6),
        baselines=(Baseline(name="majority", accuracy=0.55, advantage=Range(-0.05, -0.2, 0.1)),),
        brier=0.255,
        brier_base=0.249,
        brier_skill=Range(-0.02, -0.1, 0.05),
        log_loss=0.7,
        log_loss_base=0.69,
        reliability=(Bin(0.4, 0.5, 90, 0.46, 0.5), Bin(0.5, 0.6, 0, 0.0, 0.0), Bin(0.6, 0.7, 30, 0.63, 0.4)),
        parts={"technical": 0.5},
        coverage=0.79,
        verdict="NO EDGE",
        reason="the advantage over majority does not clear zero",
        method="fixed",
        seed=7,
        data="cd" * 32,
    )
    return Forecast(
        asset=snapshot.asset,
        as_of=snapshot.now,
        until=snapshot.now + horizon,
        horizon_seconds=horizon.total_seconds(),
        price=last,
        quote="BTC",
        direction="up",
        probability=0.55,
        probability_up=0.55,
        target=last,
        low=last * 0.95,
        high=last * 1.06,
        coverage=0.8,
        factors=(Factor("technical", "RSI", 51.8, 0.1),),
        parts=(Opinion(part="technical", probability=0.55), Opinion(part="lstm", probability=None, reason="young")),
        record=record,
        verdict="NO EDGE",
        method="fixed",
        method_version="1",
        sources=("recorded candles",),
        recorded=True,
        disclaimer="not advice",
    )


def unavailable(*_: object) -> SentimentReport:
    raise ModelMissingError("the model is not pulled", fix="run: qaicl model pull all-minilm-l6-v2")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with recorded_store() as made:
        yield made


@pytest.fixture(scope="module")
def snapshot(store: Store) -> Snapshot:
    return Snapshot.load(store, "ethereum")


@pytest.fixture(scope="module")
def partless(snapshot: Snapshot) -> Report:
    """A report whose sentiment and forecast could not be made."""
    return build(
        snapshot,
        DAY,
        generated_at=CLOCK,
        sentiment=unavailable,
        forecast=lambda *_: unavailable(),  # type: ignore[arg-type, return-value]
        has_network=False,
        alert_from=70,
    )


def make(snapshot: Snapshot, generated_at: datetime = CLOCK) -> Report:
    return build(
        snapshot,
        DAY,
        generated_at=generated_at,
        sentiment=mood,
        forecast=outlook,
        has_network=False,
        alert_from=70,
    )


@pytest.fixture(scope="module")
def report(snapshot: Snapshot) -> Report:
    return make(snapshot)


def terminal(report: Report, language: Language = "en") -> str:
    console = Console(file=io.StringIO(), width=140, no_color=True)
    console.print(render_terminal(report, language))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


RENDERERS: dict[str, Callable[[Report, Language], str]] = {
    "html": render_html,
    "markdown": render_markdown,
    "terminal": terminal,
}
each = pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)


def test_the_same_inputs_give_the_same_report_but_for_its_own_time(snapshot: Snapshot, report: Report) -> None:
    later = make(snapshot, CLOCK + timedelta(hours=5))
    assert later != report
    assert msgspec.structs.replace(later, generated_at=CLOCK) == report
    for render in RENDERERS.values():
        assert render(msgspec.structs.replace(later, generated_at=CLOCK), "en") == render(report, "en")


def test_the_digest_names_the_inputs(snapshot: Snapshot, report: Report) -> None:
    fewer = replace(snapshot, candles=snapshot.candles.iloc[:-1])
    fewer.candles.attrs = snapshot.candles.attrs
    assert make(fewer).inputs != report.inputs
    tone = msgspec.structs.replace(snapshot.news_tone, value=-5.0, hashes=("ab" * 32,))
    health = SourceHealth(source="mexc", failures=1, last_failure=snapshot.now, reason="HTTP 500")
    moved = msgspec.structs.replace(snapshot.headlines[0], outlet="another")
    for other in (
        replace(snapshot, news_tone=tone),
        replace(snapshot, sources=(health,)),
        replace(snapshot, headlines=(moved, *snapshot.headlines[1:])),
    ):
        assert make(other).inputs != report.inputs


@each
def test_recorded_is_said_and_so_is_no_edge_with_its_record(
    report: Report, render: Callable[[Report, Language], str]
) -> None:
    text = render(report, "en")
    assert "RECORDED" in text
    assert "NO EDGE" in text and "majority" in text and "0.255" in text and "0.249" in text
    assert "not advice" in text
    assert report.inputs in text


@each
def test_every_figure_comes_with_source_time_age_and_state(
    report: Report, render: Callable[[Report, Language], str]
) -> None:
    text = render(report, "en")
    assert "recorded candles" in text and "2018-01-30 05:00 UTC" in text and "0 s" in text
    assert "DEGRADED" in text and "MISSING" in text


@each
def test_chinese_is_chinese(report: Report, render: Callable[[Report, Language], str]) -> None:
    text = render(report, "zh-TW")
    for word in ("錄製資料", "無預測優勢", "風險", "情緒", "異常", "降級"):
        assert word in text


@each
def test_headlines_cannot_steer_the_page_or_the_terminal(
    report: Report, render: Callable[[Report, Language], str]
) -> None:
    text = render(report, "en")
    assert "<script>alert" not in text.replace("\\<", "") or render is terminal
    assert "\x1b[31m" not in text or render is render_html
    assert "javascript:" not in text
    if render is render_markdown:
        assert "**pwned**" not in text


def test_html_is_one_well_formed_file_that_loads_nothing(report: Report) -> None:
    loads: list[str] = []
    open_tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            loads.extend(str(given[name]) for name in ("src", "href", "srcset", "data") if name in given)
            assert tag not in ("script", "iframe", "link", "object", "embed")
            assert not any(name.startswith("on") for name in given)
            if tag != "meta":
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    page = render_html(report)
    Reader(convert_charrefs=True).feed(page)
    assert open_tags == [] and loads == []
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page
    assert page.count("<svg") == 7, "price, RSI, MACD, gauge, risk trend, calibration, sentiment"


def test_numbers_in_charts_are_finite(report: Report) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", render_html(report), flags=re.S))
    assert "nan" not in svg and "inf" not in svg and "None" not in svg


def test_the_charts_over_time_line_up(report: Report) -> None:
    days = [
        re.findall(r'class="tick mid" x="([\d.]+)"[^>]*>(\d\d-\d\d)<', chart)
        for chart in re.findall(r"<svg.*?</svg>", render_html(report), flags=re.S)[:3]
    ]
    assert days[0] and days[0] == days[1] == days[2], "price, RSI, MACD"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.0826, 0.1114, ["0.09", "0.10", "0.11"]),
        (-0.0021, 0.0021, ["-0.002", "0", "0.002"]),
        (1.06e-6, 1.41e-6, ["0.0000011", "0.0000012", "0.0000013", "0.0000014"]),
        (900, 1800, ["1,000", "1,250", "1,500", "1,750"]),
        (0.0, 1.0, ["0", "0.25", "0.50", "0.75", "1.00"]),
        (3.0, 3.0, ["3"]),
    ],
)
def test_labels_of_an_axis_have_the_same_decimals(low: float, high: float, said: list[str]) -> None:
    assert [label for _, label in labels(ticks(low, high, 4))] == said


def test_json_has_every_part_and_reads_back(report: Report) -> None:
    data = msgspec.json.encode(report)
    assert msgspec.json.decode(data, type=Report) == report
    assert {"figures", "risk", "forecast", "sentiment", "anomalies", "notes", "methods"} <= set(json.loads(data))


@each
def test_a_part_that_cannot_answer_says_why_and_the_rest_comes(
    partless: Report, render: Callable[[Report, Language], str]
) -> None:
    assert partless.sentiment is None and partless.forecast is None
    assert partless.absent["sentiment"].fix == "run: qaicl model pull all-minilm-l6-v2"
    text = render(partless, "en")
    assert "the model is not pulled" in text and "Risk" in text


def test_an_asset_without_bars_still_has_a_report(store: Store) -> None:
    made = build(
        Snapshot.load(store, "qubic"),
        DAY,
        generated_at=CLOCK,
        sentiment=mood,
        forecast=lambda *_: unavailable(),  # type: ignore[arg-type, return-value]
        has_network=True,
        alert_from=70,
    )
    assert made.bars is None
    for render in RENDERERS.values():
        assert "0.000001898" in render(made, "en")


def test_an_old_store_is_stale_and_the_report_says_it(store: Store) -> None:
    snapshot = Snapshot.load(store, "ethereum", now=datetime(2018, 2, 9, tzinfo=UTC))
    made = make(snapshot)
    assert made.state is State.stale
    assert any(note.subject == "candles" and note.state is State.stale for note in made.notes)
    assert made.figures[0].age is not None and made.figures[0].age > 9 * 86_400
    assert "10 d" in terminal(made)


def test_the_risk_trend_never_looks_ahead(snapshot: Snapshot, report: Report) -> None:
    cut = report.risk_trend[10].at
    past = replace(snapshot, candles=snapshot.candles.loc[:cut], now=cut)
    past.candles.attrs = snapshot.candles.attrs
    trend = {point.at: point.points for point in make(past).risk_trend}
    shared = [point for point in report.risk_trend if point.at in trend]
    assert shared and all(trend[point.at] == pytest.approx(point.points) for point in shared)


def test_sparkline_fits_and_keeps_the_shape() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5]) == "▁▁"
    assert sparkline([None]) == ""
    assert len(sparkline(list(range(1000)), width=48)) <= 48
