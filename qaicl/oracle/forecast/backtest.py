"""The walk-forward backtest: train on the past, skip what overlaps, test on what follows, move on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from qaicl.errors import TooLittleHistoryError
from qaicl.oracle.forecast import features, scoring
from qaicl.oracle.forecast.ensemble import Ensemble, Table, combine
from qaicl.oracle.forecast.parts import Array
from qaicl.oracle.forecast.records import BacktestRecord
from qaicl.oracle.observations import Interval, NetworkStats

VERSION = "1"
FOLDS = 5
LEAST_TRAINING = 150
LEAST_TEST = 50
TAIL = 0.1
"""Share of outcomes below ``low`` and above ``high`` of the 80 % interval."""

METHOD = (
    "Walk-forward over five folds with an expanding training part. Bars whose outcome reaches into the test part are "
    "purged, scaling is fitted on the training part alone. The ensemble is the mean log-odds of a logistic regression "
    "on indicators, one on fundamentals, and an LSTM. Intervals: circular block bootstrap, 95 %."
)


class Fold(msgspec.Struct, frozen=True):
    """One fold's forecasts, in the order of its bars."""

    start: int
    stop: int
    trained: int
    parts: dict[str, list[float]]
    probability: list[float]
    base: float
    """The training part's share of rises."""
    drift_up: bool
    """Whether the training part's mean return was above zero."""
    low: float
    high: float
    """Quantiles of the training part's outcomes in units of volatility."""


class Checkpoint(msgspec.Struct):
    """The folds done so far of one run."""

    run: str
    folds: list[Fold]


@dataclass(frozen=True, eq=False)
class History:
    """Everything that the method sees, one row a bar, from the first bar with all indicators."""

    times: pd.DatetimeIndex
    close: Array
    table: Table
    outcome: Array
    """Log return over the horizon; not-a-number in the last ``horizon`` rows."""
    past: Array
    """Log return over the horizon that ended at the row."""
    volatility: Array
    """Standard deviation of a bar's log return over 48 bars, times the square root of the horizon."""
    horizon: int
    bars: int
    digest: str

    @property
    def known(self) -> int:
        """Rows whose outcome is known."""
        return len(self.close) - self.horizon

    @property
    def rises(self) -> Array:
        """1.0 where the price rose, for the known rows."""
        return (self.outcome[: self.known] > 0).astype(float)


def history(
    candles: pd.DataFrame,
    interval: Interval,
    horizon: int,
    fear_greed: Sequence[tuple[datetime, float]] = (),
    network: Sequence[NetworkStats] = (),
) -> History:
    """Prepare candles (as `Store.candles` gives them) and fundamentals for a horizon in bars.

    Raises:
        TooLittleHistoryError: not enough bars to train and to test.
    """
    grid = features.regular(candles, interval)
    least = features.WARM_UP + LEAST_TRAINING + LEAST_TEST + 2 * horizon
    if len(grid) < least:
        raise TooLittleHistoryError(
            f"{len(grid)} bars are too few to forecast {horizon} ahead",
            why=f"training and testing take {least}",
            fix="collect for longer, or choose a shorter interval or horizon",
        )
    technical = features.technical(grid)
    fundamental = features.fundamental(grid.index, fear_greed, network)
    outcome = features.outcome(grid, horizon)
    logarithm = np.log(grid["close"])
    volatility = (logarithm.diff().rolling(48).std() * horizon**0.5).clip(lower=1e-6)
    first = features.WARM_UP
    digest = hashlib.sha256(f"{VERSION} {FOLDS} {horizon} {interval}".encode())
    for part in (grid, technical, fundamental):
        digest.update(np.ascontiguousarray(part.to_numpy(dtype=float)).tobytes())
    digest.update(str(grid.index[0]).encode())

    def rows(series: pd.Series) -> Array:
        values: Array = series.to_numpy(dtype=float)[first:]
        return values

    return History(
        times=grid.index[first:],
        close=rows(grid["close"]),
        table=Table(technical.to_numpy(dtype=float)[first:], fundamental.to_numpy(dtype=float)[first:]),
        outcome=rows(outcome),
        past=rows(logarithm.diff(horizon)),
        volatility=rows(volatility),
        horizon=horizon,
        bars=len(candles),
        digest=digest.hexdigest()[:16],
    )


