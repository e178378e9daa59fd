"""A linear map in the precisions that weights are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from qaicl.errors import UnsupportedModelError

Part = tuple[Tensor, Tensor | None]
"""Weight [outputs, inputs] as in the file, and bias [outputs]."""


class Linear(Protocol):
    """Maps [rows, inputs] to [rows, outputs]; several matrices over the same input lie side by side."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, bytes."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        ...


_HAS_BFLOAT16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
_SLOW_BFLOAT16_ROWS = 4
"""From this many rows on, a CPU without bfloat16 instructions is faster with the weights widened for each product.
Measured on AVX2, one thread, [rows, 576] x [576, 3072], ms of processor time, plain against widened: 2 rows 1.0 and
1.5, 4 rows 1.9 and 1.5, 64 rows 25.5 and 5.3."""
_SLOW_INT8_ROWS = 32
"""The same for int8: 8 rows 1.2 and 1.9, 32 rows 3.5 and 3.5, 64 rows 7.2 and 4.8."""


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    narrow = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and len(x) >= _SLOW_BFLOAT16_ROWS
    if narrow and not _HAS_BFLOAT16:
        return functional.linear(x.float(), weight.float(), None if bias is None else bias.float()).bfloat16()
    return functional.linear(x, weight, bias)


class Separate:
    """Matrices as they lie in the file: nothing is copied, so the pages stay shared with other processes."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    @property
    def nbytes(self) -> int:
        """Memory of the weights, bytes."""
        return sum(weight.nbytes for weight, _ in self._parts)

    def __call__(self, x: Tensor) -> Tensor:
        """Apply them one after the other."""
        if len(self._parts) == 1:
            return _apply(x, *self._parts[0])
        return torch.cat([_apply(x, weight, bias) for weight, bias in self._parts], -1)


def _joined(parts: Sequence[Part]) -> Part:
    weight = torch.cat([weight for weight, _ in parts]) if len(parts) > 1 else parts[0][0]
    biases = [bias for _, bias in parts if bias is not None]
    return weight, torch.cat(biases) if biases else None


class Joined:
    """The matrices as one, converted to ``dtype`` on ``device``."""

    def __init__(self, parts: Sequence[Part], dtype: torch.dtype, device: torch.device) -> None:
        weight, bias = _joined(parts)
        self._weight = weight.to(device, dtype)
        self._bias = None if bias is None else bias.to(device, dtype)

    @property
    def nbytes(self) -> int:
        """Memory of the weights, bytes."""
        return self._weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        return _apply(x, self._weight, self._bias)


class Int8:
    """Weights as 8-bit integers with one float32 scale an output, symmetric; activations enter in bfloat16.

    The kernel is fast for bfloat16 activations only. It takes scales in the same type, too coarse for them, so it
    gets ones and the float32 scales are applied after it.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        weight, bias = _joined(parts)
        weight = weight.float()
        low, high = torch.aminmax(weight, dim=1)
        self._scale = torch.maximum(high, -low).clamp_(min=1e-12).div_(127)
        self._weight = torch.div(weight, self._scale[:, None]).round_().to(torch.int8)
        self._ones = torch.ones_like(self._scale, dtype=torch.bfloat16)
        self._bias = None if bias is None else bias.float()

    @property
    def nbytes(self) -> int:
        """Memory of the weights, bytes."""
        return self._weight.nbytes + self._scale.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it; float32 in and out."""
        if len(x) >= _SLOW_INT8_ROWS and not _HAS_BFLOAT16:
            y = functional.linear(x, self._weight.float()).mul_(self._scale)
        else:
            y = torch._weight_int8pack_mm(x.bfloat16(), self._weight, self._ones).float().mul_(self._scale)
        return y if self._bias is None else y.add_(self._bias)


class Int4:
    """Weights as 4-bit integers, with a scale and an offset for each 32 inputs; activations enter in bfloat16."""

    GROUP = 32

    def __init__(self, parts: Sequence[Part]) -> None:
        weight, bias = _joined(parts)
        outputs, inputs = weight.shape
        if inputs % self.GROUP or outputs % 16:
            raise UnsupportedModelError(
                "int4 does not fit this model",
                why=f"a matrix of {outputs} x {inputs} is not made of whole groups of {self.GROUP} x 16",
                fix="choose int8",
            )
        groups = weight.float().view(outputs, inputs // self.GROUP, self.GROUP)
        low, high = groups.amin(2), groups.amax(2)
        scale = ((high - low) / 15).clamp_(min=1e-12)
        numbers = torch.round((groups - low[..., None]) / scale[..., None]).clamp_(0, 15).to(torch.int32)
        # The kernel computes (number - 8) * scale + offset, and wants both as [groups, outputs, 2].
        both = torch.stack((scale, low + 8 * scale), -1).transpose(0, 1)
        self._scales = both.contiguous().bfloat16()
        self._weight = torch._convert_weight_to_int4pack_for_cpu(numbers.view(outputs, inputs), 1)
        self._bias = None if bias is None else bias.float()

    @property
    def nbytes(self) -> int:
        """Memory of the weights, bytes."""
        return self._weight.nbytes + self._scales.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it; float32 in and out."""
        y = torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self._weight, self.GROUP, self._scales).float()
        return y if self._bias is None else y.add_(self._bias)
