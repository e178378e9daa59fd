import math
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from qaicl.oracle.risk.inputs import market
from qaicl.oracle.risk.measures import drawdown, log_returns, realised_volatility, value_at_risk


def test_volatility_of_a_known_walk() -> None:
    # Returns of exactly ±1 %: the root mean square is 1 % a bar, 24 bars a day and 365 days a year.
    closes = 100 * np.exp(np.cumsum(np.tile([0.01, -0.01], 100)))
    assert realised_volatility(closes, 24) == pytest.approx(math.sqrt(24 * 365))


def test_volatility_matches_the_scale_of_a_gaussian_walk() -> None:
    rng = np.random.default_rng(7)
    closes = 5 * np.exp(np.cumsum(rng.normal(0, 0.8 / math.sqrt(24 * 365), 20_000)))
    assert realised_volatility(closes, 24) == pytest.approx(80, rel=0.03)


def test_too_few_prices_make_no_estimate() -> None:
    assert realised_volatility(np.ones(10), 24) is None
    assert value_at_risk(np.ones(30), 24) == (None, None)
    assert drawdown(np.array([])) is None


def test_drawdown_is_measured_from_the_highest_price() -> None:
    assert drawdown(np.array([10.0, 20.0, 15.0])) == pytest.approx(25)
    assert drawdown(np.array([10.0, 20.0, 25.0])) == 0


def test_historical_var_and_es_of_known_losses() -> None:
    # Daily bars: a hundred returns, five of them -10 %, the rest +1 %.
    returns = np.full(100, 0.01)
    returns[::20] = math.log(0.9)
    closes = 100 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))
    var, es = value_at_risk(closes, 1, level=0.96)
    assert var == pytest.approx(10)
    assert es == pytest.approx(10)


def test_shortfall_is_never_below_value_at_risk_and_no_loss_is_zero() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        var, es = value_at_risk(np.exp(np.cumsum(rng.standard_t(3, 500) * 0.02)), 24)
        assert var is not None and es is not None
        assert 0 <= var <= es
    assert value_at_risk(np.exp(np.arange(100) * 0.01), 1) == (0.0, 0.0)
    assert value_at_risk(np.repeat([1e-290, 1e290], 24), 24) == (0.0, 0.0)


def test_unusable_prices_are_left_out() -> None:
    assert log_returns(np.array([1.0, math.nan, 0.0, -3.0, math.e])) == pytest.approx([1.0])


def test_lacking_bars_make_the_market_no_wilder() -> None:
    rng = np.random.default_rng(0)
    closes = np.exp(np.cumsum(rng.normal(0, 0.01, 720)))
    index = pd.date_range("2026-01-01", periods=720, freq="h", tz="UTC")
    whole = pd.DataFrame({"close": closes, "volume": 1.0}, index=index)
    kept = rng.random(720) < 0.4
    kept[[0, -1]] = True
    thin = whole[kept]
    hour = timedelta(hours=1)
    found, expected = market(thin, hour), market(whole, hour)
    for name in ("volatility", "value_at_risk", "expected_shortfall"):
        assert found[name] == pytest.approx(expected[name], rel=0.1)
    # Few bars over many days are still few.
    assert market(whole.iloc[::36], hour)["value_at_risk"] is None
    assert market(whole.iloc[::10], hour)["volatility"] is None
