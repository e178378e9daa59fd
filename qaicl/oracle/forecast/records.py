"""What a forecast and its backtest say."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Direction = Literal["up", "down", "flat"]
Verdict = Literal["EDGE", "NO EDGE"]


class Factor(msgspec.Struct, frozen=True):
    """One thing that moved a part's probability."""

    part: str
    name: str
    value: float
    """The feature's value at the last bar, in its own unit."""
    effect: float
    """Change of the part's log-odds of a rise, against an average bar."""


class Opinion(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the ensemble."""

    part: str
    """``technical``, ``fundamental`` or ``lstm``."""
    probability: float | None
    """Of a rise; None where the part abstains."""
    reason: str = ""
    """Why it abstains."""


class Range(msgspec.Struct, frozen=True):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class Bin(msgspec.Struct, frozen=True):
    """One bin of the reliability table: forecasts within [low, high) and how often the price then rose."""

    low: float
    high: float
    count: int
    predicted: float
    happened: float


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """A rule without a model, over the same bars."""

    name: str
    accuracy: float
    advantage: Range
    """The ensemble's accuracy minus this one's."""


class BacktestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A walk-forward backtest: how the same method would have done."""

    start: datetime
    end: datetime
    """First and last tested bar's close time."""
    bars: int
    """Bars of history given."""
    tested: int
    horizon_bars: int
    folds: int
    purge_bars: int
    """Bars left out between training and test, as long as the horizon: their outcome lies in the test."""
    effective: float
    """Tested bars that do not overlap: tested / horizon_bars."""
    accuracy: Range
    baselines: tuple[Baseline, ...]
    brier: float
    brier_base: float
    """Brier score of always saying the training part's share of rises."""
    brier_skill: Range
    """1 - brier / brier_base; above 0 is better than the base rate."""
    log_loss: float
    log_loss_base: float
    reliability: tuple[Bin, ...]
    parts: dict[str, float]
    """Accuracy of each part alone."""
    coverage: float
    """Share of outcomes inside the 80 % interval, whose quantiles come from the training part."""
    verdict: Verdict
    reason: str
    method: str
    seed: int
    data: str
    """Digest of candles, settings and method."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """Where the price may go, and how much such forecasts have been worth."""

    asset: str
    as_of: datetime
    """Close time of the last bar used."""
    until: datetime
    """The moment the forecast is about."""
    horizon_seconds: float
    price: float
    quote: str
    direction: Direction
    probability: float
    """Of the direction (of a rise where it is flat)."""
    probability_up: float
    target: float
    """The expected price; with NO EDGE it is the present price."""
    low: float
    high: float
    """80 % interval of the price at ``until``, from the method's past errors."""
    coverage: float
    """The nominal coverage of low..high, 0.8."""
    factors: tuple[Factor, ...]
    parts: tuple[Opinion, ...]
    record: BacktestRecord
    verdict: Verdict
    method: str
    method_version: str
    sources: tuple[str, ...]
    recorded: bool
    disclaimer: str
