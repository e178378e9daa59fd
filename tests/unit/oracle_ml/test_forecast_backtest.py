"""The walk-forward backtest: no leak, no false edge, a true one found; repeatable and resumable."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qaicl.errors import BadDatasetError, TooLittleHistoryError
from qaicl.oracle.forecast import backtest as method
from qaicl.oracle.forecast import candles, scoring
from qaicl.oracle.forecast.records import Range

MARKET = Path(__file__).resolve().parents[4] / "shared" / "data" / "market"


def frame(returns):
    close = 100 * np.exp(np.cumsum(returns))
    index = pd.date_range("2024-01-01", periods=len(close), freq="1h", tz="UTC")
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {"open": close, "high": close * 1.002, "low": close * 0.998, "close": close}, index=index
    ).assign(volume=random.uniform(1, 9, len(close)))


def noise(seed, bars=500):
    return np.random.default_rng(seed).normal(0, 0.01, bars)


def swing(seed, bars=500):
    """A price whose moves last: each return keeps nine tenths of the one before."""
    shocks, returns = noise(seed, bars), np.zeros(bars)
    for i in range(1, bars):
        returns[i] = 0.9 * returns[i - 1] + shocks[i]
    return returns


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_walk_has_no_edge(seed):
    record = method.backtest(method.history(frame(noise(seed)), "1h", 6))
    assert record.verdict == "NO EDGE"
    assert "does not clear zero" in record.reason


def test_moves_that_return_to_a_mean_are_an_edge():
    # An oscillation with a period of 12 bars and noise: six bars later the price is on the other side.
    steps = np.arange(700)
    level = 0.05 * np.sin(2 * np.pi * steps / 12) + np.random.default_rng(5).normal(0, 0.004, 700)
    record = method.backtest(method.history(frame(np.diff(level, prepend=0.0)), "1h", 6))
    assert record.verdict == "EDGE"
    assert record.accuracy.value > 0.9
    assert record.brier < record.brier_base / 2


def test_a_trend_that_persistence_catches_as_well_is_no_edge_over_it():
    record = method.backtest(method.history(frame(swing(1)), "1h", 1))
    persistence = next(one for one in record.baselines if one.name == "persistence")
    assert persistence.accuracy > 0.6
    assert record.verdict == "NO EDGE"


def test_no_outcome_of_the_training_part_reaches_into_the_test():
    past = method.history(frame(noise(1)), "1h", 6)
    for start, stop in method.plan(past.known, past.horizon):
        fold = method._fold(past, start, stop, 7)
        assert fold.trained + past.horizon <= start  # the last trained row's outcome lies before the first tested bar


def test_what_happens_after_a_fold_changes_nothing_in_it():
    returns = noise(1)
    past = method.history(frame(returns), "1h", 6)
    start, stop = method.plan(past.known, past.horizon)[1]
    changed = returns.copy()
    changed[method.features.WARM_UP + stop :] *= -3.0
    other = method.history(frame(changed), "1h", 6)
    assert method._fold(past, start, stop, 7) == method._fold(other, start, stop, 7)


def test_the_tested_parts_follow_each_other_without_a_gap():
    parts = method.plan(400, 6)
    assert parts[0][0] == 200
    assert parts[-1][1] == 400
    assert all(a[1] == b[0] for a, b in pairwise(parts))


def test_the_same_input_gives_the_same_record_and_another_seed_another():
    past = method.history(frame(noise(2, 330)), "1h", 6)
    record = method.backtest(past, 7)
    assert method.backtest(past, 7) == record
    assert method.backtest(past, 8).brier != record.brier


def test_a_stopped_backtest_goes_on_and_ends_the_same(tmp_path):
    past = method.history(frame(noise(2, 330)), "1h", 6)
    kept = tmp_path / "run.json"

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.backtest(past, checkpoint=kept, report=stop)
    seen = []
    record = method.backtest(past, checkpoint=kept, report=lambda done, total: seen.append(done))
    assert seen == [3, 4, 5]
    assert record == method.backtest(past)
    assert not kept.exists()


def test_a_checkpoint_of_other_data_or_a_damaged_one_is_not_used(tmp_path):
    kept = tmp_path / "run.json"
    kept.write_bytes(b"{")
    past = method.history(frame(noise(2, 330)), "1h", 6)
    assert method._resume(kept, f"{past.digest}-7") == []
    other = dataclasses.replace(past, digest="other")
    fold = method._fold(past, *method.plan(past.known, past.horizon)[0], 7)
    kept.write_bytes(method.msgspec.json.encode(method.Checkpoint("other-7", [fold])))
    assert method._resume(kept, f"{other.digest}-7") == [fold]
    assert method._resume(kept, f"{past.digest}-7") == []


def test_too_few_bars_are_refused_with_their_number():
    with pytest.raises(TooLittleHistoryError, match="100 bars"):
        method.history(frame(noise(1, 100)), "1h", 6)


def test_the_interval_holds_about_as_often_as_it_says():
    record = method.backtest(method.history(frame(noise(11)), "1h", 1))
    assert record.coverage == pytest.approx(0.8, abs=0.1)


def test_scores_are_those_of_their_definitions():
    said, rose = np.array([0.9, 0.2, 0.6, 0.5]), np.array([1.0, 0.0, 0.0, 1.0])
    assert scoring.brier(said, rose) == pytest.approx((0.01 + 0.04 + 0.36 + 0.25) / 4)
    assert scoring.log_loss(said, rose) == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.5]).mean())
    assert scoring.log_loss(np.array([0.0]), np.array([1.0])) < 20
    bins = scoring.reliability(np.array([0.05, 0.05, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert [(one.low, one.count, one.happened) for one in bins] == [(0.0, 2, 0.5), (0.9, 1, 1.0)]


def test_overlapping_outcomes_widen_the_interval():
    # Ten equal bars in a row are one piece of news, not ten.
    hits = np.repeat(np.random.default_rng(1).integers(0, 2, 30).astype(float), 10)

    found = scoring.interval(hits.mean(), lambda rows: hits[rows].mean(axis=1), scoring.resamples(300, 10, 1))
    independent = 2 * 1.96 * hits.std() / 300**0.5
    assert found.high - found.low > 2 * independent


def test_an_edge_needs_every_interval_above_zero():
    def against(low):
        return scoring.Baseline(name="majority", accuracy=0.5, advantage=Range(0.1, low, 0.2))

    assert scoring.verdict((against(0.01),), Range(0.1, 0.01, 0.2))[0] == "EDGE"
    assert scoring.verdict((against(0.01), against(0.0)), Range(0.1, 0.01, 0.2))[0] == "NO EDGE"
    assert scoring.verdict((against(0.01),), Range(0.1, -0.01, 0.2))[0] == "NO EDGE"


@pytest.mark.skipif(not MARKET.is_dir(), reason="the recorded market data is not on this machine")
def test_recorded_hourly_candles_show_no_edge():
    table, interval = candles.read(MARKET / "ETH_BTC-1h.csv")
    assert interval == "1h"
    record = method.backtest(method.history(table, interval, 6))
    assert record.verdict == "NO EDGE"
    assert record.tested > 200


def test_candles_from_a_file_are_indexed_by_their_close(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("date,open,high,low,close,volume\n2024-01-01T01:00:00Z,1,2,1,2,3\n2024-01-01T00:00:00Z,1,1,1,1,3\n")
    table, interval = candles.read(path)
    assert interval == "1h"
    assert table.index[0].isoformat() == "2024-01-01T01:00:00+00:00"
    assert table["close"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b\n1,2\n", "no column"),
        ("date,open,high,low,close,volume\nyesterday,1,1,1,1,1\n", "yesterday"),
        ("date,open,high,low,close,volume\n2024-01-01,1,1,1,,1\n2024-01-02,1,1,1,1,1\n", "close"),
        ("date,open,high,low,close,volume\n2024-01-01T00:00Z,1,1,1,1,1\n2024-01-01T00:07Z,1,1,1,1,1\n", "known are"),
        ("", "no columns"),
    ],
)
def test_a_file_that_is_not_candles_is_refused(tmp_path, text, why):
    path = tmp_path / "c.csv"
    path.write_text(text)
    with pytest.raises(BadDatasetError) as raised:
        candles.read(path)
    assert why.casefold() in str(raised.value).casefold()
