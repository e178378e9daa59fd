"""The table of risk factors: what is measured, from where to where it counts, and how much it weighs.

A factor's points run from 0 at ``calm`` to 100 at ``alarming``, in a straight line between (on a logarithmic axis
where ``logarithmic``), flat outside. ``calm > alarming`` means that *less* is riskier. So every factor is monotone,
and so is everything built from sums and maxima of them.

The ends are round numbers chosen for crypto assets; ``docs/risk.md`` says why each is where it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Group(StrEnum):
    """What kind of thing may go wrong."""

    market = "market"
    network = "network"
    technical = "technical"


GROUP_WEIGHTS: dict[Group, float] = {Group.market: 0.5, Group.network: 0.3, Group.technical: 0.2}
WORST_SHARE = 0.4
"""Within a group: this share of the points comes from its worst factor, the rest from the weighted mean."""
WORST_GROUP = 0.8
"""The overall score is at least this share of the worst group's points: one burning group is not averaged away."""


@dataclass(frozen=True)
class Factor:
    """One measured input of the risk score."""

    name: str
    group: Group
    label: str
    unit: str
    calm: float
    alarming: float
    weight: float
    advice: str
    """What a reader may do where this factor is high."""
    expected: bool = True
    """An expected figure that is missing counts half its points; one that is not expected is left out."""
    logarithmic: bool = False

    def points(self, value: float) -> float:
        """0..100 for a measured value, monotone in it."""
        if math.isnan(value):
            raise ValueError(f"{self.name} is not a number")
        low, high = self.calm, self.alarming
        if self.logarithmic:
            value, low, high = math.log10(max(value, 1e-12)), math.log10(low), math.log10(high)
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))


FACTORS: tuple[Factor, ...] = (
    Factor(
        "volatility",
        Group.market,
        "Realised volatility, 7 days",
        "% a year",
        30,
        180,
        0.25,
        "Size positions for the volatility of the last week, not for an average month.",
    ),
    Factor(
        "drawdown",
        Group.market,
        "Drawdown from the 30-day high",
        "%",
        5,
        50,
        0.15,
        "Check what broke the trend before adding to a falling position.",
    ),
    Factor(
        "value_at_risk",
        Group.market,
        "Value at risk, 1 day, 95 %",
        "%",
        2,
        18,
        0.15,
        "Hold no more than a loss of this size in one day allows.",
    ),
    Factor(
        "expected_shortfall",
        Group.market,
        "Expected shortfall, 1 day, 95 %",
        "%",
        3,
        25,
        0.15,
        "Plan for the bad days: their mean loss is the expected shortfall, not the value at risk.",
    ),
    Factor(
        "daily_volume",
        Group.market,
        "Traded in 24 hours",
        "USD",
        1e8,
        1e5,
        0.15,
        "Split orders: the market is thin.",
        logarithmic=True,
    ),
    Factor(
        "price_spread",
        Group.market,
        "Sources' disagreement on the price",
        "%",
        0.3,
        5,
        0.05,
        "Compare the sources before trusting one price.",
    ),
    Factor(
        "overextension",
        Group.market,
        "RSI's distance from 50",
        "points",
        15,
        45,
        0.1,
        "Momentum is stretched: expect larger moves both ways.",
    ),
    Factor(
        "tick_age",
        Group.network,
        "Time since the network's last figures",
        "s",
        1800,
        21600,
        0.35,
        "Look whether the network still makes ticks before moving funds.",
        expected=False,
    ),
    Factor(
        "empty_ticks",
        Group.network,
        "Empty ticks in this epoch",
        "%",
        5,
        60,
        0.25,
        "Expect transfers to need several attempts.",
        expected=False,
    ),
    Factor(
        "tick_duration",
        Group.network,
        "Duration of a tick",
        "s",
        3,
        30,
        0.2,
        "Expect slow confirmation.",
        expected=False,
    ),
    Factor(
        "address_loss",
        Group.network,
        "Active addresses below their median",
        "%",
        5,
        50,
        0.2,
        "Find out why users leave the network.",
        expected=False,
    ),
    Factor(
        "nodes_down",
        Group.network,
        "Cluster nodes down",
        "%",
        0,
        67,
        0.3,
        "Bring the failed nodes back: qaicl status names them.",
        expected=False,
    ),
    Factor(
        "cluster_errors",
        Group.network,
        "Failed cluster requests",
        "%",
        1,
        10,
        0.2,
        "Look at the failed requests in the cluster's log.",
        expected=False,
    ),
    Factor(
        "stale_figures",
        Group.technical,
        "Figures stale or missing",
        "%",
        0,
        60,
        0.4,
        "Run: qaicl oracle collect. Until then treat the figures as history.",
    ),
    Factor(
        "failing_sources",
        Group.technical,
        "Sources that fail",
        "%",
        0,
        75,
        0.25,
        "Run: qaicl oracle sources. It says why each source fails.",
    ),
    Factor(
        "anomalies",
        Group.technical,
        "Anomaly severity, last 24 hours",
        "points",
        10,
        90,
        0.35,
        "Look at the anomalies before acting on any forecast.",
    ),
)
BY_NAME: dict[str, Factor] = {factor.name: factor for factor in FACTORS}
