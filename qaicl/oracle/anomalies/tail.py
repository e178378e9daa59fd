"""How surprising a number is, judged by a stream's own past: a streaming tail probability.

Detectors measure in units of their own. What makes them comparable, and one alarm threshold usable for every stream,
is the probability of a value at least as large under the stream's history. Ordinary values are counted; beyond a
high quantile the excesses are modelled (peaks over threshold; Siffer et al., "Anomaly Detection in Streams with
Extreme Value Theory", KDD 2017), here with a one-parameter tail that needs few excesses.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class History:
    """The last ``size`` numbers of a stream, in a ring."""

    def __init__(self, size: int) -> None:
        self._ring: NDArray[np.float64] = np.zeros(min(size, 256))
        self._size = size
        self.count = 0
        """Numbers seen in all."""

    def append(self, value: float) -> None:
        """Add the newest number, dropping the oldest when full."""
        if self.count == len(self._ring) < self._size:
            grown = np.zeros(min(2 * len(self._ring), self._size))
            grown[: self.count] = self._ring
            self._ring = grown
        self._ring[self.count % len(self._ring)] = value
        self.count += 1

    def values(self) -> NDArray[np.float64]:
        """What is kept, in no particular order."""
        return self._ring[: min(self.count, len(self._ring))]


class TailSurprise:
    """Turns a stream of non-negative "how far off" numbers into surprise: −log10 of the tail probability.

    0 is ordinary, 2 one in a hundred, 4 one in ten thousand. Bounded memory; the tail is refitted every
    ``refresh`` numbers.

    Args:
        quantile: where the tail begins.
        memory: numbers remembered.
        learn: numbers before the first judgement.
        refresh: numbers between two fits.
        ceiling: surprise is cut here, so that one detector cannot outshout all others together.
    """

    def __init__(
        self,
        quantile: float = 0.98,
        memory: int = 20_000,
        learn: int = 100,
        refresh: int = 20,
        ceiling: float = 6.0,
    ) -> None:
        self._quantile = quantile
        self._learn = learn
        self._refresh = refresh
        self._ceiling = ceiling
        self._history = History(memory)
        self._threshold = 0.0
        self._share = 0.0
        self._scale = 0.0

    def update(self, value: float) -> float:
        """Judge the number against the past, then remember it."""
        seen = self._history.count
        surprise = 0.0
        if seen >= self._learn:
            if (seen - self._learn) % self._refresh == 0:
                self._fit()
            surprise = self._judge(value)
        self._history.append(value)
        return surprise

    def _fit(self) -> None:
        values = self._history.values()
        threshold = float(np.quantile(values, self._quantile))
        excesses = values[values > threshold] - threshold
        self._threshold = threshold
        self._share = len(excesses) / len(values)
        self._scale = float(excesses.mean()) if len(excesses) >= 3 else 0.0

    def _judge(self, value: float) -> float:
        excess = value - self._threshold
        if not excess > 0:
            return 0.0
        if self._scale <= 0:
            # The past is flat, so it has no scale: anything beyond it is rare, and how rare cannot be said.
            return min(3.0, self._ceiling)
        return min(self._ceiling, -math.log10(self._share) + excess / self._scale / math.log(10))
