"""Several series at once: values that are each ordinary and together are not.

The squared Mahalanobis distance of the newest vector under running means and covariances, judged against its own past.
It sees a broken correlation (two series that always move together move apart) that no single series shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from qaicl.oracle.anomalies.tail import TailSurprise

SHRINKAGE = 0.05
"""Share of the diagonal mixed into the correlations, so that nearly collinear series stay invertible."""


class JointVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the joint detector says about one vector."""

    surprise: float
    """−log10 of the tail probability of the distance; 0 is ordinary."""
    shares: tuple[float, ...]
    """Each dimension's share in the distance; they sum to 1 (a negative one pulls towards the usual)."""
    deviations: tuple[float, ...]
    """Each dimension's distance to its running mean, in its running standard deviations."""


class JointDetector:
    """Watches a stream of vectors.

    Args:
        dimensions: numbers in a vector; at least 2.
        span: values over which means and covariances are averaged exponentially.
        learn: vectors before the first judgement.
    """

    def __init__(self, dimensions: int, span: float = 240.0, learn: int = 60) -> None:
        if dimensions < 2:
            raise ValueError("a joint detector needs at least two series")
        self._alpha = 2 / (span + 1)
        self._learn = learn
        self._seen = 0
        self._mean: NDArray[np.float64] = np.zeros(dimensions)
        self._covariance: NDArray[np.float64] = np.zeros((dimensions, dimensions))
        self._tail = TailSurprise(learn=learn, ceiling=12.0)

    def update(self, values: Sequence[float]) -> JointVerdict:
        """Judge the newest vector, then learn from it; one with a value that is not finite is passed over."""
        vector = np.asarray(values, dtype=np.float64)
        size = len(self._mean)
        ordinary = JointVerdict(surprise=0.0, shares=(0.0,) * size, deviations=(0.0,) * size)
        if vector.shape != self._mean.shape:
            raise ValueError(f"{len(vector)} values where {size} were expected")
        if not np.isfinite(vector).all():
            return ordinary
        verdict = self._judge(vector) if self._seen >= self._learn else ordinary
        # Equal weights while young, exponential ones later.
        alpha = max(self._alpha, 1 / (self._seen + 1))
        gap = vector - self._mean
        self._mean = self._mean + alpha * gap
        self._covariance = (1 - alpha) * (self._covariance + alpha * np.outer(gap, gap))
        self._seen += 1
        return verdict

    def _judge(self, vector: NDArray[np.float64]) -> JointVerdict:
        deviation = np.sqrt(np.diag(self._covariance))
        deviation = np.maximum(deviation, 1e-9 * np.maximum(np.abs(self._mean), 1e-3))
        z = (vector - self._mean) / deviation
        correlation = self._covariance / np.outer(deviation, deviation)
        correlation = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(z))
        parts = z * np.linalg.solve(correlation, z)
        distance = float(parts.sum())
        shares = parts / distance if distance > 0 else np.zeros(len(z))
        return JointVerdict(
            surprise=self._tail.update(distance),
            shares=tuple(float(share) for share in shares),
            deviations=tuple(float(d) for d in z),
        )
