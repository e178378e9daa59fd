from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaicl.oracle.anomalies.detectors import DailyDeviation
from qaicl.oracle.anomalies.scan import Severity, grade, severity_points, watch
from qaicl.oracle.anomalies.stream import StreamDetector
from qaicl.oracle.anomalies.tail import History, TailSurprise

START = datetime(2024, 1, 1, tzinfo=UTC)
FIVE = timedelta(minutes=5)


def timed(values: Sequence[float], step: timedelta = FIVE) -> list[tuple[datetime, float]]:
    return [(START + i * step, float(value)) for i, value in enumerate(values)]


def daily(n: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 100 + 30 * np.sin(2 * np.pi * np.arange(n) / 288) + rng.normal(0, 2, n)


def scores(values: Sequence[float]) -> list[float]:
    detector = StreamDetector()
    return [detector.update(moment, value).score for moment, value in timed(values)]


def test_a_spike_raises_one_alarm_where_it_is() -> None:
    values = daily(1500)
    values[1200:1205] += 150
    found = [a for a in watch("load", timed(values)) if a.severity in (Severity.high, Severity.critical)]
    assert [a.at for a in found] == [START + 1200 * FIVE]
    assert "outside everything seen before" in found[0].reasons


def test_a_value_that_is_usual_at_another_hour_is_found() -> None:
    values = daily(1800)
    # Midnight's level at the top of the day: inside the range, wrong for the time.
    top = 288 * 5 + 72
    values[top : top + 24] = 70
    found = [a for a in watch("load", timed(values)) if a.severity is not Severity.low]
    assert found and top <= (found[0].at - START) // FIVE <= top + 24
    assert any("time of day" in reason for reason in found[0].reasons)


def test_a_level_shift_is_found() -> None:
    values = np.random.default_rng(5).normal(10, 1, 1500)
    values[1000:] += 8
    found = [a for a in watch("load", timed(values)) if a.severity is not Severity.low]
    assert found and 1000 <= (found[0].at - START) // FIVE <= 1010


def test_a_change_of_restlessness_is_found_and_named() -> None:
    rng = np.random.default_rng(8)
    values = rng.normal(10, 1, 1500)
    values[1000:1100] = rng.normal(10, 4, 100)
    detector = StreamDetector()
    verdicts = [detector.update(moment, value) for moment, value in timed(values)]
    named = [i for i, v in enumerate(verdicts) if any(reason.detector == "variation" for reason in v.reasons)]
    assert any(1000 <= i < 1050 for i in named)


def test_a_quiet_hour_may_stray_less_than_a_busy_one() -> None:
    rng = np.random.default_rng(9)
    level = np.where(np.arange(288 * 24) % 288 < 144, 10.0, 1000.0)
    values = level * rng.normal(1, 0.1, len(level))
    view = DailyDeviation()
    for moment, value in timed(values):
        view.update(moment.timestamp(), value)
    quiet, busy = START + (24 * 288 + 10) * FIVE, START + (24 * 288 + 150) * FIVE
    assert view.update(quiet.timestamp(), 10 + 8) > 2 * view.update(busy.timestamp(), 1000 + 80)


def test_an_event_rests_for_a_share_of_what_was_seen() -> None:
    detector = StreamDetector(rest=0.1, bounds=(20, 60))
    assert [detector._onset(score) for score in (5.0, 4.0, 6.0)] == [5.0, 0.0, 6.0]
    # 20 values at least.
    assert [detector._onset(0.0) for _ in range(19)] == [0.0] * 19
    assert detector._onset(2.0) == 0.0, "the 6 is the 20th before it"
    assert detector._onset(3.0) == 3.0
    # 60 at most, though a tenth of 2,000 is more.
    for _ in range(2000):
        detector._onset(0.0)
    assert detector._onset(9.0) == 9.0
    for _ in range(59):
        detector._onset(0.0)
    assert [detector._onset(2.0), detector._onset(3.0)] == [0.0, 3.0]


@pytest.mark.parametrize("values", [np.full(900, 7.0), daily(900), np.tile([0.0, 1.0], 450)])
def test_ordinary_streams_raise_nothing_above_low(values: np.ndarray) -> None:
    assert [a for a in watch("load", timed(values)) if a.severity is not Severity.low] == []


def test_the_detector_is_causal() -> None:
    values = daily(900)
    changed = values.copy()
    changed[600:] = 1e6
    assert scores(values)[:600] == scores(changed)[:600]


def test_scale_and_offset_change_nothing() -> None:
    values = daily(900)
    values[700] += 90
    assert scores(values * 8) == pytest.approx(scores(values), abs=1e-6)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=150))
@settings(max_examples=40, deadline=None)
def test_no_number_breaks_it(values: list[float]) -> None:
    with np.errstate(all="ignore"):
        assert all(score >= 0 for score in scores(values))


def test_a_value_that_is_no_number_is_not_learnt_from() -> None:
    values = list(daily(700))
    with_gaps = StreamDetector()
    without = StreamDetector()
    for i, (moment, value) in enumerate(timed(values)):
        if i % 50 == 10:
            assert with_gaps.update(moment, float("nan")).score == 0
        assert with_gaps.update(moment, value) == without.update(moment, value)


def test_tail_surprise_of_an_exponential_tail_is_its_probability() -> None:
    rng = np.random.default_rng(11)
    tail = TailSurprise()
    for value in rng.exponential(1.0, 15_000):
        tail.update(float(value))
    # P(X > 9) = e^-9: 3.9 in -log10.
    assert tail.update(9.0) == pytest.approx(9 / np.log(10), rel=0.08)
    assert tail.update(0.5) == 0


def test_history_keeps_the_newest() -> None:
    history = History(300)
    for i in range(1000):
        history.append(float(i))
    assert sorted(history.values()) == [float(i) for i in range(700, 1000)]


def test_grades_follow_their_thresholds() -> None:
    scale = {Severity.low: 1.0, Severity.high: 5.0}
    assert [grade(score, scale) for score in (0.5, 1.0, 4.9, 5.0)] == [None, Severity.low, Severity.low, Severity.high]


def test_only_recent_anomalies_count_for_risk() -> None:
    values = daily(1500)
    values[1200] += 300
    found = watch("load", timed(values))
    at = START + 1200 * FIVE
    assert severity_points(found, at + timedelta(hours=1)) >= 80
    assert severity_points(found, at + timedelta(days=3)) == 0
    assert severity_points(found, at - timedelta(hours=1)) == 0
