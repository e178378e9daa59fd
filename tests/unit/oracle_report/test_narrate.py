import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from qaicl.errors import RequestFailedError
from qaicl.oracle.recording import recorded_store
from qaicl.oracle.report.builder import build
from qaicl.oracle.report.document import Absent, Narrative, Report
from qaicl.oracle.report.narrate import facts, narrate, prompt, unsupported
from qaicl.oracle.snapshot import Snapshot

sys.path.insert(0, str(Path(__file__).parent))

from test_report import CLOCK, EVIL, mood, outlook  # type: ignore[import-not-found]


@pytest.fixture(scope="module")
def report() -> Report:
    with recorded_store() as store:
        snapshot = Snapshot.load(store, "ethereum")
    return build(
        snapshot,
        timedelta(days=1),
        generated_at=CLOCK,
        sentiment=mood,
        forecast=outlook,
        has_network=False,
        alert_from=70,
    )


def narrated(report: Report, text: str) -> Narrative | Absent | None:
    made = narrate(report, lambda _: text, "model")
    return made.narrative or made.absent.get("narrative")


def test_a_text_whose_numbers_are_the_reports_is_kept(report: Report) -> None:
    risk = round(report.risk.score)
    text = (
        f"The price was 0.104411 BTC, or about 0.1044 BTC, in recorded data of 2018-01-30. Risk is {risk} of 100. "
        "The 24 hours forecast has no edge, with a probability of 55 %. Sentiment stood at -0.31, that is minus 0.3."
    )
    assert unsupported(text, report) == []
    assert narrated(report, text) == Narrative(text=text, model="model")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("The price was 0.1054 BTC.", "0.1054"),
        ("Risk is 99 of 100.", "99"),
        ("Volume rose by 12.5 %.", "12.5"),
        ("It may reach 1,250 dollars.", "1,250"),
        ("Sentiment is 17.", "17"),
        ("It gained 3e9 dollars.", "3e9"),
    ],
)
def test_a_text_with_a_number_of_its_own_is_dropped(report: Report, text: str, wrong: str) -> None:
    found = narrated(report, text)
    assert isinstance(found, Absent)
    assert f"not in the report: {wrong}" in found.why


def test_a_text_that_gives_advice_is_dropped(report: Report) -> None:
    assert "advice" in getattr(narrated(report, "You should hold."), "why", "")
    assert "advice" in getattr(narrated(report, "現在建議買進。"), "why", "")


def test_an_empty_or_endless_text_is_dropped(report: Report) -> None:
    assert isinstance(narrated(report, " \n "), Absent)
    assert isinstance(narrated(report, "word " * 1000), Absent)


def test_thinking_aloud_is_cut_off(report: Report) -> None:
    assert narrated(report, "<think>maybe 777?</think>Quiet market.") == Narrative(text="Quiet market.", model="model")


def test_a_cluster_that_does_not_answer_costs_only_the_paragraph(report: Report) -> None:
    def ask(_: str) -> str:
        raise RequestFailedError("no node is up", fix="run: qaicl up")

    found = narrate(report, ask, "model").absent["narrative"]
    assert "no node is up" in found.why and found.fix == "run: qaicl up"


def test_the_prompt_has_the_facts_and_never_a_headline(report: Report) -> None:
    asked = prompt(report, "zh-TW")
    assert "Traditional Chinese" in asked and "NO EDGE" in asked and "recorded" in asked
    assert EVIL[:8] not in asked
    assert all(value in asked for _, value in facts(report))
    assert isinstance(CLOCK, datetime)
