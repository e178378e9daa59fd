"""Decoder layers and the two ends of the Llama, Qwen2 and Qwen3 families."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qaicl.inference.attention import Span, attend
from qaicl.inference.config import ModelConfig
from qaicl.inference.linear import Linear, Part
from qaicl.inference.rope import rotate
from qaicl.inference.weights import Checkpoint

MakeLinear = Callable[[Sequence[Part]], Linear]


@dataclass(frozen=True, slots=True)
class Batch:
    """What all layers of a step share: the rows' angles and the requests they belong to."""

    cos: Tensor
    sin: Tensor
    spans: tuple[Span, ...]


class DecoderLayer:
    """One pre-norm transformer block: grouped-query attention, then a SwiGLU feed-forward.

    Args:
        index: its number in the model, which names its tensors.
        make: packs matrices in the chosen precision.
        dtype: of the hidden states and norms.
    """

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint,
        index: int,
        make: MakeLinear,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        prefix = f"model.layers.{index}."
        hidden, inner, eps = config.hidden_size, config.intermediate_size, config.norm_eps
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self._heads, self._kv_heads, self._head_dim = config.heads, config.kv_heads, config.head_dim

        def part(name: str, outputs: int, inputs: int, bias: bool) -> Part:
            weight = checkpoint.tensor(f"{prefix}{name}.weight", outputs, inputs)
            return weight, checkpoint.tensor(f"{prefix}{name}.bias", outputs) if bias else None

        def norm(name: str, size: int) -> RmsNorm:
            return RmsNorm(checkpoint.tensor(f"{prefix}{name}.weight", size).to(device, dtype), eps)

        self._input_norm = norm("input_layernorm", hidden)
        self._qkv = make(
            [
                part("self_attn.q_proj", queries, hidden, config.qkv_bias),
                part("self_attn.k_proj", keys, hidden, config.qkv_bias),
                part("self_attn.v_proj", keys, hidden, config.qkv_bias),
            ]
        )
        self._output = make([part("self_attn.o_proj", hidden, queries, config.output_bias)])
        self._query_norm = norm("self_attn.q_norm", config.head_dim) if config.head_norm else None
        self._key_norm = norm("self_attn.k_norm", config.head_dim) if config.head_norm else None
        self._post_norm = norm("post_attention_layernorm", hidden)
        self._gate_up = make(
            [
                part("mlp.gate_proj", inner, hidden, config.mlp_bias),
                part("mlp.up_proj", inner, hidden, config.mlp_bias),
            ]
        )
        self._down = make([part("mlp.down_proj", hidden, inner, config.mlp_bias)])

    @property
    def nbytes(self) -> int:
        """Memory of the weights, bytes."""
        return sum(linear.nbytes for linear in (self._qkv, self._output, self._gate_up, self._down))

    def __call__(self, x: Tensor, batch: Batch, at: int) -> None:
        """Advance ``x`` [rows, hidden_size] in place; ``at`` is the layer's number within its stage's KV slots."""
        rows = len(x)
        qkv = self._qkv(self._input_norm(x)).view(rows, -1, self._head_dim)
        turning = qkv[:, : self._heads + self._kv_heads]
        if self._query_norm is not None and self._key_norm is not None:
            queries = self._query_norm(qkv[:, : self._heads])
            turning = torch.cat((queries, self._key_norm(turning[:, self._heads :])), 1)
        turned = rotate(turning, batch.cos, batch.sin)
        queries, keys = turned[:, : self._heads], turned[:, self._heads :]
        values = qkv[:, self._heads + self._kv_heads :]
        mixed = torch.empty_like(queries, memory_format=torch.contiguous_format)
        for span in batch.spans:
            attend(span, at, queries, keys, values, mixed)
        x.add_(self._output(mixed.view(rows, -1)))
        gate, up = self._gate_up(self._post_norm(x)).chunk(2, -1)
        x.add_(self._down(functional.silu(gate).mul_(up)))


class RmsNorm:
    """Root-mean-square norm over the last dimension (Zhang and Sennrich, 2019), computed in float32."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise; shape and dtype stay."""
        return functional.rms_norm(x, self._weight.shape, self._weight, self._eps)


class Embedding:
    """The first stage's end: token ids to hidden states. Rows are read from the file as they are needed."""

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        table = checkpoint.tensor("model.embed_tokens.weight", config.vocabulary, config.hidden_size)
        self._table = table.to(device)
        self._dtype = dtype

    @property
    def nbytes(self) -> int:
        """Memory of the table, bytes; none for one that stays in its mapped file."""
        return 0 if self._table.device.type == "cpu" else self._table.nbytes

    def __call__(self, tokens: Sequence[int]) -> Tensor:
        """Hidden states [len(tokens), hidden_size]."""
        index = torch.tensor(tokens, dtype=torch.int64, device=self._table.device)
        return functional.embedding(index, self._table).to(self._dtype)


class Head:
    """The last stage's end: hidden states to logits."""

    def __init__(
        self, config: ModelConfig, checkpoint: Checkpoint, make: MakeLinear, dtype: torch.dtype, device: torch.device
    ) -> None:
        norm = checkpoint.tensor("model.norm.weight", config.hidden_size)
        name = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
        self._norm = RmsNorm(norm.to(device, dtype), config.norm_eps)
        self._linear = make([(checkpoint.tensor(name, config.vocabulary, config.hidden_size), None)])

    @property
    def nbytes(self) -> int:
        """Memory of the weights, bytes."""
        return self._linear.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Logits, float32 on the CPU, [rows, vocabulary]."""
        return self._linear(self._norm(x)).float().cpu()
