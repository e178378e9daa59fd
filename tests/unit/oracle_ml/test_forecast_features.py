"""Features know nothing of the future, outcomes nothing of the past."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from qaicl.oracle.forecast import features
from qaicl.oracle.observations import NetworkStats


def walk(bars=200, seed=3):
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, bars)))
    index = pd.date_range("2024-01-01", periods=bars, freq="1h", tz="UTC")
    return pd.DataFrame(
        {
            "open": close,
            "high": close * 1.01,
            "low": close * 0.99,
            "close": close,
            "volume": random.uniform(1, 9, bars),
        },
        index=index,
    )


@pytest.mark.parametrize("bars", [51, 80, 199])
def test_later_bars_change_no_earlier_feature(bars):
    whole = features.technical(walk())
    pd.testing.assert_frame_equal(features.technical(walk().iloc[:bars]), whole.iloc[:bars], rtol=1e-9)


def test_after_the_warm_up_every_feature_is_a_number():
    table = features.technical(walk())
    assert list(table.columns) == list(features.TECHNICAL)
    assert table.iloc[: features.WARM_UP].isna().all().all()
    assert np.isfinite(table.iloc[features.WARM_UP :].to_numpy()).all()


def test_a_market_that_stands_still_gives_numbers_too():
    frame = walk()
    frame[["open", "high", "low", "close"]] = 1.0
    frame["volume"] = 0.0
    assert np.isfinite(features.technical(frame).iloc[features.WARM_UP :].to_numpy()).all()


def test_the_outcome_is_the_return_over_the_horizon():
    frame = walk()
    ahead = features.outcome(frame, 3)
    assert ahead.iloc[10] == pytest.approx(np.log(frame["close"].iloc[13] / frame["close"].iloc[10]))
    assert ahead.iloc[-3:].isna().all()
    assert ahead.iloc[:-3].notna().all()


def test_a_missing_bar_repeats_the_last_close_without_volume():
    frame = walk(10)
    filled = features.regular(frame.drop(frame.index[4]), "1h")
    assert list(filled.index) == list(frame.index)
    assert filled["volume"].iloc[4] == 0.0
    assert (filled.iloc[4][["open", "high", "low", "close"]] == frame["close"].iloc[3]).all()


def test_fundamentals_are_those_known_at_the_bar():
    start = datetime(2024, 1, 1, tzinfo=UTC)
    index = pd.date_range(start, periods=10 * 24, freq="1h")
    mood = [(start + timedelta(days=day), float(10 * day)) for day in range(10)]
    network = [
        NetworkStats(
            source="rpc",
            asset="qubic",
            observed_at=start + timedelta(days=day),
            fetched_at=start,
            sha256="",
            active_addresses=1000 * 2**day,
        )
        for day in (0, 8)
    ]
    table = features.fundamental(index, mood, network)
    assert table["fear_greed"].iloc[23] == 0.0
    assert table["fear_greed"].iloc[24] == 10.0
    assert np.isnan(table["fear_greed_change"].iloc[7 * 24 - 1])
    assert table["fear_greed_change"].iloc[8 * 24] == 70.0
    assert table["active_addresses"].iloc[8 * 24 - 1] == 0.0
    assert table["active_addresses"].iloc[8 * 24] == pytest.approx(np.log(256))
    assert table["tick_quality"].isna().all()
