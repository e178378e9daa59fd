"""Finds and grades the anomalies in what is known about an asset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec
import numpy as np

from qaicl.oracle.anomalies.correlation import JointDetector
from qaicl.oracle.anomalies.stream import StreamDetector
from qaicl.oracle.snapshot import Snapshot

METHOD = "anomalies-2 (stream-2, joint-1)"
JOINT = "joint"
DAY = timedelta(days=1)


REST = 24
"""Odd values less than so many apart are one event."""
LEARN_VALUES = 150
LEARN_TIME = 2 * DAY
"""A series is learnt for so many values and at least so long, before anything in it is called an anomaly: a detector
that has not seen a whole day twice knows no usual day."""


class Severity(StrEnum):
    """How rare an anomaly is. See ``docs/anomalies.md`` for what each grade means in practice."""

    low = "LOW"
    medium = "MEDIUM"
    high = "HIGH"
    critical = "CRITICAL"


STREAM_FROM: dict[Severity, float] = {
    Severity.low: 9.0,
    Severity.medium: 12.0,
    Severity.high: 15.5,
    Severity.critical: 21.5,
}
"""Stream scores from which a grade begins; LOW is about where NAB's standard profile puts its threshold."""
JOINT_FROM: dict[Severity, float] = {
    Severity.low: 3.5,
    Severity.medium: 4.0,
    Severity.high: 6.0,
    Severity.critical: 9.0,
}
"""The same for the joint detector's surprise, −log10 of a probability."""
POINTS: dict[Severity, float] = {
    Severity.low: 20.0,
    Severity.medium: 50.0,
    Severity.high: 80.0,
    Severity.critical: 100.0,
}
"""What a grade counts in the risk score's factor ``anomalies``."""


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """One event: a run of odd values."""

    series: str
    """``price``, ``volume`` …, or ``joint`` for several together."""
    at: datetime
    """When it began."""
    value: float
    """The oddest value; for ``joint`` the price."""
    severity: Severity
    score: float
    reasons: tuple[str, ...]


def grade(score: float, scale: dict[Severity, float]) -> Severity | None:
    """The highest grade whose threshold the score reaches; None below all."""
    reached = [severity for severity, start in scale.items() if score >= start]
    return reached[-1] if reached else None


def scan(snapshot: Snapshot) -> list[Anomaly]:
    """All anomalies in the snapshot's history, oldest first. Causal: later data change no earlier finding."""
    found = [anomaly for name, points in _series(snapshot) for anomaly in watch(name, points)]
    found += _joint(snapshot)
    return sorted(found, key=lambda anomaly: (anomaly.at, anomaly.series))


def watch(name: str, points: Sequence[tuple[datetime, float]]) -> list[Anomaly]:
    """The graded anomalies of one series, given oldest first."""
    detector = StreamDetector()
    found: list[Anomaly] = []
    last = -REST
    for i, (moment, value) in enumerate(points):
        verdict = detector.update(moment, value)
        if i < LEARN_VALUES or moment - points[0][0] < LEARN_TIME:
            continue
        if severity := grade(verdict.onset, STREAM_FROM):
            texts = tuple(dict.fromkeys(reason.text for reason in verdict.reasons))
            anomaly = Anomaly(
                series=name, at=moment, value=value, severity=severity, score=verdict.onset, reasons=texts
            )
            if i - last < REST:
                # The same event, growing: it keeps the moment when it began.
                begun = found[-1]
                every = tuple(dict.fromkeys(begun.reasons + anomaly.reasons))
                found[-1] = msgspec.structs.replace(anomaly, at=begun.at, reasons=every)
            else:
                found.append(anomaly)
            last = i
    return found


def severity_points(anomalies: Sequence[Anomaly], now: datetime, within: timedelta = DAY) -> float:
    """The worst recent grade as 0..100, for the risk score; 0 without anomalies in that time."""
    recent = [POINTS[anomaly.severity] for anomaly in anomalies if now - within <= anomaly.at <= now]
    return max(recent, default=0.0)


def _series(snapshot: Snapshot) -> Iterator[tuple[str, list[tuple[datetime, float]]]]:
    candles = snapshot.candles
    times = [moment.to_pydatetime() for moment in candles.index]
    yield "price", list(zip(times, (float(value) for value in candles["close"]), strict=True))
    yield "volume", list(zip(times, (float(value) for value in candles["volume"]), strict=True))
    for name in ("active_addresses", "tick_duration", "tick_quality"):
        points = [
            (stats.observed_at, float(value))
            for stats in snapshot.network
            if (value := getattr(stats, name)) is not None
        ]
        yield name, points


def _joint(snapshot: Snapshot) -> list[Anomaly]:
    """Return, volume and range of each bar, together."""
    candles = snapshot.candles
    if len(candles) < 3:
        return []
    close = candles["close"].to_numpy()
    dimensions = ("return", "volume", "range")
    vectors = np.column_stack(
        [
            np.diff(np.log(close)),
            np.log1p(candles["volume"].to_numpy()[1:]),
            np.log1p(100 * (candles["high"] / candles["low"] - 1).to_numpy()[1:]),
        ]
    )
    detector = JointDetector(len(dimensions))
    found: list[Anomaly] = []
    last = -REST
    for i, vector in enumerate(vectors):
        verdict = detector.update([float(v) for v in vector])
        severity = grade(verdict.surprise, JOINT_FROM)
        # One event is one finding: the bars right after it say the same.
        if severity is None or i - last < REST:
            continue
        last = i
        odd = sorted(zip(verdict.shares, verdict.deviations, dimensions, strict=True), reverse=True)
        reasons = tuple(f"{name} {deviation:+.1f} σ" for share, deviation, name in odd if share >= 0.2)
        found.append(
            Anomaly(
                series=JOINT,
                at=candles.index[i + 1].to_pydatetime(),
                value=float(close[i + 1]),
                severity=severity,
                score=verdict.surprise,
                reasons=("an unusual combination", *reasons),
            )
        )
    return found
