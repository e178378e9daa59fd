"""From class probabilities to scores; what every sentiment model has to offer. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from qaicl.oracle.sentiment.dataset import LABELS, Label
from qaicl.oracle.sentiment.text import clean

Probabilities = npt.NDArray[np.float64]
"""Shape (texts, 3), columns in the order of `LABELS`, each row summing to one."""


class Scored(msgspec.Struct, frozen=True):
    """What the model says about one text."""

    label: Label
    score: float
    """P(positive) - P(negative), -1 to 1."""
    confidence: float
    """Probability of the label; calibrated, see `training.calibrate`."""
    probabilities: dict[Label, float]


class SentimentModel(Protocol):
    """Anything that gives class probabilities; texts are cleaned by the caller's `score`."""

    @property
    def name(self) -> str:
        """Which model this is, for reports."""

    @property
    def version(self) -> str:
        """Which weights, for reports."""

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of clean texts."""


def score(model: SentimentModel, texts: Sequence[str]) -> list[Scored]:
    """Clean and score untrusted texts; a text with nothing left after cleaning is neutral with confidence 0."""
    cleaned = [clean(text) for text in texts]
    known = [index for index, text in enumerate(cleaned) if text]
    table = dict(zip(known, model.probabilities([cleaned[index] for index in known]), strict=True))
    return [_scored(table[index]) if index in table else EMPTY for index in range(len(cleaned))]


EMPTY = Scored("neutral", 0.0, 0.0, {"negative": 0.0, "positive": 0.0, "neutral": 0.0})


def _scored(row: npt.NDArray[np.float64]) -> Scored:
    best = int(row.argmax())
    named: dict[Label, float] = {label: float(value) for label, value in zip(LABELS, row, strict=True)}
    return Scored(LABELS[best], named["positive"] - named["negative"], float(row[best]), named)
