"""How good were the probabilities? Scores, intervals that mind overlapping outcomes, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qaicl.oracle.forecast.parts import Array
from qaicl.oracle.forecast.records import Baseline, Bin, Range, Verdict

RESAMPLES = 2000
BINS = 10
_CLIP = 1e-6

Rows = npt.NDArray[np.int64]


def brier(probabilities: Array, rises: Array) -> float:
    """Mean squared difference of probability and outcome (Brier 1950); 0 is perfect, 0.25 is a coin."""
    return float(np.mean((probabilities - rises) ** 2))


def log_loss(probabilities: Array, rises: Array) -> float:
    """Mean negative log-likelihood in nats; a coin has 0.693."""
    clipped = np.clip(probabilities, _CLIP, 1.0 - _CLIP)
    return float(-np.mean(rises * np.log(clipped) + (1.0 - rises) * np.log(1.0 - clipped)))


def reliability(probabilities: Array, rises: Array) -> tuple[Bin, ...]:
    """Ten bins of equal width; empty bins are left out."""
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(
            low=number / BINS,
            high=(number + 1) / BINS,
            count=int(mine.sum()),
            predicted=float(probabilities[mine].mean()),
            happened=float(rises[mine].mean()),
        )
        for number in range(BINS)
        if (mine := place == number).any()
    )


def resamples(count: int, horizon: int, seed: int) -> Rows:
    """Rows of a circular moving-block bootstrap, shape (`RESAMPLES`, count).

    Outcomes that are ``horizon`` bars long overlap and are not independent. Blocks keep neighbours together: twice the
    horizon, and at least the cube root of the count (Hall, Horowitz and Jing 1995).
    """
    block = min(count, max(2 * horizon, math.ceil(count ** (1 / 3))))
    starts = np.random.default_rng(seed).integers(count, size=(RESAMPLES, math.ceil(count / block)))
    rows: Rows = ((starts[:, :, None] + np.arange(block)) % count).reshape(RESAMPLES, -1)[:, :count]
    return rows


def interval(value: float, statistic: Callable[[Rows], Array], rows: Rows) -> Range:
    """A statistic with its 95 % bootstrap percentile interval."""
    low, high = np.quantile(statistic(rows), [0.025, 0.975])
    return Range(value, float(low), float(high))


def baseline(name: str, guesses: Array, hits: Array, rises: Array, rows: Rows) -> Baseline:
    """A baseline's accuracy and the model's advantage over it, bar by bar.

    Args:
        guesses: 1.0 where the baseline says up.
        hits: 1.0 where the model was right.
    """
    right = (guesses == rises).astype(float)
    ahead = hits - right
    return Baseline(
        name=name,
        accuracy=float(right.mean()),
        advantage=interval(float(ahead.mean()), lambda drawn: ahead[drawn].mean(axis=1), rows),
    )


def skill(probabilities: Array, base: Array, rises: Array, rows: Rows) -> Range:
    """Brier skill score against the base rate's forecasts, 1 - brier / brier_base."""
    mine, theirs = (probabilities - rises) ** 2, (base - rises) ** 2
    return interval(
        float(1.0 - mine.mean() / max(theirs.mean(), _CLIP)),
        lambda drawn: 1.0 - mine[drawn].mean(axis=1) / np.maximum(theirs[drawn].mean(axis=1), _CLIP),
        rows,
    )


def verdict(baselines: tuple[Baseline, ...], brier_skill: Range) -> tuple[Verdict, str]:
    """EDGE only where the intervals clear every baseline and the base rate; and why."""
    hardest = min(baselines, key=lambda one: one.advantage.low)
    ahead = hardest.advantage
    if ahead.low <= 0.0:
        return "NO EDGE", (
            f"accuracy is {ahead.value:+.3f} against {hardest.name}, and its 95 % interval "
            f"[{ahead.low:+.3f}, {ahead.high:+.3f}] does not clear zero"
        )
    if brier_skill.low <= 0.0:
        return "NO EDGE", (
            f"the Brier skill is {brier_skill.value:+.3f}, and its 95 % interval "
            f"[{brier_skill.low:+.3f}, {brier_skill.high:+.3f}] does not clear zero"
        )
    return "EDGE", "the 95 % intervals of accuracy and Brier skill clear every baseline"
