import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaicl.oracle.risk.assessment import HIGH_FROM, MEDIUM_FROM, Level, assess, level_of
from qaicl.oracle.risk.factors import BY_NAME, FACTORS, GROUP_WEIGHTS, Factor, Group


def measured(factor: Factor) -> st.SearchStrategy[float]:
    low, high = sorted((factor.calm, factor.alarming))
    return st.floats(min_value=low - (high - low) if not factor.logarithmic else low / 100, max_value=high * 3)


inputs = st.fixed_dictionaries({factor.name: st.none() | measured(factor) for factor in FACTORS})
CALM = {factor.name: float(factor.calm) for factor in FACTORS}
ALARMING = {factor.name: float(factor.alarming) for factor in FACTORS}


@given(inputs, st.sampled_from(FACTORS), st.data())
@settings(max_examples=400, deadline=None)
def test_worse_input_never_lowers_the_score(
    values: dict[str, float | None], factor: Factor, data: st.DataObject
) -> None:
    low, high = sorted(data.draw(st.tuples(measured(factor), measured(factor))))
    better, worse = (low, high) if factor.alarming > factor.calm else (high, low)
    assert assess({**values, factor.name: better}).score <= assess({**values, factor.name: worse}).score + 1e-9


@given(inputs)
@settings(max_examples=200, deadline=None)
def test_score_and_level_always_fit_together(values: dict[str, float | None]) -> None:
    result = assess(values)
    assert 0 <= result.score <= 100
    assert result.level is level_of(result.score)
    assert all(factor.points >= 40 for factor in result.factors if factor.name in result.key_risks)


def test_calm_everywhere_is_zero_and_alarming_everywhere_is_a_hundred() -> None:
    assert assess(CALM).score == 0
    assert assess(CALM).level is Level.low
    assert assess(ALARMING).score == pytest.approx(100)
    assert assess(ALARMING).level is Level.high


def test_not_knowing_is_not_being_safe() -> None:
    unknown = assess({})
    assert unknown.level is Level.medium
    assert unknown.score == pytest.approx(50)
    assert not any(factor.measured for factor in unknown.factors)
    assert Group.network not in {group.group for group in unknown.groups}, "nothing of a network is expected"


def test_one_burning_group_is_not_averaged_away() -> None:
    burning = CALM | {factor.name: float(factor.alarming) for factor in FACTORS if factor.group is Group.network}
    assert assess(burning).level is Level.high


def test_key_risks_come_worst_first_with_advice() -> None:
    result = assess(CALM | {"volatility": 400.0, "drawdown": 30.0})
    assert result.key_risks == ("volatility", "drawdown")
    assert result.recommendations == (BY_NAME["volatility"].advice, BY_NAME["drawdown"].advice)


def test_alerting_starts_at_its_threshold() -> None:
    score = assess(ALARMING | {"volatility": 30.0}).score
    assert assess(ALARMING | {"volatility": 30.0}, alert_from=score).alerting
    assert not assess(ALARMING | {"volatility": 30.0}, alert_from=score + 0.01).alerting


def test_an_unknown_factor_or_a_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="no such risk factor: luck"):
        assess({"luck": 1.0})
    with pytest.raises(ValueError, match="volatility is not a number"):
        assess({"volatility": float("nan")})


def test_weights_sum_to_one() -> None:
    assert sum(GROUP_WEIGHTS.values()) == pytest.approx(1)
    for group in (Group.market, Group.technical):
        assert sum(factor.weight for factor in FACTORS if factor.group is group) == pytest.approx(1)
    assert MEDIUM_FROM < HIGH_FROM
