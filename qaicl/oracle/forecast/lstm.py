"""The recurrent part: a small LSTM over the last day's bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101), as ``torch.optim.AdamW``.

    The operations are torch's in torch's order, so the results are equal bit by bit (tested). Torch's own class imports
    its compiler at the first step, which takes twice as long as training here does (``docs/performance.md``).
    """

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(self, parameters: Sequence[Tensor], rate: float, decay: float) -> None:
        self._parameters, self._rate, self._decay = parameters, rate, decay
        self._means = [torch.zeros_like(one) for one in parameters]
        self._squares = [torch.zeros_like(one) for one in parameters]
        self._steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters by their gradients."""
        self._steps += 1
        first, second = self.BETAS
        size = self._rate / (1 - first**self._steps)
        correction = (1 - second**self._steps) ** 0.5
        for one, gradient, mean, square in zip(self._parameters, gradients, self._means, self._squares, strict=True):
            one.mul_(1 - self._rate * self._decay)
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            one.addcdiv_(mean, (square.sqrt() / correction).add_(self.EPSILON), value=-size)


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
            parameters = list(self._network.parameters())
            optimiser = AdamW(parameters, rate=3e-3, decay=1e-2)
            loss_of = nn.BCEWithLogitsLoss()
            for _ in range(EPOCHS):
                for rows in torch.split(torch.randperm(len(target)), BATCH):
                    loss: Tensor = loss_of(self._network(windows[rows]), target[rows])
                    optimiser.step(torch.autograd.grad(loss, parameters))
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
