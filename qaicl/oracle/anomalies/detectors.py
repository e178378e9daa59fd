"""What may be odd about the next number of a stream: small detectors, one a class, all causal.

Each has ``update(seconds, value)`` (seconds since any epoch) that returns how far off the value is, in a unit of its
own, against what came before, and then learns from it. ``reason`` says in words what a large number means.
"""

from __future__ import annotations

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
        smooth: values whose distances are averaged; more see longer and smaller departures.
    """

    SLOT: ClassVar[float] = 900.0

    def __init__(self, rate: float = 0.15, smooth: int = 1) -> None:
        self.name = "daily-profile" if smooth == 1 else f"daily-profile-{smooth}"
        self.reason = "unusual for the time of day" if smooth == 1 else "unusual for this time of day, for a while"
        self._rate = rate
        self._offs = _Mean(smooth)
        slots = int(DAY / self.SLOT)
        self._mean: NDArray[np.float64] = np.zeros(slots)
        self._count: NDArray[np.int64] = np.zeros(slots, dtype=np.int64)
        self._last = float("nan")

    def update(self, seconds: float, value: float) -> float:
        """Absolute distance to the slot's running mean, averaged over the last ``smooth`` values."""
        slot = int(seconds % DAY / self.SLOT) % len(self._mean)
        step = seconds - self._last if self._last == self._last else self.SLOT
        self._last = seconds
        seen = int(self._count[slot])
        self._count[slot] += 1
        if not seen:
            self._mean[slot] = value
            return self._offs.update(0.0)
        off = abs(value - float(self._mean[slot]))
        # Several values share a slot where the stream is finer than one: together they move it by one rate a day.
        share = min(1.0, max(step, 0.0) / self.SLOT)
        self._mean[slot] += max(self._rate, 1 / (seen + 1)) * share * (value - self._mean[slot])
        return self._offs.update(off)


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


class Neighbours:
    """Distance of the last values, as one point, to the nearest points of the recent past (k-NN conformal idea).

    After Burnaev and Ishimtsev, "Conformalized density- and distance-based anomaly detection in time-series data"
    (2016), with plain Euclidean distance.
    """

    name = "neighbours"
    reason = "a pattern not seen lately"

    def __init__(self, length: int = 19, memory: int = 700, nearest: int = 27) -> None:
        self._length = length
        self._memory = memory
        self._nearest = nearest
        self._values: NDArray[np.float64] = np.zeros(4 * memory)
        self._count = 0

    def update(self, seconds: float, value: float) -> float:
        """Mean distance to the nearest earlier points; 0 until enough are known."""
        if self._count == len(self._values):
            keep = self._memory + self._length
            self._values[:keep] = self._values[-keep:]
            self._count = keep
        self._values[self._count] = value
        self._count += 1
        # Points that overlap the present one by more than half would always be near.
        end = self._count - self._length // 2
        start = max(0, end - self._memory - self._length)
        if end - start < self._length + 2 * self._nearest:
            return 0.0
        points = np.lib.stride_tricks.sliding_window_view(self._values[start:end], self._length)
        gaps = points - self._values[self._count - self._length : self._count]
        distances = np.einsum("ij,ij->i", gaps, gaps)
        return float(np.sqrt(np.partition(distances, self._nearest)[: self._nearest]).mean())


class Drift:
    """Distance of a short mean to a slow exponential mean."""

    def __init__(self, span: float, short: int = 1) -> None:
        self.name = f"drift-{short}-{span:.0f}"
        self.reason = "away from its recent mean" if short == 1 else "its mean has moved"
        self._alpha = 2 / (span + 1)
        self._short = _Mean(short)
        self._weighted = 0.0
        self._weight = 0.0

    def update(self, seconds: float, value: float) -> float:
        """Absolute distance; the mean is bias-corrected while young."""
        mean = self._short.update(value)
        off = abs(mean - self._weighted / self._weight) if self._weight else 0.0
        self._weighted = (1 - self._alpha) * self._weighted + mean
        self._weight = (1 - self._alpha) * self._weight + 1
        return off


class Level:
    """Distance to the mean of everything seen."""

    name = "level"
    reason = "far from its long-run level"

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def update(self, seconds: float, value: float) -> float:
        """Absolute distance to the running mean."""
        off = abs(value - self._sum / self._count) if self._count else 0.0
        self._sum += value
        self._count += 1
        return off


class MeanShift:
    """Jump of the last values' mean against the longer window before them, in that window's deviations."""

    name = "mean-shift"
    reason = "the level has shifted"

    def __init__(self, after: int = 20, before: int = 200) -> None:
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
        return float(max(0.0, self._squares / n - self.mean**2) ** 0.5)
