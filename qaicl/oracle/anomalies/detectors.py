"""What may be odd about the next number of a stream: small detectors, one a class, all causal.

Each has ``update(seconds, value)`` (seconds since any epoch) that returns how far off the value is, in a unit of its
own, against what came before, and then learns from it. ``reason`` says in words what a large number means.
"""

from __future__ import annotations

import math
from collections import deque
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

DAY = 86_400.0


class Detector(Protocol):
    """One way to look at a stream."""

    @property
    def name(self) -> str:
        """Short, for logs and JSON."""
        ...

    @property
    def reason(self) -> str:
        """What a large number means, in words."""
        ...

    def update(self, seconds: float, value: float) -> float:
        """How far off the value is; at least 0."""
        ...


class RangeBreak:
    """How far a value lies outside everything seen, as a share of the range seen."""

    name = "range"
    reason = "outside everything seen before"
    SETTLE: ClassVar[int] = 50

    def __init__(self) -> None:
        self._low = self._high = float("nan")
        self._count = 0

    def update(self, seconds: float, value: float) -> float:
        """Share of the range by which the value breaks out of it; 0 while the range is young."""
        if self._low != self._low:
            self._low = self._high = value
        self._count += 1
        off = 0.0
        if self._count > self.SETTLE:
            size = max(self._high - self._low, 1e-3 * abs(self._high), 1e-12)
            off = max(value - self._high, self._low - value, 0.0) / size
        self._low, self._high = min(self._low, value), max(self._high, value)
        return off


class DailyProfile:
    """Distance to what is usual at this time of day, in slots of 15 minutes.

    Args:
        rate: how fast the profile follows, a day.
    """

    name = "daily-profile"
    reason = "unusual for the time of day"
    SLOT: ClassVar[float] = 900.0

    def __init__(self, rate: float = 0.15) -> None:
        self._rate = rate
        slots = int(DAY / self.SLOT)
        self._mean: NDArray[np.float64] = np.zeros(slots)
        self._count: NDArray[np.int64] = np.zeros(slots, dtype=np.int64)
        self._last = float("nan")

    def update(self, seconds: float, value: float) -> float:
        """Absolute distance to the slot's running mean."""
        return abs(self._learn(seconds, value)[-1])

    def _learn(self, seconds: float, value: float) -> tuple[int, int, float, float]:
        """Move the slot's mean towards the value.

        Returns:
            The slot, the values it had before, the weight of this one and its distance to the mean before it.
        """
        slot = int(seconds % DAY / self.SLOT) % len(self._mean)
        step = seconds - self._last if self._last == self._last else self.SLOT
        self._last = seconds
        seen = int(self._count[slot])
        self._count[slot] += 1
        if not seen:
            self._mean[slot] = value
            return slot, seen, 1.0, 0.0
        off = value - float(self._mean[slot])
        # Several values share a slot where the stream is finer than one: together they move it by one rate a day.
        weight = max(self._rate, 1 / (seen + 1)) * min(1.0, max(step, 0.0) / self.SLOT)
        self._mean[slot] += weight * off
        return slot, seen, weight, off


class DailyDeviation(DailyProfile):
    """The same in the deviations usual at that time of day: a busy hour may stray further than a quiet one.

    Distances are between asinh(value / unit), with a unit of 0.3 of the stream's mean size: linear near 0, logarithmic
    far from it. So counts and costs, which stray in proportion to their size, compare at all levels.
    """

    name = "daily-deviation"
    UNIT: ClassVar[float] = 0.3
    MEMORY: ClassVar[int] = 8_000
    """Span of the exponential mean of all deviations, in values."""
    PRIOR: ClassVar[int] = 3
    """Values for which that mean counts in a slot's own."""

    def __init__(self, rate: float = 0.15) -> None:
        super().__init__(rate)
        self._size = 0.0
        self._seen = 0
        self._usual = _Exponential(self.MEMORY)
        self._deviation: NDArray[np.float64] = np.zeros_like(self._mean)

    def update(self, seconds: float, value: float) -> float:
        """Absolute distance over the slot's mean deviation, which leans on the whole day's while the slot is young."""
        self._seen += 1
        self._size += (abs(value) - self._size) / self._seen
        unit = self.UNIT * self._size
        slot, seen, weight, off = self._learn(seconds, value)
        if not seen or not unit > 0:
            return 0.0
        off = math.asinh(value / unit) - math.asinh((value - off) / unit)
        known = min(seen, 1 / self._rate)
        deviation = (known * float(self._deviation[slot]) + self.PRIOR * self._usual.mean) / (known + self.PRIOR)
        self._deviation[slot] += weight * (abs(off) - self._deviation[slot])
        self._usual.update(abs(off))
        return abs(off) / (deviation + 1e-9) if deviation > 0 else 0.0


