"""The detector of one series: several views, each calibrated against the stream's own past, added up.

Strictly streaming: :meth:`StreamDetector.update` sees one value at a time, and what it says about a value depends on
that value and those before it only. One set of parameters for every stream; no labels, no training.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime

import msgspec

from qaicl.oracle.anomalies.detectors import (
    DailyDeviation,
    DailyProfile,
    Detector,
    Drift,
    MeanShift,
    RangeBreak,
    SameTimeBefore,
    Variation,
)
from qaicl.oracle.anomalies.tail import TailSurprise
from qaicl.oracle.observations import utc

METHOD = "stream-2"
"""Changes whenever a detector or a parameter does."""
NOTABLE = 2.0
"""A view's surprise (−log10 of a tail probability) from which it is given as a reason."""


class Reason(msgspec.Struct, frozen=True):
    """One view that found the value odd."""

    detector: str
    text: str
    surprise: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the detector says about one value."""

    score: float
    """Sum of the views' surprise; 0 is ordinary. See ``docs/anomalies.md`` for its scale."""
    onset: float
    """The score where it is the highest for a while, else 0: one event raises one alarm, not a flood."""
    reasons: tuple[Reason, ...]


class StreamDetector:
    """Watches one stream of numbers.

    Args:
        rest: share of the values seen so far after which a second, no higher score counts as a new event: the more is
            known of a stream, the rarer an event has to be.
        bounds: the fewest and the most values that share may come to.
    """

    def __init__(self, rest: float = 0.05, bounds: tuple[int, int] = (30, 500)) -> None:
        self._views: tuple[tuple[Detector, TailSurprise], ...] = tuple(
            (detector, TailSurprise())
            for detector in (
                RangeBreak(),
                DailyProfile(),
                DailyDeviation(),
                SameTimeBefore(),
                Drift(span=100),
                MeanShift(after=5, before=50),
                MeanShift(after=20, before=200),
                Variation(),
            )
        )
        self._rest = rest
        self._bounds = bounds
        self._peaks: deque[tuple[int, float]] = deque()
        self._seen = 0

    def update(self, moment: datetime, value: float) -> Verdict:
        """Judge the newest value, then learn from it.

        Args:
            moment: when the value was true; not before the last one's.
            value: a finite number; one that is not is judged ordinary and not learnt from.
        """
        if not math.isfinite(value):
            return Verdict(score=0.0, onset=0.0, reasons=())
        seconds = utc(moment).timestamp()
        reasons = []
        score = 0.0
        for detector, tail in self._views:
            surprise = tail.update(detector.update(seconds, value))
            score += surprise
            if surprise >= NOTABLE:
                reasons.append(Reason(detector.name, detector.reason, surprise))
        reasons.sort(key=lambda reason: (-reason.surprise, reason.detector))
        return Verdict(score=score, onset=self._onset(score), reasons=tuple(reasons))

    def _onset(self, score: float) -> float:
        """The score where it exceeds all those of the rest before it (a monotonic queue of their maxima)."""
        fewest, most = self._bounds
        rest = min(max(self._rest * self._seen, fewest), most)
        peaks = self._peaks
        while peaks and peaks[0][0] < self._seen - rest:
            peaks.popleft()
        onset = score if not peaks or score > peaks[0][1] else 0.0
        while peaks and peaks[-1][1] <= score:
            peaks.pop()
        peaks.append((self._seen, score))
        self._seen += 1
        return onset
