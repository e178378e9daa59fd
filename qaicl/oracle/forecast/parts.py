"""The parts of the ensemble: each learns from a table of features and gives the probability of a rise."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from qaicl.oracle.forecast.records import Factor

Array = npt.NDArray[np.float64]


class Part(Protocol):
    """A model of one kind. Features have the shape (bars, features), outcomes (bars,) with 1.0 for a rise."""

    name: str

    def fit(self, features: Array, rises: Array) -> str:
        """Learn; the reason where it abstains, else empty."""

    def predict(self, features: Array, rows: slice) -> Array:
        """Probability of a rise for these rows of the table; earlier rows may be looked at, later ones never."""


class Logistic:
    """Regularised logistic regression on standardised features; a column not known in training is left out."""

    def __init__(self, name: str, titles: dict[str, str], strength: float = 0.05) -> None:
        self.name = name
        self._titles = list(titles.values())
        self._strength = strength

    def fit(self, features: Array, rises: Array) -> str:
        """Learn; abstains where no feature varies or all outcomes are alike."""
        from sklearn.linear_model import LogisticRegression

        known = np.isfinite(features)
        varied = [
            column
            for column in range(features.shape[1])
            if known[:, column].mean() > 0.5 and np.ptp(features[known[:, column], column]) > 0
        ]
        if not varied:
            return "no feature with enough history"
        if rises.min() == rises.max():
            return "the price moved one way only"
        self._columns = varied
        self._centre = np.nanmean(features[:, varied], axis=0)
        self._spread = np.nanstd(features[:, varied], axis=0)
        self._model = LogisticRegression(C=self._strength, max_iter=500).fit(self._scaled(features), rises)
        return ""

    def predict(self, features: Array, rows: slice) -> Array:
        """Probability of a rise for these rows."""
        probabilities: Array = self._model.predict_proba(self._scaled(features[rows]))[:, 1]
        return probabilities

    def factors(self, features: Array) -> list[Factor]:
        """What moved the last row's probability, largest first."""
        effects = self._scaled(features[-1:])[0] * self._model.coef_[0]
        found = [
            Factor(self.name, self._titles[column], float(features[-1, column]), float(effect))
            for column, effect in zip(self._columns, effects, strict=True)
            if np.isfinite(features[-1, column])
        ]
        return sorted(found, key=lambda one: (-abs(one.effect), one.name))

    def _scaled(self, features: Array) -> Array:
        """Standardised by the training part; unknown values count as average, far ones are cut at 4 deviations."""
        scaled: Array = (features[:, self._columns] - self._centre) / self._spread
        return np.clip(np.nan_to_num(scaled, nan=0.0), -4.0, 4.0)
