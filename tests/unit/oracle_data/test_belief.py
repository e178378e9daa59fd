"""What is believed, what a text names, and where keys come from."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from qaicl.errors import SettingsError
from qaicl.oracle.http import DEFAULT_WAIT, LONGEST_WAIT, retry_after
from qaicl.oracle.keys import load_keys
from qaicl.oracle.observations import Candle, Headline, NetworkStats
from qaicl.oracle.quality import candle_fault, headline_fault, network_fault
from qaicl.oracle.sources.naming import assets_named, link, plain
from qaicl.settings import ASSETS, OracleSettings, Paths

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
BAR = Candle(
    source="x",
    asset="qubic",
    interval="1h",
    closed_at=NOW,
    open=2,
    high=3,
    low=1,
    close=2,
    volume=0,
    quote="USD",
    fetched_at=NOW,
    sha256="0",
)
STATS = NetworkStats(source="x", asset="qubic", observed_at=NOW, fetched_at=NOW, sha256="0", tick=5)
TITLE = Headline(source="x", outlet="x", title="Qubic rises", published_at=NOW, fetched_at=NOW, sha256="0")


def test_a_sound_record_has_no_fault() -> None:
    assert (candle_fault(BAR, NOW), network_fault(STATS, NOW), headline_fault(TITLE, NOW)) == ("", "", "")


@pytest.mark.parametrize(
    "change",
    [
        {"high": 1.5},
        {"low": 2.5},
        {"close": float("nan")},
        {"open": 0},
        {"volume": -1},
        {"closed_at": NOW + timedelta(hours=1)},
        {"closed_at": datetime(1999, 1, 1, tzinfo=UTC)},
    ],
)
def test_a_bar_that_cannot_be_is_not_believed(change: dict[str, object]) -> None:
    assert candle_fault(msgspec.structs.replace(BAR, **change), NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"tick": -1},
        {"tick_quality": 101.0},
        {"burned": -5},
        {"tick_duration": float("nan")},
        {"tick_duration": -3.0},
        {"price": float("inf")},
    ],
)
def test_network_figures_that_cannot_be_are_not_believed(change: dict[str, object]) -> None:
    assert network_fault(msgspec.structs.replace(STATS, **change), NOW)


@pytest.mark.parametrize("title", ["", "   ", "[Removed]", "!!!"])
def test_a_headline_without_words_is_none(title: str) -> None:
    assert headline_fault(msgspec.structs.replace(TITLE, title=title), NOW)


def test_the_same_story_has_one_key_whatever_its_case_and_marks() -> None:
    again = msgspec.structs.replace(TITLE, title="QUBIC — rises!", source="other")
    assert again.key == TITLE.key
    tomorrow = msgspec.structs.replace(TITLE, published_at=NOW + timedelta(days=1))
    assert tomorrow.key != TITLE.key


def test_assets_are_named_by_whole_words_only() -> None:
    assert assets_named("BTC and Qubic up", ASSETS) == ("qubic", "bitcoin")
    assert assets_named("btcusd, qubical", ASSETS) == ()


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>Qubic&nbsp;<b>up</b></p>", "Qubic up"),
        ("a<script>steal()</script>b", "a b"),
        ("&lt;script&gt;steal()&lt;/script&gt;Qubic", "Qubic"),
        ("a\x00\x1b[31mb\u202ec", "a [31mb c"),
        (None, ""),
    ],
)
def test_markup_scripts_and_control_characters_are_taken_out(markup: str | None, text: str) -> None:
    assert plain(markup) == text


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    assert retry_after("7", NOW) == 7.0
    assert retry_after("Sat, 10 Jan 2026 12:01:30 GMT", NOW) == 90.0
    assert retry_after("Sat, 10 Jan 2026 11:00:00 GMT", NOW) == 0.0
    assert retry_after("soon", NOW) == retry_after(None, NOW) == DEFAULT_WAIT


@pytest.mark.parametrize("header", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_retry_after_silences_a_source_for_a_day_at_most(header: str) -> None:
    assert retry_after(header, NOW) == LONGEST_WAIT


@pytest.mark.parametrize("header", ["\u00b2", "Sat, 10 Jan 2026 12:00:00 +99999999999999"])
def test_a_retry_after_that_no_number_or_calendar_knows_is_none(header: str) -> None:
    assert retry_after(header, NOW) == DEFAULT_WAIT


@pytest.mark.parametrize("part", ["<script ", "<style <script ", "<", "<a ", "&lt;script "])
def test_a_text_full_of_beginnings_takes_no_time(part: str) -> None:
    began = time.process_time()
    plain(part * 50_000)
    assert time.process_time() - began < 5


def test_a_link_is_kept_as_it_came_or_not_at_all() -> None:
    assert link("https://paper.example/1?a=b") == "https://paper.example/1?a=b"
    assert link("https://paper.example/\0") == link("x" * 5000) == link(None) == ""


def keys(tmp_path: Path, environ: dict[str, str]) -> dict[str, str]:
    return load_keys(OracleSettings(), Paths(tmp_path, tmp_path, tmp_path), "default", environ)


def key_file(tmp_path: Path, text: str, mode: int = 0o600) -> None:
    path = tmp_path / "contexts" / "default" / "oracle-keys.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(mode)


def test_without_keys_there_are_none(tmp_path: Path) -> None:
    assert keys(tmp_path, {}) == {}


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    key_file(tmp_path, 'newsapi = "file"\ncoingecko = "file"\n')
    assert keys(tmp_path, {"NEWSAPI_KEY": "env"}) == {"newsapi": "env", "coingecko": "file"}


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    key_file(tmp_path, 'newsapi = "secret"\n', mode=0o644)
    with pytest.raises(SettingsError, match="others may read"):
        keys(tmp_path, {})


@pytest.mark.parametrize("text", ['newsapi = "secret', 'weather = "secret"'])
def test_a_wrong_key_file_is_told_without_showing_the_key(tmp_path: Path, text: str) -> None:
    key_file(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        keys(tmp_path, {})
    assert "secret" not in str(caught.value)


def test_a_key_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing"):
        load_keys(OracleSettings(keys_file=str(tmp_path / "no")), Paths(tmp_path, tmp_path, tmp_path), "default", {})
