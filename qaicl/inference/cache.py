"""Keys and values of a request's positions, one fixed block of memory a request."""

from __future__ import annotations

import torch
from torch import Tensor


class KvSlot:
    """A request's keys and values on one stage.

    Reserved whole at the start, so a request that began never runs out of memory; the system hands out the pages
    as positions are first written.

    Args:
        layers: decoder layers of the stage.
        capacity: positions.
    """

    __slots__ = ("capacity", "keys", "length", "values")

    def __init__(
        self, layers: int, kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.capacity = capacity
        self.length = 0
        """Positions filled by completed steps."""
        shape = (layers, kv_heads, capacity, head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return self.keys.nbytes + self.values.nbytes

    def write(self, layer: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put [rows, kv_heads, head_dim] at ``start``; returns all up to there as [kv_heads, positions, head_dim]."""
        end = start + len(keys)
        self.keys[layer, :, start:end].copy_(keys.transpose(0, 1))
        self.values[layer, :, start:end].copy_(values.transpose(0, 1))
        return self.keys[layer, :, :end], self.values[layer, :, :end]
