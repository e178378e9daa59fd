"""What is watched: the conditions that a risk assessment, anomalies and a snapshot give rise to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from qaicl.oracle.alerts.model import Condition, Level
from qaicl.oracle.anomalies.scan import POINTS, Anomaly, Severity
from qaicl.oracle.observations import State
from qaicl.oracle.risk.assessment import RiskAssessment
from qaicl.oracle.snapshot import Snapshot, failures
from qaicl.settings import AlertSettings

RECENT = timedelta(hours=6)
"""An anomaly rings for so long after it began."""
CRITICAL_MARGIN = 15.0
"""Risk so far above its threshold is critical."""
FAILURES = 3
"""Failures in a row after which a source's silence is an alert."""


def conditions(
    snapshot: Snapshot, risk: RiskAssessment, anomalies: Sequence[Anomaly], settings: AlertSettings
) -> list[Condition]:
    """Everything watched about one asset; all carry the label ``asset``, which is the scope to evaluate them in."""
    asset = snapshot.asset
    worst = ", ".join(factor.label for factor in risk.factors if factor.name in risk.key_risks[:3])
    found = [
        Condition(
            labels={"asset": asset, "alert": "risk"},
            level=Level.critical if risk.score >= settings.risk_from + CRITICAL_MARGIN else Level.warning,
            value=risk.score,
            fire_from=settings.risk_from,
            clear_below=settings.risk_from - settings.risk_margin,
            critical_from=settings.risk_from + CRITICAL_MARGIN,
            summary=f"risk of {asset} is {risk.score:.0f} of 100 ({risk.level})" + (f": {worst}" if worst else ""),
        ),
        Condition(
            labels={"asset": asset, "alert": "stale"},
            level=Level.warning,
            value=float(snapshot.price.state in (State.stale, State.missing)),
            fire_from=1.0,
            clear_below=1.0,
            summary=f"the price of {asset} is {snapshot.price.state}: {'; '.join(snapshot.price.reasons)}",
        ),
    ]
    for source in snapshot.sources:
        found.append(
            Condition(
                labels={"asset": asset, "alert": "source", "source": source.source},
                level=Level.info,
                value=float(failures(source, snapshot.now)),
                fire_from=float(FAILURES),
                clear_below=1.0,
                summary=f"{source.source} failed {source.failures} times in a row: {source.reason}",
            )
        )
    for series in sorted({anomaly.series for anomaly in anomalies}):
        recent = [a for a in anomalies if a.series == series and snapshot.now - RECENT <= a.at <= snapshot.now]
        if not recent:
            continue
        odd = max(recent, key=lambda a: a.score)
        found.append(
            Condition(
                labels={"asset": asset, "alert": "anomaly", "series": series},
                level=Level.critical if odd.severity is Severity.critical else Level.warning,
                value=POINTS[odd.severity],
                fire_from=POINTS[Severity.high],
                clear_below=POINTS[Severity.medium],
                summary=f"{series} of {asset} at {odd.at:%Y-%m-%d %H:%M} UTC: {odd.severity}, {', '.join(odd.reasons)}",
            )
        )
    return found
