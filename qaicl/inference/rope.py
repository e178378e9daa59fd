"""Rotary position embedding (Su et al., RoFormer, 2021) and its ways of stretching the context."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qaicl.inference.config import Rope


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[Tensor, float]:
    """Angle per position for each pair of dimensions, float32 [head_dim / 2], and the factor on cosine and sine."""
    frequencies = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.kind == "linear":
        return frequencies / float(rope.values["factor"]), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, frequencies), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, frequencies, head_dim)
    return frequencies, 1.0


def _llama3(rope: Rope, frequencies: Tensor) -> Tensor:
    """Long waves slowed by ``factor``, short ones kept, a linear blend between (Llama 3.1, Meta, 2024)."""
    values = rope.values
    factor, low, high = (float(values[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(values["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * (kept + (1 - kept) / factor)


def _yarn(rope: Rope, frequencies: Tensor, head_dim: int) -> tuple[Tensor, float]:
    """Peng et al., YaRN, 2023: section 3.2 (ramp over dimensions) and 3.4 (attention factor)."""
    values = rope.values
    factor = float(values["factor"])
    context = float(values["original_max_position_embeddings"])

    def dimension(rotations: float) -> float:
        return head_dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(values.get("beta_fast") or 32), dimension(values.get("beta_slow") or 1)
    if values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0.0, 1.0)
    attention = values.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0
    return frequencies * (1 - ramp) + frequencies / factor * ramp, float(attention)


class RotaryTable:
    """Cosines and sines of the positions used so far; it grows with the longest request.

    The sines of the first half are negated, so that rotating is ``x * cos + swap_halves(x) * sin``.
    """

    def __init__(self, rope: Rope, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._frequencies, self._factor = inverse_frequencies(rope, head_dim)
        self._dtype = dtype
        self._device = device
        self._cos = self._sin = torch.empty(0, head_dim, dtype=dtype, device=device)

    def rows(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine, each [len(positions), 1, head_dim]."""
        needed = max(positions) + 1
        if needed > len(self._cos):
            self._grow(max(needed, 2 * len(self._cos), 1024))
        if positions[-1] - positions[0] == len(positions) - 1 == positions[-1] - min(positions):
            rows = slice(positions[0], positions[-1] + 1)
            return self._cos[rows].unsqueeze(1), self._sin[rows].unsqueeze(1)
        index = torch.tensor(positions, device=self._device)
        return self._cos[index].unsqueeze(1), self._sin[index].unsqueeze(1)

    def _grow(self, size: int) -> None:
        angles = torch.arange(size, dtype=torch.float32)[:, None] * self._frequencies[None]
        cos, sin = angles.cos() * self._factor, angles.sin() * self._factor
        self._cos = torch.cat((cos, cos), -1).to(self._device, self._dtype)
        self._sin = torch.cat((-sin, sin), -1).to(self._device, self._dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [rows, heads, head_dim] by the angles of ``RotaryTable.rows``."""
    rows, heads, head_dim = x.shape
    swapped = x.reshape(rows, heads, 2, head_dim // 2).flip(2).view(rows, heads, head_dim)
    return torch.addcmul(x * cos, swapped, sin)