def plan(known: int, horizon: int) -> list[tuple[int, int]]:
    """(start, stop) of each test part: the later half of the known rows, cut into `FOLDS`."""
    first = max(LEAST_TRAINING + horizon, known // 2)
    edges = np.linspace(first, known, FOLDS + 1).astype(int)
    return [(int(start), int(stop)) for start, stop in pairwise(edges)]


def backtest(
    past: History,
    seed: int = 7,
    *,
    checkpoint: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> BacktestRecord:
    """Run it.

    Args:
        checkpoint: a file that keeps finished folds; the same run goes on from it, and it is removed at the end.
        report: called with (folds done, folds) after each.
    """
    run = f"{past.digest}-{seed}"
    folds = _resume(checkpoint, run)
    parts = plan(past.known, past.horizon)
    for start, stop in parts[len(folds) :]:
        folds.append(_fold(past, start, stop, seed))
        if checkpoint is not None:
            partial = checkpoint.with_name(checkpoint.name + ".partial")
            partial.write_bytes(msgspec.json.encode(Checkpoint(run, folds)))
            partial.replace(checkpoint)
        report(len(folds), len(parts))
    record = judge(past, folds, seed)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return record


def _resume(checkpoint: Path | None, run: str) -> list[Fold]:
    if checkpoint is None or not checkpoint.exists():
        return []
    try:
        kept = msgspec.json.decode(checkpoint.read_bytes(), type=Checkpoint)
    except msgspec.MsgspecError:
        return []  # a damaged checkpoint costs time, nothing else
    return kept.folds if kept.run == run else []


def spread(past: History, trained: int) -> tuple[float, float]:
    """The outcomes' 10 % and 90 % quantiles in units of volatility, over the first ``trained`` rows."""
    low, high = np.quantile(past.outcome[:trained] / past.volatility[:trained], [TAIL, 1.0 - TAIL])
    return float(low), float(high)


def _fold(past: History, start: int, stop: int, seed: int) -> Fold:
    trained = start - past.horizon  # the purge: row start - horizon has its outcome at start, in the test
    rises = past.rises[:trained]
    ensemble = Ensemble(seed)
    ensemble.fit(past.table.before(trained), rises)
    said = ensemble.predict(past.table.before(stop), slice(start, stop))
    low, high = spread(past, trained)
    return Fold(
        start=start,
        stop=stop,
        trained=trained,
        parts={name: values.tolist() for name, values in said.items()},
        probability=combine(said, rises, stop - start).tolist(),
        base=float(rises.mean()),
        drift_up=bool(past.outcome[:trained].mean() > 0),
        low=low,
        high=high,
    )


def judge(past: History, folds: Sequence[Fold], seed: int) -> BacktestRecord:
    """Score the folds against the baselines."""
    start, stop = folds[0].start, folds[-1].stop
    rises = past.rises[start:stop]
    probabilities = np.concatenate([fold.probability for fold in folds])
    hits = ((probabilities > 0.5) == (rises > 0.5)).astype(float)

    def spread_out(values: Sequence[float]) -> Array:
        return np.repeat(np.array(values, dtype=float), [fold.stop - fold.start for fold in folds])

    base = spread_out([fold.base for fold in folds])
    rows = scoring.resamples(len(rises), past.horizon, seed)
    baselines = tuple(
        scoring.baseline(name, guesses, hits, rises, rows)
        for name, guesses in (
            ("persistence", (past.past[start:stop] > 0).astype(float)),
            ("majority", (base > 0.5).astype(float)),
            ("drift", spread_out([fold.drift_up for fold in folds])),
        )
    )
    brier_skill = scoring.skill(probabilities, base, rises, rows)
    decided, reason = scoring.verdict(baselines, brier_skill)
    outcome = past.outcome[start:stop] / past.volatility[start:stop]
    inside = (outcome >= spread_out([fold.low for fold in folds])) & (outcome <= spread_out([f.high for f in folds]))
    names = sorted({name for fold in folds for name in fold.parts})
    return BacktestRecord(
        start=past.times[start].to_pydatetime(),
        end=past.times[stop - 1].to_pydatetime(),
        bars=past.bars,
        tested=len(rises),
        horizon_bars=past.horizon,
        folds=len(folds),
        purge_bars=past.horizon,
        effective=len(rises) / past.horizon,
        accuracy=scoring.interval(float(hits.mean()), lambda drawn: hits[drawn].mean(axis=1), rows),
        baselines=baselines,
        brier=scoring.brier(probabilities, rises),
        brier_base=scoring.brier(base, rises),
        brier_skill=brier_skill,
        log_loss=scoring.log_loss(probabilities, rises),
        log_loss_base=scoring.log_loss(base, rises),
        reliability=scoring.reliability(probabilities, rises),
        parts={name: _accuracy(name, folds, past) for name in names},
        coverage=float(inside.mean()),
        verdict=decided,
        reason=reason,
        method=METHOD,
        seed=seed,
        data=past.digest,
    )


def _accuracy(name: str, folds: Sequence[Fold], past: History) -> float:
    """A part's accuracy over the folds in which it spoke."""
    right = [
        (np.array(fold.parts[name]) > 0.5) == (past.rises[fold.start : fold.stop] > 0.5)
        for fold in folds
        if name in fold.parts
    ]
    return float(np.concatenate(right).mean())
