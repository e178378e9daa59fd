import numpy as np
import pytest

from qaicl.oracle.anomalies.correlation import JointDetector


def twins(n: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    first = rng.normal(0, 1, n)
    return np.column_stack([first, first + rng.normal(0, 0.1, n), rng.normal(0, 1, n)])


def test_a_broken_correlation_is_found_that_no_single_series_shows() -> None:
    values = twins(800)
    values[700] = [1.5, -1.5, 0.0]
    detector = JointDetector(3)
    verdicts = [detector.update(list(row)) for row in values]
    assert verdicts[700].surprise > 6
    assert max(abs(d) for d in verdicts[700].deviations) < 2, "each value alone is ordinary"
    assert max(v.surprise for v in verdicts[200:700]) < 6
    assert verdicts[700].shares[0] + verdicts[700].shares[1] > 0.9


def test_shares_sum_to_one_once_learnt() -> None:
    detector = JointDetector(3, learn=20)
    verdicts = [detector.update(list(row)) for row in twins(100)]
    assert all(sum(v.shares) == pytest.approx(1) for v in verdicts[20:])


def test_it_is_causal_and_passes_over_what_is_no_number() -> None:
    values = twins(300)
    plain, holed = JointDetector(3), JointDetector(3)
    for i, row in enumerate(values):
        if i % 40 == 7:
            assert holed.update([np.nan, 1.0, 1.0]).surprise == 0
        assert plain.update(list(row)) == holed.update(list(row))


def test_constant_series_are_no_error() -> None:
    detector = JointDetector(2, learn=10)
    assert all(detector.update([5.0, 0.0]).surprise == 0 for _ in range(300))


def test_it_wants_two_dimensions_and_as_many_values() -> None:
    with pytest.raises(ValueError, match="at least two"):
        JointDetector(1)
    with pytest.raises(ValueError, match="2 values where 3"):
        JointDetector(3).update([1.0, 2.0])
