"""What each precision means: how weights are packed and in which type hidden states travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from qaicl.errors import UnsupportedModelError
from qaicl.inference.config import ModelConfig
from qaicl.inference.linear import Int4, Int8, Joined, Linear, Part, Separate

Chosen = Literal["float32", "bfloat16", "float16", "int8", "int4"]

_WEIGHT_BYTES: dict[str, float] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "int4": 0.5 + 4 / Int4.GROUP}


@dataclass(frozen=True, slots=True)
class Numerics:
    """A precision on a device.

    ``dtype`` is that of hidden states, norms and KV cache; ``make`` packs matrices.
    """

    name: Chosen
    dtype: torch.dtype
    device: torch.device
    make: Callable[[Sequence[Part]], Linear]

    def layer_bytes(self, config: ModelConfig) -> int:
        """Memory of one decoder layer's matrices."""
        return int(config.layer_parameters * _WEIGHT_BYTES[self.name])

    def head_bytes(self, config: ModelConfig) -> int:
        """Memory of the head's matrix."""
        return int(config.vocabulary * config.hidden_size * _WEIGHT_BYTES[self.name])

    def position_bytes(self, config: ModelConfig, layers: int) -> int:
        """Memory of one position's keys and values."""
        return 2 * layers * config.kv_heads * config.head_dim * self.dtype.itemsize


def default_device() -> torch.device:
    """The GPU where torch sees one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def numerics(name: Chosen, device: torch.device) -> Numerics:
    """The meaning of a precision.

    Raises:
        UnsupportedModelError: the device has no kernel for it.
    """
    if name in ("int8", "int4"):
        if device.type != "cpu":
            raise UnsupportedModelError(f"{name} runs on a CPU only", fix="choose bfloat16 or auto")
        return Numerics(name, torch.float32, device, Int8 if name == "int8" else Int4)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]

    def make(parts: Sequence[Part]) -> Linear:
        if device.type == "cpu" and all(weight.dtype == dtype for weight, _ in parts):
            return Separate(parts)
        return Joined(parts, dtype, device)

    return Numerics(name, dtype, device, make)
