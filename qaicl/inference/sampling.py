"""Chooses the next token; a pure function of (logits, history, seed, position)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qaicl.inference.draw import gumbel
from qaicl.inference.engine import Sampling


def choose(logits: NDArray[np.float32], history: Sequence[int], sampling: Sampling, position: int) -> int:
    """The token that follows ``history``.

    Steps and their order are those of transformers: repetition penalty, temperature, top-k, top-p. The draw is the
    Gumbel-max trick, argmax(logit / temperature + noise), with noise from (seed, position, token id).

    Args:
        logits: of the last position, [vocabulary].
        history: prompt and generated ids.
        position: of the token to choose, which is ``len(history)``.

    Raises:
        ValueError: a logit is not a number.
    """
    if sampling.repetition_penalty != 1:
        logits = _penalised(logits, history, sampling.repetition_penalty)
    best = int(np.argmax(logits))
    if np.isnan(logits[best]):
        raise ValueError("the model's logits are not numbers")
    if sampling.temperature == 0 or sampling.top_k == 1:
        return best
    # Relative to the best one, so that a tiny temperature overflows to minus infinity and not to nan.
    scores = (logits.astype(np.float64) - float(logits[best])) / sampling.temperature
    tokens = np.arange(len(scores), dtype=np.int64)
    if 0 < sampling.top_k < len(scores):
        kept = scores >= np.partition(scores, -sampling.top_k)[-sampling.top_k]
        tokens, scores = tokens[kept], scores[kept]
    if sampling.top_p < 1:
        kept = scores >= _nucleus_bound(scores, sampling.top_p)
        tokens, scores = tokens[kept], scores[kept]
    return int(tokens[np.argmax(scores + gumbel(sampling.seed, position, tokens))])


def _penalised(logits: NDArray[np.float32], history: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """Keskar et al., CTRL, 2019: scores of ids seen before are made smaller by the factor, whatever their sign."""
    seen = np.unique(np.asarray(history, dtype=np.int64))
    logits = logits.copy()
    logits[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
    return logits


def _nucleus_bound(scores: NDArray[np.float64], top_p: float) -> float:
    """The lowest score of the smallest set of best tokens that has the probability ``top_p``."""
    ordered = np.sort(scores)[::-1]
    mass = np.cumsum(np.exp(ordered))
    last = int(np.searchsorted(mass, top_p * mass[-1]))
    return float(ordered[min(last, len(ordered) - 1)])
