"""The forecasts' true record stands beside the backtest's, in every rendering and both languages."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

from qaicl.errors import TooLittleHistoryError
from qaicl.i18n import LANGUAGES, translator
from qaicl.oracle.forecast.records import Range
from qaicl.oracle.recording import recorded_store
from qaicl.oracle.report.builder import build
from qaicl.oracle.report.document import Report, as_dict
from qaicl.oracle.report.live import live_text
from qaicl.oracle.report.terminal import render_terminal
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.track_record import LiveRecord

SINCE = datetime(2026, 1, 10, 12, tzinfo=UTC)
KNOWN = LiveRecord(
    made=40,
    resolved=30,
    since=SINCE,
    next_at=SINCE + timedelta(days=2),
    effective=3,
    accuracy=Range(0.6, 0.2, 0.9),
    constant=0.55,
    brier=0.244,
    brier_base=0.2475,
)
SAID = [
    ("recorded observations have no forecasts", LiveRecord(recorded=True)),
    ("only forecasts for 24 h", LiveRecord(kept=False)),
    ("the oracle's daemon writes each forecast down", LiveRecord()),
    (
        "7 forecasts are written down since 2026-01-10 12:00 UTC, the first outcome is due 2026-01-11 12:00 UTC",
        LiveRecord(made=7, since=SINCE, next_at=SINCE + timedelta(days=1)),
    ),
    (
        "60.0 % of 30 forecasts since 2026-01-10 12:00 UTC named the right direction; "
        "95 % interval 20.0 % – 90.0 % over the 3 that do not overlap; "
        "always naming the more frequent direction would have had 55.0 %; "
        "Brier score 0.244, base rate in hindsight 0.247",
        KNOWN,
    ),
]


@pytest.mark.parametrize(("said", "live"), SAID)
def test_it_says_what_is_known_or_why_nothing_is(said: str, live: LiveRecord) -> None:
    assert said in live_text(live, translator("en"))
    assert said not in live_text(live, translator("zh-TW"))


@pytest.fixture(scope="module")
def snapshot() -> Iterator[Snapshot]:
    with recorded_store() as store:
        yield Snapshot.load(store, "ethereum")


def report(snapshot: Snapshot, live: LiveRecord | None) -> Report:
    def absent(*_: Any) -> Any:
        raise TooLittleHistoryError("too few bars")

    return build(
        snapshot,
        timedelta(days=1),
        generated_at=SINCE,
        sentiment=absent,
        forecast=absent,
        has_network=False,
        alert_from=70,
        live=live,
    )


def test_the_report_carries_it_and_is_another_one_with_another_record(snapshot: Snapshot) -> None:
    with_record = report(snapshot, KNOWN)
    plain = cast(dict[str, Any], as_dict(with_record))
    assert plain["live"]["resolved"] == 30
    assert report(snapshot, KNOWN) == with_record, "the same inputs, the same report"
    assert report(snapshot, msgspec.structs.replace(KNOWN, resolved=31)).inputs != with_record.inputs
    assert report(snapshot, None).live == LiveRecord(recorded=True)


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_stands_there_even_where_no_forecast_could_be_made(snapshot: Snapshot, language: Any) -> None:
    console = Console(file=io.StringIO(), width=400, no_color=True)
    console.print(render_terminal(report(snapshot, KNOWN), language))
    shown = cast(io.StringIO, console.file).getvalue()
    assert live_text(KNOWN, translator(language)) in shown
