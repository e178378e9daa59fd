import sys
from datetime import timedelta
from pathlib import Path

import pytest

from qaicl.errors import RequestFailedError
from qaicl.i18n import LANGUAGES, Language
from qaicl.oracle.recording import recorded_store
from qaicl.oracle.report.builder import build
from qaicl.oracle.report.document import Absent, Narrative, Report
from qaicl.oracle.report.narrate import narrate, prompt, sentences, unsupported
from qaicl.oracle.report.numbers import foreign
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


WHOLE = (
    "These are recorded data of 2018-01-30 05:00 UTC and not current. The price of ethereum is 0.104411 BTC. "
    "SMA (20) is 0.1046 BTC: price below. SMA (50) is 0.1037 BTC: price above. RSI (14) is 51.76: neither extreme. "
    "The risk score is 31: LOW. The forecast for 24 h has no edge. The sentiment of 2 stories is -0.31: negative. "
    "Anomalies found: 5."
)


def narrated(report: Report, text: str) -> Narrative | Absent | None:
    made = narrate(report, lambda _: text, "model")
    return made.narrative or made.absent.get("narrative")


def test_a_text_whose_numbers_are_the_reports_is_kept(report: Report) -> None:
    more = "The price is about 0.1044 BTC. The probability is 55 %. The mood is minus 0.3."
    assert unsupported(more, report) == []
    assert narrated(report, f"{WHOLE} {more}") == Narrative(text=f"{WHOLE} {more}", model="model")


def test_the_sentences_that_the_model_is_given_pass_its_own_check(report: Report) -> None:
    for language in LANGUAGES:
        text = " ".join(sentences(report, language))
        found = narrate(report, lambda _, text=text: text, "model", language)
        assert found.absent.get("narrative") is None
        assert found.narrative == Narrative(text=text, model="model")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("The price was 0.1054 BTC.", "0.1054"),
        ("Risk is 99 of 100.", "99"),
        ("Volume rose by 12.5 %.", "12.5 %"),
        ("It may reach 1,250 dollars.", "1,250"),
        ("Sentiment is 17.", "17"),
        ("It gained 3e9 dollars.", "3e9"),
        ("It fell by two thirds.", "two"),
        ("It gained USD777.", "777"),
        ("It is at .77 now.", ".77"),
    ],
)
def test_a_text_with_a_number_of_its_own_is_dropped(report: Report, text: str, wrong: str) -> None:
    found = narrated(report, text)
    assert isinstance(found, Absent)
    assert f"not in the report: {wrong}" in found.why


@pytest.mark.parametrize(
    ("text", "known", "wrong"),
    [
        ("1,234.5 and 1234.5", "1,234.5", []),
        ("1,234.5 and 1234.5", "1234.5", []),
        ("1234 or 1,235", "1,234.5", []),
        ("1,200", "1,234.5", ["1,200"]),
        ("1,23", "123", ["1", "23"]),
        ("12,5", "125", ["12", "5"]),
        ("5.7 % or 5.66% or 6 percent", "5.66 %", ["6 percent"]),
        ("58 %", "58.2 % a year", []),
        ("58", "58.2 % a year", []),
        ("51.8 %", "51.76", ["51.8 %"]),
        ("0", "0.4", ["0"]),
        ("0.4 and 0.40", "0.404", []),
        ("0.41", "0.404", ["0.41"]),
        ("0.31 and -0.31 and −0.3", "-0.31", []),
        ("+0.31", "-0.31", ["+0.31"]),
        ("-0.31", "0.31", ["-0.31"]),
        ("0.10–0.11", "0.10 to 0.11", []),
        ("2018-01-30 05:00", "2018-01-30 05:00 UTC", []),
        ("2018-02-30", "2018-01-30", ["02"]),
        ("202.95 million or 202.95M or 0.203 billion or 202,950,000", "202.95 M USD", []),
        ("202.95 or 202.95 thousand", "202.95 M USD", ["202.95", "202.95 thousand"]),
        ("2.03 億", "202.95 M USD", []),
        ("5 minutes", "5 minutes", []),
        ("１，２３４．５", "1,234.5", []),
        ("½", "0.5", ["1", "2"]),
        ("fifty-five percent", "55 %", ["fifty", "five"]),
        ("上漲三成", "30 %", ["三成"]),
        ("百分之五十五", "55 %", ["百分之", "五十五"]),
        ("one of the readings, 一般而言", "", []),
        ("1e3 and 1.0e3", "1000", []),
        ("RSI14", "RSI (14)", []),
    ],
)
def test_what_counts_as_the_same_number(text: str, known: str, wrong: list[str]) -> None:
    assert foreign(text, [known]) == wrong