class SameTimeBefore:
    """Distance to the nearest value around the same time one, two, three or seven days ago."""

    name = "days-before"
    reason = "unlike the same time on the days before"
    SLACK: ClassVar[int] = 2
    SETTLE: ClassVar[int] = 50

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._last = float("nan")
        self._lag = 0
        self._smooth = _Mean(1)
        self._offs = _Mean(1)
        self._past: deque[float] = deque(maxlen=1)

    def update(self, seconds: float, value: float) -> float:
        """Mean of the last half hour's distances; 0 until two days are known."""
        if self._lag == 0:
            self._settle(seconds)
        if self._lag < 4:
            return 0.0
        smooth = self._smooth.update(value)
        off = 0.0
        if len(self._past) >= self._lag + self.SLACK:
            off = float("inf")
            for days in (1, 2, 3, 7):
                centre = len(self._past) - days * self._lag
                if centre - self.SLACK < 0:
                    break
                around = (self._past[i] for i in range(centre - self.SLACK, centre + self.SLACK + 1))
                off = min(off, min(abs(smooth - before) for before in around))
        self._past.append(smooth)
        return self._offs.update(off)

    def _settle(self, seconds: float) -> None:
        """Learn the stream's step from its first values."""
        if self._last == self._last:
            self._steps.append(seconds - self._last)
        self._last = seconds
        if len(self._steps) == self.SETTLE:
            step = max(float(np.median(self._steps)), 1.0)
            self._lag = int(DAY // step)
            self._smooth, self._offs = _Mean(max(1, self._lag // 96)), _Mean(max(1, self._lag // 48))
            self._past = deque(maxlen=max(1, 7 * self._lag + self.SLACK + 1))


class Drift:
    """Distance of a value to a slow exponential mean.

    Args:
        span: values over which the mean mostly reaches.
    """

    reason = "away from its recent mean"

    def __init__(self, span: float) -> None:
        self.name = f"drift-{span:.0f}"
        self._mean = _Exponential(span)

    def update(self, seconds: float, value: float) -> float:
        """Absolute distance to the mean before it."""
        off = abs(value - self._mean.mean) if self._mean.known else 0.0
        self._mean.update(value)
        return off


class Variation:
    """How much the stream moves from value to value, against how much it usually does.

    Args:
        size: steps whose mean is compared.
        span: values over which the usual mean mostly reaches.
    """

    name = "variation"
    reason = "far more or far less restless than usual"

    def __init__(self, size: int = 30, span: float = 600) -> None:
        self._size = size
        self._last = float("nan")
        self._recent = _Mean(size)
        self._usual = _Exponential(span)

    def update(self, seconds: float, value: float) -> float:
        """Absolute logarithm of the ratio of the mean steps; 0 until ``size`` are known."""
        recent = self._recent.update(abs(value - self._last) if self._last == self._last else 0.0)
        self._last = value
        off = 0.0
        if self._recent.count == self._size and self._usual.mean > 0:
            # A thousandth of the usual step keeps the logarithm finite where the stream stands still.
            off = abs(math.log((max(recent, 0.0) / self._usual.mean + 1e-3) / 1.001))
        self._usual.update(recent)
        return off


class MeanShift:
    """Jump of the last values' mean against the longer window before them, in that window's deviations."""

    reason = "the level has shifted"

    def __init__(self, after: int, before: int) -> None:
        self.name = f"mean-shift-{after}-{before}"
        self._after = _Mean(after)
        self._before = _Mean(before)
        self._recent: deque[float] = deque(maxlen=after)
        self._size = _Mean(10_000)

    def update(self, seconds: float, value: float) -> float:
        """Absolute jump over the deviation before it; 0 until both windows have values."""
        if len(self._recent) == self._recent.maxlen:
            self._before.update(self._recent[0])
        self._recent.append(value)
        after = self._after.update(value)
        floor = 1e-3 * self._size.update(abs(value)) + 1e-12
        if self._before.count < len(self._recent):
            return 0.0
        return abs(after - self._before.mean) / (self._before.deviation + floor)


class _Exponential:
    """Exponential mean of all values, unbiased while young."""

    def __init__(self, span: float) -> None:
        self._keep = 1 - 2 / (span + 1)
        self._sum = 0.0
        self._weight = 0.0

    def update(self, value: float) -> None:
        self._sum = self._keep * self._sum + value
        self._weight = self._keep * self._weight + 1

    @property
    def known(self) -> bool:
        return self._weight > 0

    @property
    def mean(self) -> float:
        return self._sum / self._weight if self._weight else 0.0


class _Mean:
    """Mean and deviation of the last ``size`` values."""

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._sum = 0.0
        self._squares = 0.0
        self._updates = 0

    def update(self, value: float) -> float:
        """Add a value and return the mean."""
        if len(self._values) == self._values.maxlen:
            oldest = self._values[0]
            self._sum -= oldest
            self._squares -= oldest * oldest
        self._values.append(value)
        self._sum += value
        self._squares += value * value
        self._updates += 1
        if self._updates % 4096 == 0:
            # Adding and subtracting for ever would let rounding grow.
            self._sum = sum(self._values)
            self._squares = sum(v * v for v in self._values)
        return self.mean

    @property
    def count(self) -> int:
        return len(self._values)

    @property
    def mean(self) -> float:
        return self._sum / len(self._values)

    @property
    def deviation(self) -> float:
        n = len(self._values)
        return float(max(0.0, self._squares / n - self.mean * self.mean) ** 0.5)
