"""The recurrent part: a small LSTM over the last day's bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from qaicl.oracle.forecast.parts import Array

WINDOW = 24
"""Bars that it looks back."""
HIDDEN = 16
EPOCHS = 6
BATCH = 64


class _Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, windows: Tensor) -> Tensor:
        states, _ = self.lstm(windows)
        logits: Tensor = self.head(states[:, -1]).squeeze(-1)
        return logits


class Lstm:
    """An LSTM with 16 units over the last 24 bars' features; seeded, on one thread: the same input gives the same."""

    name = "lstm"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, features: Array, rises: Array) -> str:
        """Learn; abstains where all outcomes are alike or there are too few windows."""
        if len(features) < WINDOW + BATCH:
            return f"fewer than {WINDOW + BATCH} bars to learn from"
        if rises.min() == rises.max():
            return "the price moved one way only"
        self._centre, self._spread = features.mean(axis=0), features.std(axis=0) + 1e-12
        windows = self._windows(features, range(WINDOW - 1, len(features)))
        target = torch.tensor(rises[WINDOW - 1 :], dtype=torch.float32)
        with _reproducible(self._seed):
            self._network = _Network(features.shape[1])
            optimiser = torch.optim.AdamW(self._network.parameters(), lr=3e-3, weight_decay=1e-2)
            loss_of = nn.BCEWithLogitsLoss()
            for _ in range(EPOCHS):
                for rows in torch.split(torch.randperm(len(target)), BATCH):
                    optimiser.zero_grad()
                    loss_of(self._network(windows[rows]), target[rows]).backward()
                    optimiser.step()
        return ""

    def predict(self, features: Array, rows: slice) -> Array:
        """Probability of a rise for these rows, each from its own and the 23 bars before."""
        ends = range(*rows.indices(len(features)))
        with _reproducible(self._seed), torch.inference_mode():
            logits: Tensor = self._network.eval()(self._windows(features, ends))
            return logits.double().sigmoid().numpy()

    def _windows(self, features: Array, ends: range) -> Tensor:
        scaled = np.clip((features - self._centre) / self._spread, -4.0, 4.0)
        return torch.tensor(np.stack([scaled[end - WINDOW + 1 : end + 1] for end in ends]), dtype=torch.float32)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """One thread and a seed of its own, without leaving a trace in the caller's random numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
