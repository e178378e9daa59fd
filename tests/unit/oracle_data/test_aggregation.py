"""A figure out of many sources: what it says, and that one liar cannot move it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaicl.oracle.aggregation import aggregate, split_outliers
from qaicl.oracle.observations import Figure, Kind, Observation, State

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)


def said(source: str, value: float | None, *, age: float = 60.0, unit: str = "USD") -> Observation:
    at = NOW - timedelta(seconds=age)
    return Observation(
        source=source,
        kind=Kind.price,
        asset="qubic",
        metric="price",
        observed_at=at,
        fetched_at=at,
        sha256=source * 8,
        value=value,
        unit=unit,
    )


def price(*observations: Observation, min_sources: int = 2) -> Figure:
    return aggregate("price", observations, now=NOW, max_age=3600, min_sources=min_sources)


def test_agreeing_sources_make_a_fresh_median_with_its_interval() -> None:
    figure = price(said("a", 1.00), said("b", 1.004), said("c", 1.002, age=300))
    assert (figure.value, figure.low, figure.high) == (1.002, 1.00, 1.004)
    assert figure.state is State.fresh
    assert figure.sources == ("a", "b", "c")
    assert figure.age == 300
    assert figure.reasons == ()


def test_one_lying_source_is_left_out_and_named() -> None:
    figure = price(said("a", 1.0), said("b", 1.001), said("c", 1.002), said("liar", 7.0))
    assert figure.high == 1.002
    assert "liar" not in figure.sources
    assert figure.state is State.fresh
    assert any("liar left out" in reason for reason in figure.reasons)


def test_identical_sources_still_expose_the_liar() -> None:
    figure = price(said("a", 1.0), said("b", 1.0), said("liar", 2.0))
    assert figure.value == 1.0
    assert figure.sources == ("a", "b")


def test_too_few_sources_are_degraded_and_said() -> None:
    figure = price(said("a", 1.0))
    assert figure.state is State.degraded
    assert "1 of at least 2 sources" in figure.reasons


def test_two_sources_that_disagree_are_degraded() -> None:
    figure = price(said("a", 1.0), said("b", 1.1))
    assert figure.state is State.degraded
    assert (figure.low, figure.high) == (1.0, 1.1)
    assert any("disagree" in reason for reason in figure.reasons)


def test_a_late_source_is_left_out_while_others_are_in_time() -> None:
    figure = price(said("a", 1.0), said("b", 1.0), said("late", 0.5, age=7200))
    assert figure.sources == ("a", "b")
    assert any(reason.startswith("late left out: 7200 s old") for reason in figure.reasons)


def test_a_source_may_have_a_staleness_limit_of_its_own() -> None:
    observations = [said("slow", 1.0, age=7200), said("quick", 1.0, age=1200), said("b", 1.0)]
    limits = {"slow": 10_000.0, "quick": 600.0}
    figure = aggregate("price", observations, now=NOW, max_age=3600, source_max_age=limits)
    assert figure.sources == ("b", "slow")
    assert "quick left out: 1200 s old, limit 600 s" in figure.reasons


def test_when_all_are_late_the_last_known_value_is_stale() -> None:
    figure = price(said("a", 1.0, age=7200), said("b", 1.01, age=7300), said("ancient", 5.0, age=90_000))
    assert figure.state is State.stale
    assert figure.sources == ("a", "b")
    assert figure.age == 7300


def test_nothing_known_is_missing_not_an_error() -> None:
    figure = price()
    assert figure.state is State.missing
    assert figure.value is None


def test_an_observation_from_the_future_is_not_believed() -> None:
    figure = price(said("a", 1.0), said("b", 1.0), said("clock", 9.0, age=-4000))
    assert figure.sources == ("a", "b")
    assert any("in the future" in reason for reason in figure.reasons)


def test_only_the_newest_of_a_source_counts() -> None:
    assert price(said("a", 9.0, age=100), said("a", 1.0, age=50), said("b", 1.0)).value == 1.0


def test_usdt_counts_as_usd_and_it_is_said_while_another_unit_is_left_out() -> None:
    figure = price(said("a", 1.0), said("b", 1.0, unit="USDT"), said("c", 0.00001, unit="BTC"))
    assert figure.sources == ("a", "b")
    assert "USDT counted as USD" in figure.reasons
    assert any(reason.startswith("c left out: in BTC") for reason in figure.reasons)


def test_dollars_win_where_as_many_use_another_unit() -> None:
    assert price(said("a", 1.0), said("b", 0.00001, unit="BTC")).unit == "USD"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_value_that_is_none_never_enters(value: float | None) -> None:
    assert price(said("a", 1.0), said("b", 1.0), said("c", value)).sources == ("a", "b")


@given(
    honest=st.lists(st.floats(0.999, 1.001), min_size=3, max_size=9),
    lie=st.floats(0, 1e12),
)
def test_no_single_source_moves_the_value_out_of_the_honest_interval(honest: list[float], lie: float) -> None:
    observations = [said(f"s{i}", value) for i, value in enumerate(honest)]
    figure = price(*observations, said("liar", lie))
    assert figure.value is not None
    assert min(honest) <= figure.value <= max(honest)


@given(st.lists(st.floats(0.1, 1e9), min_size=1, max_size=20))
def test_most_values_are_always_kept(values: list[float]) -> None:
    keep, outliers = split_outliers(values)
    assert sorted(keep + outliers) == list(range(len(values)))
    assert len(keep) > len(values) / 2 or len(values) < 3
