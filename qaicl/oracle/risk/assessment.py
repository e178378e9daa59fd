"""The risk score: factors → groups → one number, each step monotone and written down in the result."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

import msgspec

from qaicl.oracle.risk.factors import (
    BY_NAME,
    FACTORS,
    GROUP_WEIGHTS,
    WORST_GROUP,
    WORST_SHARE,
    Factor,
    Group,
)

METHOD = "risk-2"
"""Changes whenever a weight, a threshold or a formula does."""
MEDIUM_FROM = 34.0
HIGH_FROM = 67.0
ALERT_FROM = 70.0
MISSING_POINTS = 50.0
"""What an expected figure counts when nobody could measure it: not knowing is not being safe."""
KEY_POINTS = 40.0
"""A measured factor from here on is a key risk."""


class Level(StrEnum):
    """The three grades of risk."""

    low = "LOW"
    medium = "MEDIUM"
    high = "HIGH"


class FactorRisk(msgspec.Struct, frozen=True, kw_only=True):
    """One factor's share in the score."""

    name: str
    label: str
    group: Group
    value: float | None
    unit: str
    points: float
    weight: float
    """Share of the factor in its group's weighted mean, after factors that do not apply were left out."""
    level: Level
    measured: bool


class GroupRisk(msgspec.Struct, frozen=True, kw_only=True):
    """One group's points, and how many of its factors were measured."""

    group: Group
    points: float
    weight: float
    level: Level
    measured: int
    expected: int


class RiskAssessment(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`assess` says. Scores are 0 (calm) to 100."""

    score: float
    level: Level
    groups: tuple[GroupRisk, ...]
    factors: tuple[FactorRisk, ...]
    """Worst first."""
    key_risks: tuple[str, ...]
    """Names of the factors that matter, worst first."""
    recommendations: tuple[str, ...]
    alert_from: float
    alerting: bool
    method: str = METHOD


def level_of(score: float) -> Level:
    """The grade of a score: HIGH from 67, MEDIUM from 34."""
    if score >= HIGH_FROM:
        return Level.high
    return Level.medium if score >= MEDIUM_FROM else Level.low


def assess(
    inputs: Mapping[str, float | None], alert_from: float = ALERT_FROM, also_expected: Collection[str] = ()
) -> RiskAssessment:
    """Score what was measured.

    Args:
        inputs: factor name → measured value in the factor's unit; None or absent: nobody could measure it. An
            expected factor then counts :data:`MISSING_POINTS`, any other is left out.
        alert_from: the score from which ``alerting`` is set.
        also_expected: factors that this asset should have, such as a network's; missing ones count too.

    Raises:
        ValueError: a name is no factor, or a value is not a number.
    """
    if unknown := sorted(set(inputs) - set(BY_NAME)):
        raise ValueError(f"no such risk factor: {', '.join(unknown)}")
    factors: list[FactorRisk] = []
    groups: list[GroupRisk] = []
    for group in Group:
        rated = [
            (factor, _points(factor, inputs.get(factor.name), factor.name in also_expected))
            for factor in FACTORS
            if factor.group is group
        ]
        counted = [(factor, points) for factor, points in rated if points is not None]
        if not counted:
            continue
        total = sum(factor.weight for factor, _ in counted)
        mean = sum(factor.weight * points for factor, points in counted) / total
        points = (1 - WORST_SHARE) * mean + WORST_SHARE * max(points for _, points in counted)
        groups.append(
            GroupRisk(
                group=group,
                points=points,
                weight=GROUP_WEIGHTS[group],
                level=level_of(points),
                measured=sum(inputs.get(factor.name) is not None for factor, _ in counted),
                expected=len(counted),
            )
        )
        factors += [
            FactorRisk(
                name=factor.name,
                label=factor.label,
                group=group,
                value=inputs.get(factor.name),
                unit=factor.unit,
                points=factor_points,
                weight=factor.weight / total,
                level=level_of(factor_points),
                measured=inputs.get(factor.name) is not None,
            )
            for factor, factor_points in counted
        ]
    total = sum(group.weight for group in groups)
    mean = sum(group.weight * group.points for group in groups) / total
    score = max(mean, WORST_GROUP * max(group.points for group in groups))
    factors.sort(key=lambda factor: (-factor.points, factor.name))
    key = tuple(factor.name for factor in factors if factor.measured and factor.points >= KEY_POINTS)
    return RiskAssessment(
        score=score,
        level=level_of(score),
        groups=tuple(groups),
        factors=tuple(factors),
        key_risks=key,
        recommendations=tuple(BY_NAME[name].advice for name in key),
        alert_from=alert_from,
        alerting=score >= alert_from,
    )


def _points(factor: Factor, value: float | None, also_expected: bool) -> float | None:
    if value is not None:
        return factor.points(value)
    return MISSING_POINTS if factor.expected or also_expected else None
