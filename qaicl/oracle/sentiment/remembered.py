"""A model whose answers are kept on disk, so that a new process need not load it to say the same again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from qaicl.oracle.kept import keep
from qaicl.oracle.sentiment.dataset import LABELS
from qaicl.oracle.sentiment.scoring import Probabilities, SentimentModel

FILES = 64
"""Answers kept; a report asks two questions."""


class Remembered:
    """A sentiment model that is loaded when a question comes that it has not answered before.

    A question is the whole list of texts. What a model says about one text depends in the last bits on the texts that
    share its batch, so answers kept text by text would make a report depend on what was asked before.

    Args:
        weights: what the answers depend on besides the texts; part of the key.
        load: makes the model.
    """

    def __init__(self, name: str, version: str, weights: str, directory: Path, load: Callable[[], SentimentModel]):
        self.name, self.version = name, version
        self._weights, self._directory, self._load = weights, directory, load

    @cached_property
    def model(self) -> SentimentModel:
        """The model itself."""
        return self._load()

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of clean texts, bit by bit as the model gave them."""
        question = msgspec.json.encode([self._weights, version("torch"), list(texts)])
        path = self._directory / f"{hashlib.sha256(question).hexdigest()}.npy"
        answer = _read(path, len(texts))
        if answer is None:
            answer = self.model.probabilities(texts)
            content = io.BytesIO()
            np.save(content, answer, allow_pickle=False)
            keep(path, content.getvalue(), newest=FILES)
        return answer


def _read(path: Path, rows: int) -> Probabilities | None:
    """A kept answer; one that is damaged counts as none."""
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
        path.touch()
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (rows, len(LABELS)) and found.dtype == np.float64 else None