@pytest.mark.parametrize("text", ["1e999999999", "1e-999999999", "1e" + "9" * 1400])
def test_a_number_beyond_all_bounds_is_foreign_and_no_error(text: str) -> None:
    assert foreign(text, ["5", "0"])


def test_an_answer_that_was_cut_off_keeps_its_whole_sentences(report: Report) -> None:
    assert narrated(report, f"{WHOLE} The price is 0.10") == Narrative(text=WHOLE, model="model")
    assert "no whole sentence" in getattr(narrated(report, "bado kilo pane"), "why", "")


def test_an_answer_in_another_language_is_dropped(report: Report) -> None:
    def answered(text: str, language: Language) -> str:
        return narrate(report, lambda _: text, "model", language).absent.get("narrative", Absent(why="")).why

    assert "language" in answered("Quiet market today.", "zh-TW")
    assert "language" in answered("市場平靜，沒有明顯變化。", "en")
    assert answered("".join(sentences(report, "zh-TW")), "zh-TW") == ""


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (("0.104411 BTC", "low"), "it leaves out 0.104411"),
        (("0.104411 BTC", "0.104411 EUR"), "not in the report: EUR"),
        (("0.104411 BTC", "$0.104411 BTC"), "not in the report: $"),
        (("has no edge", "looks good"), "it does not say that the forecast has no edge"),
        (("recorded", "fresh"), "it does not say that the data are recorded"),
        (("Anomalies found", "The risk score is 31: LOW. Anomalies found"), "it repeats itself"),
    ],
)
def test_a_paragraph_that_hides_bends_or_repeats_something_is_dropped(
    report: Report, changed: tuple[str, str], why: str
) -> None:
    assert changed[0] in WHOLE
    found = narrated(report, WHOLE.replace(*changed))
    assert isinstance(found, Absent) and why in found.why


def test_a_text_that_gives_advice_is_dropped(report: Report) -> None:
    assert "advice" in getattr(narrated(report, "You should hold."), "why", "")
    assert "advice" in getattr(narrated(report, "現在建議買進。"), "why", "")


def test_an_empty_or_endless_text_is_dropped(report: Report) -> None:
    assert isinstance(narrated(report, " \n "), Absent)
    assert isinstance(narrated(report, "word " * 1000), Absent)


def test_thinking_aloud_is_cut_off(report: Report) -> None:
    assert narrated(report, f"<think>maybe 777?</think>{WHOLE}") == Narrative(text=WHOLE, model="model")


def test_a_cluster_that_does_not_answer_costs_only_the_paragraph(report: Report) -> None:
    def ask(_: str) -> str:
        raise RequestFailedError("no node is up", fix="run: qaicl up")

    found = narrate(report, ask, "model").absent["narrative"]
    assert "no node is up" in found.why and found.fix == "run: qaicl up"


def test_the_prompt_has_the_facts_and_never_a_headline(report: Report) -> None:
    asked = prompt(report, "zh-TW")
    assert "Traditional Chinese" in asked and "預測並無優勢" in asked and "錄製資料" in asked
    assert EVIL[:8] not in asked
    assert "no edge" in prompt(report, "en") and "0.104411 BTC" in prompt(report, "en")
