"""Several parts, one probability: the mean of their log-odds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qaicl.oracle.forecast.features import FUNDAMENTAL, TECHNICAL
from qaicl.oracle.forecast.parts import Array, Logistic, Part
from qaicl.oracle.forecast.records import Factor

_CLIP = 0.02
"""No part may be surer than this: a small sample's certainty would drown the others."""


@dataclass(frozen=True)
class Table:
    """Features row by row, of all parts alike in length."""

    technical: Array
    fundamental: Array

    def before(self, row: int) -> Table:
        """The rows before ``row``."""
        return Table(self.technical[:row], self.fundamental[:row])


class Ensemble:
    """The technical, the fundamental and the LSTM part."""

    def __init__(self, seed: int) -> None:
        from qaicl.oracle.forecast.lstm import Lstm

        self._technical = Logistic("technical", TECHNICAL)
        self._fundamental = Logistic("fundamental", FUNDAMENTAL)
        self._lstm = Lstm(seed)
        self.abstained: dict[str, str] = {}

    def _parts(self, table: Table) -> list[tuple[Part, Array]]:
        return [
            (self._technical, table.technical),
            (self._fundamental, table.fundamental),
            (self._lstm, table.technical),
        ]

    def fit(self, table: Table, rises: Array) -> None:
        """Fit every part; `abstained` holds the reasons of those that cannot."""
        self.abstained = {}
        for part, features in self._parts(table):
            if reason := part.fit(features, rises):
                self.abstained[part.name] = reason

    def predict(self, table: Table, rows: slice) -> dict[str, Array]:
        """Probability of a rise by each part that does not abstain."""
        return {
            part.name: np.clip(part.predict(features, rows), _CLIP, 1.0 - _CLIP)
            for part, features in self._parts(table)
            if part.name not in self.abstained
        }

    def factors(self, table: Table) -> list[Factor]:
        """What moved the last row, of the parts that can tell."""
        found: list[Factor] = []
        for part, features in ((self._technical, table.technical), (self._fundamental, table.fundamental)):
            if part.name not in self.abstained:
                found += part.factors(features)
        return sorted(found, key=lambda one: (-abs(one.effect), one.name))


def combine(parts: dict[str, Array], rises: Array, count: int) -> Array:
    """Mean log-odds as a probability; the training part's share of rises where every part abstains."""
    if not parts:
        return np.full(count, float(rises.mean()))
    odds = np.mean([np.log(p / (1.0 - p)) for p in parts.values()], axis=0)
    combined: Array = 1.0 / (1.0 + np.exp(-odds))
    return combined
